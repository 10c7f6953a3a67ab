"""Which news concerns crime or money laundering: weak labels to learn from, and a model's worth by others.

    python benchmarks/crime_news.py prepare --data-dir DATA --output WORK/crime_news
    python benchmarks/crime_news.py draw --data-dir DATA --output sample.jsonl
    python benchmarks/crime_news.py keep --data-dir DATA --labels read.jsonl
    python benchmarks/crime_news.py evaluate --data-dir DATA --model zoo/smbert-lora-crime-news
    python benchmarks/crime_news.py show

`prepare` makes the task that `benchmarks/zoo.py` trains the zoo's adapter on. Its labels come from a list of words,
so a model's scores on them say how well it has learned the list. `draw` takes texts that no model has learned from for
somebody to read; `keep` stores the labels with a hash of each text, in `benchmarks/crime_news.json`, and no text;
`evaluate` measures the first pass of the Space on them, and lists of words beside it.

Whoever reads calls a text relevant if a main point of it is a crime or breach that an analyst of adverse media would
note, alleged ones and threats among them: money laundering and what it follows on (fraud, corruption, theft,
trafficking, cybercrime, forged goods and so on), violence outside of combat, terror, abuses by a state, sanctions and
embargoes, and what police, courts and authorities do about such things. Combat, crime as a matter of politics or of
statistics, suits about contracts, patents or competition alone, penalties of sport, fiction and flaws of software that
nobody is said to use are not relevant. The labels are those of one reader, a language model that wrote this script and
the list of words too. It was shown neither what the list nor what a model says of a text, read of the BBC's articles
the first 650 to 900 characters, and last changed how the rows to learn from are chosen after reading, before a model
was measured on what was read.
"""

import gzip
import hashlib
import json
import random
import re
import sys
from collections import Counter
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import typer
from datasets import Dataset
from scipy.stats import beta
from sklearn.metrics import roc_auc_score


sys.path.insert(0, str(Path(__file__).parent.parent / "spaces" / "name_screening"))
from results import Results

from compactbert.data.tasks import write_table
from compactbert.files import new_folder, write_text
from screening.news import MIN_CONFIDENCE, PipelineClassifier, passages_of, sentences_of


RESULTS = Results(__file__)
SEED = 0
RELEVANT, NOT_RELEVANT = "relevant", "not relevant"
# What an analyst of adverse media looks for: the offences that money laundering follows on, terror and sanctions, and
# what police and courts do about them. A star stands for any ending.
OFFENCES = """
money laundering, money launderer*, launder*, fraud*, defraud*, embezzl*, oil for food, bribe*, bribing, kickback*,
corrupt, corruption, graft, extort*, racketeer*, blackmail*, swindl*, scam, scams, scammer*, ponzi, pyramid scheme*,
insider trading, insider dealing, price fixing, bid rigging, market manipulation, misappropriat*, tax evasion, tax
evader*, evading tax*, evaded tax*, forger, forgers, forgery, forgeries, counterfeit*, accounting scandal*, smuggl*,
traffick*, drug cartel*, drug lord*, drug baron*, drug ring*, drug gang*, drug deal*, drug raid*, drug bust*, heroin,
cocaine, opium, phish*, identity theft*, identity thieves, cybercrim*, cyber crim*, cyber attack*, piracy, pirated,
theft*, thief, thieves, robber, robbers, robbery, robberies, burglar*, heist*, looting, looted, loan shark*, arms
dealer*, arms dealing, murder*, manslaughter, homicide*, assassinat*, rape, raped, rapist*, molest*, paedophil*,
pedophil*, child porn*, child abuse, sexual assault*, sexual abuse, sexually abus*, sexually assault*, kidnap*,
abduct*, hostage*, behead*, gang, gangs, gangster*, mafia, mobster*, organised crime, organized crime, crime, crimes,
criminal*, genocide, felony, felonies, felon, felons, perjury, obstruction of justice, terror, terrorism, terrorist*,
al qaeda, al qaida, al queda, suicide bomb*, suicide attack*, car bomb*, truck bomb*, roadside bomb*, bombing*,
hijack*, war criminal*, genocidal
"""
JUSTICE = """
arrest*, indict*, convict*, prosecut*, charged with, charges of, pleaded guilty, plead guilty, pleads guilty, pled
guilty, pleaded not guilty, plead not guilty, found guilty, guilty plea*, guilty verdict*, jail, jailed, jails,
imprison*, prison, prisons, inmate*, sentenced, extradit*, fugitive*, grand jury, embargo*, blacklist*, asset freeze*,
freeze assets, frozen assets, economic sanctions, financial sanctions, UN sanctions, U.N. sanctions, US sanctions,
U.S. sanctions, EU sanctions, international sanctions, sanctions against, illegal, illegally, illicit, wrongdoing,
death row, house arrest, suspected of, accused of
"""
# Words of the same matters and of others.
UNCLEAR = """
police, militant*, gunman, gunmen, insurgent*, rebel*, kill*, attack*, bomb*, shooting*, suspect*, investigat*,
probe*, scandal*, alleg*, charges, fine, fined, fines, accus*, guilty, detain*, detention, sanctions, stolen, stole,
steal*, virus*, worm*, spyware, spam*, hacker*, hacked, hacking, cartel*, drug, drugs, doping, steroid*, violence,
violent, massacre*, victim*, lawsuit*, sue, sued, sues, suing, court*, trial*, judge*, misconduct, cheat*, seiz*, SEC,
Spitzer, regulator*, weapon*, torture*, abuse*, raid*, conspir*, penalty, penalties, extremis*, Enron, WorldCom
"""
# Invented crimes.
FICTION = """
film*, movie*, novel, novels, episode*, thriller*, sitcom*, crime drama*, TV drama*, crime fiction, crime series,
fictional, comics, album*, song*, video game*, videogame*, PlayStation, Xbox, horror, box office
"""
# What only sounds like the words of the list.
OTHERS = "war on terror*, grand theft auto, rape seed*, rape oil, stolen base*, bombing raid*, bombing run*"
# A sample that can be read in hours, not chosen by the list alone.
UNIFORM = 150
BY_STRATUM = {"listed": 60, "unclear": 70, "neither": 20}
# Relevant passages of a source, at most.
PASSAGES = {"ag_news": 2_000, "wikipedia": 2_500, "reuters": 300}
# Documents of an archive that are read, and the share of all that is for validation.
DOCUMENTS, VALIDATION = 15_000, 0.05
# Of a passage that is learned from.
MIN_WORDS = 8
RESAMPLES = 2_000
app = typer.Typer()


def whole_words(listed: str) -> re.Pattern[str]:
    """Any of these words and phrases, whatever their case, with spaces or hyphens."""
    words = ["[ -]".join(map(re.escape, word.split())) for word in listed.split(",")]
    joined = "|".join(words).replace(r"\*", r"\w*")
    return re.compile(rf"\b(?:{joined})\b", re.IGNORECASE)


LIST, REST, INVENTED, OTHER = map(whole_words, (OFFENCES + "," + JUSTICE, UNCLEAR, FICTION, OTHERS))


def is_listed(text: str) -> bool:
    """Whether a text has a word of the list."""
    return LIST.search(OTHER.sub("", text)) is not None


def weak_label(text: str) -> str | None:
    """What the list says of a text; `None` where it cannot tell, of crimes that may be invented."""
    if is_listed(text):
        return None if INVENTED.search(text) else RELEVANT
    return NOT_RELEVANT


def digest_of(text: str) -> str:
    """Enough of a hash to notice a changed text."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def read_sources(data_dir: Path) -> dict[str, list[str]]:
    """By name, the documents to learn from."""
    to_read = set(texts_to_read(data_dir).values())
    news = pd.read_parquet(data_dir / "ag_news" / "train.parquet")["text"]
    return {
        "ag_news": [text for text in news if text not in to_read],
        "reuters": read_archive(data_dir / "text" / "reuters21578.txt.gz"),
        "wikipedia": read_archive(data_dir / "text" / "wikipedia_en_recent.txt.gz"),
    }


def texts_to_read(data_dir: Path) -> dict[str, str]:
    """By place, such as `ag_news/test/12`, the texts that nothing is learned from; of the BBC's no other is."""
    return {
        f"{split}/{row}": text
        for split in ("ag_news/test", "bbc_news/train")
        for row, text in enumerate(pd.read_parquet(data_dir / f"{split}.parquet")["text"])
    }


def read_archive(path: Path) -> list[str]:
    """Some of the documents of a file, which are parted by empty lines."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        documents = file.read().split("\n\n")
    return random.Random(SEED).sample(documents, min(DOCUMENTS, len(documents)))


def hide_words(text: str, others: int, chance: random.Random) -> str:
    """A text without its listed words, or without so many at random, so that a gap tells nothing."""
    words = LIST.sub("", text).split()
    hidden = set(chance.sample(range(len(words)), min(others, len(words) // 4)))
    return " ".join(word for place, word in enumerate(words) if place not in hidden)


@app.command()
def prepare(data_dir: Annotated[Path, typer.Option()], output: Annotated[Path, typer.Option()]):
    """
    Write the task: passages with weak labels, as many of each from every source. Relevant ones for training come twice
    if they can, as they are and without the words that gave them their label: what is left must tell.
    """
    chance = random.Random(SEED)
    rows: dict[str, list[dict[str, str]]] = {"train": [], "validation": []}
    for source, documents in read_sources(data_dir).items():
        found: dict[str, dict[str, list[str]]] = {split: {RELEVANT: [], NOT_RELEVANT: []} for split in rows}
        for document in chance.sample(documents, len(documents)):
            # No document is in both.
            split = "validation" if chance.random() < VALIDATION else "train"
            # Whole news, and single sentences as the Space gives for its reasons.
            for passage in chance.choice((passages_of, sentences_of))(document):
                label = weak_label(passage)
                if label and len(passage.split()) >= MIN_WORDS:
                    found[split][label].append(passage)
        for split, passages in found.items():
            chosen = passages[RELEVANT][: PASSAGES[source]]
            texts = {RELEVANT: chosen}
            if split == "train":
                hidden = [hide_words(text, 0, chance) for text in chosen]
                texts[RELEVANT] = chosen + [text for text in hidden if REST.search(text)]
            texts[NOT_RELEVANT] = passages[NOT_RELEVANT][: len(texts[RELEVANT])]
            for row in range(len(chosen), len(texts[NOT_RELEVANT])):
                texts[NOT_RELEVANT][row] = hide_words(texts[NOT_RELEVANT][row], chance.randint(1, 3), chance)
            rows[split] += [
                {"text": text, "label": label, "source": source}
                for label, labelled in texts.items()
                for text in labelled
            ]
    with new_folder(output) as folder:
        for split, table in rows.items():
            chance.shuffle(table)
            write_table(Dataset.from_list(table), folder / f"{split}.parquet")
            counted = Counter(f"{row['source']}, {row['label']}" for row in table)
            RESULTS.record(("weak labels", split), dict(sorted(counted.items())))


@app.command()
def draw(
    data_dir: Annotated[Path, typer.Option()],
    output: Annotated[Path, typer.Option(help="The texts to read, in jsonl, without what the list says of them.")],
):
    """Draw the texts for somebody to read: some uniformly, some from each stratum of the lists; no model chooses."""
    if RESULTS.found("read"):
        raise ValueError("A sample is drawn: remove `read` and `relevant` from the results to draw another one.")
    texts, chance = texts_to_read(data_dir), random.Random(SEED)
    strata: dict[str, list[str]] = {name: [] for name in BY_STRATUM}
    for place, text in texts.items():
        strata["listed" if is_listed(text) else "unclear" if REST.search(text) else "neither"].append(place)
    chosen = set(chance.sample(list(texts), UNIFORM))
    for name, places in strata.items():
        chosen |= set(chance.sample([place for place in places if place not in chosen], BY_STRATUM[name]))
    read = {
        name: {place: digest_of(texts[place]) for place in places if place in chosen} for name, places in strata.items()
    }
    RESULTS.record(("texts",), {name: len(places) for name, places in strata.items()})
    RESULTS.record(("read",), read)
    order = chance.sample(sorted(chosen), len(chosen))
    write_text(output, "".join(json.dumps({"place": place, "text": texts[place]}) + "\n" for place in order))


@app.command()
def keep(data_dir: Annotated[Path, typer.Option()], labels: Annotated[Path, typer.Option()]):
    """Store what a reader says of the texts: a jsonl file with `place` and `relevant`."""
    said = {row["place"]: row["relevant"] for row in map(json.loads, labels.read_text().splitlines())}
    if missing := {place for places in RESULTS.found("read").values() for place in places} - said.keys():
        raise ValueError(f"{labels} lacks {len(missing)} texts, such as {min(missing)!r}.")
    check_texts(texts_to_read(data_dir))
    RESULTS.record(("relevant",), sorted(place for place, relevant in said.items() if relevant))


def check_texts(texts: dict[str, str]) -> None:
    """Raises a `ValueError` if a text that was read is not the one that is there now."""
    for places in RESULTS.found("read").values():
        for place, digest in places.items():
            if digest_of(texts.get(place, "")) != digest:
                raise ValueError(f"The text of {place!r} is not the one that was read: get that data.")


@app.command()
def evaluate(data_dir: Annotated[Path, typer.Option()], model: Annotated[Path, typer.Option()]):
    """Measure the Space's first pass and the list on the texts that were read."""
    texts = texts_to_read(data_dir)
    check_texts(texts)
    classifier, relevant = PipelineClassifier(str(model)), set(RESULTS.found("relevant"))
    rows = [
        {
            "stratum": stratum,
            "weight": RESULTS.found("texts", stratum) / len(places),
            "relevant": place in relevant,
            "listed": is_listed(texts[place]),
            "score": classifier.judge(texts[place]).score,
        }
        for stratum, places in RESULTS.found("read").items()
        for place in places
    ]
    table = pd.DataFrame(rows)
    table["kept"] = table["score"] > 1 - MIN_CONFIDENCE
    systems = {
        "first pass": (table["score"], 1 - MIN_CONFIDENCE),
        "first pass, kept from 0.5": (table["score"], 0.5),
        "words of crime": (table["listed"].astype(float), 0.5),
        "words of crime or shared": (table["stratum"].map({"listed": 1.0, "unclear": 0.5, "neither": 0.0}), 0.25),
    }
    unlisted = table[~table["listed"]]
    measured = {
        "counts": {
            stratum: {
                "read": len(part),
                "relevant": int(part["relevant"].sum()),
                "kept": int(part["kept"].sum()),
                "relevant and kept": int((part["relevant"] & part["kept"]).sum()),
            }
            for stratum, part in table.groupby("stratum", sort=False)
        },
        "all": {name: measure(table.assign(score=scores), limit) for name, (scores, limit) in systems.items()},
        "not listed": {
            name: measure(unlisted.assign(score=scores[unlisted.index]), limit)
            for name, (scores, limit) in systems.items()
            if name != "words of crime"
        },
    }
    RESULTS.record(("measured",), measured)
    show()


def measure(table: pd.DataFrame, limit: float) -> dict[str, list[float]]:
    """
    What keeping the texts with a score above a limit is worth, each figure with its 95 % interval. A text counts for as
    many as its weight says. The AUC's interval is a bootstrap's within strata; those of shares are Korn and Graubard's:
    of texts that are all kept a bootstrap would say that no other could be lost.
    """
    relevant, scores, weight = (table[name].to_numpy() for name in ("relevant", "score", "weight"))
    kept = scores > limit
    chance = np.random.default_rng(SEED)
    parts = [np.flatnonzero(table["stratum"] == name) for name in table["stratum"].unique()]
    drawn = (np.concatenate([chance.choice(part, len(part)) for part in parts]) for _ in range(RESAMPLES))
    areas = [roc_auc_score(relevant[rows], scores[rows], sample_weight=weight[rows]) for rows in drawn]
    return {
        "recall": share(kept[relevant], weight[relevant]),
        "precision": share(relevant[kept], weight[kept]),
        "dropped": share(~kept[~relevant], weight[~relevant]),
        "auc": [
            float(roc_auc_score(relevant, scores, sample_weight=weight)),
            *np.percentile(areas, (2.5, 97.5)).tolist(),
        ],
    }


def share(hits: np.ndarray, weight: np.ndarray) -> list[float]:
    """A weighted share, and Clopper and Pearson's interval for as many texts as the weights leave in effect."""
    value, texts = float(np.average(hits, weights=weight)), weight.sum() ** 2 / (weight**2).sum()
    found = value * texts
    low = float(beta.ppf(0.025, found, texts - found + 1)) if value > 0 else 0.0
    return [value, low, float(beta.ppf(0.975, found + 1, texts - found)) if value < 1 else 1.0]


def cell(figure: list[float], percent: bool = True) -> str:
    """A figure with its interval."""
    return "{} ({}-{})".format(*(f"{value:.1%}" if percent else f"{value:.3f}" for value in figure))


def render(results: dict) -> str:
    """The tables of the Space's README."""
    lines = ["| | recall | precision | irrelevant texts dropped | AUC |", "|---|---|---|---|---|"]
    titles = {"all": "{}", "not listed": "{}, texts without a listed word"}
    for group, title in titles.items():
        for name, found in results["measured"][group].items():
            cells = [cell(found[figure], figure != "auc") for figure in ("recall", "precision", "dropped", "auc")]
            lines.append(f"| {title.format(name)} | {' | '.join(cells)} |")
    lines += [
        "",
        "| words of the lists | texts | read | kept | relevant | relevant and kept |",
        "|---|---|---|---|---|---|",
    ]
    for stratum, counts in results["measured"]["counts"].items():
        cells = [str(counts[name]) for name in ("read", "kept", "relevant", "relevant and kept")]
        lines.append(f"| {stratum} | {results['texts'][stratum]:,} | {' | '.join(cells)} |")
    return "\n".join(lines)


@app.command()
def show():
    print(render(RESULTS.read()))


if __name__ == "__main__":
    app()
