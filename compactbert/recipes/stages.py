"""The stages of a recipe: each reads a saved model and leaves a saved model with a report, resumable and in full."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import DataLoader

from ..compression import count_tokens, describe, prune_iteratively, prune_vocabulary
from ..compression.importance import Method
from ..compression.planning import largest_sizes
from ..convert import load_pretrained
from ..data import data_collator, encode_task, length_limit, load_task, load_texts
from ..data.tasks import as_text
from ..evaluation import evaluate
from ..files import check_free
from ..inference.prediction import on_accelerator
from ..training import distill, finetune, theseus
from ..training.run import save_folder


def prune_on_task(
    model: str | Path,
    task: str,
    output_dir: str | Path,
    *,
    every: int | None = None,
    first: float | None = None,
    layers: int | Sequence[int] | None = None,
    heads: float | None = None,
    ffn: float | None = None,
    networks: int | None = None,
    parameters: float | None = None,
    macs: float | None = None,
    uneven: bool = False,
    method: Method = "gradient",
    iterations: int = 1,
    rows: int = 1024,
    batch_size: int = 32,
    max_length: int = 128,
    data_dir: str | Path | None = None,
    seed: int = 42,
    trust_remote_code: bool = False,
    **task_options: Any,
) -> dict[str, Any]:
    """
    Prunes a fine-tuned model by its importance scores on the task, without training, and leaves a folder that loads
    anywhere, with the plan as `pruning_plan.json`.

    Args:
        model (`str` or `Path`), task (`str`), output_dir (`str` or `Path`):
            As in [`finetune`]. Training rows are scored, evaluation rows where there are no others.
        every (`int`, *optional*), first (`float`, *optional*):
            In place of `layers`: keep the last of every so many layers; or the first ones, a number or a share.
        layers, heads, ffn, networks, parameters, macs, uneven:
            What to keep; see [`~compactbert.compression.plan_pruning`]. `heads` and `ffn` below 1 are shares of what
            the widest layer has, so that a recipe serves models of any size.
        method (`"gradient"`, `"self_supervised"` or `"random"`, *optional*, defaults to `"gradient"`), iterations \
(`int`, *optional*, defaults to 1):
            See [`~compactbert.compression.prune_iteratively`].
        rows (`int`, *optional*, defaults to 1024):
            Score on a fixed sample of so many rows.
        batch_size, max_length, data_dir, seed, trust_remote_code, task_options:
            As in [`finetune`].

    Raises:
        ValueError: if the model is not fine-tuned, the task cannot be read, or the targets do not fit the model.
    """
    check_free(Path(output_dir))
    started = time.perf_counter()
    loaded_task = load_task(task, data_dir, **task_options)
    loaded, tokenizer = load_pretrained(model, loaded_task.head, trust_remote_code, require_head=True)
    loaded = on_accelerator(loaded)
    most = largest_sizes(loaded.config)
    kept = layers_kept(loaded.config.num_hidden_layers, every, first, layers)
    dataset = loaded_task.evaluation if loaded_task.train is None else loaded_task.train
    sample = dataset.shuffle(seed=seed).select(range(min(rows, len(dataset))))
    encoded, _ = encode_task(loaded_task, sample, tokenizer, length_limit(loaded.config, tokenizer, max_length))
    collator = data_collator(loaded_task, tokenizer)
    batches = DataLoader(encoded.remove_columns("length"), batch_size=batch_size, collate_fn=collator)
    pruned, plan = prune_iteratively(
        loaded,
        batches,
        iterations=iterations,
        method=method,
        layers=kept,
        seed=seed,
        sequence_length=max_length,
        heads=count_of(heads, most["heads"]),
        ffn=count_of(ffn, most["ffn"]),
        networks=networks,
        parameters=parameters,
        macs=macs,
        uneven=uneven,
    )
    scores = evaluate(pruned, tokenizer, loaded_task, max_length=max_length)
    report = {
        "task": task,
        "split": loaded_task.evaluation_split,
        "metrics": scores["metrics"],
        "plan": describe(plan),
        "seconds": round(time.perf_counter() - started, 1),
    }
    save_folder(pruned, tokenizer, report, Path(output_dir), {"pruning_plan.json": plan.to_json()})
    return report


def layers_kept(
    num_layers: int, every: int | None = None, first: float | None = None, layers: int | Sequence[int] | None = None
) -> int | list[int] | None:
    """
    What [`~compactbert.compression.plan_pruning`] takes as `layers`.

    Raises:
        ValueError: if more than one choice is made, or `every` does not divide the number of layers.
    """
    if sum(choice is not None for choice in (every, first, layers)) > 1:
        raise ValueError(f"Give one of `every`, `first` and `layers`, got {every}, {first} and {layers}.")
    if every is not None:
        if not 1 <= every <= num_layers or num_layers % every:
            raise ValueError(f"`every` must divide the model's {num_layers} layers, got {every}.")
        return list(range(every - 1, num_layers, every))
    if first is not None:
        return list(range(count_of(first, num_layers) or 0))
    return layers if layers is None or isinstance(layers, int) else list(layers)


def count_of(target: float | None, most: int) -> int | None:
    """A number, or a share of the most there is."""
    if target is None:
        return None
    return max(1, round(target * most)) if 0 < target < 1 else int(target)


def prune_vocabulary_on_task(
    model: str | Path,
    task: str,
    output_dir: str | Path,
    *,
    min_count: int = 1,
    size: int | None = None,
    texts: str | None = None,
    text_rows: int = 20_000,
    max_length: int = 128,
    data_dir: str | Path | None = None,
    trust_remote_code: bool = False,
    **task_options: Any,
) -> dict[str, Any]:
    """
    Drops the tokens that the task's training texts do not use, from model and tokenizer together.

    Args:
        model (`str` or `Path`), task (`str`), output_dir (`str` or `Path`):
            As in [`finetune`].
        min_count, size:
            See [`~compactbert.compression.prune_vocabulary`].
        texts (`str`, *optional*), text_rows (`int`, *optional*, defaults to 20,000):
            As in [`~compactbert.training.distill`]: further texts of the kind that the model will read. What they use
            most fills what the task's own tokens leave of `size`.
        max_length, data_dir, trust_remote_code, task_options:
            As in [`finetune`].

    Raises:
        ValueError: if the task or the texts cannot be read, or the tokenizer's kind cannot be pruned.
    """
    check_free(Path(output_dir))
    loaded_task = load_task(task, data_dir, **task_options)
    loaded, tokenizer = load_pretrained(model, loaded_task.head, trust_remote_code, require_head=True)
    dataset = loaded_task.evaluation if loaded_task.train is None else loaded_task.train
    counted = [as_text(value) for column in loaded_task.text_columns for value in dataset[column][:]]
    importance = None
    if texts is not None:
        further = [as_text(value) for column in load_texts(texts, data_dir, max_rows=text_rows) for value in column]
        importance = np.zeros(loaded.config.vocab_size)
        for counts in (count_tokens(tokenizer, further), count_tokens(tokenizer, counted)):
            # The further ones scaled to below 1: they order what the task's own texts do not.
            importance /= importance.max() + 1
            importance[: len(counts)] += counts
        counted += further
    before = len(tokenizer)
    pruned, smaller = prune_vocabulary(
        loaded, tokenizer, counted, min_count=min_count, size=size, importance=importance
    )
    scores = evaluate(on_accelerator(pruned), smaller, loaded_task, max_length=max_length)
    report = {
        "task": task,
        "split": loaded_task.evaluation_split,
        "metrics": scores["metrics"],
        "tokens": {"before": before, "after": len(smaller)},
    }
    save_folder(pruned, smaller, report, Path(output_dir))
    return report


@dataclass(frozen=True)
class Stage:
    """
    One step of a recipe.

    Args:
        kind (`str`): A key of [`STAGES`].
        name (`str`): Unique in the recipe; the kind, if nothing else is given.
        settings (`dict`): Arguments of the kind's function. `task` is another task than the job's; `teacher` the name
            of an earlier stage.
    """

    kind: str
    name: str
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class StageResult:
    """A stage that is done: the model it left and its report."""

    stage: Stage
    task: str
    folder: Path
    report: Mapping[str, Any]


STAGES: dict[str, Callable[..., dict[str, Any]]] = {
    "finetune": finetune,
    "theseus": theseus,
    "distill": distill,
    "prune": prune_on_task,
    "prune_vocabulary": prune_vocabulary_on_task,
}
# Those that train, and those that leave fewer layers, heads or neurons.
TRAINING = ("finetune", "theseus", "distill")
SHRINKING = ("theseus", "prune")


__all__ = [
    "SHRINKING",
    "STAGES",
    "TRAINING",
    "Stage",
    "StageResult",
    "count_of",
    "layers_kept",
    "prune_on_task",
    "prune_vocabulary_on_task",
]
