"""What small changes of the texts cost a checkpoint of the zoo, and how it judges pairs whose words mislead, beside a
larger model: `benchmarks/robustness.json`.

    python benchmarks/robustness.py run --data-dir DATA --larger FOLDER [--name smbert-sst2] [--seed 1]
    python benchmarks/robustness.py show

`--larger` is a model that was fine-tuned on the checkpoint's task, such as its teacher. `compactbert finetune --model
minilm --task qqp --epochs 4 --learning-rate 1e-4` makes that of `smbert-qqp` again, and that of `smbert-mnli` likewise.
All models read the same texts; of a pair both are changed.
"""

import random
import re
import statistics
import string
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, NamedTuple

import typer
from results import Results

import compactbert
from compactbert.convert import load_pretrained
from compactbert.data import Task, load_task
from compactbert.evaluation import evaluate


RESULTS = Results(__file__)
ZOO = Path(__file__).parent.parent / "zoo"
# Says nothing about what it is added to.
ASIDE = "I saw this on a Tuesday afternoon with two of my friends."
LARGER = "larger"
AS_IT_IS = "as it is"
EXCHANGED = "the two texts exchanged"
# Tasks whose labels are the same whichever text comes first.
SYMMETRIC = ("qqp",)
# Of a task of pairs, whose evaluation is larger.
ROWS = 1000
MAX_LENGTH = 512


def typing_errors(text: str, random: random.Random, share: float = 0.2) -> str:
    """Two neighbouring letters change places, in a share of the words that have four."""

    def spoil(match: re.Match) -> str:
        word = match.group()
        if random.random() >= share:
            return word
        place = random.randrange(1, len(word) - 2)
        return word[:place] + word[place + 1] + word[place] + word[place + 2 :]

    return re.sub(r"[A-Za-z]{4,}", spoil, text)


def without_words(text: str, random: random.Random, share: float = 0.2) -> str:
    """A share of the words is missing."""
    words = text.split()
    return " ".join(word for word in words if random.random() >= share) or words[0]


CHANGES: dict[str, Callable[[str, random.Random], str]] = {
    AS_IT_IS: lambda text, random: text,
    "letters swapped in a fifth of the words": typing_errors,
    "a fifth of the words missing": without_words,
    "no punctuation": lambda text, random: text.translate(str.maketrans("", "", string.punctuation)),
    "three exclamation marks": lambda text, random: f"{text}!!!",
    "upper case": lambda text, random: text.upper(),
    "an aside before it": lambda text, random: f"{ASIDE} {text}",
    "an aside after it": lambda text, random: f"{text} {ASIDE}",
    "ten asides after it": lambda text, random: " ".join([text, *[ASIDE] * 10]),
}


class Pair(NamedTuple):
    """Two texts, and the labels that are right."""

    first: str
    second: str
    right: Sequence[str]


def read_pairs(task: str, data_dir: Path, rows: int | None = None) -> list[Pair]:
    """The evaluation rows of a task, or a sample of them."""
    loaded = load_task(task, data_dir, max_evaluation_rows=rows)
    columns = [loaded.evaluation[name] for name in (*loaded.text_columns, loaded.label_column)]
    return [Pair(first, second, [loaded.label_names[label]]) for first, second, label in zip(*columns, strict=True)]


def labelled(pairs: list[Pair], *labels: str) -> list[Pair]:
    """The pairs with one of these labels, of which any is right."""
    return [pair._replace(right=labels) for pair in pairs if pair.right[0] in labels]


def shared(pair: Pair) -> float:
    """What share of the shorter text's words the longer has."""
    one, other = (set(re.findall(r"\w+", text.lower())) for text in (pair.first, pair.second))
    return len(one & other) / max(1, min(len(one), len(other)))


def misleading_questions(data_dir: Path) -> dict[str, list[Pair]]:
    """Duplicates in other words, and questions in the same words that are none; by word, all of PAWS-X is alike."""
    sample, own = read_pairs("qqp", data_dir, ROWS), read_pairs("qqp", data_dir)
    paws = read_pairs("paws-x/en", data_dir)
    return {
        "duplicates": labelled(sample, "duplicate"),
        "duplicates that share under a third of their words": [
            pair for pair in labelled(own, "duplicate") if shared(pair) < 1 / 3
        ],
        "paraphrases in PAWS-X": [pair._replace(right=["duplicate"]) for pair in labelled(paws, "equivalent")],
        "no duplicates": labelled(sample, "not_duplicate"),
        "no duplicates that share nine tenths": [
            pair for pair in labelled(own, "not_duplicate") if shared(pair) >= 0.9
        ],
        "no paraphrases in PAWS-X": [
            pair._replace(right=["not_duplicate"]) for pair in labelled(paws, "not_equivalent")
        ],
    }


def misleading_inferences(data_dir: Path) -> dict[str, list[Pair]]:
    """What follows in other words, and what does not in the same; and pairs whose label follows from another's."""
    sample, own = read_pairs("mnli", data_dir, ROWS), read_pairs("mnli", data_dir)
    not_entailed = ("neutral", "contradiction")
    denied = {"entailment": ["contradiction"], "contradiction": ["entailment"], "neutral": ["neutral"]}
    statements = [pair for pair in sample if not pair.second.rstrip().endswith("?")]
    draw = random.Random(1)

    def mixed(text: str) -> str:
        words = text.split()
        return " ".join(draw.sample(words, len(words)))

    return {
        "entailment": labelled(sample, "entailment"),
        "entailment that shares under a third of its words": [
            pair for pair in labelled(own, "entailment") if shared(pair) < 1 / 3
        ],
        "the premise as its own hypothesis": [Pair(pair.first, pair.first, ["entailment"]) for pair in sample],
        "no entailment": labelled(sample, *not_entailed),
        "no entailment that shares nine tenths": [pair for pair in labelled(own, *not_entailed) if shared(pair) >= 0.9],
        "the premise's words in any order as hypothesis": [
            Pair(pair.first, mixed(pair.first), not_entailed) for pair in sample if len(pair.first.split()) > 5
        ],
        "RTE": [
            pair._replace(right=["entailment"] if pair.right[0] == "entailment" else not_entailed)
            for pair in read_pairs("rte", data_dir)
        ],
        "all three labels": sample,
        "the hypothesis alone": [pair._replace(first="") for pair in sample],
        '"It is true that" before the hypothesis': [
            pair._replace(second=f"It is true that {pair.second}") for pair in statements
        ],
        '"It is not true that" before it, labels turned': [
            Pair(pair.first, f"It is not true that {pair.second}", denied[pair.right[0]]) for pair in statements
        ],
    }


MISLEADING = {"smbert-qqp": misleading_questions, "smbert-mnli": misleading_inferences}
app = typer.Typer()


@app.command()
def run(
    data_dir: Annotated[Path, typer.Option()],
    larger: Annotated[Path, typer.Option()],
    name: Annotated[str, typer.Option()] = "smbert-sst2",
    seed: Annotated[list[int], typer.Option()] = [1, 2, 3],  # noqa: B006
):
    folders = {name: ZOO / name, LARGER: larger}
    rows = ROWS if name in MISLEADING else None
    task = load_task(name.partition("-")[2], data_dir, max_evaluation_rows=rows)
    models = {title: load_pretrained(folder, task.head) for title, folder in folders.items()}

    def measure(change: str, number: int, changed: Task) -> None:
        for title, (model, tokenizer) in models.items():
            place = ("models", name, title, change, str(number))
            if RESULTS.found(*place) is None:
                RESULTS.record(place, evaluate(model, tokenizer, changed, max_length=MAX_LENGTH)["metrics"]["accuracy"])

    for change, spoil in CHANGES.items():
        for number in seed:
            draw = random.Random(number)
            changed = task.evaluation.map(
                lambda row, spoil=spoil, draw=draw: {name: spoil(row[name], draw) for name in task.text_columns},
                load_from_cache_file=False,
            )
            measure(change, number, replace(task, evaluation=changed))
            if spoil not in (typing_errors, without_words):
                break  # nothing is drawn
    if task.name in SYMMETRIC:
        measure(EXCHANGED, seed[0], replace(task, text_columns=task.text_columns[::-1]))
    RESULTS.record(("rows", name), len(task.evaluation))
    if name in MISLEADING:
        for group, pairs in MISLEADING[name](data_dir).items():
            RESULTS.record(("misleading", name, group, "rows"), len(pairs))
            for title, folder in folders.items():
                place = ("misleading", name, group, title)
                if RESULTS.found(*place) is None:
                    found = compactbert.predict(folder, [pair[:2] for pair in pairs], max_length=MAX_LENGTH)
                    hits = [row["label"] in pair.right for row, pair in zip(found, pairs, strict=True)]
                    RESULTS.record(place, sum(hits) / len(hits))
    show()


def render(results: dict) -> str:
    """The README's tables."""
    tables = []
    for name, models in results["models"].items():
        lines = [f"| {name}, {results['rows'][name]} rows | accuracy | change | larger model | its change |"]
        lines.append("|---" * 5 + "|")
        for change in models[LARGER]:
            cells = []
            for title in (name, LARGER):
                mean, plain = (statistics.mean(models[title][which].values()) for which in (change, AS_IT_IS))
                cells += [f"{mean:.3f}", "" if change == AS_IT_IS else f"{mean - plain:+.3f}"]
            lines.append(f"| {' | '.join([change, *cells])} |")
        tables.append("\n".join(lines))
        if name in results.get("misleading", {}):
            lines = [f"| share judged right | rows | {name} | larger model |", "|---" * 4 + "|"]
            for group, found in results["misleading"][name].items():
                lines.append(f"| {group} | {found['rows']:,} | {found[name]:.3f} | {found[LARGER]:.3f} |")
            tables.append("\n".join(lines))
    return "\n\n".join(tables)


@app.command()
def show():
    print(render(RESULTS.read()))


if __name__ == "__main__":
    app()
