"""`transfer`: a small language model from text and a teacher, as a recipe says."""

import inspect
import json
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate import PartialState
from matplotlib.figure import Figure
from torch.utils.data import Subset
from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from ..compression import describe, prune_iteratively
from ..compression.planning import largest_sizes
from ..convert import load_pretrained, resolve_model
from ..data import Corpus, PretrainingCollator, build_corpus
from ..files import check_free, png_of
from ..inference.prediction import on_accelerator
from ..presets import load_preset
from ..provenance import command_line, public_settings
from ..resume import changes_of, work_dir_of
from ..training import ib_teacher, pretrain, transfer_knowledge
from ..training.ib_teacher import ib_config
from ..training.pretraining import batches_of
from ..training.progressive import match_layers, spread_layers
from ..training.run import save_folder
from ..training.text import check_transfer, is_architecture, train_on_corpus
from .recipe import read_recipe
from .stages import count_of, layers_kept


DEFAULT_TRANSFER = "mobilebert-md-minilm"
TEACHERS: dict[str, Callable[..., dict[str, Any]]] = {"ib_teacher": ib_teacher, "pretrain": pretrain}
# Of its arguments, those that decide what an IB-BERT teacher looks like.
IB_SIZES = ("feature_map_size", "embedding_size")
# Arguments that are the job's, not the recipe's.
JOB_ARGUMENTS = {"corpus", "output_dir", "teacher", "seed", "trust_remote_code", "sources", "tokenizer"}


@dataclass(frozen=True)
class TransferRecipe:
    """
    What `transfer` does.

    Args:
        name, description (`str`): For people.
        corpus (`dict`): Arguments of [`~compactbert.data.build_corpus`].
        teacher (`dict`): How the teacher is made: `ib_teacher` or `pretrain`, with its arguments.
        student (`str` or `dict`): A preset, a JSON file of an architecture, or a folder; or `{"prune": ...}` with
            arguments of [`prune_on_corpus`]: what that leaves of the teacher.
        transfer (`dict`): Arguments of [`~compactbert.training.transfer_knowledge`].

    Example:

    ```python
    >>> from compactbert.recipes import load_transfer_recipe

    >>> recipe = load_transfer_recipe("mobilebert-md-minilm")
    >>> list(recipe.teacher)
    ['ib_teacher']

    ```
    """

    name: str
    description: str
    corpus: Mapping[str, Any]
    teacher: Mapping[str, Mapping[str, Any]]
    student: str | Mapping[str, Mapping[str, Any]]
    transfer: Mapping[str, Any]


def load_transfer_recipe(recipe: str | Path | Mapping[str, Any]) -> TransferRecipe:
    """
    A recipe of `transfer` by its name, from a YAML file, or from a `dict` of the same form.

    Raises:
        ValueError: if there is no such recipe, it is not YAML, or a key or setting is missing or unknown.

    Example:

    ```python
    >>> from compactbert.recipes import load_transfer_recipe

    >>> load_transfer_recipe("mobilebert-paper").transfer["max_steps"] > 500_000
    True

    ```
    """
    data = recipe if isinstance(recipe, Mapping) else read_recipe(recipe, "transfer")
    source = str(data.get("name", "the given recipe") if isinstance(recipe, Mapping) else recipe)
    keys = ("name", "description", "corpus", "teacher", "student", "transfer")
    if unknown := sorted(set(data) - set(keys)):
        raise ValueError(f"The recipe {source!r} has unknown keys {unknown}: expected {keys}.")
    if missing := [name for name in ("teacher", "student", "transfer") if not data.get(name)]:
        raise ValueError(f"The recipe {source!r} needs {missing}.")
    teacher = data["teacher"]
    if not isinstance(teacher, Mapping) or len(teacher) != 1 or next(iter(teacher)) not in TEACHERS:
        raise ValueError(f"`teacher` of the recipe {source!r} must be one of {list(TEACHERS)}, got {teacher!r}.")
    kind, settings = next(iter(teacher.items()))
    sections: dict[str, tuple[Any, list[Callable]]] = {
        "corpus": (data.get("corpus") or {}, [build_corpus]),
        f"teacher: {kind}": (settings, [TEACHERS[kind], train_on_corpus]),
        "transfer": (data["transfer"], [transfer_knowledge, train_on_corpus]),
    }
    student = data["student"]
    if isinstance(student, Mapping):
        if list(student) != ["prune"]:
            raise ValueError(
                f"`student` of the recipe {source!r} must name an architecture or a folder, or be a mapping with the "
                f"key 'prune', got {student!r}."
            )
        sections["student: prune"] = student["prune"], [prune_on_corpus]
    for name, (values, functions) in sections.items():
        _check_section(values, functions, f"`{name}` of the recipe {source!r}")
    return TransferRecipe(
        name=str(data.get("name", Path(source).stem)),
        description=str(data.get("description", "")).strip(),
        corpus=data.get("corpus") or {},
        teacher=teacher,
        student=student if isinstance(student, Mapping) else str(student),
        transfer=data["transfer"],
    )


def _check_section(values: Any, functions: Iterable[Callable], where: str) -> None:
    if not isinstance(values, Mapping):
        raise ValueError(f"{where} must be a mapping of settings, got {values!r}.")
    named = {
        name
        for function in functions
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.kind is not inspect.Parameter.VAR_KEYWORD
    }
    internal = {"build_trainer", "stage_settings", "measure", "save"}
    # A teacher's `model` is what it is made of; the student is named apart.
    hidden = JOB_ARGUMENTS | internal | (set() if "teacher" in where else {"model"})
    if unknown := sorted(set(values) - named | set(values) & hidden):
        raise ValueError(f"{where} has unknown settings {unknown}: expected {sorted(named - hidden)}.")
    if "max_steps" in named and "max_steps" not in values:
        raise ValueError(f"{where} needs `max_steps`.")


def transfer(
    texts: str | Path | Iterable[Any],
    output_dir: str | Path,
    *,
    recipe: str | Path | Mapping[str, Any] = DEFAULT_TRANSFER,
    model: str | Path | None = None,
    teacher: str | Path | None = None,
    corpus: str | Path | None = None,
    tokenizer: str | Path = "minilm",
    max_steps: int | None = None,
    seed: int = 42,
    trust_remote_code: bool = False,
) -> dict[str, Any]:
    """
    Makes a MobileBERT from text: tokenises it, makes a teacher, and trains a student on the teacher's feature maps,
    attention and predictions. Each of the three leaves a folder that is found again, so a job that was killed continues
    when it is called again with the same arguments; start it with `accelerate launch` for several processes.

    Args:
        texts (`str`, `Path`, or a list of them):
            Text files, see [`~compactbert.data.build_corpus`].
        output_dir (`str` or `Path`):
            Where to write the student, its card, `metrics.json` and `transfer.png`. Must not exist, or be empty.
        recipe (`str`, `Path` or `dict`, *optional*, defaults to `"mobilebert-md-minilm"`):
            Name of a shipped recipe, a YAML file, or a recipe of the same form.
        model (`str` or `Path`, *optional*):
            What the teacher is made of, in place of the recipe's: a folder or repository of a BERT. A finished
            `teacher` needs none, and with one must have been made of it.
        teacher (`str` or `Path`, *optional*):
            A finished teacher, or where to put the one that the recipe makes; `None` is `<output_dir>-teacher`.
        corpus (`str` or `Path`, *optional*):
            Where to put the tokenised text, or where it is; `None` is `<output_dir>-corpus`.
        tokenizer (`str` or `Path`, *optional*, defaults to `"minilm"`):
            Whose tokens; of a teacher that is made of a model, that model's.
        max_steps (`int`, *optional*):
            A budget for the transfer in place of the recipe's; its stages shrink with it.
        seed (`int`, *optional*, defaults to 42):
            Of everything.
        trust_remote_code (`bool`, *optional*, defaults to `False`):
            Run the code of a teacher's repository that brings its own.

    Returns:
        `dict`: what is written to `metrics.json`.

    Raises:
        ValueError: if an argument or the recipe is wrong, text, teacher and student do not fit each other, or what
            another call left where this one puts its own was made with other settings.
        FloatingPointError: if a loss is not finite, see [`~compactbert.training.PretrainingTrainer`].

    Example:

    ```python
    >>> import compactbert

    >>> recipe = {
    ...     "corpus": {"sequence_length": 32, "held_out": 0},
    ...     "teacher": {
    ...         "ib_teacher": {"model": "my-bert", "feature_map_size": 64, "embedding_size": 32, "max_steps": 2}
    ...     },
    ...     "student": "student.json",
    ...     "transfer": {"max_steps": 8},
    ... }
    >>> report = compactbert.transfer("texts.txt", "my-mobilebert", recipe=recipe)
    >>> report["steps"]
    8

    ```
    """
    given = {name: value for name, value in locals().items() if value is not None}
    loaded = load_transfer_recipe(recipe)
    ((kind, settings),) = loaded.teacher.items()
    if model is not None:
        settings = {**settings, "model": str(model)}
    if "model" not in settings:
        raise ValueError(f"The recipe {loaded.name!r} does not say what its teacher is made of: give a `model`.")
    output_dir = Path(output_dir).absolute()
    if not work_dir_of(output_dir).is_dir():
        check_free(output_dir)
    options = dict(loaded.transfer)
    if max_steps is not None:
        if options.get("transfer_steps"):
            options["transfer_steps"] = round(options["transfer_steps"] * max_steps / options["max_steps"])
        options["max_steps"] = max_steps
    teacher_dir = Path(teacher or output_dir.with_name(f"{output_dir.name}-teacher"))
    corpus_dir = Path(corpus or output_dir.with_name(f"{output_dir.name}-corpus"))
    has_teacher = teacher_dir.is_dir() and any(teacher_dir.iterdir())
    if not is_architecture(settings["model"]):
        tokenizer = settings["model"]
    source, words = load_pretrained(teacher_dir if has_teacher else resolve_model(tokenizer), "", trust_remote_code)
    _check_student(loaded, options, source.config if has_teacher else _architecture_of(kind, settings, source.config))
    data = build_corpus(texts, words, corpus_dir, seed=seed, **loaded.corpus)
    if has_teacher:
        # One that is named may have been made in any way, but of the model that is named with it.
        if teacher is None or model is not None:
            made_with = {**settings, "seed": seed, "corpus": data.index["digest"]}
            _check_made(teacher_dir, made_with, TEACHERS[kind], train_on_corpus)
        # Of a run that was killed when its teacher had come to its place.
        shutil.rmtree(work_dir_of(teacher_dir), ignore_errors=True)
    else:
        made_of = {"tokenizer": tokenizer} if kind == "pretrain" else {"trust_remote_code": trust_remote_code}
        TEACHERS[kind](corpus=corpus_dir, output_dir=teacher_dir, seed=seed, **made_of, **settings)
    options |= {"seed": seed, "trust_remote_code": trust_remote_code}
    student: str | Path
    if isinstance(loaded.student, Mapping):
        student = output_dir.with_name(f"{output_dir.name}-student")
        settings = {"seed": seed, "trust_remote_code": trust_remote_code, **loaded.student["prune"]}
        with PartialState().main_process_first():
            if student.exists():
                _check_made(student, {**settings, "model": teacher_dir}, prune_on_corpus)
                shutil.rmtree(work_dir_of(student), ignore_errors=True)
            else:
                prune_on_corpus(teacher_dir, corpus_dir, student, **settings)
    else:
        student = loaded.student

    def save(model: Any, tokenizer: PreTrainedTokenizerBase, report: dict[str, Any], folder: Path) -> None:
        report |= {"recipe": {"name": loaded.name, "description": loaded.description}}
        named = texts if isinstance(texts, list | tuple) else [texts]
        report["texts"] = [Path(text).name for text in named if isinstance(text, str | Path)]
        if isinstance(recipe, str | Path):
            report["command"] = command_line(transfer, public_settings(given))
        save_folder(model, tokenizer, report, folder, {"transfer.png": png_of(draw_curves(report))})

    return transfer_knowledge(student, teacher_dir, corpus_dir, output_dir, save=save, **options)


def _check_made(folder: Path, given: Mapping[str, Any], *makers: Callable) -> None:
    """Raises a `ValueError` if what an earlier call has left was made with other settings."""
    record = folder / "metrics.json"
    made = json.loads(record.read_text()).get("settings", {}) if record.is_file() else {}
    parameters = [p for maker in makers for p in inspect.signature(maker).parameters.values()]
    defaults = {p.name: p.default for p in parameters if p.default is not inspect.Parameter.empty}
    settings = public_settings(json.loads(json.dumps({**defaults, **given}, default=str)))
    names = made.keys() & defaults.keys() | given.keys()
    earlier, now = ({name: values.get(name) for name in names} for values in (made, settings))
    if changes := changes_of(earlier, now):
        raise ValueError(
            f"{str(folder)!r} was made with other settings ({changes}): call it with the earlier ones, choose another "
            f"`output_dir`, or remove that folder and what was made of it."
        )


def prune_on_corpus(
    model: str | Path,
    corpus: str | Path,
    output_dir: str | Path,
    *,
    every: int | None = None,
    layers: int | Sequence[int] | None = None,
    heads: float | None = None,
    ffn: float | None = None,
    rows: int = 1024,
    batch_size: int = 32,
    seed: int = 42,
    trust_remote_code: bool = False,
) -> dict[str, Any]:
    """
    Prunes a language model by its importance scores on a corpus, without training, and leaves a folder that loads
    anywhere.

    Args:
        model (`str` or `Path`):
            A folder or repository of a language model with its head.
        corpus (`str` or `Path`):
            A folder that [`~compactbert.data.build_corpus`] made.
        output_dir (`str` or `Path`):
            Must not exist, or be empty.
        every, layers, heads, ffn, rows, batch_size, seed, trust_remote_code:
            As in [`~compactbert.recipes.stages.prune_on_task`]; the first `rows` samples are scored.

    Raises:
        ValueError: if the model has no head, the corpus cannot be read, or the targets do not fit the model.
    """
    settings = dict(locals())
    output_dir = Path(output_dir)
    check_free(output_dir)
    loaded, tokenizer = load_pretrained(model, "ForPreTraining", trust_remote_code, require_head=True)
    loaded = on_accelerator(loaded)
    most = largest_sizes(loaded.config)
    data = Corpus.open(corpus)
    data.check_tokenizer(tokenizer)
    samples = Subset(data.train, range(min(rows, len(data.train))))
    batches = list(batches_of(samples, PretrainingCollator(tokenizer, seed=seed), batch_size))
    for batch in batches:
        del batch["sample_id"]  # No model takes it.
    pruned, plan = prune_iteratively(
        loaded,
        batches,
        layers=layers_kept(loaded.config.num_hidden_layers, every, None, layers),
        heads=count_of(heads, most["heads"]),
        ffn=count_of(ffn, most["ffn"]),
        seed=seed,
    )
    report = {"settings": public_settings(json.loads(json.dumps(settings, default=str))), "plan": describe(plan)}
    save_folder(pruned, tokenizer, report, output_dir, {"pruning_plan.json": plan.to_json()}, card=False)
    return report


def _architecture_of(kind: str, settings: Mapping[str, Any], source: PreTrainedConfig) -> PreTrainedConfig:
    """Of the teacher that will be made, of a model with the configuration `source`."""
    if kind == "ib_teacher":
        if is_architecture(settings["model"]):
            raise ValueError(
                f"`model` of an IB-BERT teacher must have weights, got the architecture {settings['model']!r}: name a "
                f"folder or repository of a BERT."
            )
        return ib_config(source, **{name: value for name, value in settings.items() if name in IB_SIZES})
    return load_preset(settings["model"]) if is_architecture(settings["model"]) else source


def _check_student(recipe: TransferRecipe, options: Mapping[str, Any], teacher: PreTrainedConfig) -> None:
    """What is wrong with it is told before the text is tokenised and a teacher made."""
    config = check_transfer(None if isinstance(recipe.student, Mapping) else recipe.student, **options)
    layer_map = options.get("layer_map")
    if config is None:  # It will be what pruning leaves of the teacher.
        prune = recipe.student["prune"] if isinstance(recipe.student, Mapping) else {}
        kept = layers_kept(teacher.num_hidden_layers, prune.get("every"), None, prune.get("layers"))
        count = len(kept) if isinstance(kept, list) else kept or teacher.num_hidden_layers
        spread_layers(layer_map, count, teacher.num_hidden_layers)
        return
    length = recipe.corpus.get("sequence_length", 128)
    if length > config.max_position_embeddings:
        raise ValueError(
            f"The recipe's corpus has samples of {length} tokens, the student takes {config.max_position_embeddings}: "
            f"set `sequence_length` to that."
        )
    match_layers(config, teacher, layer_map, options.get("attention_transfer_weight") != 0)


def draw_curves(report: Mapping[str, Any]) -> Figure:
    """Every part of the loss over the steps, with lines where stages begin."""
    figure = Figure(figsize=(9, 5), layout="constrained")
    axes = figure.subplots()
    names = sorted({name for entry in report["losses"] for name in entry if name.endswith("_loss")})
    for name in names:
        points = [(entry["step"], entry[name]) for entry in report["losses"] if name in entry]
        axes.plot(*zip(*points, strict=True), label=name.removesuffix("_loss").replace("_", " "))
    stages = [(entry["step"], entry.get("stage", 1)) for entry in report["losses"]]
    for (before, stage), (_, following) in zip(stages, stages[1:], strict=False):
        if stage != following:
            axes.axvline(before, color="0.8", linewidth=0.8, zorder=0)
    axes.set_yscale("log")
    axes.set_xlabel("step")
    axes.set_ylabel("loss, weighted")
    axes.legend()
    return figure


__all__ = ["TransferRecipe", "draw_curves", "load_transfer_recipe", "prune_on_corpus", "transfer"]
