"""From a corpus of text to a saved language model: pre-training, and transfer from a teacher; resumable, in full."""

import json
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils import broadcast_object_list
from transformers import (
    AutoModelForPreTraining,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TrainingArguments,
    set_seed,
)

from ..convert import load_pretrained
from ..data import Corpus, PretrainingCollator
from ..files import check_free, told_of_full_disk
from ..presets import list_presets, load_preset
from ..provenance import environment, public_settings
from ..resume import end_moved_run, open_work_dir, work_dir_of
from .distillation import check_same_tokenizer
from .ib_teacher import make_ib_bert
from .pretraining import PretrainingConfig, PretrainingTrainer, measure_pretraining
from .progressive import ProgressiveTransferConfig, ProgressiveTransferTrainer, check_pair, measure_transfer
from .run import (
    MAX_STEPS_PER_CHECKPOINT,
    Precision,
    StepClock,
    check_positive,
    common_arguments,
    last_complete_checkpoint,
    process_count,
    resolve_precision,
    save_folder,
)


NOT_SETTINGS = ("model", "tokenizer", "output_dir", "build_trainer", "stage_settings", "measure", "save", "corpus")
# Held-out samples that a result is measured on.
MEASURED_SAMPLES = 1024
# The settings of a transfer beside those of every training.
TRANSFER_FIELDS = {f.name for f in fields(ProgressiveTransferConfig)} - {f.name for f in fields(TrainingArguments)}


def pretrain(
    model: str | Path,
    corpus: str | Path,
    output_dir: str | Path,
    *,
    tokenizer: str | Path | None = None,
    trained: str = "all",
    **run_settings: Any,
) -> dict[str, Any]:
    """
    Trains a language model on a corpus (masked tokens, and the next sentence where the corpus has pairs), and leaves a
    folder that loads anywhere. A run that was killed continues when it is called again with the same arguments.

    Args:
        model (`str` or `Path`):
            A folder or repository; `"minilm"`; or a preset or JSON file of an architecture, whose weights are new.
        corpus (`str` or `Path`):
            A folder that [`~compactbert.data.build_corpus`] made.
        output_dir (`str` or `Path`):
            Where to write the model, tokenizer and `metrics.json`. Must not exist, or be empty.
        tokenizer (`str` or `Path`, *optional*):
            A folder or repository, for a new architecture.
        trained (`"all"` or `"head"`, *optional*, defaults to `"all"`):
            See [`PretrainingConfig`].
        run_settings:
            See [`transfer_knowledge`].

    Raises:
        ValueError: if an argument is out of range, the model or corpus cannot be read or do not fit each other,
            `output_dir` is taken, or `<output_dir>.partial` belongs to a run with other arguments.
        FloatingPointError: as [`PretrainingTrainer`].

    Example:

    ```python
    >>> from compactbert.training import pretrain

    >>> report = pretrain("my-bert", "my-corpus", "my-bert-on-texts", max_steps=2, batch_size=4)
    >>> report["steps"], report["measured_on"]
    (2, 'training text')

    ```
    """

    def build(arguments: dict[str, Any], rest: dict[str, Any], student: PreTrainedModel) -> PretrainingTrainer:
        return PretrainingTrainer(student, PretrainingConfig(**arguments, trained=trained), **rest)

    loaded, loaded_tokenizer = load_language_model(model, tokenizer, run_settings.get("seed", 42))
    settings = {"model": str(model), "trained": trained}
    return train_on_corpus(loaded, loaded_tokenizer, corpus, output_dir, build, settings, **run_settings)


def transfer_knowledge(
    model: str | Path,
    teacher: str | Path,
    corpus: str | Path,
    output_dir: str | Path,
    *,
    strategy: str = "progressive",
    variant: str = "paper",
    transfer_steps: int | None = None,
    feature_map_transfer_weight: float = 1.0,
    attention_transfer_weight: float = 1.0,
    ground_truth_ratio: float = 0.5,
    temperature: float = 1.0,
    stages: list[list[int]] | None = None,
    layer_map: list[int] | None = None,
    earlier_layers_rate: float = 0.0,
    layer_schedule: str = "constant",
    copy_from_teacher: bool = True,
    trust_remote_code: bool = False,
    **run_settings: Any,
) -> dict[str, Any]:
    """
    Trains a student on a teacher's feature maps, attention and predictions (MobileBERT,
    https://huggingface.co/papers/2004.02984, section 3.4-3.5), and leaves a folder that loads anywhere. A run that was
    killed continues, within whatever stage, when it is called again with the same arguments and as many processes.

    Args:
        model (`str` or `Path`):
            The student: a preset or JSON file of an architecture, or a folder.
        teacher (`str` or `Path`):
            A folder or repository of a language model with the student's feature map width, such as one that
            [`ib_teacher`] left.
        corpus (`str` or `Path`), output_dir (`str` or `Path`):
            As in [`pretrain`].
        strategy, ..., copy_from_teacher:
            See [`ProgressiveTransferConfig`].
        trust_remote_code (`bool`, *optional*, defaults to `False`):
            Run the code of a teacher's repository that brings its own.
        run_settings:
            `max_steps` (needed), `batch_size` (32, per process and `accumulation` step), `accumulation` (1),
            `learning_rate` (5e-4), `optimizer` (`"adamw"` or `"lamb"`), `weight_decay` (0.01), `warmup` (0.1, a share
            of a stage, or steps), `max_grad_norm` (1.0), `precision` (`"auto"`), `mlm_probability` (0.15),
            `max_predictions` (`None`), `whole_word` (`True`), `seed` (42).

    Returns:
        `dict`: what is written to `metrics.json`: `metrics` on held-out text (`mlm_loss`, `mlm_accuracy`,
        `nsp_accuracy`, `feature_map_distance`, `relative_feature_map_distance`, `attention_distance`), `steps`,
        `seconds_per_step`, `settings`, ...

    Raises:
        ValueError: as [`pretrain`] and [`ProgressiveTransferTrainer`], and if teacher and corpus have different
            tokenizers.
        FloatingPointError: as [`PretrainingTrainer`].

    Example:

    ```python
    >>> from compactbert.training import transfer_knowledge

    >>> report = transfer_knowledge("student.json", "my-teacher", "my-corpus", "my-mobilebert", max_steps=8)
    >>> "feature_map_distance" in report["metrics"]
    True

    ```
    """
    settings = {name: value for name, value in locals().items() if name not in ("run_settings", "corpus", "output_dir")}
    terms = {name: value for name, value in settings.items() if name in TRANSFER_FIELDS}
    attention = "eager" if attention_transfer_weight else "sdpa"
    teacher_model, tokenizer = load_pretrained(teacher, "ForPreTraining", trust_remote_code, require_head=True)
    student, student_tokenizer = load_language_model(model, teacher, run_settings.get("seed", 42), trust_remote_code)
    check_same_tokenizer(student_tokenizer, tokenizer)
    for loaded in (student, teacher_model):
        loaded.set_attn_implementation(attention)
    layers = check_pair(student, teacher_model, layer_map, bool(attention_transfer_weight))

    def build(arguments: dict[str, Any], rest: dict[str, Any], student: PreTrainedModel) -> ProgressiveTransferTrainer:
        return ProgressiveTransferTrainer(
            student, teacher_model, ProgressiveTransferConfig(**arguments, **terms), **rest
        )

    def measure(model: PreTrainedModel, held_out: Any, collator: Any) -> dict[str, float]:
        # Attention is measured whether or not it was learned, where the heads allow it.
        for loaded in (model, teacher_model):
            loaded.set_attn_implementation("eager")
        try:
            check_pair(model, teacher_model, layers, attention=True)
        except ValueError:
            model.set_attn_implementation("sdpa")
        return measure_transfer(model, teacher_model, held_out, collator, layers)

    settings |= {"model": str(model), "teacher": str(teacher)}
    return train_on_corpus(student, tokenizer, corpus, output_dir, build, settings, measure, **run_settings)


def check_transfer(model: str | Path | None, *, max_steps: int, **settings: Any) -> PreTrainedConfig | None:
    """
    What can be said of [`transfer_knowledge`]'s student and settings before there is a teacher.

    Returns:
        [`~transformers.PreTrainedConfig`]: the student's configuration; `None` if `model` is, a student to be made.

    Raises:
        ValueError: as [`transfer_knowledge`].
    """
    terms = {name: value for name, value in settings.items() if name in TRANSFER_FIELDS}
    # It also finds the processes, which without GPUs it is to be told.
    use_cpu = not torch.accelerator.is_available()
    checked = ProgressiveTransferConfig(output_dir="unused", max_steps=max_steps, use_cpu=use_cpu, **terms)
    if model is None:
        return None
    config = load_preset(model) if is_architecture(model) else load_pretrained(model, "")[0].config
    checked.plan(config.num_hidden_layers)
    return config


def ib_teacher(
    model: str | Path,
    corpus: str | Path,
    output_dir: str | Path,
    *,
    feature_map_size: int = 512,
    embedding_size: int = 256,
    trust_remote_code: bool = False,
    **run_settings: Any,
) -> dict[str, Any]:
    """
    Makes an IB-BERT teacher out of a BERT with [`make_ib_bert`], trains its head and embeddings (and the rest with
    them) on a corpus, and leaves a folder.

    Args:
        model (`str` or `Path`):
            A folder or repository of a BERT, or `"minilm"`.
        corpus, output_dir, run_settings:
            As in [`pretrain`].
        feature_map_size, embedding_size:
            See [`make_ib_bert`]; the student's `hidden_size` and `embedding_size`.

    Raises:
        ValueError: as [`pretrain`] and [`make_ib_bert`].

    Example:

    ```python
    >>> from compactbert.training import ib_teacher

    >>> report = ib_teacher("my-bert", "my-corpus", "teacher", feature_map_size=64, embedding_size=32, max_steps=2)
    >>> report["steps"]
    2

    ```
    """
    source, tokenizer = load_pretrained(model, "ForPreTraining", trust_remote_code)
    set_seed(run_settings.get("seed", 42))
    counts = _token_counts(Corpus.open(corpus), source.config.vocab_size)
    made = make_ib_bert(source, feature_map_size, embedding_size, counts)

    def build(arguments: dict[str, Any], rest: dict[str, Any], student: PreTrainedModel) -> PretrainingTrainer:
        return PretrainingTrainer(student, PretrainingConfig(**arguments), **rest)

    settings = {"model": str(model), "feature_map_size": feature_map_size, "embedding_size": embedding_size}
    return train_on_corpus(made, tokenizer, corpus, output_dir, build, settings, **run_settings)


def load_language_model(
    model: str | Path, tokenizer: str | Path | None, seed: int, trust_remote_code: bool = False
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A language model with a head, and its tokenizer: from a folder or repository, or new for an architecture.

    Raises:
        ValueError: if it cannot be read, or an architecture comes without a tokenizer.
    """
    set_seed(seed)
    if not is_architecture(model):
        return load_pretrained(model, "ForPreTraining", trust_remote_code)
    if tokenizer is None:
        raise ValueError(f"{str(model)!r} is an architecture: name a `tokenizer`.")
    config = load_preset(model)
    # The teacher's, so that both count the same tokens.
    source, loaded = load_pretrained(tokenizer, "ForPreTraining", trust_remote_code)
    config.vocab_size = source.config.vocab_size
    set_seed(seed)
    return AutoModelForPreTraining.from_config(config), loaded


def is_architecture(model: str | Path) -> bool:
    """Whether it names a preset or a JSON file, which have no weights."""
    return str(model) in list_presets() or Path(model).suffix == ".json"


def _token_counts(corpus: Corpus, vocab_size: int) -> torch.Tensor:
    counts = sum(np.bincount(shard, minlength=vocab_size) for shard in corpus.train.tokens)
    return torch.from_numpy(np.asarray(counts))


def train_on_corpus(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    corpus: str | Path,
    output_dir: str | Path,
    build_trainer: Callable[[dict[str, Any], dict[str, Any], PreTrainedModel], PretrainingTrainer],
    stage_settings: Mapping[str, Any],
    measure: Callable[..., dict[str, float]] | None = None,
    *,
    save: Callable[[Any, PreTrainedTokenizerBase, dict[str, Any], Path], None] | None = None,
    max_steps: int,
    batch_size: int = 32,
    accumulation: int = 1,
    learning_rate: float = 5e-4,
    optimizer: str = "adamw",
    weight_decay: float = 0.01,
    warmup: float = 0.1,
    max_grad_norm: float = 1.0,
    precision: Precision = "auto",
    mlm_probability: float = 0.15,
    max_predictions: int | None = None,
    whole_word: bool = True,
    seed: int = 42,
) -> dict[str, Any]:
    """
    Trains with the Trainer that `build_trainer` makes, measures, and leaves a folder; see [`transfer_knowledge`] for
    the settings.

    Args:
        build_trainer (callable):
            Makes the Trainer from fields of its configuration, further arguments and the model.
        stage_settings (`dict`):
            What `build_trainer` depends on, for the report and for recognising an unfinished run.
        measure (callable, *optional*):
            Further metrics of the trained model, from held-out samples and a collator.
        save (callable, *optional*):
            What to do with the trained model, its tokenizer, the report and `output_dir`; the default is
            [`~compactbert.training.run.save_folder`], without a card.
    """
    settings = {name: value for name, value in locals().items() if name not in NOT_SETTINGS} | dict(stage_settings)
    output_dir = Path(output_dir)
    check_positive(max_steps=max_steps, batch_size=batch_size, accumulation=accumulation, learning_rate=learning_rate)
    resolved = resolve_precision(precision)
    data = Corpus.open(corpus)
    processes = process_count()
    settings |= {"corpus": data.index["digest"], "corpus_settings": data.settings, "processes": processes}
    settings = json.loads(json.dumps(settings, default=str))
    if (earlier := end_moved_run(output_dir, "metrics.json", settings)) is not None:
        return earlier
    check_free(output_dir)
    data.check_tokenizer(tokenizer)
    positions = model.config.max_position_embeddings
    if data.settings["sequence_length"] > positions:
        raise ValueError(
            f"The corpus has samples of {data.settings['sequence_length']} tokens, the model takes {positions}: build "
            f"one with `sequence_length={positions}`."
        )
    set_seed(seed)
    work_dir = work_dir_of(output_dir)
    masks = {"mlm_probability": mlm_probability, "max_predictions": max_predictions, "whole_word": whole_word}
    collator = PretrainingCollator(tokenizer, **masks, seed=seed)  # type: ignore[arg-type]
    checkpoint_steps = max(1, min(MAX_STEPS_PER_CHECKPOINT, max_steps // 4))
    arguments = {
        **common_arguments(work_dir, resolved, seed),
        "max_steps": max_steps,
        "learning_rate": learning_rate,
        "optimizer": optimizer,
        "per_device_train_batch_size": batch_size,
        "gradient_accumulation_steps": accumulation,
        "weight_decay": weight_decay,
        "warmup_steps": warmup,
        "max_grad_norm": max_grad_norm,
        # MobileBERT's.
        "adam_epsilon": 1e-6,
        "save_steps": checkpoint_steps,
        "save_total_limit": 2,
        "logging_steps": max(1, min(50, max_steps // 20)),
        # A GPU takes a batch in less time than its masks take to be drawn.
        "dataloader_num_workers": int(torch.accelerator.is_available()),
    }
    rest = {"train_dataset": data.train, "data_collator": collator, "processing_class": tokenizer}
    trainer = build_trainer(arguments, rest, model)
    with trainer.args.main_process_first():
        if trainer.is_world_process_zero():
            open_work_dir(work_dir, settings, unfinished=last_complete_checkpoint(work_dir) is not None)
    clock = StepClock()
    trainer.add_callback(clock)
    with told_of_full_disk(work_dir):
        trainer.train(resume_from_checkpoint=last_complete_checkpoint(work_dir))
    trained = trainer.student
    held_out = data.held_out or data.train
    held_out.set_epoch(0)
    sample = torch.utils.data.Subset(held_out, range(min(MEASURED_SAMPLES, len(held_out))))
    metrics = measure_pretraining(trained, sample, collator, batch_size)
    if measure is not None:
        metrics |= measure(trained, sample, collator)
    report = {
        "metrics": metrics,
        "measured_on": "held-out text" if data.held_out else "training text",
        "samples": {"train": len(data.train), "measured": len(sample)},
        "steps": min(trainer.state.global_step, max_steps),
        "tokens_per_step": batch_size * accumulation * processes * data.settings["sequence_length"],
        "seconds_per_step": round(clock.seconds_per_step(), 4),
        "precision": resolved,
        "losses": [entry for entry in trainer.state.log_history if "loss" in entry and entry["step"] <= max_steps],
        "settings": public_settings(settings),
        "environment": environment(),
    }
    report = json.loads(json.dumps(report, default=str))
    if trainer.is_world_process_zero():
        if save is None:
            save_folder(trained, tokenizer, report, output_dir, card=False)
        else:
            save(trained, tokenizer, report, output_dir)
    # With what `save` has added.
    return broadcast_object_list([report])[0]


__all__ = ["check_transfer", "ib_teacher", "is_architecture", "pretrain", "train_on_corpus", "transfer_knowledge"]
