"""A small encoder of names across scripts, trained on pairs of one name in two scripts: `benchmarks/name_encoder.json`.

    python benchmarks/name_encoder.py characters --data-dir DATA
    python benchmarks/name_encoder.py train --data-dir DATA --output OUT --max-minutes 8
    python benchmarks/name_encoder.py measure --data-dir DATA OTHER...
    python benchmarks/name_encoder.py show

The pairs are `names/translit` (NETransliteration, COLING 2018: names of people in Wikidata, English and six others).
`characters` and `measure` need what the Space of name screening does; `train` needs neither, nor a network.
"""

import json
import sys
import time
import unicodedata
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import torch
import typer
from torch import nn
from torch.nn import functional
from transformers import Trainer, TrainingArguments, set_seed
from transformers.trainer_utils import get_last_checkpoint


sys.path.insert(0, str(Path(__file__).parent.parent / "spaces" / "name_screening"))
from results import Results

from compactbert.files import write_text
from modeling_smbert import SmBertConfig, SmBertModel
from screening.characters import MAX_CHARACTERS, PADDING, Characters


ENCODER = Path(__file__).parent.parent / "spaces" / "name_screening" / "screening" / "name_encoder"
RESULTS = Results(__file__)
SEED = 0
LANGUAGES = ("arabic", "chinese", "hebrew", "japanese", "korean", "russian")
# Rarer characters are read in Latin letters, as those of scripts that are not among the pairs.
MIN_COUNT = 3
# Shares of the targets that are read in Latin letters whole, so that the encoder knows such readings.
READ = 0.15
# Languages with more pairs come more often, though not as often as they have more.
SIZE_POWER = 0.7
SHAPE = {
    "hidden_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "attention_head_size": 32,
    "intermediate_size": 384,
    # Cheaper without torch than the usual one.
    "hidden_act": "relu",
    "max_position_embeddings": MAX_CHARACTERS,
    "type_vocab_size": 1,
}
# The logits are the cosines times this at first, and at most the other.
FIRST_SCALE, MAX_SCALE = 20.0, 100.0
SAVE_STEPS = 1000
TEST_PAIRS = 1000
app = typer.Typer()


def read_pairs(data_dir: Path, split: str) -> dict[str, pd.DataFrame]:
    """By language, English names (`src`) and the same names in its script (`tgt`)."""
    found = {}
    for language in LANGUAGES:
        table = pd.read_parquet(data_dir / "names" / "translit" / f"wd_{language}.parquet")
        table = table[table["split"] == split].assign(tgt=table["tgt"].str.replace(" ", ""))
        # Single letters are initials, which match nothing but themselves.
        found[language] = table[table["src"].str.len() > 2].reset_index(drop=True)
    return found


@app.command()
def characters(data_dir: Annotated[Path, typer.Option()]):
    """Write the table of characters: those that have numbers, and the Latin letters for all."""
    # Where it trains there is none.
    from anyascii import anyascii

    counts: Counter[str] = Counter()
    every: set[str] = set()
    for split in ("train", "dev", "test"):
        for table in read_pairs(data_dir, split).values():
            for text in (*table["src"], *table["tgt"]):
                normal = unicodedata.normalize("NFKD", text.casefold())
                every.update(normal)
                if split == "train":
                    counts.update(normal)
    known = "".join(
        sorted(character for character, count in counts.items() if count >= MIN_COUNT and is_kept(character))
    )
    readings = {character: anyascii(character).lower() for character in sorted(every) if not character.isascii()}
    ENCODER.mkdir(exist_ok=True)
    content = {"characters": known, "readings": readings}
    write_text(ENCODER / "characters.json", json.dumps(content, ensure_ascii=False, indent=0) + "\n")
    print(f"{len(known)} characters, {len(readings)} readings")


def is_kept(character: str) -> bool:
    """Letters, their marks, and the apostrophe, which is a letter's mark in Hebrew."""
    return unicodedata.category(character)[0] in "LM" or character == "'"


def padded(texts: list[list[int]]) -> np.ndarray:
    """Numbers of characters as the rows of an array."""
    rows = np.full((len(texts), MAX_CHARACTERS), PADDING, dtype=np.int16)
    for row, ids in zip(rows, texts, strict=True):
        row[: len(ids)] = ids
    return rows


@dataclass
class Pairs:
    """The pairs of a language in the order of their English names: source, target, and target read in Latin letters."""

    source: np.ndarray
    target: np.ndarray
    read: np.ndarray


def encode_pairs(table: pd.DataFrame, stored: dict) -> Pairs:
    """The characters of the pairs that can be read."""
    reader = Characters(stored["characters"], stored["readings"].get)
    latin = "".join(character for character in stored["characters"] if character.isascii())
    # The same numbers: the table begins with the Latin letters.
    assert stored["characters"].startswith(latin)
    latin_reader = Characters(latin, stored["readings"].get)
    rows = []
    for row in table.sort_values("src").itertuples():
        ids = (reader.ids(row.src), reader.ids(row.tgt), latin_reader.ids(row.tgt))
        if ids[0] and ids[1]:
            rows.append((ids[0], ids[1], ids[2] or ids[1]))
    return Pairs(*(padded(list(column)) for column in zip(*rows, strict=True)))


class Batches(torch.utils.data.Dataset):
    """
    Ready batches, each of one language, always the same for a step.

    Args:
        pairs (`dict`): The [`Pairs`] of every language.
        steps (`int`): How many batches.
        batch_size (`int`): Pairs in each.
        neighbours (`int`): Names that follow each other in the alphabet come together in runs of this length, which are
            harder to tell apart than names drawn singly.
    """

    def __init__(self, pairs: dict[str, Pairs], steps: int, batch_size: int, neighbours: int):
        self.pairs = list(pairs.values())
        self.steps, self.batch_size, self.neighbours = steps, batch_size, neighbours
        sizes = np.array([len(one.source) for one in self.pairs]) ** SIZE_POWER
        self.shares = sizes / sizes.sum()

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> dict[str, torch.Tensor]:
        random = np.random.default_rng((SEED, step))
        pairs = self.pairs[random.choice(len(self.pairs), p=self.shares)]
        starts = random.integers(0, len(pairs.source), -(-self.batch_size // self.neighbours))
        rows = (starts[:, None] + np.arange(self.neighbours)).ravel() % len(pairs.source)
        target = np.where(random.random((len(rows), 1)) < READ, pairs.read[rows], pairs.target[rows])
        return {"source": torch.from_numpy(pairs.source[rows]), "target": torch.from_numpy(target)}


def embed(encoder: SmBertModel, ids: torch.Tensor) -> torch.Tensor:
    """The directions of names: the means of their characters' hidden states."""
    ids = ids[:, : int((ids != PADDING).sum(1).max())].long()
    mask = (ids != PADDING).long()
    hidden = encoder(input_ids=ids, attention_mask=mask).last_hidden_state.float()
    return functional.normalize((hidden * mask[..., None]).sum(1), dim=-1)


class SiameseEncoder(nn.Module):
    """
    One encoder for both sides, with the loss of InfoNCE both ways: each name is told from all others of the batch.

    Args:
        config ([`SmBertConfig`]): Of the encoder.
    """

    def __init__(self, config: SmBertConfig):
        super().__init__()
        self.encoder = SmBertModel(config, add_pooling_layer=False)
        self.log_scale = nn.Parameter(torch.tensor(FIRST_SCALE).log())

    def forward(self, source: torch.Tensor, target: torch.Tensor) -> dict[str, torch.Tensor]:
        embedded = embed(self.encoder, torch.cat((source, target)))
        # The same name again is no other name.
        same = equal_rows(source) | equal_rows(target)
        same.fill_diagonal_(False)
        # Half precision tells no near names apart.
        with torch.autocast(source.device.type, enabled=False):
            cosines = embedded[: len(source)] @ embedded[len(source) :].T
            logits = (cosines * self.log_scale.exp().clamp(max=MAX_SCALE)).masked_fill(same, -torch.inf)
        labels = torch.arange(len(source), device=source.device)
        loss = (functional.cross_entropy(logits, labels) + functional.cross_entropy(logits.T, labels)) / 2
        return {"loss": loss}


def equal_rows(ids: torch.Tensor) -> torch.Tensor:
    """Which names of a batch are equal, by a sum that others hardly have."""
    random = torch.Generator().manual_seed(SEED)
    factors = torch.randint(1 << 40, (ids.shape[1],), generator=random).to(ids.device)
    sums = (ids.long() * factors).sum(1)
    return sums[:, None] == sums


class TimedTrainer(Trainer):
    """
    A Trainer whose learning rate reaches zero after its steps or its minutes, whatever is over first.

    Args:
        minutes (`float`): Counted from the beginning of this call.
    """

    def __init__(self, *args, minutes: float, **kwargs):
        super().__init__(*args, **kwargs)
        self.seconds = 60 * minutes
        self.begun = time.monotonic()

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None):
        warmup = max(1, min(500, num_training_steps // 20))

        def factor(step: int) -> float:
            done = max(step / num_training_steps, (time.monotonic() - self.begun) / self.seconds)
            return min(1.0, step / warmup) * max(0.0, 1 - done)

        self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer or self.optimizer, factor)
        return self.lr_scheduler

    def training_step(self, *args, **kwargs):
        if time.monotonic() - self.begun > self.seconds:
            self.control.should_training_stop = True
        return super().training_step(*args, **kwargs)


@app.command()
def train(
    data_dir: Annotated[Path, typer.Option()],
    output: Annotated[Path, typer.Option(help="Folder of the encoder; a run that was killed goes on in it.")],
    max_steps: Annotated[int, typer.Option()] = 30_000,
    max_minutes: Annotated[float, typer.Option()] = 8.0,
    batch_size: Annotated[int, typer.Option()] = 1024,
    learning_rate: Annotated[float, typer.Option()] = 1e-3,
    neighbours: Annotated[int, typer.Option()] = 8,
):
    """Train an encoder on the pairs of the split for it."""
    set_seed(SEED)
    stored = json.loads((ENCODER / "characters.json").read_text())
    pairs = {language: encode_pairs(table, stored) for language, table in read_pairs(data_dir, "train").items()}
    model = SiameseEncoder(SmBertConfig(vocab_size=len(stored["characters"]) + 1, **SHAPE))
    checkpoints = output / "checkpoints"
    trainer = TimedTrainer(
        model,
        TrainingArguments(
            output_dir=str(checkpoints),
            max_steps=max_steps,
            # A row is a batch.
            per_device_train_batch_size=1,
            learning_rate=learning_rate,
            weight_decay=0.01,
            bf16=torch.cuda.is_available(),
            use_cpu=not torch.cuda.is_available(),
            save_steps=SAVE_STEPS,
            save_total_limit=1,
            logging_steps=100,
            # It would wait for every step.
            logging_nan_inf_filter=False,
            report_to="none",
            seed=SEED,
            remove_unused_columns=False,
        ),
        train_dataset=Batches(pairs, max_steps, batch_size, neighbours),
        data_collator=lambda rows: rows[0],
        minutes=max_minutes,
    )
    start = time.monotonic()
    trainer.train(resume_from_checkpoint=get_last_checkpoint(str(checkpoints)) if checkpoints.is_dir() else None)
    encoder = model.encoder.half()
    encoder.save_pretrained(output)
    write_text(output / "characters.json", (ENCODER / "characters.json").read_text())
    made = {
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "pairs": {language: len(one.source) for language, one in pairs.items()},
        "steps": trainer.state.global_step,
        "batch": batch_size,
        "neighbours": neighbours,
        "learning_rate": learning_rate,
        "seconds": time.monotonic() - start,
        "parameters": encoder.num_parameters(),
        "loss": trainer.state.log_history[-1].get("train_loss"),
    }
    dev = read_pairs(data_dir, "dev")
    made["dev"] = {language: retrieval(encoder.float(), encode_pairs(table, stored)) for language, table in dev.items()}
    write_text(output / "training.json", json.dumps(made, indent=1) + "\n")
    print(json.dumps(made, indent=1))


@torch.inference_mode()
def retrieval(encoder: SmBertModel, pairs: Pairs) -> float:
    """
    Recall@1: how often the nearest of all targets is the name's own, and the nearest of all sources the target's.
    """
    encoder.eval()
    source, target = (torch.cat(list(embedded(encoder, ids))) for ids in (pairs.source, pairs.target))
    return (nearest_is_own(source, target, pairs.target) + nearest_is_own(target, source, pairs.source)) / 2


def embedded(encoder: SmBertModel, ids: np.ndarray) -> Iterator[torch.Tensor]:
    """The directions of many names."""
    for start in range(0, len(ids), 1024):
        yield embed(encoder, torch.from_numpy(ids[start : start + 1024]).to(encoder.device))


def nearest_is_own(queries: torch.Tensor, keys: torch.Tensor, names: np.ndarray) -> float:
    """The share of queries whose nearest key is the own one, or one of the same name."""
    hits = 0
    for start in range(0, len(queries), 1024):
        nearest = (queries[start : start + 1024] @ keys.T).argmax(1).cpu().numpy()
        hits += int((names[nearest] == names[start : start + len(nearest)]).all(1).sum())
    return hits / len(queries)


@app.command()
def measure(
    data_dir: Annotated[Path, typer.Option()],
    encoder: Annotated[Path, typer.Option()] = ENCODER,
    others: Annotated[list[Path] | None, typer.Argument(help="Encoders that were trained beside it.")] = None,
):
    """Measure an encoder on the test split beside the rules of the Space and a ratio of rapidfuzz."""
    # Where it trains there is none of these.
    from rapidfuzz import fuzz

    from screening.encoder import NameEncoder
    from screening.matching import word_similarity
    from screening.names import parse_name

    def alike(one: str, other: str) -> float:
        return word_similarity(one, other)[0] if one and other else 0.0

    loaded = NameEncoder(encoder)
    results = {}
    for language, table in read_pairs(data_dir, "test").items():
        sample = table.sample(TEST_PAIRS, random_state=SEED)
        first, second = ([parse_name(name).latin.replace(" ", "") for name in sample[side]] for side in ("src", "tgt"))
        systems = {
            "rapidfuzz": np.array([[fuzz.ratio(one, other) for other in second] for one in first]),
            "rules": np.array([[alike(one, other) for other in second] for one in first]),
            "encoder": loaded.encode(sample["src"].tolist()) @ loaded.encode(sample["tgt"].tolist()).T,
        }
        results[language] = {name: told_apart(scores, sample) for name, scores in systems.items()}
        print(language, json.dumps(results[language]))
    RESULTS.record(("test",), {"pairs": TEST_PAIRS, "languages": results})
    record_training(encoder, others or [])


def record_training(encoder: Path, others: list[Path]) -> None:
    """How an encoder was trained, and what it and others reached on the development split."""
    found = [json.loads((folder / "training.json").read_text()) for folder in (encoder, *others)]
    RESULTS.record(("training",), found[0])
    RESULTS.record(("dev",), {f"neighbours {made['neighbours']}": made["dev"] for made in found})


def told_apart(scores: np.ndarray, sample: pd.DataFrame) -> dict[str, float]:
    """
    Of the scores of names (rows) and names in another script (columns): how often a name's own is the best, and the
    probability that a name's own has a higher score than another's; equal scores count half.
    """
    source, target = sample["src"].to_numpy(), sample["tgt"].to_numpy()
    own = (source[:, None] == source) | (target[:, None] == target)
    best = scores == scores.max(1, keepdims=True)
    # The test of Mann and Whitney, by ranks.
    ranks = pd.Series(scores.ravel()).rank().to_numpy()[own.ravel()]
    auc = (ranks.mean() - (len(ranks) + 1) / 2) / (own.size - len(ranks))
    recall = float(((best & own).sum(1) / best.sum(1)).mean())
    return {"recall_at_1": recall, "auc": float(auc)}


def render(results: dict) -> str:
    """The table in the Space's README."""
    titles = {"rapidfuzz": "rapidfuzz", "rules": "rules alone", "encoder": "encoder"}
    head = ("script of", "training pairs")
    head += tuple(f"{title}, {figure}" for figure in ("recall@1", "AUC") for title in titles.values())
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for language, found in results["test"]["languages"].items():
        cells = [language, f"{results['training']['pairs'][language]:,}"]
        cells += [f"{found[system]['recall_at_1']:.1%}" for system in titles]
        cells += [f"{found[system]['auc']:.3f}" for system in titles]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


@app.command()
def show():
    print(render(RESULTS.read()))


if __name__ == "__main__":
    app()
