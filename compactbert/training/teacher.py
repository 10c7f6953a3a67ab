"""What a teacher knows about a batch, observed in a forward pass or read back from disk."""

import errno
import hashlib
import math
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from filelock import FileLock
from numpy.lib.format import open_memmap
from torch import nn
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from ..structure import QUERY_KEY_VALUE, layers_of


CACHE_BATCH_SIZE = 64
CACHE_LIMITS = "A cache holds logits and hidden states: set `teacher_cache=None` to use attention or relation terms."
# The columns of a batch that are no input of a teacher.
LABELS = ("labels", "next_sentence_label", "start_positions", "end_positions", "teacher_row")


@dataclass
class Observation:
    """
    What a model says about a batch.

    Args:
        logits (`dict` of `torch.Tensor`): By name of the output: `logits`, or `start_logits` and `end_logits`.
        loss (`torch.Tensor`, *optional*): On the labels, if they were given.
        hidden_states (`dict` of `torch.Tensor` of shape `(batch, seq, hidden)`): By index: 0 is the embeddings' output,
            i that of layer i.
        attentions (`dict` of `torch.Tensor` of shape `(batch, heads, seq, seq)`): By layer from 1.
        vectors (`dict` of lists of `torch.Tensor` of shape `(batch, seq, width)`): Queries, keys and values, by layer
            from 1.
        outputs (`~transformers.utils.ModelOutput`, *optional*): What the model returned, if it was run.
    """

    logits: dict[str, torch.Tensor]
    loss: torch.Tensor | None = None
    hidden_states: dict[int, torch.Tensor] = field(default_factory=dict)
    attentions: dict[int, torch.Tensor] = field(default_factory=dict)
    vectors: dict[int, list[torch.Tensor]] = field(default_factory=dict)
    outputs: Any = None


@dataclass(frozen=True)
class Request:
    """What to observe, beside logits and loss: indices as in [`Observation`]."""

    hidden_states: tuple[int, ...] = ()
    attentions: tuple[int, ...] = ()
    vectors: tuple[int, ...] = ()

    def union(self, *others: "Request") -> "Request":
        """What this and the others ask for, in order."""

        def merged(name: str) -> tuple[int, ...]:
            return tuple(sorted({index for request in (self, *others) for index in getattr(request, name)}))

        return Request(merged("hidden_states"), merged("attentions"), merged("vectors"))


def observe(
    model: nn.Module, inputs: Mapping[str, Any], request: Request, encoder: PreTrainedModel | None = None
) -> Observation:
    """
    A forward pass of a model.

    Args:
        model (`torch.nn.Module`): A model, or what a Trainer wrapped it in.
        inputs (`dict`): Its batch.
        request ([`Request`]): What to keep.
        encoder ([`~transformers.PreTrainedModel`], *optional*): The model itself, if `model` is wrapped.
    """
    options = {}
    if request.hidden_states:
        options["output_hidden_states"] = True
    if request.attentions:
        options["output_attentions"] = True
    vectors: dict[int, list[torch.Tensor]] = {index: [] for index in request.vectors}
    hooks = []
    for index, kept in vectors.items():
        layer = layers_of(encoder or model)[index - 1]  # type: ignore[arg-type]
        for name in QUERY_KEY_VALUE:
            keep = _keeper(kept)
            hooks.append(layer.get_submodule(name).register_forward_hook(keep))
    try:
        outputs = model(**inputs, **options)
    finally:
        for hook in hooks:
            hook.remove()
    return Observation(
        logits={name: value for name, value in outputs.items() if name.endswith("logits")},
        loss=outputs.get("loss"),
        hidden_states={i: outputs.hidden_states[i] for i in request.hidden_states},
        attentions={i: outputs.attentions[i - 1] for i in request.attentions},
        vectors=vectors,
        outputs=outputs,
    )


def _keeper(kept: list[torch.Tensor]) -> Callable:
    def keep(module: nn.Module, args: tuple, output: torch.Tensor) -> None:
        kept.append(output)

    return keep


class TeacherCache:
    """
    A teacher's logits and hidden states for a dataset, on disk: one pass, however many epochs and students follow.

    The folder's name is a digest of the teacher's weights and configuration, of the rows and of what is kept, so
    anything that changes makes a cache of its own, and what has been computed before is found again.

    Args:
        directory (`str` or `Path`): Where caches are.
        teacher ([`~transformers.PreTrainedModel`]): In evaluation mode.
        dataset ([`~datasets.Dataset`]): Rows as [`~compactbert.data.encode_task`] makes them.
        collator (callable): Pads a batch on the right.
        request ([`Request`]): Which hidden states to keep.

    Raises:
        OSError: if the disk has no room for it.
        ValueError: for attentions and queries, keys and values, whose size grows with the square of a text's length or
            with the layers: compute them anew. And for a collator that changes the tokens or pads on the left.
    """

    def __init__(
        self,
        directory: str | Path,
        teacher: PreTrainedModel,
        dataset: Dataset,
        collator: Callable[[list[dict[str, Any]]], Mapping[str, torch.Tensor]],
        request: Request,
    ):
        if request.attentions or request.vectors:
            raise ValueError(CACHE_LIMITS)
        _check_collator(collator, dataset)
        self.request = request
        self.folder = Path(directory) / _digest(teacher, dataset, request)
        if not self.folder.is_dir():
            self.folder.parent.mkdir(parents=True, exist_ok=True)
            # Processes that train together come here together.
            with FileLock(self.folder.with_name(f".{self.folder.name}.lock")):
                if not self.folder.is_dir():
                    self._fill(teacher, dataset, collator)
        self.arrays = {path.stem: np.load(path, mmap_mode="r") for path in self.folder.glob("*.npy")}
        self.offsets = self.arrays.pop("offsets")

    @torch.inference_mode()
    def _fill(self, teacher: PreTrainedModel, dataset: Dataset, collator: Callable) -> None:
        partial = self.folder.with_name(f"{self.folder.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        rows = _inputs_of(dataset)
        lengths = np.array([len(ids) for ids in _column(rows, "input_ids")])
        offsets = np.concatenate([[0], lengths.cumsum()])
        np.save(partial / "offsets.npy", offsets)
        arrays: dict[str, np.memmap] = {}
        order = np.argsort(-lengths, kind="stable")
        for start in tqdm(range(0, len(order), CACHE_BATCH_SIZE), desc="Teacher pass"):
            indices = order[start : start + CACHE_BATCH_SIZE]
            batch = {k: v.to(teacher.device) for k, v in collator([rows[int(i)] for i in indices]).items()}
            seen = observe(teacher, batch, self.request)
            tensors = seen.logits | {f"hidden_{i}": states for i, states in seen.hidden_states.items()}
            for name, tensor in tensors.items():
                values = tensor.float().cpu().numpy()
                # `logits` of a text have two dimensions; everything else has a value per token.
                per_token = values.ndim == 3 or name in ("start_logits", "end_logits")
                if name not in arrays:
                    path = partial / f"{'token' if per_token else 'row'}-{name}.npy"
                    size = (int(offsets[-1]) if per_token else len(rows), *values.shape[1 + per_token :])
                    _check_room(partial, 4 * math.prod(size))
                    arrays[name] = open_memmap(path, mode="w+", dtype=np.float32, shape=size)
                for row, index in zip(values, indices, strict=True):
                    if per_token:
                        arrays[name][offsets[index] : offsets[index + 1]] = row[: lengths[index]]
                    else:
                        arrays[name][index] = row
        for array in arrays.values():
            array.flush()
        partial.replace(self.folder)

    def fetch(self, rows: Sequence[int], shape: Sequence[int], device: torch.device) -> Observation:
        """What the teacher said about rows of the dataset, padded with zeros to a batch of `shape` (batch, seq)."""
        tensors = {}
        for stem, array in self.arrays.items():
            kind, name = stem.split("-", 1)
            if kind == "row":
                values = array[np.asarray(rows)]
            else:
                values = np.zeros((*shape, *array.shape[1:]), dtype=np.float32)
                for i, row in enumerate(rows):
                    tokens = array[self.offsets[row] : self.offsets[row + 1]]
                    values[i, : len(tokens)] = tokens
            tensors[name] = torch.from_numpy(values).to(device)
        hidden = {int(n.removeprefix("hidden_")): t for n, t in tensors.items() if n.startswith("hidden_")}
        return Observation({n: t for n, t in tensors.items() if n.endswith("logits")}, hidden_states=hidden)


def _inputs_of(dataset: Dataset) -> Dataset:
    return dataset.select_columns([name for name in dataset.column_names if name not in (*LABELS, "length")])


def _column(dataset: Dataset, name: str) -> Iterator[Any]:
    """A column's values, read by the thousand: one at a time is slow, and a corpus in one piece takes its memory."""
    for batch in dataset.select_columns([name]).iter(1000):
        yield from batch[name]


def _check_collator(collator: Callable, dataset: Dataset) -> None:
    rows = _inputs_of(dataset.select(range(min(len(dataset), CACHE_BATCH_SIZE))))
    for row, ids in zip(rows, collator(list(rows))["input_ids"].tolist(), strict=True):
        if ids[: len(row["input_ids"])] != list(row["input_ids"]):
            raise ValueError(
                "`teacher_cache` needs a `data_collator` that pads on the right and changes no token: what it masks "
                "anew in every epoch the teacher has not seen. Set `teacher_cache=None`."
            )


def _check_room(folder: Path, needed: int) -> None:
    """Raises an `OSError` unless the disk holds twice as much: a mapped file on a full disk ends the process."""
    free = shutil.disk_usage(folder).free
    if needed > free // 2:
        shutil.rmtree(folder)
        raise OSError(
            errno.ENOSPC,
            f"A cache of the teacher's outputs would take {needed / 1e9:.1f} GB or more, {free / 1e9:.1f} GB are free",
            str(folder),
        )


def _digest(teacher: PreTrainedModel, dataset: Dataset, request: Request) -> str:
    digest = hashlib.sha256(repr((type(teacher).__name__, teacher.config.to_json_string(), request)).encode())
    for name, tensor in teacher.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy())
    rows = _inputs_of(dataset)
    for name in sorted(rows.column_names):
        digest.update(name.encode())
        for row in _column(rows, name):
            digest.update(np.asarray(row, dtype=np.int64).tobytes())
            digest.update(b"|")
    return digest.hexdigest()[:32]


__all__ = ["Observation", "Request", "TeacherCache", "observe"]
