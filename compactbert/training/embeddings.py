"""Contrastive training of sentence embeddings, by sentence-transformers."""

import json
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from datasets import Dataset
from transformers import set_seed

from ..convert import load_pretrained
from ..data import length_limit, load_task, load_texts
from ..data.tasks import read_splits, task_spec
from ..files import check_free, told_of_full_disk, write_text
from ..provenance import environment, public_settings
from ..resume import end_moved_run, finished_folder, open_work_dir, work_dir_of
from .run import Precision, check_positive, common_arguments, last_complete_checkpoint, resolve_precision, use_one_gpu


Method = Literal["simcse", "pairs", "margin"]
SAVE_STEPS = 500


def train_embeddings(
    model: str | Path,
    task: str,
    output_dir: str | Path,
    *,
    method: Method = "simcse",
    data_dir: str | Path | None = None,
    text_columns: list[str] | None = None,
    label_column: str | None = None,
    positive: str | None = None,
    max_rows: int | None = None,
    epochs: float = 1.0,
    max_steps: int | None = None,
    learning_rate: float = 3e-5,
    batch_size: int = 64,
    max_length: int = 64,
    warmup: float = 0.1,
    temperature: float = 0.05,
    margin: float = 0.5,
    precision: Precision = "auto",
    seed: int = 42,
    trust_remote_code: bool = False,
) -> dict[str, Any]:
    """
    Trains a model to put texts that mean the same near each other, and leaves a folder that
    `SentenceTransformer(folder, trust_remote_code=True)` loads; a text's embedding is the mean of its tokens'.

    A run that was killed continues when it is called again with the same arguments.

    Args:
        model (`str` or `Path`), output_dir (`str` or `Path`), data_dir, epochs, max_steps, learning_rate, batch_size, \
max_length, warmup, precision, seed, trust_remote_code:
            As in [`finetune`].
        task (`str`):
            Training texts; see [`~compactbert.data.load_texts`].
        method (`"simcse"`, `"pairs"` or `"margin"`, *optional*, defaults to `"simcse"`):
            `"simcse"` (https://huggingface.co/papers/2104.08821) draws a text to itself with other dropout, away from
            all others of the batch; of text pairs it takes both texts. `"pairs"` draws the two texts of a row together,
            of those of the class `positive` if rows have classes. Both are NT-Xent
            (https://huggingface.co/papers/2002.05709). `"margin"` draws the texts of `positive` rows together and
            pushes those of the others apart.
        text_columns, label_column:
            See [`~compactbert.data.load_task`].
        positive (`str`, *optional*):
            The class whose rows mean the same, such as `"entailment"`; the default is the last one.
        max_rows (`int`, *optional*):
            Train on a fixed sample of so many rows.
        temperature (`float`, *optional*, defaults to 0.05):
            Of NT-Xent; the smaller, the more the nearest texts count.
        margin (`float`, *optional*, defaults to 0.5):
            The cosine distance beyond which texts that differ are far enough apart.

    Returns:
        `dict`: what is written to `metrics.json`.

    Raises:
        ValueError: if an argument is out of range, the model or task cannot be read, the method does not fit the task
            or the model, a library is missing, or `output_dir` is taken.

    Example:

    ```python
    >>> from compactbert.training import train_embeddings

    >>> report = train_embeddings("my-bert", "reviews.csv", "my-embeddings", method="simcse", max_steps=2)
    >>> report["method"], report["steps"]
    ('simcse', 2)

    ```
    """
    settings: dict[str, Any] = {
        name: str(value) if isinstance(value, Path) else value for name, value in locals().items()
    }
    check_positive(
        epochs=epochs,
        max_steps=max_steps,
        learning_rate=learning_rate,
        batch_size=batch_size,
        temperature=temperature,
        margin=margin,
    )
    resolved = resolve_precision(precision)
    if method not in get_args(Method):
        raise ValueError(f"`method` must be one of {get_args(Method)}, got {method!r}.")
    try:
        from sentence_transformers import (
            SentenceTransformer,
            SentenceTransformerTrainer,
            SentenceTransformerTrainingArguments,
        )
        from sentence_transformers.sentence_transformer.losses import ContrastiveLoss, MultipleNegativesRankingLoss
    except ImportError as error:
        raise ValueError('This needs a library: run `pip install "compactbert[sentence-transformers]"`.') from error
    output_dir = Path(output_dir)
    if (done := end_moved_run(output_dir, "metrics.json", settings)) is not None:
        return done
    check_free(output_dir)
    rows = _rows(method, task, data_dir, text_columns, label_column, positive, max_rows)
    set_seed(seed)
    loaded, tokenizer = load_pretrained(model, "", trust_remote_code)
    config: Any = loaded.config
    if method == "simcse" and not (config.hidden_dropout_prob or config.attention_probs_dropout_prob):
        raise ValueError(
            "`method` 'simcse' needs dropout, and the model has none: set `hidden_dropout_prob` or "
            "`attention_probs_dropout_prob` in its configuration, or take another method."
        )
    limit = length_limit(config, tokenizer, max_length)

    work_dir = work_dir_of(output_dir)
    checkpoint = last_complete_checkpoint(work_dir)
    open_work_dir(work_dir, settings, checkpoint is not None)
    # sentence-transformers takes models from folders.
    base = work_dir / "base"
    loaded.save_pretrained(base)
    tokenizer.save_pretrained(base)
    embedder = SentenceTransformer(str(base), trust_remote_code=True)
    embedder.max_seq_length = limit
    loss: torch.nn.Module
    if method == "margin":
        loss = ContrastiveLoss(embedder, margin=margin)
    else:
        loss = MultipleNegativesRankingLoss(embedder, scale=1 / temperature)
    arguments = SentenceTransformerTrainingArguments(
        **common_arguments(work_dir, resolved, seed),
        num_train_epochs=epochs,
        max_steps=max_steps or -1,
        learning_rate=learning_rate,
        per_device_train_batch_size=batch_size,
        warmup_steps=warmup,
        save_steps=SAVE_STEPS,
        save_total_limit=1,
        logging_steps=SAVE_STEPS,
    )
    use_one_gpu(arguments)
    trainer = SentenceTransformerTrainer(embedder, arguments, train_dataset=rows, loss=loss)
    with told_of_full_disk(work_dir):
        trainer.train(resume_from_checkpoint=checkpoint)
    report = {
        "task": public_settings(settings)["task"],
        "method": method,
        "rows": len(rows),
        # A run that continues from its last step makes one more, which changes nothing.
        "steps": min(trainer.state.global_step, trainer.state.max_steps),
        "settings": public_settings(settings),
        "environment": environment(),
    }
    with finished_folder(output_dir) as finished:
        # Its card would show rows of the training data.
        embedder.save_pretrained(str(finished), create_model_card=False)
        write_text(finished / "metrics.json", json.dumps(report, indent=2) + "\n")
    return report


def _rows(
    method: Method,
    task: str,
    data_dir: str | Path | None,
    text_columns: list[str] | None,
    label_column: str | None,
    positive: str | None,
    max_rows: int | None,
) -> Dataset:
    """Pairs of texts, in columns as sentence-transformers' losses take them."""
    if method == "simcse":
        columns = load_texts(task, data_dir, text_columns=text_columns, max_rows=max_rows)
        texts = list(dict.fromkeys(str(text) for column in columns for text in column))
        return Dataset.from_dict({"anchor": texts, "positive": texts})
    spec = task_spec(task, text_columns, label_column)
    if len(spec.text_columns) != 2:
        raise ValueError(f"`method` {method!r} needs two columns of text, and {task!r} has {spec.text_columns}.")
    table = next(iter(read_splits(task, spec, data_dir).values()))
    if method == "pairs" and spec.label_column not in table.column_names:
        columns = load_texts(task, data_dir, text_columns=text_columns, max_rows=max_rows)
        return Dataset.from_dict({"anchor": list(map(str, columns[0])), "positive": list(map(str, columns[1]))})
    loaded = load_task(task, data_dir, text_columns=text_columns, label_column=label_column, max_train_rows=max_rows)
    if loaded.train is None or loaded.problem != "single_label_classification":
        raise ValueError(f"`method` {method!r} needs a training split whose labels are classes, as {task!r} has not.")
    if positive is None:
        positive = loaded.label_names[-1]
    if positive not in loaded.label_names:
        raise ValueError(f"`positive` must be one of the classes {loaded.label_names}, got {positive!r}.")
    wanted = loaded.label_names.index(positive)
    first, second = (list(map(str, loaded.train[column][:])) for column in spec.text_columns)
    labels = [int(label == wanted) for label in loaded.train[spec.label_column][:]]
    rows = Dataset.from_dict({"anchor": first, "positive": second, "label": labels})
    if method == "margin":
        return rows
    return rows.select([i for i, label in enumerate(labels) if label]).remove_columns("label")


__all__ = ["Method", "train_embeddings"]
