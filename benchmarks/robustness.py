"""What small changes of the texts cost a checkpoint of the zoo, beside a larger model: `benchmarks/robustness.json`.

    python benchmarks/robustness.py run --data-dir DATA --larger FOLDER [--name smbert-sst2] [--seed 1]
    python benchmarks/robustness.py show

`--larger` is a model that was fine-tuned on the checkpoint's task, such as its teacher. All models read the same texts.
"""

import random
import re
import statistics
import string
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer
from results import Results

from compactbert.convert import load_pretrained
from compactbert.data import load_task
from compactbert.evaluation import evaluate


RESULTS = Results(__file__)
ZOO = Path(__file__).parent.parent / "zoo"
# Says nothing about what it is added to.
ASIDE = "I saw this on a Tuesday afternoon with two of my friends."
LARGER = "larger"
AS_IT_IS = "as it is"


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
app = typer.Typer()


@app.command()
def run(
    data_dir: Annotated[Path, typer.Option()],
    larger: Annotated[Path, typer.Option()],
    name: Annotated[str, typer.Option()] = "smbert-sst2",
    seed: Annotated[list[int], typer.Option()] = [1, 2, 3],  # noqa: B006
):
    task = load_task(name.partition("-")[2], data_dir)
    models = {name: load_pretrained(ZOO / name, task.head), LARGER: load_pretrained(larger, task.head)}
    rows = task.evaluation
    for change, spoil in CHANGES.items():
        for number in seed:
            draw = random.Random(number)
            task.evaluation = rows.map(
                lambda row, spoil=spoil, draw=draw: {name: spoil(row[name], draw) for name in task.text_columns},
                load_from_cache_file=False,
            )
            for title, (model, tokenizer) in models.items():
                if RESULTS.found("models", name, title, change, str(number)) is None:
                    accuracy = evaluate(model, tokenizer, task, max_length=256)["metrics"]["accuracy"]
                    RESULTS.record(("models", name, title, change, str(number)), accuracy)
            if spoil not in (typing_errors, without_words):
                break  # nothing is drawn
    RESULTS.record(("rows", name), len(rows))
    show()


def render(results: dict) -> str:
    """The README's table."""
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
    return "\n\n".join(tables)


@app.command()
def show():
    print(render(RESULTS.read()))


if __name__ == "__main__":
    app()
