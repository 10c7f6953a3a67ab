"""Model cards: what a finished folder is, how it was made and what was measured, told from the records in it."""

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
import yaml
from huggingface_hub import EvalResult, EvalResultEntry, ModelCardData, eval_result_entries_to_yaml
from transformers import AutoTokenizer

from .compression import count_macs
from .data import TASKS
from .provenance import LIBRARIES
from .records import (
    BASE,
    HEADS,
    LANGUAGE_MODELS,
    Folder,
    known_facts,
    license_of,
    result_point,
    task_facts,
    teacher_point,
)
from .structure import ADAPTER_HEADS, layer_shapes


PICTURES = {
    "report.png": "Quality against latency and size, each stage and baseline",
    "transfer.png": "Every part of the loss over the steps",
}
PIPELINES = ("text-classification", "token-classification", "fill-mask", "feature-extraction")
TEXT = "The quick brown fox jumps over the lazy dog."


@dataclass(frozen=True)
class Publication:
    """
    What a publisher says of a folder that is not in it.

    Args:
        repo_id (`str`, *optional*): `namespace/name` on the Hub; the folder's name until there is one.
        license (`str`, *optional*): The Hub's identifier of the licence of the weights, such as `"apache-2.0"`.
        languages (list of `str`, *optional*): ISO codes of the languages that the model reads.
        base_model (`str`, *optional*): Repository of the base or teacher, where the records name a folder.
        base_revision (`str`, *optional*): Commit of that repository, which an adapter is pinned to.
    """

    repo_id: str | None = None
    license: str | None = None
    languages: Sequence[str] = ()
    base_model: str | None = None
    base_revision: str | None = None


def render_card(folder: str | Path, publication: Publication | None = None) -> str:
    """
    The model card of a finished folder: metadata and text, the same every time.

    Args:
        folder (`str` or `Path`): What `compress`, `transfer`, `finetune` or `adapt` left.
        publication ([`Publication`], *optional*): What the publisher adds.

    Raises:
        ValueError: if there is no model or adapter in it.
    """
    read, publication = Folder.read(folder), publication or Publication()
    name = publication.repo_id or read.path.resolve().name
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    # jinja2's own is made for web pages, and escapes what JSON and Python do not.
    environment.filters["tojson"] = lambda value: json.dumps(value, ensure_ascii=False)
    template = files("compactbert.configs").joinpath("cards/card.md").read_text(encoding="utf-8")
    text = environment.from_string(template).render(_context(read, publication, name))
    return f"---\n{_metadata(read, publication, name).to_yaml()}\n---\n\n{text}"


def _context(read: Folder, publication: Publication, name: str) -> dict[str, Any]:
    """What the template's sentences are filled with."""
    record, known = read.record, task_facts(read.task)
    tag, purpose = HEADS[read.head]
    family = known_facts()["families"].get(read.config.model_type if read.config is not None else None, {})
    relation = record.get("result") is not None
    return {
        "title": name.split("/")[-1],
        "name": name,
        "adapter": read.adapter is not None,
        "method": record.get("method") or (read.adapter or {}).get("peft_type"),
        # Of a folder its name: where it lay is nobody's business.
        "base": publication.base_model or read.base or Path((read.adapter or {}).get(BASE, "")).name,
        "revision": publication.base_revision,
        "num_labels": len(record.get("base", {}).get("config_fields", {}).get("id2label", ())) or 1,
        "parameters": sum(count for count, _ in read.tensors.values()),
        "purpose": f"tells {known['about']}" if known else purpose,
        "family": family.get("about", ""),
        "language_model": read.head in LANGUAGE_MODELS,
        "head": read.head.removeprefix("Model"),
        "tag": tag,
        "pipeline": tag in PIPELINES,
        "needs_package": record.get("needs_package", False),
        "predicts": read.head in ADAPTER_HEADS.values(),
        "inputs": _example(read),
        "onnx": [f"`onnx/{file.name}`" for file in sorted((read.path / "onnx").glob("*.onnx"))],
        "architecture": markdown_table(("", ""), _architecture(read)),
        "made_here": bool(record),
        "command": record.get("command"),
        "recipe": record.get("recipe"),
        "teacher": record.get("teacher"),
        "stages": [_stage(kind, fields) for kind, fields in read.stages],
        "making": _making(read, publication),
        "results": _results(read),
        "is_rounded": read.is_rounded,
        "rows": read.rows,
        "split": read.split,
        "seeds": read.settings.get("seeds", 1),
        "points": markdown_table(*table_rows(record)) if "points" in record else None,
        "picture": next(
            ({"file": file, "title": title} for file, title in PICTURES.items() if (read.path / file).is_file()), None
        ),
        "speed": _speed(record) if relation else None,
        "summary": summary(record) if "points" in record else None,
        # Times may have been measured again, elsewhere than it was made.
        "machine": _machine(record.get("timed_in") or record.get("environment")),
        "task": read.task,
        "longest": read.longest,
        "licences": markdown_table(("what", "licence"), _licences(read, publication)),
        "paper": known_facts()["papers"].get(family.get("paper")),
    }


def evaluation_results(folder: str | Path) -> dict[str, str]:
    """
    The files under `.eval_results/`, by name: the Hub's present form of what a card's `model-index` says too.

    Returns:
        `dict`: Empty where the task is no dataset on the Hub.
    """
    read = Folder.read(folder)
    on_hub = _dataset(read.task)
    if not on_hub or not read.scores:
        return {}
    metric, value = next(iter(read.scores.items()))
    rows = f"{read.rows:,} rows" if read.rows else "rows"
    entry = EvalResultEntry(
        dataset_id=on_hub[0],
        task_id=on_hub[1] if len(on_hub) > 1 else "default",
        value=round(value, 6),
        notes=f"{metric} on the {rows} of {read.split}, measured by the publisher: see the model card",
    )
    name = (read.task or "").replace("/", "-")
    return {f"{name}.yaml": yaml.safe_dump(eval_result_entries_to_yaml([entry]), sort_keys=False)}


def _metadata(read: Folder, publication: Publication, name: str) -> ModelCardData:
    on_hub, tag = _dataset(read.task), HEADS[read.head][0]
    results = [
        EvalResult(
            task_type=tag,
            dataset_type=on_hub[0],
            dataset_name=read.task or "",
            dataset_config=on_hub[1] if len(on_hub) > 1 else None,
            dataset_split=read.split,
            metric_type=metric,
            metric_value=round(value, 6),
        )
        for metric, value in read.scores.items()
        if on_hub
    ]
    kind = ["adapter", read.record.get("method", "peft")] if read.config is None else [read.config.model_type]
    return ModelCardData(
        language=list(publication.languages) or None,
        license=publication.license,
        library_name="transformers" if read.adapter is None else "peft",
        pipeline_tag=tag,
        tags=["compactbert", *kind],
        base_model=publication.base_model or read.base,
        datasets=[on_hub[0]] if on_hub else None,
        metrics=list(read.scores) if on_hub else None,
        model_name=name.split("/")[-1] if results else None,
        eval_results=results or None,
    )


def _dataset(task: str | None) -> tuple[str, ...]:
    """The Hub's name of a task's data, and the configuration; empty for files."""
    spec = TASKS.get(task or "")
    return spec.hub if spec is not None else ()


def _example(read: Folder) -> list[str]:
    if HEADS[read.head][0] == "fill-mask":
        return [f"Paris is the {AutoTokenizer.from_pretrained(read.path).mask_token} of France."]
    return list(task_facts(read.task).get("example", [TEXT] * max(1, len(read.settings.get("text_columns") or ()))))


def _architecture(read: Folder) -> list[tuple[str, str]]:
    tensors = read.tensors
    stored, size = (sum(values) for values in zip(*tensors.values(), strict=True))
    if read.config is None:
        rows = [("parameters stored", f"{stored:,}"), ("bytes of weights", f"{size:,}")]
        if targets := (read.adapter or {}).get("target_modules"):
            rows.insert(0, ("layers it changes", ", ".join(f"`{name}`" for name in sorted(targets))))
        if parameters := read.record.get("parameters"):
            rows.append(
                ("parameters trained", f"{parameters['trainable']:,} beside {parameters['full']:,} of the base")
            )
        return rows
    config = read.config
    shapes = layer_shapes(config)
    rows = [("class", f"`{(config.architectures or ['Model'])[0]}`"), ("layers", str(len(shapes)))]
    if config.model_type != "smbert":
        widths = _runs([layer.true_hidden_size for layer in config.per_layer_config])
        rows += [("width of the feature map", str(config.hidden_size)), ("widths of the layers", widths)]
    else:
        rows.append(("width", str(config.hidden_size)))
    encoder = sum(count for name, (count, _) in tensors.items() if "encoder.layer." in name)
    embeddings = sum(count for name, (count, _) in tensors.items() if "embeddings." in name)
    length = min(128, config.max_position_embeddings)
    return [
        *rows,
        ("attention heads", _runs([f"{shape.heads} of {shape.head_size}" for shape in shapes])),
        ("feed-forward networks", _runs([f"{shape.networks} of {shape.neurons}" for shape in shapes])),
        ("vocabulary", f"{config.vocab_size:,}"),
        ("longest input", f"{config.max_position_embeddings} tokens"),
        ("parameters of embeddings", f"{embeddings:,}"),
        ("parameters of layers", f"{encoder:,}"),
        ("parameters of the head", f"{stored - encoder - embeddings:,}"),
        ("parameters", f"{stored:,}"),
        (f"multiply-accumulates of {length} tokens", f"{count_macs(config, 1, length):,}"),
        ("bytes of weights", f"{size:,}"),
    ]


def _runs(values: Sequence[Any]) -> str:
    """Values of the layers from input to output, alike ones together."""
    runs = [(value, len(list(group))) for value, group in itertools.groupby(values)]
    return str(values[0]) if len(runs) == 1 else ", then ".join(f"{value} in {count}" for value, count in runs)


def _stage(kind: str, fields: Mapping[str, Any]) -> str:
    given = ", ".join(f"`{name}={value}`" for name, value in fields.items() if name != "name")
    return f"`{kind}`: {given or 'defaults'}"


def _making(read: Folder, publication: Publication) -> list[str]:
    """Base, data, seeds, time and versions, as far as they are recorded."""
    record, settings, lines = read.record, read.settings, []
    base = publication.base_model or read.base
    if base or settings.get("model"):
        lines.append(f"Made from: {_link(base) if base else '`' + Path(settings['model']).name + '`'}.")
    if read.task:
        on_hub = _dataset(read.task)
        lines.append(f"Data: `{read.task}`" + (f", {_link(on_hub[0], 'datasets/')}." if on_hub else "."))
        if labels := task_facts(read.task).get("labels"):
            lines.append(labels)
    if "samples" in record:
        lines.append(f"Text: {record['samples']['train']:,} samples.")
        lines.append(f"Training: {record['steps']:,} steps of {record['tokens_per_step']:,} tokens at most.")
    if "seed" in settings:
        seeds = range(settings["seed"], settings["seed"] + settings.get("seeds", 1))
        lines.append(f"Seed{'s' if len(seeds) > 1 else ''}: {', '.join(map(str, seeds))}.")
    if "precision" in record:
        lines.append(f"Precision of training: {record['precision']}.")
    seconds = record.get("training_seconds") or record.get("seconds_per_step", 0.0) * record.get("steps", 0)
    if seconds:
        spent = f"{seconds / 3600:.1f} hours" if seconds > 5400 else f"{seconds / 60:.1f} minutes"
        machine = _machine(record["environment"], settings.get("processes", 1))
        lines.append(f"Cost: training steps of {spent} {machine}. Energy was not metered.")
    if versions := record.get("environment"):
        listed = [f"{name} {versions[name]}" for name in ("python", "torch", *LIBRARIES) if name in versions]
        lines.append(f"Versions: {', '.join(listed)}.")
    return lines


def _link(repository: str, kind: str = "") -> str:
    return f"[{repository}](https://huggingface.co/{kind}{repository})"


def _machine(environment: Mapping[str, Any] | None, processes: int = 1) -> str:
    if environment is None:
        return "on a machine that was not recorded"
    if environment.get("accelerator"):
        return f"on {'one' if processes == 1 else f'{processes} ×'} {environment['accelerator']}"
    threads = environment["threads"] * processes
    return f"on {threads} thread{'s' if threads > 1 else ''} of a processor with {environment['cpu_capability']}"


def _results(read: Folder) -> str | None:
    if not read.scores:
        return None
    source = "measured here, " + ("by the command above" if read.record.get("command") else "when it was trained")
    rows = [(f"`{name}`", f"{value:.4f}", source) for name, value in read.scores.items()]
    return markdown_table(("metric", "value", "where from"), rows)


def _speed(report: Mapping[str, Any]) -> str:
    """The finished model beside its teacher."""
    points: tuple[Any, Any] = (teacher_point(report), result_point(report))
    rows = []

    def add(what: str, form: str, *path: str) -> None:
        before, after = (reduce(lambda value, key: value[key], path, point) for point in points)
        rows.append((what, form.format(before), form.format(after), f"{before / after:.2f}"))

    add("parameters of layers", "{:,}", "parameters", "encoder")
    add("parameters", "{:,}", "parameters", "total")
    for shape in points[1]["latency"]:
        add(f"multiply-accumulates, {shape}", "{:,}", "macs", shape)
        add(f"milliseconds, {shape}", "{:.1f}", "latency", shape, "median_ms")
    return markdown_table(("", "teacher", "this model", "teacher / this"), rows)


def _licences(read: Folder, publication: Publication) -> list[tuple[str, str]]:
    unknown = "not known to `compactbert`"
    base = publication.base_model or read.base
    known = license_of(base)
    code = "the code in this repository" if read.adapter is None else "the code of `compactbert`"
    rows = [
        ("these weights", f"`{publication.license}`" if publication.license else "not chosen yet"),
        (code, "`apache-2.0`"),
        (f"the base, `{base}`" if base else "the base", f"`{known}`" if known else unknown),
    ]
    tasks = [read.task, *(fields.get(name) for _, fields in read.stages for name in ("task", "texts"))]
    texts = {name: known_facts()["texts"].get(name.split(".")[0], unknown) for name in read.record.get("texts", ())}
    rows += [(f"text, `{name}`", licence) for name, licence in texts.items()]
    rows += [(f"data, `{task}`", task_facts(task).get("licence", unknown)) for task in dict.fromkeys(tasks) if task]
    return rows


def table_rows(report: Mapping[str, Any], brief: bool = False) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """The report's points as a header and rows of text; `brief`, for a terminal, leaves out all but the first metric,
    the embedding's parameters, bytes and quartiles."""
    metrics = list(report["points"][0]["metrics"])[: 1 if brief else None]
    shapes = list(report["points"][0]["latency"])
    parts = ("encoder", "total") if brief else ("encoder", "embedding", "total")
    header = ("model", *metrics, *parts, *(() if brief else ("MB, float32",)), f"GMACs {shapes[-1]}")
    header += tuple(f"ms {shape}" for shape in shapes)
    rows = []
    for point in report["points"]:
        name = point["name"] if point["kind"] == "stage" else f"baseline: {point['name']}"
        scores = [_score(point["metrics"][metric]) for metric in metrics]
        parameters = [f"{point['parameters'][part] / 1e6:.2f}M" for part in parts]
        size = [] if brief else [f"{point['bytes'] / 1e6:.1f}"]
        latencies = []
        for latency in (point["latency"][shape] for shape in shapes):
            quartiles = "" if brief else f" ({latency['low_ms']:.1f}-{latency['high_ms']:.1f})"
            latencies.append(f"{latency['median_ms']:.1f}{quartiles}")
        rows.append((name, *scores, *parameters, *size, f"{point['macs'][shapes[-1]] / 1e9:.2f}", *latencies))
    return header, rows


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (header, ["---"] * len(header), *rows))


def summary(report: Mapping[str, Any]) -> str:
    """The finished model in relation to its teacher, in a sentence."""
    result = report["result"]
    if result is None:
        return "No stage before the model was made smaller was on this task, so there is no teacher to compare with."
    quality = "an unknown share (the teacher learnt nothing)"
    if result["quality_kept"] is not None:
        quality = f"{result['quality_kept']:.1%}"
    speeds = [
        f"{value:.1f}x as fast at {key.removeprefix('speedup_')}" for key, value in result.items() if "speed" in key
    ]
    seeds = report["settings"]["seeds"]
    name = "" if report["teacher"] == "teacher" else f" ({report['teacher']})"
    return (
        f"It keeps {quality} of the {report['metric']} of its teacher{name}"
        f"{'' if seeds == 1 else f', on average over {seeds} seeds'}, with {result['encoder_share']:.1%} of the "
        f"teacher's encoder and {result['total_share']:.1%} of all its parameters, and is {' and '.join(speeds)}."
    )


def _score(values: Mapping[str, Any]) -> str:
    spread = "" if values["std"] is None else f" ± {values['std']:.3f}"
    return f"{values['mean']:.3f}{spread}"


__all__ = ["Publication", "evaluation_results", "markdown_table", "render_card", "summary", "table_rows"]
