"""The models of the page, and what they make of text."""

import html
import json
import os
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, wraps
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError
from transformers import (
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    PreTrainedConfig,
    pipeline,
)

from drawing import plot_attention, plot_losses, plot_points, plot_spread


HEADS = {
    "ForMaskedLM": AutoModelForMaskedLM,
    "ForSequenceClassification": AutoModelForSequenceClassification,
    "ForTokenClassification": AutoModelForTokenClassification,
    "ForQuestionAnswering": AutoModelForQuestionAnswering,
}
MASK = "[MASK]"
MAX_CHARACTERS = 2_000
# A drawing of more cannot be read.
MAX_DRAWN_TOKENS = 60
MAX_LINES = 100
MAX_LINES_CHARACTERS = 10_000
CANDIDATES = 5
# Of an answer, in tokens.
LONGEST_ANSWER = 30


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


def friendly(function: Callable) -> Callable:
    """Turns what a visitor did wrong into a message on the page; what they typed is text there."""

    @wraps(function)
    def wrapped(*args: Any) -> Any:
        try:
            return function(*args)
        except ValueError as error:
            raise gr.Error(html.escape(str(error)), print_exception=False) from None

    return wrapped


def check_text(text: str | None, field: str, limit: int = MAX_CHARACTERS) -> str:
    """The text of a field, where control characters and halves of characters have become spaces."""
    text = text or ""
    if len(text) > limit:
        raise ValueError(f"{field}: at most {limit:,} characters, this has {len(text):,}.")
    text = "".join(" " if unicodedata.category(c) in ("Cc", "Cs") and c != "\n" else c for c in text)
    if not text.strip():
        raise ValueError(f"{field}: type some text first.")
    return text


@dataclass
class Loaded:
    """A model in evaluation mode, with its tokenizer."""

    name: str
    model: Any
    tokenizer: Any

    def encode(self, *texts: str, limit: int | None = None, **options: Any) -> Any:
        """A text or a pair, as tensors, unless it is longer than the model reads."""
        encoded = self.tokenizer(*texts, return_tensors="pt", verbose=False, **options)
        longest = min(n for n in (limit, self.model.config.max_position_embeddings) if n)
        length = encoded["input_ids"].shape[1]
        if length > longest:
            what = "is drawn for" if limit == longest else "reads"
            raise ValueError(f"{self.name} {what} at most {longest} tokens, this text has {length}: shorten it.")
        return encoded


class Models:
    """
    What the page does, with some models.

    Args:
        places (`dict` of name to folder or repository): The models. Code that they bring is run.
    """

    def __init__(self, places: dict[str, str]):
        self.places = places
        self.configs = {name: PreTrainedConfig.get_config_dict(place)[0] for name, place in places.items()}
        self.losses = {name: losses for name, place in places.items() if (losses := read_losses(place))}
        self.load = cache(self._load)

    def names(self, head: str = "") -> list[str]:
        """The models that have a head (`"ForMaskedLM"`); the default is all."""
        # What was pre-trained with two heads guesses words too.
        classes = {
            name: "".join(config.get("architectures") or []).replace("ForPreTraining", "ForMaskedLM")
            for name, config in self.configs.items()
        }
        return [name for name in self.places if head in classes[name]]

    def _load(self, name: str) -> Loaded:
        # Not only what a page offers comes here: nothing that a visitor types is a place.
        if name not in self.places:
            raise ValueError(f"There is no model {name!r} here: choose one of {', '.join(self.places)}.")
        auto = next((auto for head, auto in HEADS.items() if name in self.names(head)), AutoModel)
        # Attention maps exist in eager attention alone.
        options = {"trust_remote_code": True, "dtype": torch.float32, "attn_implementation": "eager"}
        model = auto.from_pretrained(self.places[name], **options).eval()
        return Loaded(name, model, AutoTokenizer.from_pretrained(self.places[name], trust_remote_code=True))

    @friendly
    def fill_mask(self, text: str, model: str) -> tuple[list[tuple[str, str | None]], list[list[Any]]]:
        """
        Guess the words that are hidden behind [MASK] in a text.

        Args:
            text: English text with one or more [MASK] in it, such as "The film was [MASK]."
            model: Name of a masked language model of this Space.

        Returns:
            The text with the best words filled in, and the best candidates for every mask with their probabilities.
        """
        text, chosen = check_text(text, "Text"), self.load(model)
        pieces = text.split(MASK)
        if len(pieces) == 1:
            raise ValueError(f"Text: write {MASK} where a word is to be guessed.")
        text = chosen.tokenizer.mask_token.join(pieces)
        chosen.encode(text)
        found = pipeline("fill-mask", model=chosen.model, tokenizer=chosen.tokenizer)(text, top_k=CANDIDATES)
        masks = found if isinstance(found[0], list) else [found]
        filled: list[tuple[str, str | None]] = [(pieces[0], None)]
        for candidates, piece in zip(masks, pieces[1:], strict=True):
            filled += [(candidates[0]["token_str"], f"{candidates[0]['score']:.0%}"), (piece, None)]
        rows = [[i, c["token_str"], round(c["score"], 4)] for i, mask in enumerate(masks, 1) for c in mask]
        return filled, rows

    @friendly
    def classify(self, text: str, second_text: str, model: str) -> dict[str, float] | str:
        """
        Classify a text, for instance by its sentiment, or a pair of texts.

        Args:
            text: The text.
            second_text: The second of two texts, for models that compare two (paraphrase, inference); else empty.
            model: Name of a classifier of this Space.

        Returns:
            The probability of every class, or the score of a model that gives scores.
        """
        chosen, texts = self.load(model), [check_text(text, "Text")]
        if (second_text or "").strip():
            texts.append(check_text(second_text, "Second text"))
        chosen.encode(*texts)
        inputs = dict(zip(("text", "text_pair"), texts, strict=False))
        scores = pipeline("text-classification", model=chosen.model, tokenizer=chosen.tokenizer)(inputs, top_k=None)
        if chosen.model.config.problem_type == "regression":
            return "; ".join(f"{score['score']:.2f}" for score in scores)
        return {score["label"]: score["score"] for score in scores}

    @friendly
    def find_entities(self, text: str, model: str) -> dict[str, Any]:
        """
        Find names of persons, organisations, places and the like in a text.

        Args:
            text: The text.
            model: Name of a token classifier of this Space.

        Returns:
            The text in pieces, each with its kind of entity where it is one.
        """
        text, chosen = check_text(text, "Text"), self.load(model)
        chosen.encode(text)
        tagger = pipeline("token-classification", model=chosen.model, tokenizer=chosen.tokenizer)
        entities = tagger(text, aggregation_strategy="first")
        spans = [{"entity": e["entity_group"], "start": e["start"], "end": e["end"]} for e in entities]
        return {"text": text, "entities": spans}

    @friendly
    @torch.no_grad()
    def answer(self, question: str, context: str, model: str) -> tuple[str, float, dict[str, Any]]:
        """
        Answer a question with words of a context.

        Args:
            question: The question.
            context: The text that holds the answer.
            model: Name of a question answering model of this Space.

        Returns:
            The answer, its probability, and the context with the answer marked.
        """
        question, context = check_text(question, "Question"), check_text(context, "Context")
        chosen = self.load(model)
        encoded = chosen.encode(question, context, return_offsets_mapping=True)
        offsets = encoded.pop("offset_mapping")[0].tolist()
        output = chosen.model(**encoded)
        inside = torch.tensor([part == 1 for part in encoded.sequence_ids(0)])
        starts, ends = (logits[0].softmax(-1) * inside for logits in (output.start_logits, output.end_logits))
        # Rows start and columns end an answer.
        scores = torch.outer(starts, ends).triu().tril(LONGEST_ANSWER - 1)
        first, last = divmod(int(scores.argmax()), len(offsets))
        start, end = offsets[first][0], offsets[last][1]
        marked = {"text": context, "entities": [{"entity": "answer", "start": start, "end": end}]}
        return context[start:end], round(scores.max().item(), 4), marked

    @friendly
    @torch.no_grad()
    def draw_attention(self, text: str, model: str, layer: int, head: int) -> tuple[np.ndarray, np.ndarray]:
        """
        Draw which tokens of a text a model looks at.

        Args:
            text: A short text.
            model: Name of a model of this Space.
            layer: Layer, from 0.
            head: Attention head of that layer, from 0; -1 for the mean of all.

        Returns:
            A picture of the attention from every token to every token, and one of its mean and variance in all layers.
        """
        text, chosen = check_text(text, "Text"), self.load(model)
        encoded = chosen.encode(text, limit=MAX_DRAWN_TOKENS)
        maps = [m[0].numpy() for m in chosen.model(**encoded, output_attentions=True).attentions]
        if layer is None or not 0 <= layer < len(maps):
            raise ValueError(f"{model} has the layers 0 to {len(maps) - 1}: choose one of them.")
        heads = maps[int(layer)]
        if head is None or not -1 <= head < len(heads):
            raise ValueError(
                f"Layer {layer} of {model} has the heads 0 to {len(heads) - 1} (-1: their mean), not {head}."
            )
        tokens = chosen.tokenizer.convert_ids_to_tokens(encoded["input_ids"][0].tolist())
        title = f"layer {layer}, " + (f"head {head}" if head >= 0 else f"mean of {len(heads)} heads")
        return plot_attention(tokens, heads[int(head)] if head >= 0 else heads.mean(0), title), plot_spread(maps)

    @friendly
    @torch.no_grad()
    def draw_embeddings(self, texts: str, model: str) -> np.ndarray:
        """
        Draw how near to each other a model sees texts, in two dimensions.

        Args:
            texts: Three texts or more, one a line.
            model: Name of a model of this Space.

        Returns:
            A picture of the texts: the principal components of the means of their last hidden states.
        """
        texts, chosen = check_text(texts, "Texts", MAX_LINES_CHARACTERS), self.load(model)
        lines = [line.strip() for line in texts.split("\n") if line.strip()]
        if not 3 <= len(lines) <= MAX_LINES:
            raise ValueError(f"Texts: expected 3 to {MAX_LINES} lines, got {len(lines)}.")
        states = [chosen.model.base_model(**chosen.encode(line)).last_hidden_state[0].mean(0).numpy() for line in lines]
        return plot_points(*principal_components(np.stack(states)), lines)

    @friendly
    def draw_losses(self, model: str) -> np.ndarray:
        """
        Draw the losses of a model's training.

        Args:
            model: Name of a model of this Space that brings them.

        Returns:
            A picture of the losses by step.
        """
        if model not in self.losses:
            raise ValueError(f"{model} brings no losses.")
        return plot_losses(self.losses[model])


def read_losses(place: str) -> list[dict[str, float]]:
    """The losses that a model's folder or repository tells of, in the `metrics.json` that compactbert leaves there."""
    for name in ("metrics.json", "report.json"):
        try:
            file = Path(place) / name if Path(place).is_dir() else Path(hf_hub_download(place, name))
            if losses := json.loads(file.read_text(encoding="utf-8")).get("losses"):
                return losses
        except (EntryNotFoundError, FileNotFoundError):
            continue
    return []


def principal_components(states: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows in the two directions in which they differ most, and those directions' shares of all variance."""
    centred = states - states.mean(0)
    _, sizes, directions = np.linalg.svd(centred, full_matrices=False)
    return centred @ directions[:2].T, sizes[:2] ** 2 / max((sizes**2).sum(), 1e-12)
