"""The models of the page, measured side by side on this machine."""

import html
import os
import re
import statistics
import time
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, wraps
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
import torch
from huggingface_hub import ModelCard
from huggingface_hub.errors import EntryNotFoundError
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from transformers import AutoModel, AutoTokenizer, BertConfig, DistilBertConfig, MobileBertConfig, PreTrainedConfig


# Models of transformers that everybody knows, by their shapes: how fast they are does not depend on their weights,
# which are random here.
MINILM = {"num_hidden_layers": 6, "hidden_size": 384, "num_attention_heads": 12, "intermediate_size": 1536}
SHAPES: dict[str, tuple[type[PreTrainedConfig], dict[str, Any]]] = {
    "BERT-base": (BertConfig, {}),
    "DistilBERT": (DistilBertConfig, {}),
    "MiniLM-L6": (BertConfig, MINILM),
    "MobileBERT": (MobileBertConfig, {"classifier_activation": False}),
}
MAX_CHARACTERS = 2_000
WARMUP, ROUNDS = 2, 15
# Of the rounds together. The first few are always made.
MAX_SECONDS, FEWEST_ROUNDS = 15.0, 3
# One thread has the fewest neighbours, and leaves a processor of two to the page.
THREADS = 1
# With their widths.
COLUMNS = {
    "model": "16%",
    "million parameters": "13%",
    "tokens": "9%",
    "median ms": "11%",
    "quartiles ms": "15%",
    "speed-up": "11%",
    "quality": "25%",
}


# Copied from reading.find_models
def find_models() -> dict[str, str]:
    """
    Names and places of the models that `MODEL_ID` names: folders or repositories, with commas between. Without it, of
    the project's zoo, where this Space lies in a checkout.
    """
    places = [place.strip() for place in os.environ.get("MODEL_ID", "").split(",") if place.strip()]
    zoo = Path(__file__).resolve().parent.parent.parent / "zoo"
    places = places or [str(file.parent) for file in sorted(zoo.glob("*/config.json"))]
    found: dict[str, str] = {}
    for place in places:
        name = Path(place).resolve().name if Path(place).is_dir() else place
        if name in found:
            raise ValueError(f"`MODEL_ID` has two models of the name {name!r}: rename a folder.")
        found[name] = place
    return found


# Copied from reading.friendly
def friendly(function: Callable) -> Callable:
    """Turns what a visitor did wrong into a message on the page; what they typed is text there."""

    @wraps(function)
    def wrapped(*args: Any) -> Any:
        try:
            return function(*args)
        except ValueError as error:
            raise gr.Error(html.escape(str(error)), print_exception=False) from None

    return wrapped


# Copied from reading.check_text
def check_text(text: str | None, field: str, limit: int = MAX_CHARACTERS) -> str:
    """The text of a field, where control characters and halves of characters have become spaces."""
    text = text or ""
    if len(text) > limit:
        raise ValueError(f"{field}: at most {limit:,} characters, this has {len(text):,}.")
    text = "".join(" " if unicodedata.category(c) in ("Cc", "Cs") and c != "\n" else c for c in text)
    if not text.strip():
        raise ValueError(f"{field}: type some text first.")
    return text


@dataclass(frozen=True)
class Quality:
    """How good a model is, by what its own card says."""

    metric: str
    value: float
    where: str

    def __str__(self) -> str:
        return f"{self.metric} {self.value:.3f} on {self.where}"


def read_quality(place: str) -> list[Quality]:
    """What the card in a model's folder or repository says of its quality."""
    file = Path(place) / "README.md"
    if Path(place).is_dir() and not file.is_file():
        return []
    try:
        card = ModelCard.load(file if file.is_file() else place, ignore_metadata_errors=True)
    except EntryNotFoundError:
        return []
    found = [result for result in card.data.eval_results or [] if isinstance(result.metric_value, int | float)]
    return [
        Quality(r.metric_type, float(r.metric_value), ", ".join(filter(None, (r.dataset_name, r.dataset_split))))
        for r in found
    ]


@dataclass(frozen=True)
class Measured:
    """A model's row of a measurement; times are in milliseconds."""

    name: str
    parameters: int
    tokens: int
    times: Sequence[float]
    qualities: Sequence[Quality]

    def quartiles(self) -> list[float]:
        """Lower quartile, median and upper quartile."""
        return statistics.quantiles(self.times, n=4)


class Models:
    """
    What the page does, with some models beside the known shapes.

    Args:
        places (`dict` of name to folder or repository): The models. Code that they bring is run.
    """

    def __init__(self, places: dict[str, str]):
        self.places = places
        self.qualities = {name: read_quality(place) for name, place in places.items()}
        # Loaded when they are first measured, and kept.
        self.load = cache(self._load)
        self.tokenizer = cache(self._tokenizer)

    def names(self) -> list[str]:
        """All that can be measured."""
        return [*self.places, *(name for name in SHAPES if name not in self.places)]

    def _load(self, name: str) -> Any:
        if name in self.places:
            return AutoModel.from_pretrained(self.places[name], trust_remote_code=True, dtype=torch.float32).eval()
        if name not in SHAPES:
            raise ValueError(f"There is no model {name!r} here: choose of {', '.join(self.names())}.")
        config_class, fields = SHAPES[name]
        return AutoModel.from_config(config_class(**fields)).eval()

    def _tokenizer(self, name: str) -> Any:
        return AutoTokenizer.from_pretrained(self.places[name], trust_remote_code=True)

    def encode(self, name: str, text: str) -> torch.Tensor:
        """
        What a model reads of a text. The shapes have no tokenizer: they read as many random tokens as the text has in
        the largest vocabulary here, or words and signs where there is none.
        """
        model = self.load(name)
        if name in self.places:
            ids = self.tokenizer(name)(text, return_tensors="pt", verbose=False)["input_ids"]
        else:
            largest = max(map(self.tokenizer, self.places), key=len, default=None)
            pieces = largest.tokenize(text, verbose=False) if largest else re.findall(r"\w+|[^\w\s]", text)
            ids = torch.randint(model.config.vocab_size, (1, len(pieces) + 2))
        longest = model.config.max_position_embeddings
        if longest and ids.shape[1] > longest:
            raise ValueError(f"{name} reads at most {longest} tokens, this text has {ids.shape[1]}: shorten it.")
        return ids

    @friendly
    def measure(
        self,
        text: str,
        models: list[str],
        progress: gr.Progress = gr.Progress(),  # noqa: B008
    ) -> tuple[list[list[Any]], np.ndarray, str]:
        """
        Measure how long models take to read a text on this machine's processor, side by side, now: the median of
        their latency and its quartiles, beside their size and what their cards say of their quality.

        Args:
            text: The text.
            models: Names of models of this Space.

        Returns:
            Size, latency and known quality of every model; a picture of them; and how they were measured.
        """
        text = check_text(text, "Text")
        if not models:
            raise ValueError("Models: choose one or more.")
        names = list(dict.fromkeys(models))
        inputs = {name: self.encode(name, text) for name in progress.tqdm(names, desc="Loading")}
        times = take_turns({name: self.load(name) for name in names}, inputs, progress)
        rows = [
            Measured(name, self.load(name).num_parameters(), ids.shape[1], times[name], self.qualities.get(name, []))
            for name, ids in inputs.items()
        ]
        said = (
            f"Measured just now: {len(times[names[0]])} forward passes of each model, in turns, after {WARMUP} untimed "
            f"ones; {THREADS} thread of torch {torch.__version__}; one text at a time, in 32 bits, without heads for "
            "tasks. The speed-up is over the slowest of them."
        )
        return tabulate(rows), plot(rows, self.places), said


@torch.inference_mode()
def take_turns(
    models: dict[str, Any], inputs: dict[str, torch.Tensor], progress: gr.Progress
) -> dict[str, list[float]]:
    """Milliseconds of forward passes. What else the machine does meets all models alike."""
    times: dict[str, list[float]] = {name: [] for name in models}
    torch.set_num_threads(THREADS)
    started = time.perf_counter()
    for turn in progress.tqdm(range(WARMUP + ROUNDS), desc="Measuring"):
        if turn >= WARMUP + FEWEST_ROUNDS and time.perf_counter() - started > MAX_SECONDS:
            break
        for name, model in models.items():
            before = time.perf_counter()
            model(input_ids=inputs[name])
            if turn >= WARMUP:
                times[name].append(1000 * (time.perf_counter() - before))
    return times


def tabulate(rows: Sequence[Measured]) -> list[list[Any]]:
    """The table, fastest first, in three digits."""
    slowest = max(row.quartiles()[1] for row in rows)
    table = []
    for row in sorted(rows, key=lambda row: row.quartiles()[1]):
        low, median, high = row.quartiles()
        exact = (low, median, high, slowest / median, row.parameters / 1e6)
        low, median, high, speedup, size = (float(f"{figure:.3g}") for figure in exact)
        quality = "; ".join(map(str, row.qualities)) or "not known here"
        table.append([row.name, size, row.tokens, median, f"{low:g}-{high:g}", speedup, quality])
    return table


def plot(rows: Sequence[Measured], ours: Sequence[str] | dict[str, str]) -> np.ndarray:
    """Latency against parameters, and against quality where a card says it. Names are text, not mathematics."""
    figure = Figure(figsize=(11, 4.5), layout="constrained", dpi=110)
    sizes, qualities = figure.subplots(1, 2, sharey=True)
    for row in rows:
        low, median, high = row.quartiles()
        looks: dict[str, Any] = {"fmt": "o", "capsize": 3, "color": "C0" if row.name in ours else "0.45"}
        beside, above = {"xytext": (7, 0), "va": "center"}, {"xytext": (0, 6), "ha": "center"}
        points = [(sizes, row.parameters / 1e6, row.name, median, beside)]
        # Errors and perplexities go the other way: they are in the table alone.
        points += [
            (qualities, quality.value, f"{row.name}\n{quality.metric} on {quality.where}", high, above)
            for quality in row.qualities[:1]
            if 0 <= quality.value <= 1
        ]
        for axes, x, name, y, place in points:
            axes.errorbar(x, median, yerr=[[median - low], [high - median]], **looks)
            axes.annotate(name, (x, y), textcoords="offset points", fontsize=8, parse_math=False, **place)
    sizes.set(xlabel="million parameters", ylabel="milliseconds, median and quartiles", xscale="log", yscale="log")
    qualities.set(xlabel="quality, by the models' own cards")
    for axis in (sizes.xaxis, sizes.yaxis):
        axis.set_major_formatter("{x:g}")
    for axes in (sizes, qualities):
        axes.margins(0.25)
    if not qualities.containers:
        qualities.text(
            0.5, 0.5, "none of these models brings\na figure of its quality", ha="center", transform=qualities.transAxes
        )
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())
