"""Looking into a model: attention and how it is spread, embeddings in two dimensions, curves of its training."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from matplotlib.figure import Figure
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from transformers import DataCollatorWithPadding, PreTrainedModel, PreTrainedTokenizerBase

from .convert import load_pretrained
from .data import encode_texts, length_limit, load_task
from .data.tasks import as_text
from .files import check_free, new_folder, write_figure, write_text


Projection = Literal["pca", "tsne"]
PERPLEXITY = 30


@contextmanager
def _eager(model: PreTrainedModel) -> Iterator[None]:
    """Attention maps exist in eager attention alone."""
    before, was_training = model.config._attn_implementation, model.training
    model.set_attn_implementation("eager")
    model.eval()
    try:
        yield
    finally:
        model.set_attn_implementation(before)
        model.train(was_training)


def _batches(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], max_length: int, batch_size: int
) -> Iterator[dict[str, torch.Tensor]]:
    features, _, _ = encode_texts([list(texts)], tokenizer, length_limit(model.config, tokenizer, max_length))
    collator = DataCollatorWithPadding(tokenizer)
    for start in range(0, len(features), batch_size):
        batch = collator(features[start : start + batch_size])
        yield {name: tensor.to(model.device) for name, tensor in batch.items()}


@torch.inference_mode()
def attention_maps(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, text: str, max_length: int = 64
) -> tuple[list[str], list[np.ndarray]]:
    """
    What every token of a text attends to.

    Args:
        model ([`~transformers.PreTrainedModel`]), tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            Any head, or none.
        text (`str`):
            The text.
        max_length (`int`, *optional*, defaults to 64):
            Longest input in tokens.

    Returns:
        The tokens, and for every layer an array of shape `(heads, tokens, tokens)` whose rows sum to 1.

    Example:

    ```python
    >>> from compactbert.convert import load_pretrained
    >>> from compactbert.inspection import attention_maps

    >>> tokens, maps = attention_maps(*load_pretrained("my-bert", ""), "A good film.")
    >>> tokens, maps[0].shape
    (['[CLS]', 'a', 'good', 'film', '.', '[SEP]'], (4, 6, 6))

    ```
    """
    with _eager(model):
        batch = next(_batches(model, tokenizer, [text], max_length, 1))
        maps = model(**batch, output_attentions=True).attentions
    tokens: Any = tokenizer.convert_ids_to_tokens(batch["input_ids"][0].tolist())
    return tokens, [m[0].float().cpu().numpy() for m in maps]


@torch.inference_mode()
def attention_statistics(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    max_length: int = 64,
    batch_size: int = 32,
) -> list[dict[str, float]]:
    """
    How attention is spread in every layer, over all heads and tokens of texts.

    Args:
        model, tokenizer, max_length:
            See [`attention_maps`].
        texts (list of `str`):
            The texts.
        batch_size (`int`, *optional*, defaults to 32):
            Texts at a time.

    Returns:
        Per layer `mean` and `variance` of the probabilities, and `entropy` (in nats, of a token's probabilities): the
        less, the fewer tokens a token looks at. The mean is one over the number of tokens, whatever the model.

    Example:

    ```python
    >>> from compactbert.convert import load_pretrained
    >>> from compactbert.inspection import attention_statistics

    >>> statistics = attention_statistics(*load_pretrained("my-bert", ""), ["A good film.", "Dull."])
    >>> [sorted(layer) for layer in statistics[:1]]
    [['entropy', 'mean', 'variance']]

    ```
    """
    sums: list[np.ndarray] = []
    with _eager(model):
        for batch in _batches(model, tokenizer, texts, max_length, batch_size):
            mask = batch["attention_mask"].double()
            pairs = (mask[:, None, :, None] * mask[:, None, None, :]).cpu().numpy()
            maps = [m.double().cpu().numpy() for m in model(**batch, output_attentions=True).attentions]
            found = [_moments(probabilities, pairs) for probabilities in maps]
            sums = found if not sums else [before + new for before, new in zip(sums, found, strict=True)]
    return [
        {"mean": total / count, "variance": squares / count - (total / count) ** 2, "entropy": entropy / rows}
        for count, total, squares, entropy, rows in sums
    ]


def _moments(probabilities: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Pairs of tokens, the sums of their probabilities, squares and entropies, and tokens, over all heads."""
    kept = probabilities * pairs
    heads = probabilities.shape[1]
    entropy = -(kept * np.log(np.where(kept > 0, kept, 1))).sum()
    tokens = (pairs.max(axis=-1) > 0).sum()
    return np.array([pairs.sum() * heads, kept.sum(), (kept**2).sum(), entropy, tokens * heads])


@torch.inference_mode()
def embed_texts(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    max_length: int = 64,
    batch_size: int = 64,
) -> np.ndarray:
    """The mean of the last hidden states of every text's tokens, an array of shape `(texts, hidden_size)`; see
    [`attention_statistics`] for the arguments.

    Example:

    ```python
    >>> from compactbert.convert import load_pretrained
    >>> from compactbert.inspection import embed_texts

    >>> embed_texts(*load_pretrained("my-bert", ""), ["A good film.", "Dull."]).shape
    (2, 64)

    ```
    """
    was_training = model.training
    model.eval()
    means = []
    for batch in _batches(model, tokenizer, texts, max_length, batch_size):
        states = model.base_model(**batch).last_hidden_state.float()
        mask = batch["attention_mask"][..., None].float()
        means.append(((states * mask).sum(1) / mask.sum(1)).cpu().numpy())
    model.train(was_training)
    return np.concatenate(means)


def project(embeddings: np.ndarray, method: Projection = "pca", seed: int = 42) -> np.ndarray:
    """
    Embeddings in two dimensions.

    Args:
        embeddings (`np.ndarray` of shape `(texts, width)`):
            Embeddings.
        method (`"pca"` or `"tsne"`, *optional*, defaults to `"pca"`):
            `"pca"` keeps the most variance, `"tsne"` neighbours.
        seed (`int`, *optional*, defaults to 42):
            Seed of t-SNE.

    Raises:
        ValueError: for another method, or fewer than three texts.

    Example:

    ```python
    >>> import numpy as np
    >>> from compactbert.inspection import project

    >>> project(np.random.default_rng(0).random((10, 64))).shape
    (10, 2)

    ```
    """
    if method not in get_args(Projection):
        raise ValueError(f"`method` must be one of {get_args(Projection)}, got {method!r}.")
    if len(embeddings) < 3:
        raise ValueError(f"Embeddings of at least 3 texts can be drawn, got {len(embeddings)}.")
    if method == "pca":
        return PCA(2, random_state=seed).fit_transform(embeddings)
    return TSNE(2, perplexity=min(PERPLEXITY, (len(embeddings) - 1) / 3), random_state=seed).fit_transform(embeddings)


def plot_attention(tokens: Sequence[str], maps: Sequence[np.ndarray], layer: int | None = None) -> Figure:
    """
    Draws what [`attention_maps`] returns.

    Args:
        tokens, maps:
            As returned.
        layer (`int`, *optional*):
            Draw every head of this layer, counted from 0; the default is every layer's mean over its heads.

    Example:

    ```python
    >>> from compactbert.convert import load_pretrained
    >>> from compactbert.inspection import attention_maps, plot_attention

    >>> figure = plot_attention(*attention_maps(*load_pretrained("my-bert", ""), "A good film."), layer=0)
    >>> figure.savefig("attention.png")

    ```
    """
    panels = {f"layer {i}": heads.mean(0) for i, heads in enumerate(maps)}
    if layer is not None:
        panels = {f"layer {layer}, head {i}": head for i, head in enumerate(maps[layer])}
    columns = min(4, len(panels))
    rows = -(-len(panels) // columns)
    size = max(2.5, 0.2 * len(tokens))
    figure = Figure(figsize=(size * columns, size * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).flatten()
    for place, (title, probabilities) in zip(axes, panels.items(), strict=False):
        place.imshow(probabilities, vmin=0, cmap="viridis")
        place.set_title(title, fontsize=9)
        place.set_xticks(range(len(tokens)), tokens, rotation=90, fontsize=7)
        place.set_yticks(range(len(tokens)), tokens, fontsize=7)
    for place in axes[len(panels) :]:
        place.remove()
    return figure


def plot_statistics(statistics: Sequence[Mapping[str, float]]) -> Figure:
    """Draws what [`attention_statistics`] returns.

    Example:

    ```python
    >>> from compactbert.inspection import plot_statistics

    >>> figure = plot_statistics([{"mean": 0.1, "variance": 0.01, "entropy": entropy} for entropy in (2.1, 1.4)])
    >>> figure.savefig("statistics.png")

    ```
    """
    figure = Figure(figsize=(9, 3), layout="constrained")
    for axes, name in zip(figure.subplots(1, 3), ("mean", "variance", "entropy"), strict=True):
        axes.plot([layer[name] for layer in statistics], marker="o")
        axes.set(xlabel="layer", title=name)
    return figure


def plot_embeddings(points: np.ndarray, labels: Sequence[Any]) -> Figure:
    """Draws what [`project`] returns, in a colour for every label.

    Example:

    ```python
    >>> import numpy as np
    >>> from compactbert.inspection import plot_embeddings

    >>> figure = plot_embeddings(np.array([[0.0, 1.0], [1.0, 0.0], [1.0, 1.0]]), ["neg", "pos", "pos"])
    >>> figure.savefig("embeddings.png")

    ```
    """
    figure = Figure(figsize=(6, 5), layout="constrained")
    axes = figure.subplots()
    for label in dict.fromkeys(labels):
        chosen = np.array([other == label for other in labels])
        axes.scatter(points[chosen, 0], points[chosen, 1], s=8, alpha=0.7, label=str(label))
    axes.legend(fontsize=8)
    axes.set(xticks=[], yticks=[])
    return figure


def plot_losses(losses: Sequence[Mapping[str, float]]) -> Figure:
    """Draws the `losses` of a `metrics.json`: those of training and evaluation, and the learning rate.

    Example:

    ```python
    >>> from compactbert.inspection import plot_losses

    >>> losses = [{"step": 10, "loss": 0.7, "learning_rate": 5e-5}, {"step": 20, "eval_loss": 0.6}]
    >>> plot_losses(losses).savefig("losses.png")

    ```
    """
    figure = Figure(figsize=(9, 3.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    for axes, names in ((left, ("loss", "eval_loss")), (right, ("learning_rate",))):
        for name in names:
            steps = [entry["step"] for entry in losses if name in entry]
            axes.plot(steps, [entry[name] for entry in losses if name in entry], marker=".", label=name)
        axes.set(xlabel="step")
        axes.legend()
    return figure


def inspect(
    model: str | Path,
    output_dir: str | Path,
    *,
    text: str | None = None,
    task: str | None = None,
    rows: int = 500,
    layer: int | None = None,
    projection: Projection = "pca",
    max_length: int = 64,
    data_dir: str | Path | None = None,
    seed: int = 42,
    trust_remote_code: bool = False,
    **task_options: Any,
) -> dict[str, Any]:
    """
    Draws a model from the inside, into a folder: `attention.png` (of `text`, or the first of the task's),
    `attention_statistics.png` (of `text` and the task's texts), `embeddings.png` (of the task's) and `losses.png` (if
    the folder of the model says how it was trained), with the numbers in `inspection.json`.

    Args:
        model (`str` or `Path`):
            A folder or a repository, or `"minilm"`.
        output_dir (`str` or `Path`):
            Where to write. Must not exist, or be empty.
        text (`str`, *optional*):
            A text whose attention to draw.
        task (`str`, *optional*), data_dir, task_options:
            See [`~compactbert.data.load_task`]; the evaluation rows are read, of text pairs the first.
        rows (`int`, *optional*, defaults to 500):
            A fixed sample of so many of them.
        layer, projection, max_length:
            See [`plot_attention`], [`project`] and [`attention_maps`].
        seed (`int`, *optional*, defaults to 42):
            Seed of the projection.
        trust_remote_code (`bool`, *optional*, defaults to `False`):
            Run the code of a repository that brings its own.

    Returns:
        `dict`: what is written to `inspection.json`: `files`, and `attention` per layer.

    Raises:
        ValueError: if the model or the task cannot be read, there is neither a text nor a task, the layer does not
            exist, or `output_dir` is taken.

    Example:

    ```python
    >>> from compactbert.inspection import inspect

    >>> inspect("my-model", "pictures", task="reviews.csv", rows=20)["files"]
    ['attention.png', 'attention_statistics.png', 'embeddings.png', 'losses.png']

    ```
    """
    output_dir = Path(output_dir)
    check_free(output_dir)
    if text is None and task is None:
        raise ValueError("Name a `task` or give a `text`: there is nothing to look at.")
    loaded, tokenizer = load_pretrained(model, "", trust_remote_code)
    if layer is not None and not 0 <= layer < loaded.config.num_hidden_layers:
        raise ValueError(f"`layer` must be from 0 to {loaded.config.num_hidden_layers - 1}, got {layer}.")
    texts = [text] if text is not None else []
    figures = {}
    if task is not None:
        loaded_task = load_task(task, data_dir, max_evaluation_rows=rows, **task_options)
        column = loaded_task.evaluation[loaded_task.text_columns[0]][:]
        texts += map(as_text, column)
        embedded = embed_texts(loaded, tokenizer, texts[-len(column) :], max_length)
        labels = ["texts"] * len(column)
        if loaded_task.problem == "single_label_classification":
            labels = [loaded_task.label_names[i] for i in loaded_task.evaluation[loaded_task.label_column][:]]
        figures["embeddings.png"] = plot_embeddings(project(embedded, projection, seed), labels)
    statistics = attention_statistics(loaded, tokenizer, texts, max_length)
    figures["attention.png"] = plot_attention(*attention_maps(loaded, tokenizer, texts[0], max_length), layer)
    figures["attention_statistics.png"] = plot_statistics(statistics)
    record = Path(model) / "metrics.json"
    losses = json.loads(record.read_text()).get("losses") if record.is_file() else None
    if losses:
        figures["losses.png"] = plot_losses(losses)
    result = {"files": sorted(figures), "attention": statistics}
    with new_folder(output_dir) as partial:
        for name, figure in figures.items():
            write_figure(partial / name, figure)
        write_text(partial / "inspection.json", json.dumps(result, indent=2) + "\n")
    return result


__all__ = [
    "attention_maps",
    "attention_statistics",
    "embed_texts",
    "inspect",
    "plot_attention",
    "plot_embeddings",
    "plot_losses",
    "plot_statistics",
    "project",
]
