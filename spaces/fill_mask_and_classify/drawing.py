"""What the page draws. Text in it is text: matplotlib would read what is between two `$` as mathematics."""

import warnings
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure


SHOWN_CHARACTERS = 40


def render(figure: Figure) -> np.ndarray:
    """A figure as a picture, which programs can take too."""
    canvas = FigureCanvasAgg(figure)
    # Signs that its font lacks are drawn as boxes. They need not be in the log, where nothing of a text belongs.
    with warnings.catch_warnings(action="ignore"):
        canvas.draw()
    return np.asarray(canvas.buffer_rgba())


def plot_attention(tokens: Sequence[str], probabilities: np.ndarray, title: str) -> np.ndarray:
    """What every token (row) attends to (column)."""
    size = max(4.0, 0.22 * len(tokens) + 1.5)
    figure = Figure(figsize=(size, size), layout="constrained")
    axes = figure.subplots()
    axes.imshow(probabilities, vmin=0, cmap="viridis")
    axes.set_xticks(range(len(tokens)), tokens, rotation=90, parse_math=False)
    axes.set_yticks(range(len(tokens)), tokens, parse_math=False)
    axes.set(title=title, xlabel="is looked at", ylabel="looks")
    return render(figure)


def plot_spread(maps: Sequence[np.ndarray]) -> np.ndarray:
    """Mean and variance of the attention in every layer, over all heads and pairs of tokens."""
    figure = Figure(figsize=(7, 3), layout="constrained")
    moments = {"mean": [m.mean() for m in maps], "variance": [m.var() for m in maps]}
    for axes, (name, values) in zip(figure.subplots(1, 2), moments.items(), strict=True):
        axes.bar(range(len(maps)), values)
        axes.set(title=f"{name} of the attention", xlabel="layer")
        axes.locator_params(axis="x", integer=True)
    return render(figure)


def plot_points(points: np.ndarray, shares: np.ndarray, texts: Sequence[str]) -> np.ndarray:
    """Texts in two dimensions, with the beginning of each beside its point."""
    figure = Figure(figsize=(9, 6), layout="constrained")
    axes = figure.subplots()
    axes.scatter(points[:, 0], points[:, 1])
    for i, (point, text) in enumerate(zip(points, texts, strict=True)):
        shown = text if len(text) <= SHOWN_CHARACTERS else text[: SHOWN_CHARACTERS - 1] + "…"
        # By turns above and below, for texts that lie together.
        place = (4, -10 if i % 2 else 4)
        axes.annotate(shown, point, xytext=place, textcoords="offset points", fontsize=8, parse_math=False)
    axes.margins(0.3)
    axes.set(xlabel=f"first component, {shares[0]:.0%} of the variance")
    axes.set(ylabel=f"second component, {shares[1]:.0%} of the variance")
    return render(figure)


def plot_losses(losses: Sequence[Mapping[str, float]]) -> np.ndarray:
    """Losses of training and evaluation by step."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for name in ("loss", "eval_loss"):
        found = [(entry["step"], entry[name]) for entry in losses if name in entry]
        if found:
            axes.plot(*zip(*found, strict=True), marker=".", label=name)
    axes.set(xlabel="step")
    axes.legend()
    return render(figure)
