"""How much a model would miss each of its parts: heads, neurons, feed-forward networks, layers and tokens."""

import copy
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import nn
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from ..structure import ATTENTION_OUTPUT, layer_shapes, layers_of, network_prefixes


Method = Literal["gradient", "self_supervised", "random"]
# What a user may pass as a method: a differentiable loss of a model on a batch.
Loss = Callable[[PreTrainedModel, Mapping[str, torch.Tensor]], torch.Tensor]


@dataclass
class Importance:
    """
    Scores, larger for what matters more; all in the same unit, the change of the loss that removal would bring to
    first (`"gradient"`) or second order (`"self_supervised"`).

    Args:
        heads (list of arrays of shape `(heads,)`): Per layer.
        neurons (list of lists of arrays of shape `(neurons,)`): Per layer, per feed-forward network.
        networks (list of arrays of shape `(networks,)`): Per layer; the last network of a layer is infinite, since it
            leads back to the feature map and stays.
        layers (array of shape `(layers,)`): Of whole layers.
        vocabulary (array of shape `(vocab_size,)`): Of token embeddings; 0 for tokens that did not occur.

    Example:

    ```python
    >>> from compactbert.compression import score_importance
    >>> from modeling_smbert import SmBertConfig, SmBertModel

    >>> importance = score_importance(SmBertModel(SmBertConfig(vocab_size=100)), [], method="random")
    >>> importance.sizes()[0], importance.vocabulary.shape
    ((8, 1, 2048), (100,))

    ```
    """

    heads: list[np.ndarray]
    neurons: list[list[np.ndarray]]
    networks: list[np.ndarray]
    layers: np.ndarray
    vocabulary: np.ndarray

    def sizes(self) -> list[tuple[int, int, int]]:
        """Heads, networks and neurons of every layer that was scored."""
        return [
            (len(heads), len(neurons), len(neurons[0])) for heads, neurons in zip(self.heads, self.neurons, strict=True)
        ]


def score_importance(
    model: PreTrainedModel,
    batches: Iterable[Mapping[str, torch.Tensor]],
    method: Method | Loss = "gradient",
    *,
    seed: int = 42,
) -> Importance:
    """
    Scores the parts of a model on data. The measure is TextPruner's (https://aclanthology.org/2022.acl-demo.4): for a
    head |Σ gradient · weight| over its slice of the attention's output weight; for a neuron that over its incoming
    weights and bias plus that over its outgoing weights; averaged over batches. For layers and stacked networks it is
    |Σ gradient · (output - input)|, the effect of skipping them.

    Args:
        model ([`~transformers.PreTrainedModel`]):
            One of our models. Not changed; scored in evaluation mode.
        batches (iterable of `dict`):
            Inputs of the model, with labels for `"gradient"`. Small batches (down to one row) make sharper scores.
        method (`str` or callable, *optional*, defaults to `"gradient"`):
            `"gradient"` takes the model's own loss. `"self_supervised"` needs no labels: it estimates the divergence
            KL(p ‖ p') of the model's predictions with and without a part to second order, half the squared gradient
            (Fisher information) with labels drawn from the model's own predictions; to first order it vanishes.
            `"random"` is a control. A callable `loss(model, inputs)` is used in place of the model's own loss.
        seed (`int`, *optional*, defaults to 42):
            Of the drawn labels, and of `"random"`.

    Raises:
        ValueError: for an unknown method, no batches, or a model without a loss on these batches.

    Example:

    ```python
    >>> import torch
    >>> from compactbert.compression import score_importance
    >>> from modeling_smbert import SmBertConfig, SmBertForSequenceClassification

    >>> model = SmBertForSequenceClassification(SmBertConfig(vocab_size=100, hidden_size=64, attention_head_size=8))
    >>> batch = {"input_ids": torch.randint(100, (4, 16)), "labels": torch.tensor([0, 1, 1, 0])}
    >>> [heads.shape for heads in score_importance(model, [batch]).heads]
    [(8,), (8,), (8,)]

    ```
    """
    if isinstance(method, str) and method not in get_args(Method):
        raise ValueError(f"`method` must be one of {get_args(Method)} or a callable, got {method!r}.")
    shapes = layer_shapes(model.config)
    if method == "random":
        random = np.random.default_rng(seed)
        return Importance(
            heads=[random.random(shape.heads) for shape in shapes],
            neurons=[[random.random(shape.neurons) for _ in range(shape.networks)] for shape in shapes],
            networks=[np.append(random.random(shape.networks - 1), np.inf) for shape in shapes],
            layers=random.random(len(shapes)),
            vocabulary=random.random(model.config.vocab_size),
        )
    scored = copy.deepcopy(model).eval().requires_grad_(True)
    scorer = _Scorer(scored, squared=method == "self_supervised")
    generator = torch.Generator().manual_seed(seed)
    for batch in tqdm(batches, desc="Scoring importance"):
        inputs = {name: tensor.to(model.device) for name, tensor in batch.items()}
        loss: torch.Tensor | None
        if callable(method):
            loss = method(scored, inputs)
        elif method == "self_supervised":
            loss = _own_prediction_loss(scored, inputs, generator)
        else:
            loss = scored(**inputs).get("loss")
        if loss is None:
            remedy = {
                "gradient": 'add `labels`, or use `method="self_supervised"`',
                "self_supervised": "it predicts nothing, load it with a head",
            }.get(str(method), "let `method` return one")
            raise ValueError(f"Expected {type(model).__name__} to have a loss on these batches, got None: {remedy}.")
        scored.zero_grad()
        loss.backward()
        scorer.add()
    return scorer.mean()


class _Scorer:
    """Adds up the scores of one batch after another, after each backward pass."""

    def __init__(self, model: PreTrainedModel, squared: bool):
        self.model = model
        self.shapes = layer_shapes(model.config)
        self.squared = squared
        self.batches = 0
        self.heads = [np.zeros(shape.heads) for shape in self.shapes]
        self.neurons = [[np.zeros(shape.neurons) for _ in range(shape.networks)] for shape in self.shapes]
        self.networks = [np.append(np.zeros(shape.networks - 1), np.inf) for shape in self.shapes]
        self.layers = np.zeros(len(self.shapes))
        self.vocabulary = np.zeros(model.config.vocab_size)
        # (input, output) of every module that could be skipped.
        self.flows: dict[nn.Module, tuple[torch.Tensor, torch.Tensor]] = {}
        # Not the table's gradient: where it is tied to a head, tokens have one that do not occur.
        model.get_input_embeddings().register_forward_hook(self._keep_flow)
        for layer in layers_of(model):
            layer.register_forward_hook(self._keep_flow)
            for network in getattr(layer, "ffn", ()):
                network.register_forward_hook(self._keep_flow)

    def _keep_flow(self, module: nn.Module, args: tuple, output: torch.Tensor) -> None:
        output.retain_grad()
        self.flows[module] = (args[0].detach(), output)

    def _measure(self, products: torch.Tensor) -> np.ndarray:
        change = products.double().cpu().numpy()
        return change**2 / 2 if self.squared else np.abs(change)

    def _skip(self, module: nn.Module) -> np.ndarray:
        before, after = self.flows[module]
        assert after.grad is not None
        return self._measure((after.grad * (after.detach() - before)).sum())

    @torch.no_grad()
    def add(self) -> None:
        self.batches += 1
        for i, (layer, shape) in enumerate(zip(layers_of(self.model), self.shapes, strict=True)):
            weight: Any = layer.get_submodule(ATTENTION_OUTPUT).weight
            products = (weight.grad * weight).sum(0)  # (heads * head_size,)
            self.heads[i] += self._measure(products.view(shape.heads, shape.head_size).sum(1))
            for j, prefix in enumerate(network_prefixes(shape.networks)):
                incoming: Any = layer.get_submodule(f"{prefix}intermediate.dense")
                outgoing: Any = layer.get_submodule(f"{prefix}output.dense")
                into = (incoming.weight.grad * incoming.weight).sum(1) + incoming.bias.grad * incoming.bias
                self.neurons[i][j] += self._measure(into)
                self.neurons[i][j] += self._measure((outgoing.weight.grad * outgoing.weight).sum(0))
            for j, network in enumerate(getattr(layer, "ffn", ())):
                self.networks[i][j] += self._skip(network)
            self.layers[i] += self._skip(layer)
        if (embeddings := self.model.get_input_embeddings()) in self.flows:
            tokens, vectors = self.flows[embeddings]
            assert vectors.grad is not None
            products = (vectors.grad * vectors).sum(-1).flatten()
            by_token = products.new_zeros(len(self.vocabulary)).index_add(0, tokens.flatten(), products)
            self.vocabulary += self._measure(by_token)
        self.flows.clear()

    def mean(self) -> Importance:
        if self.batches == 0:
            raise ValueError(
                "`batches` is empty: importance needs data. An iterator is empty after one pass; give a list instead."
            )
        return Importance(
            heads=[scores / self.batches for scores in self.heads],
            neurons=[[scores / self.batches for scores in layer] for layer in self.neurons],
            networks=[scores / self.batches for scores in self.networks],
            layers=self.layers / self.batches,
            vocabulary=self.vocabulary / self.batches,
        )


def _own_prediction_loss(
    model: PreTrainedModel, inputs: Mapping[str, torch.Tensor], generator: torch.Generator
) -> torch.Tensor | None:
    """-log p(y) with y drawn from the model's own p, summed over rows: its squared gradient has the mean of the
    Fisher information. `None` if the model predicts nothing."""
    labels = {"labels", "next_sentence_label", "start_positions", "end_positions"}
    outputs: Any = model(**{name: value for name, value in inputs.items() if name not in labels})
    predictions = [value for name, value in outputs.items() if name.endswith("logits")]
    if not predictions:
        return None
    loss = torch.zeros((), device=model.device)
    for logits in predictions:
        noise = torch.rand(logits.shape, generator=generator).to(logits.device)
        if model.config.problem_type == "regression" or logits.shape[-1] == 1:
            # A Gaussian of unit variance around the prediction.
            loss = loss + (logits * torch.randn(logits.shape, generator=generator).to(logits.device)).sum()
        elif model.config.problem_type == "multi_label_classification":
            drawn = (noise < logits.detach().sigmoid()).to(logits.dtype)
            loss = loss + nn.functional.binary_cross_entropy_with_logits(logits, drawn, reduction="sum")
        else:
            # The largest of logits with Gumbel noise is a draw from their softmax.
            drawn = (logits.detach() - (-noise.clamp_min(1e-20).log()).log()).argmax(-1)
            losses = nn.functional.cross_entropy(logits.flatten(0, -2), drawn.flatten(), reduction="none")
            mask = inputs.get("attention_mask")
            if mask is not None and losses.numel() == mask.numel():
                losses = losses * mask.flatten()
            loss = loss + losses.sum()
    return loss


__all__ = ["Importance", "Loss", "Method", "score_importance"]
