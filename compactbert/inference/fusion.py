"""Exact fused inference: the same numbers from fewer and larger operations.

NoNorm (MobileBERT, https://huggingface.co/papers/2004.02984, section 3.3) is an affine map and needs no operation of
its own. A residual stream h is carried as h = g · h' + e with constant vectors g and e; then g · (W t + b + h) + e' is
again of this form, and all that happens to h' is h' + W' t with W' = W / g, which a matrix product adds by itself. The
next layer's weights take up g and e; the embeddings' norm goes into their tables. Where a gain is zero, or g or e grow
out of proportion, the stream is written out as it is, one operation more.

LayerNorm stays an operation. Its models win what is left: projections of the same states in one product, and residual
sums within products.
"""

import copy
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from ..structure import FAMILIES, layers_of


# The largest ratio of a carried stream's gains, and the largest of its offsets in units of its gains, that is kept.
MAX_GAIN_RATIO, MAX_OFFSET = 1e3, 1e3
REFUSED = ("output_attentions", "past_key_values")
CAPTURED = (*REFUSED, "output_hidden_states")
# oneDNN's product with weights that are packed beforehand.
POINTWISE = torch.ops.mkldnn._linear_pointwise
HAS_ONEDNN = torch.backends.mkldnn.is_available()


def fuse(model: PreTrainedModel, unpad: bool = False) -> PreTrainedModel:
    """
    An inference-only copy of a model with the same call, the same heads and, up to rounding, the same outputs.

    On a processor the weights are packed for oneDNN, where torch has it; elsewhere, and under `torch.compile` and
    `torch.export`, plain products are used.

    Args:
        model ([`~transformers.PreTrainedModel`]):
            A model of one of our families, with any head, in float32 or bfloat16. Not changed. Its feed-forward
            networks may have any activation; ReLU costs nothing.
        unpad (`bool`, *optional*, defaults to `False`):
            Do no work on padding: the layers see the tokens of a batch one after another, and those of equally long
            rows attend together. Outputs at padded places are then zero; all others stay. What the last token of a
            text sees of the padding after it in MobileBERT's embeddings stays too, unless the configuration's
            `padding_invariant_trigram` says otherwise. Not under `torch.compile` and `torch.export`.

    Raises:
        ValueError: for a model of another family, in another type, or that carries adapters; later, where attention
            maps or a prefix are asked for, and where the fused model is saved or trained.

    Example:

    ```python
    >>> import torch
    >>> from compactbert.inference import fuse
    >>> from modeling_mobilebert_md import MobileBertMdConfig, MobileBertMdModel

    >>> model = MobileBertMdModel(MobileBertMdConfig.from_stages([(1, 64), (1, 32)], vocab_size=100)).eval()
    >>> ids = torch.arange(1, 9)[None]
    >>> difference = fuse(model)(ids).last_hidden_state - model(ids).last_hidden_state
    >>> difference.abs().max().item() < 1e-3
    True

    ```
    """
    if getattr(model, "peft_config", None) or any(hasattr(module, "base_layer") for module in model.modules()):
        raise ValueError(
            f"{type(model).__name__} carries adapters: merge them first, with `model = model.merge_and_unload()`."
        )
    if getattr(model.config, "model_type", None) not in FAMILIES:
        raise ValueError(
            f"Expected a model of one of the families {FAMILIES}, got {type(model).__name__}: turn it into one with "
            f"`compactbert.convert.from_transformers`."
        )
    if isinstance(model, _Fused):
        return model
    if model.dtype not in (torch.float32, torch.bfloat16):
        raise ValueError(f"Fused models compute in float32 or bfloat16, got {model.dtype}: convert the model first.")
    layer_class = type(layers_of(model)[0])
    fused = copy.deepcopy(model).eval().requires_grad_(False)
    fused.set_attn_implementation("sdpa")
    encoder: Any = fused.base_model.encoder
    config, dtype = model.config, model.dtype
    if getattr(config, "normalization_type", "layer_norm") == "no_norm" and config.use_bottleneck:
        _fold_embeddings(fused.base_model.embeddings)
        stream = _Stream.identity(config.hidden_size, model.device)
        layers: list[nn.Module] = []
        states: list[nn.Module] = []
        for layer in encoder.layer:
            made = _NoNormLayer(layer, stream, config, dtype)
            stream = made.leaves
            layers.append(made)
            states.append(_WriteOut(stream, dtype))
        fused.base_model.encoder = _Encoder(layers, states, layer_class, config, unpad)
    elif config.model_type == "smbert" or config.use_bottleneck:
        made_of = _BertLayer if config.model_type == "smbert" else _BottleneckLayer
        layers = [made_of(layer, config, dtype) for layer in encoder.layer]
        fused.base_model.encoder = _Encoder(layers, [nn.Identity() for _ in layers], layer_class, config, unpad)
    if isinstance(fused.base_model.encoder, _Encoder):
        # The model may have been asked for hidden states before; its new layers were not.
        vars(fused.base_model).pop("_output_capturing_hooks_installed", None)
    # Under the name of the original, by which transformers knows what its hidden states and its pipelines are.
    fused.__class__ = type(type(model).__name__, (_Fused, type(model)), {"__module__": type(model).__module__})
    return fused


class _Fused:
    """What a fused model refuses."""

    def save_pretrained(self, *args: Any, **kwargs: Any) -> None:
        raise ValueError("A fused model is not saved: save the model that it was made of, and fuse it after loading.")

    push_to_hub = save_pretrained

    def train(self, mode: bool = True) -> Any:
        if mode:
            raise ValueError("A fused model is not trained: train the model that it was made of, and fuse it then.")
        return super().train(mode)  # type: ignore[misc]


class _Encoder(nn.Module):
    """The layers in order, and what makes the hidden states of what each leaves. Layers call each other's `forward`
    itself: for few rows, what a call of a module costs beside that is a tenth of the time."""

    def __init__(self, layers: list[nn.Module], states: list[nn.Module], layer_class: type, config: Any, unpad: bool):
        super().__init__()
        self.layer, self.states = nn.ModuleList(layers), nn.ModuleList(states)
        self.seen = type("_Seen", (_Seen, layer_class), {})()
        self.config, self.unpad = config, unpad

    def forward(self, hidden_states: Tensor, attention_mask: Tensor | None = None, **kwargs: Any) -> Tensor:
        asked = {name for name in CAPTURED if kwargs.get(name, getattr(self.config, name, None)) not in (None, False)}
        for name in REFUSED:
            if name in asked:
                raise ValueError(f"A fused model has no `{name}`: ask the model that it was made of.")
        batch_shape = hidden_states.shape[:2]
        rows = hidden_states.flatten(0, 1)  # (batch * seq, hidden)
        groups, places = [(batch_shape[0], batch_shape[1])], None
        compiling = torch.compiler.is_compiling()
        if self.unpad and attention_mask is not None and not compiling:
            found = _tokens_of(attention_mask)
            if found is not None:
                groups, places = found
                rows, attention_mask = rows[places], None
        # Decided once for all products.
        packed = rows.device.type == "cpu" and HAS_ONEDNN and not compiling
        states = hidden_states
        last = len(self.layer) - 1
        for number, (layer, states_of) in enumerate(zip(self.layer, self.states, strict=True)):
            rows = layer.forward(rows, groups, attention_mask, packed)
            if number == last or "output_hidden_states" in asked:
                before, states = states, states_of(rows)
                if places is not None:
                    shape = hidden_states[..., 0].numel(), states.shape[1]
                    states = states.new_zeros(shape).index_copy(0, places, states)
                states = self.seen(before, states.unflatten(0, batch_shape))
        return states


class _Seen:
    """Where transformers takes a model's hidden states from: by its class a layer, with a layer's input and output."""

    def __init__(self) -> None:
        nn.Module.__init__(self)  # type: ignore[arg-type]

    def forward(self, before: Tensor, after: Tensor) -> Tensor:
        return after


def _tokens_of(mask: Tensor) -> tuple[list[tuple[int, int]], Tensor] | None:
    """
    What is no padding, by the length of its row.

    Args:
        mask (`torch.Tensor` of shape `(batch, 1, seq, seq)`): True or 0 where a token is attended to.

    Returns:
        Groups as `(rows, tokens)`, and where their tokens are in the flattened batch; `None` if nothing is padded, or
        the mask says more than what is padding.
    """
    allowed = mask if mask.dtype == torch.bool else mask == 0
    keep = allowed[:, 0, 0]  # (batch, seq)
    if bool(keep.all()) or not bool((allowed == keep[:, None, None]).all()):
        return None
    lengths, order = keep.sum(1).sort(stable=True)
    row, column = keep[order].nonzero(as_tuple=True)
    sizes, counts = lengths.unique_consecutive(return_counts=True)
    groups = [(count, size) for size, count in zip(sizes.tolist(), counts.tolist(), strict=True) if size]
    return groups, order[row] * keep.shape[1] + column


class _Linear(nn.Module):
    """A product with what comes after it: a bias, ReLU, or the sum with a residual."""

    def __init__(self, weight: Tensor, bias: Tensor | None, dtype: torch.dtype):
        super().__init__()
        self.weight = nn.Buffer(weight.to(dtype).contiguous(), persistent=False)
        self.bias = None if bias is None else nn.Buffer(bias.to(dtype).contiguous(), persistent=False)
        # Not a buffer: it is of a layout that can be neither copied nor moved.
        self._packed: list[Tensor] = []
        has_onednn = self.weight.device.type == "cpu" and HAS_ONEDNN
        # oneDNN has bfloat16 where the processor does, torch's own product everywhere.
        if has_onednn and (dtype != torch.bfloat16 or torch.ops.mkldnn._is_mkldnn_bf16_supported()):
            self._packed = [torch.ops.mkldnn._reorder_linear_weight(self.weight)]

    def __deepcopy__(self, memo: dict) -> "_Linear":
        return type(self)(self.weight, self.bias, self.weight.dtype)

    def forward(self, rows: Tensor, packed: bool, relu: bool = False) -> Tensor:
        if packed and self._packed:
            # The bias past the module's own look-up, which takes as long as a small product.
            bias = self._buffers.get("bias")
            return POINTWISE.default(rows, self._packed[0], bias, "relu" if relu else "none", [], "")
        product = nn.functional.linear(rows, self.weight, self.bias)
        return product.relu() if relu else product

    def add_to(self, residual: Tensor, rows: Tensor, packed: bool) -> Tensor:
        """The sum of the product and a residual."""
        if packed and self._packed:
            return POINTWISE.binary(rows, residual, self._packed[0], self._buffers.get("bias"), "add")
        return residual + nn.functional.linear(rows, self.weight, self.bias)


class _Stream:
    """A residual stream h = gain · h' + offset, of which h' is computed."""

    def __init__(self, gain: Tensor, offset: Tensor):
        self.gain, self.offset = gain, offset

    @classmethod
    def identity(cls, width: int, device: torch.device) -> "_Stream":
        return cls(*(f(width, dtype=torch.float64, device=device) for f in (torch.ones, torch.zeros)))

    def read(self, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """Weight and bias that do to h' what these do to h."""
        return weight * self.gain, bias + weight @ self.offset

    def write(self, weight: Tensor) -> Tensor:
        """The weight whose product, added to h', is the given one's added to h."""
        return weight / self.gain[:, None]

    def normed(self, norm: nn.Module, bias: Tensor) -> "_Stream":
        """The stream after NoNorm of its sum with something that has this bias."""
        gain, shift = _wide(norm.weight), _wide(norm.bias)
        return _Stream(gain * self.gain, gain * (bias + self.offset) + shift)

    def is_sound(self) -> bool:
        size = self.gain.abs()
        if not bool(size.min() > 0) or not bool(torch.isfinite(self.offset).all()):
            return False
        sound = size.max() / size.min() < MAX_GAIN_RATIO and (self.offset.abs() / size).max() < MAX_OFFSET
        return bool(sound) and 1e-6 < float(size.max()) < 1e6


class _WriteOut(nn.Module):
    """h from h'."""

    def __init__(self, stream: _Stream, dtype: torch.dtype):
        super().__init__()
        self.gain = nn.Buffer(stream.gain.to(dtype), persistent=False)
        self.offset = nn.Buffer(stream.offset.to(dtype), persistent=False)

    def forward(self, rows: Tensor, *_: Any) -> Tensor:
        return torch.addcmul(self.offset, rows, self.gain)


def _settle(stream: _Stream, dtype: torch.dtype) -> tuple[_Stream, nn.Module | None]:
    """A stream to go on with: itself, or written out where its numbers are not sound."""
    if stream.is_sound():
        return stream, None
    return _Stream.identity(len(stream.gain), stream.gain.device), _WriteOut(stream, dtype)


class _Attention(nn.Module):
    """Attention over queries, keys and values that lie side by side."""

    def __init__(self, attention: Any):
        super().__init__()
        self.head_size, self.scaling = attention.head_size, attention.scaling

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, groups: list[tuple[int, int]], mask: Tensor | None
    ) -> Tensor:
        if mask is not None and mask.dtype != torch.bool:
            mask = mask.to(query.dtype)
        if len(groups) == 1:
            return self._attend(query, key, value, groups[0], mask)
        sizes = [rows * tokens for rows, tokens in groups]
        parts = zip(query.split(sizes), key.split(sizes), value.split(sizes), groups, strict=True)
        return torch.cat([self._attend(*part, None) for part in parts])

    def _attend(
        self, query: Tensor, key: Tensor, value: Tensor, batch_shape: tuple[int, int], mask: Tensor | None
    ) -> Tensor:
        shape = (*batch_shape, -1, self.head_size)
        query, key, value = (rows.view(shape).transpose(1, 2) for rows in (query, key, value))
        output = nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=self.scaling)
        return output.transpose(1, 2).reshape(batch_shape[0] * batch_shape[1], -1)  # (batch * seq, heads * head_size)


class _Bottlenecked(nn.Module):
    """What layers around a bottleneck share: one product makes what enters the layer and, as far as `kind` says, what
    attention reads; a second one, `mix`, the rest of that."""

    attention: _Attention
    output: _Linear
    mix: _Linear | None
    shared_norm: nn.Module | None
    kind: str
    inner_width: int
    width: int

    def attend(self, states: Tensor, rest: Tensor, groups: Any, mask: Tensor | None, packed: bool) -> Tensor:
        """The sum of what enters the layer and its attention, from the parts of the first product."""
        if self.mix is None:
            query, key, value = rest.split(self.width, dim=1)
        elif self.kind == "all":
            query, key, value = self.mix.forward(states, packed).split(self.width, dim=1)
        else:
            shared, value = rest[:, : self.inner_width], rest[:, self.inner_width :]
            if self.shared_norm is not None:
                shared = self.shared_norm(shared)
            query, key = self.mix.forward(shared, packed).split(self.width, dim=1)
        return self.output.add_to(states, self.attention.forward(query, key, value, groups, mask), packed)


class _NoNormLayer(_Bottlenecked):
    """A layer of MobileBERT without norms."""

    def __init__(self, layer: Any, enters: _Stream, config: Any, dtype: torch.dtype):
        super().__init__()
        own, bottleneck = layer.attention.self, layer.bottleneck
        self.attention, self.width, self.shared_norm = _Attention(own), own.query.out_features, None
        to_input = _folded(bottleneck.input)
        first = layer.attention.output
        weight, bias = _pair(first.dense)
        self.inner_width = to_input[0].shape[0]
        self.kind = _kind_of(config, bottleneck)
        stream = _Stream.identity(self.inner_width, enters.gain.device)
        projections, mixed = [], []
        if self.kind == "all":
            # Query, key and value read the stream as it comes in, so the first norm's gain is carried.
            projections = [to_input]
            mixed = [_pair(linear) for linear in (own.query, own.key, own.value)]
            stream = stream.normed(first.LayerNorm, bias)
        else:
            gain, shift = _wide(first.LayerNorm.weight), _wide(first.LayerNorm.bias)
            projections = [(to_input[0] * gain[:, None], (to_input[1] + bias) * gain + shift)]
            weight = weight * gain[:, None]
            if self.kind == "shared":
                projections.append(_folded(bottleneck.attention))
                mixed = [_pair(own.query), _pair(own.key)]
            else:
                projections += [_pair(own.query), _pair(own.key)]
            projections.append(_widened(_pair(own.value), config.hidden_size))
        self.project = _Linear(*enters.read(*_stacked(projections)), dtype)
        self.mix = _Linear(*_stacked(mixed), dtype) if mixed else None
        self.output = _Linear(weight, None, dtype)
        stream, self.settle_attention = _settle(stream, dtype)
        self.networks = nn.ModuleList()
        for network in [*layer.ffn, layer]:
            made = _Network(network, stream, dtype)
            self.networks.append(made)
            stream = made.leaves
        last = layer.output.bottleneck
        weight, bias = _pair(last.dense)
        weight, bias = stream.read(weight, bias)
        self.leave = _Linear(enters.write(weight), None, dtype)
        self.leaves, self.settle = _settle(enters.normed(last.LayerNorm, bias), dtype)

    def forward(self, rows: Tensor, groups: Any, mask: Tensor | None, packed: bool) -> Tensor:
        projected = self.project.forward(rows, packed)
        states, rest = projected[:, : self.inner_width], projected[:, self.inner_width :]
        states = self.attend(states, rest, groups, mask, packed)
        if self.settle_attention is not None:
            states = self.settle_attention(states)
        for network in self.networks:
            states = network.forward(states, packed)
        rows = self.leave.add_to(rows, states, packed)
        return rows if self.settle is None else self.settle(rows)


class _Network(nn.Module):
    """A feed-forward network on a carried stream."""

    def __init__(self, network: Any, enters: _Stream, dtype: torch.dtype):
        super().__init__()
        self.activation = network.intermediate.intermediate_act_fn
        self.relu = isinstance(self.activation, nn.ReLU)
        self.widen = _Linear(*enters.read(*_pair(network.intermediate.dense)), dtype)
        weight, bias = _pair(network.output.dense)
        self.narrow = _Linear(enters.write(weight), None, dtype)
        self.leaves, self.settle = _settle(enters.normed(network.output.LayerNorm, bias), dtype)

    def forward(self, states: Tensor, packed: bool) -> Tensor:
        wide = self.widen.forward(states, packed, relu=self.relu)
        states = self.narrow.add_to(states, wide if self.relu else self.activation(wide), packed)
        return states if self.settle is None else self.settle(states)


class _BertLayer(nn.Module):
    """A layer of BERT: query, key and value in one product, residual sums within products."""

    def __init__(self, layer: Any, config: Any, dtype: torch.dtype):
        super().__init__()
        own = layer.attention.self
        self.attention = _Attention(own)
        self.project = _Linear(*_stacked([_pair(linear) for linear in (own.query, own.key, own.value)]), dtype)
        self.output, self.norm = _Linear(*_pair(layer.attention.output.dense), dtype), layer.attention.output.LayerNorm
        self.network = _NormedNetwork(layer, dtype)

    def forward(self, rows: Tensor, groups: Any, mask: Tensor | None, packed: bool) -> Tensor:
        query, key, value = self.project.forward(rows, packed).chunk(3, dim=1)
        rows = self.norm(self.output.add_to(rows, self.attention.forward(query, key, value, groups, mask), packed))
        return self.network.forward(rows, packed)


class _NormedNetwork(nn.Module):
    """A feed-forward network with LayerNorm."""

    def __init__(self, network: Any, dtype: torch.dtype):
        super().__init__()
        self.activation = network.intermediate.intermediate_act_fn
        self.relu = isinstance(self.activation, nn.ReLU)
        self.widen = _Linear(*_pair(network.intermediate.dense), dtype)
        self.narrow, self.norm = _Linear(*_pair(network.output.dense), dtype), network.output.LayerNorm

    def forward(self, states: Tensor, packed: bool) -> Tensor:
        wide = self.widen.forward(states, packed, relu=self.relu)
        return self.norm(self.narrow.add_to(states, wide if self.relu else self.activation(wide), packed))


class _BottleneckLayer(_Bottlenecked):
    """A layer of IB-BERT, or of MobileBERT with LayerNorm: all that reads the feature map in one product."""

    def __init__(self, layer: Any, config: Any, dtype: torch.dtype):
        super().__init__()
        own, bottleneck = layer.attention.self, layer.bottleneck
        self.attention = _Attention(own)
        self.input_norm = bottleneck.input.LayerNorm
        self.shared_norm = None if bottleneck.attention is None else bottleneck.attention.LayerNorm
        self.kind = _kind_of(config, bottleneck)
        query_key = [_pair(own.query), _pair(own.key)]
        value = _pair(own.value)
        readers, mixed = [_pair(bottleneck.input.dense)], []
        if self.kind == "all":
            mixed = [*query_key, value]
        elif self.kind == "shared":
            readers += [_pair(bottleneck.attention.dense)]
            mixed = query_key
        else:
            readers += query_key
        if self.kind != "all":
            readers.append(_widened(value, config.hidden_size))
        self.inner_width, self.width = bottleneck.input.dense.out_features, own.query.out_features
        self.project = _Linear(*_stacked(readers), dtype)
        self.mix = _Linear(*_stacked(mixed), dtype) if mixed else None
        self.output, self.norm = _Linear(*_pair(layer.attention.output.dense), dtype), layer.attention.output.LayerNorm
        self.networks = nn.ModuleList(_NormedNetwork(network, dtype) for network in [*layer.ffn, layer])
        last = layer.output.bottleneck
        self.leave, self.leave_norm = _Linear(*_pair(last.dense), dtype), last.LayerNorm

    def forward(self, rows: Tensor, groups: Any, mask: Tensor | None, packed: bool) -> Tensor:
        projected = self.project.forward(rows, packed)
        states, rest = self.input_norm(projected[:, : self.inner_width]), projected[:, self.inner_width :]
        states = self.norm(self.attend(states, rest, groups, mask, packed))
        for network in self.networks:
            states = network.forward(states, packed)
        return self.leave_norm(self.leave.add_to(rows, states, packed))


def _fold_embeddings(embeddings: Any) -> None:
    """Takes NoNorm into the tables, where everything that it is applied to passes through one."""
    if not embeddings.transforms:
        return
    gain, shift = _wide(embeddings.LayerNorm.weight), _wide(embeddings.LayerNorm.bias)
    linear = embeddings.embedding_transformation
    weight, bias = _pair(linear)
    linear.weight.copy_(weight * gain[:, None])
    linear.bias.copy_(bias * gain + shift)
    for table in (embeddings.position_embeddings, embeddings.token_type_embeddings):
        table.weight.copy_(_wide(table.weight) * gain)
    embeddings.LayerNorm = nn.Identity()


def _kind_of(config: Any, bottleneck: Any) -> str:
    """What reads the layer's bottleneck: query, key and value (`"all"`), none of them, or query and key one of their
    own (`"shared"`)."""
    if config.use_bottleneck_attention:
        return "all"
    return "none" if bottleneck.attention is None else "shared"


def _wide(tensor: Any) -> Tensor:
    return tensor.detach().double()


def _pair(linear: nn.Linear) -> tuple[Tensor, Tensor]:
    return _wide(linear.weight), _wide(linear.bias)


def _folded(bottleneck: Any) -> tuple[Tensor, Tensor]:
    """A linear layer and the NoNorm after it, as one."""
    (weight, bias), gain = _pair(bottleneck.dense), _wide(bottleneck.LayerNorm.weight)
    return weight * gain[:, None], bias * gain + _wide(bottleneck.LayerNorm.bias)


def _widened(pair: tuple[Tensor, Tensor], width: int) -> tuple[Tensor, Tensor]:
    """For a layer that reads the first features alone: zeros for the others."""
    return nn.functional.pad(pair[0], (0, width - pair[0].shape[1])), pair[1]


def _stacked(pairs: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    return torch.cat([weight for weight, _ in pairs]), torch.cat([bias for _, bias in pairs])


__all__ = ["fuse"]
