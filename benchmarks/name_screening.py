"""Name screening on public names: recall and false positives beside rapidfuzz and nomenklatura, and speed.

COMPACTBERT_DATA=... python benchmarks/name_screening.py quality --nomenklatura PYTHON
COMPACTBERT_DATA=... python benchmarks/name_screening.py lists
COMPACTBERT_DATA=... python benchmarks/name_screening.py speed 100000 1000000
COMPACTBERT_DATA=... python benchmarks/name_screening.py review
COMPACTBERT_DATA=... python benchmarks/name_screening.py cosines
COMPACTBERT_DATA=... python benchmarks/name_screening.py bulk 1000000

`review` also writes the model of the second-level review that comes with the Space.
"""

import argparse
import hashlib
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
import unicodedata
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd
from rapidfuzz import fuzz, process, utils
from sklearn.metrics import roc_auc_score


sys.path.insert(0, str(Path(__file__).parent.parent / "spaces" / "name_screening"))
from results import Results

from compactbert.files import write_text
from screening import matching
from screening.bulk import screen_parquet
from screening.fields import PUBLIC_MODEL, WORD_COUNTS, FieldModel, field_values
from screening.learning import MIN_AUC, PUBLIC_ROWS, recall_interval, train_model
from screening.lists import Entry, read_ofac, read_un
from screening.matching import DEFAULT_THRESHOLD, RULES_VERSION, Customer, Screener, name_similarity
from screening.names import Name, is_latin, parse_name


DATA = Path(os.environ.get("COMPACTBERT_DATA", "data")) / "names"
RESULTS = Results(__file__)
SEED = 0
KINDS = {"individual": "person", "entity": "organisation", "pep": "person"}
# Pairs of each group and half, at most.
POSITIVES, NEGATIVES = 1500, 3000
# Share of nearest-name negatives that may be above a system's threshold on the half it is chosen on.
FALSE_POSITIVES = (0.01, 0.05)
RESAMPLES = 1000
# Politicians whose names are in another script.
OTHER_SCRIPTS = 1000


def half_of(key: str) -> str:
    """Which half an entity belongs to: thresholds are chosen on one and reported on the other."""
    return "tune" if hashlib.sha256(f"{SEED}{key}".encode()).digest()[0] < 128 else "test"


def script_of(text: str) -> str:
    """The script of most letters."""
    letters = [unicodedata.name(letter, "?").split()[0] for letter in text if letter.isalpha()]
    return max(set(letters), key=letters.count) if letters else ""


def positive_pairs() -> pd.DataFrame:
    """Two names of one listed person or organisation, or of one politician."""
    sanctions = pd.read_parquet(DATA / "sanctions_alias_pairs.parquet")
    sanctions = sanctions[sanctions.type.isin(["individual", "entity"])]
    rows = [(row.name1, row.name2, row.type, row.source) for row in sanctions.itertuples()]
    for row in pd.read_parquet(DATA / "everypolitician_names.parquet").itertuples():
        rows += [(row.names[0], other, "pep", row.id) for other in row.names[1:]]
    pairs = pd.DataFrame(rows, columns=["first", "second", "source", "key"])
    same = [
        script_of(first) == script_of(second) for first, second in zip(pairs["first"], pairs["second"], strict=True)
    ]
    pairs["script"] = np.where(same, "same", "cross")
    pairs["half"] = pairs["key"].map(half_of)
    groups = [group.sample(min(len(group), POSITIVES), random_state=SEED) for _, group in pairs.groupby(GROUP)]
    return pd.concat(groups, ignore_index=True)


GROUP = ["source", "script", "half"]


def negative_pairs(positives: pd.DataFrame) -> pd.DataFrame:
    """
    Names that are nobody's on the list, each with the listed names nearest to it: the two nearest by each of two
    rapidfuzz ratios over transliterated names, and by our own score with the encoder and without, so that every system
    meets its own worst cases.
    """
    listed = positives[positives["source"] != "entity"]
    names = list(dict.fromkeys(listed["first"]))
    parsed = [parse_name(name) for name in names]
    latin = [name.latin for name in parsed]
    screener = Screener(Entry("listed", str(place), "person", (name,)) for place, name in enumerate(names))
    made_up = [pd.read_csv(DATA / f"yente_negatives_{world}_20k.csv.gz")["full_name"] for world in ("global", "us")]
    customers = pd.concat([column.sample(1500, random_state=SEED) for column in made_up]).drop_duplicates()
    politicians = listed[listed["source"] == "pep"].groupby("script").head(1500)
    own = positives.groupby("key")[["first", "second"]].agg(list)
    queries = [(name, name, set()) for name in customers]
    queries += [
        (row.second, row.key, {*own.loc[row.key, "first"], *own.loc[row.key, "second"]})
        for row in politicians.itertuples()
    ]
    rows = []
    for text, key, others in queries:
        query = parse_name(text)
        if not query.words:
            continue
        nearest = set()
        for scorer in (fuzz.token_sort_ratio, fuzz.token_set_ratio):
            nearest.update(place for _, _, place in process.extract(query.latin, latin, scorer=scorer, limit=4)[:4])
        found = screener.candidates(query)
        for scorer in (name_similarity, rules_similarity):
            best = sorted(found, key=lambda row: -scorer(query, screener.names[row]))
            nearest.update(screener.owners[row][0][0] for row in best[:3])
        # A namesake is no error of a system that only sees names.
        wrong = [names[place] for place in nearest if names[place] not in others and latin[place] != query.latin]
        rows += [(text, name, key) for name in wrong]
    pairs = pd.DataFrame(rows, columns=["first", "second", "key"]).drop_duplicates()
    same = [
        script_of(first) == script_of(second) for first, second in zip(pairs["first"], pairs["second"], strict=True)
    ]
    pairs["script"] = np.where(same, "same", "cross")
    pairs["half"] = pairs["key"].map(half_of)
    groups = [
        group.sample(min(len(group), NEGATIVES), random_state=SEED) for _, group in pairs.groupby(["script", "half"])
    ]
    return pd.concat(groups, ignore_index=True).assign(source="pep")


def ours(first: str, second: str) -> float:
    names = parse_name(first), parse_name(second)
    return name_similarity(*names) if names[0].words and names[1].words else 0.0


def rules_alone(first: str, second: str) -> float:
    names = parse_name(first), parse_name(second)
    return rules_similarity(*names) if names[0].words and names[1].words else 0.0


def rules_similarity(first: Name, second: Name) -> float:
    """Our score where the encoder has nothing to read."""
    return name_similarity(replace(first, written=()), replace(second, written=()))


def ratio(scorer: Callable[..., float]) -> Callable[[str, str], float]:
    return lambda first, second: scorer(first, second, processor=utils.default_process) / 100


SYSTEMS = {
    "this Space": ours,
    "this Space, rules alone": rules_alone,
    "rapidfuzz token_sort_ratio": ratio(fuzz.token_sort_ratio),
    "rapidfuzz token_set_ratio": ratio(fuzz.token_set_ratio),
    "rapidfuzz WRatio": ratio(fuzz.WRatio),
}
# What yente, which serves nomenklatura's matchers, calls a match.
NOMENKLATURA_THRESHOLD = 0.7
NOMENKLATURA = ("logic-v1", "logic-v2", "name-based", "regression-v1")


def score_pairs(system: Callable[[str, str], float], pairs: pd.DataFrame) -> tuple[np.ndarray, float]:
    """Scores, and microseconds for a pair."""
    start = time.perf_counter()
    scores = np.array([system(first, second) for first, second in zip(pairs["first"], pairs["second"], strict=True)])
    return scores, (time.perf_counter() - start) / len(pairs) * 1e6


def score_with_nomenklatura(python: str, algorithm: str, pairs: pd.DataFrame) -> tuple[np.ndarray, float]:
    """The same by nomenklatura, in its own environment."""
    rows = list(zip(pairs["first"], pairs["second"], pairs["source"].map(KINDS), strict=True))
    script = Path(__file__).with_name("nomenklatura_scores.py")
    done = subprocess.run(
        [python, script, algorithm], input=json.dumps(rows), capture_output=True, text=True, check=True
    )
    answer = json.loads(done.stdout)
    return np.array(answer["scores"]), answer["seconds"] / len(pairs) * 1e6


def interval(hits: np.ndarray, keys: pd.Series) -> dict[str, float]:
    """A share with the 95 % interval of a bootstrap over entities, whose pairs are not independent."""
    table = pd.DataFrame({"hit": hits, "key": keys.to_numpy()}).groupby("key")["hit"].agg(["sum", "count"]).to_numpy()
    draws = np.random.default_rng(SEED).integers(len(table), size=(RESAMPLES, len(table)))
    shares = table[draws, 0].sum(1) / table[draws, 1].sum(1)
    low, high = np.quantile(shares, [0.025, 0.975])
    return {"share": float(hits.mean()), "low": float(low), "high": float(high), "pairs": len(hits)}


def threshold_for(scores: np.ndarray, share: float) -> float:
    """The lowest threshold that at most this share of the scores reaches."""
    for threshold in np.unique(np.append(scores, 1.0)):
        if (scores >= threshold).mean() <= share:
            return float(threshold)
    return float(np.nextafter(scores.max(), np.inf))


def report(scores: np.ndarray, pairs: pd.DataFrame, threshold: float) -> dict:
    """Recall of every group of positives and false positives of every group of negatives, on the half for reports."""
    groups = {}
    for (source, script), group in pairs[pairs["half"] == "test"].groupby(["group", "script"]):
        groups[f"{source} {script}"] = interval(scores[group.index] >= threshold, group["key"])
    return {"threshold": threshold, **groups}


def measure_quality(python: str | None) -> None:
    """Every system that has no result yet."""
    positives = positive_pairs()
    negatives = negative_pairs(positives)
    pairs = pd.concat(
        [positives.assign(group=positives["source"]), negatives.assign(group="negative")], ignore_index=True
    )
    print(pairs.groupby(["group", "script", "half"]).size())
    # Negatives of each script count alike, whatever their number.
    tuning = {
        script: pairs.query(f"half == 'tune' and group == 'negative' and script == '{script}'").index
        for script in ("same", "cross")
    }
    systems = {name: lambda system=system: score_pairs(system, pairs) for name, system in SYSTEMS.items()}
    if python:
        systems |= {
            f"nomenklatura {name}": lambda name=name: score_with_nomenklatura(python, name, pairs)
            for name in NOMENKLATURA
        }
    for name, system in systems.items():
        if RESULTS.found("quality", name):
            continue
        scores, microseconds = system()
        result: dict = {"microseconds_per_pair": microseconds}
        for share in FALSE_POSITIVES:
            threshold = threshold_for(np.concatenate([scores[index[:1000]] for index in tuning.values()]), share)
            result[f"at {share:.0%} false positives"] = report(scores, pairs, threshold)
        if name.startswith("this Space"):
            result["at the default threshold"] = report(scores, pairs, DEFAULT_THRESHOLD)
        if name.startswith("nomenklatura"):
            result["at its own threshold"] = report(scores, pairs, NOMENKLATURA_THRESHOLD)
        RESULTS.record(("quality", name), result)
        print(name, json.dumps(result, indent=1))
    RESULTS.record(("versions", "rapidfuzz"), version("rapidfuzz"))
    RESULTS.record(("versions", "rules"), RULES_VERSION)
    if python:
        command = [python, "-c", "from importlib.metadata import version; print(version('nomenklatura'))"]
        printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        RESULTS.record(("versions", "nomenklatura"), printed.strip())


def measure_lists() -> None:
    """The published lists as they are: customers who are on them under a name that was taken off, and who are not."""
    entries = read_ofac(DATA / "ofac_sdn.csv.gz", DATA / "ofac_alt.csv.gz") + read_un(DATA / "un_consolidated.xml.gz")
    entries = [entry for entry in entries if entry.kind in ("person", "organisation")]
    rng = random.Random(SEED)
    held_out: dict[int, str] = {}
    kept = []
    for place, entry in enumerate(entries):
        names = list(entry.names)
        if len(names) > 1 and half_of(f"{entry.list_name}{entry.source_id}") == "test":
            held_out[place] = names.pop(rng.randrange(1, len(names)))
        kept.append(
            Entry(entry.list_name, entry.source_id, entry.kind, tuple(names), entry.birth_dates, entry.countries)
        )
    screener = Screener(kept)
    recall = {}
    for kind in ("person", "organisation"):
        found, keys = [], []
        for place, name in held_out.items():
            if kept[place].kind == kind and parse_name(name).words:
                matches = screener.screen(Customer("c", name, kind=kind))
                found.append(any(match.entry is kept[place] for match in matches))
                keys.append(str(place))
        recall[kind] = interval(np.array(found), pd.Series(keys))
    false = {}
    full = Screener(entries)
    for world in ("global", "us"):
        table = pd.read_csv(DATA / f"yente_negatives_{world}_20k.csv.gz").fillna("")
        table = table[[half_of(name) == "test" for name in table["full_name"]]]
        rows = list(zip(table["full_name"], table["date_of_birth"], table["nationality"], strict=True))
        for fields in ("names only", "all fields"):
            customers = [
                Customer(str(i), name, (), "person", *((born, country) if fields == "all fields" else ()))
                for i, (name, born, country) in enumerate(rows)
            ]
            start = time.perf_counter()
            counts = np.array([len(full.screen(customer)) for customer in customers])
            seconds = time.perf_counter() - start
            shares = interval(counts > 0, pd.Series(range(len(counts))))
            false[f"{world}, {fields}"] = {
                **shares,
                "alerts": int(counts.sum()),
                "customers_per_second": len(rows) / seconds,
            }
    false |= alerts_across(full)
    result = {"threshold": DEFAULT_THRESHOLD, "entries": len(entries), "names": len(full.names)}
    result |= {"recall_of_names_taken_off": recall, "customers_with_alerts": false}
    RESULTS.record(("lists",), result)
    print(json.dumps(result, indent=1))


def alerts_across(screener: Screener) -> dict[str, dict[str, float]]:
    """
    The share of politicians who are like a listed name: by a name in another script with the encoder and without, and
    by a Latin name of the same politicians.
    """
    politicians = pd.read_parquet(DATA / "everypolitician_names.parquet")
    both = []
    for names in politicians["names"][politicians["id"].map(half_of) == "test"]:
        latin = next((name for name in names if is_latin(name) and parse_name(name).words), None)
        other = next((name for name in names if not is_latin(name)), None)
        if latin and other:
            both.append((parse_name(latin), parse_name(other)))
    latin, other = zip(*random.Random(SEED).sample(both, OTHER_SCRIPTS), strict=True)
    likeness = {
        "politicians, other scripts": (other, screener.candidates, name_similarity),
        "politicians, other scripts, rules alone": (other, screener.index.search, rules_similarity),
        "the same politicians, Latin letters": (latin, screener.candidates, name_similarity),
    }
    found = {}
    for group, (names, search, scorer) in likeness.items():
        best = [max((scorer(name, screener.names[row]) for row in search(name)), default=0.0) for name in names]
        found[group] = interval(np.array(best) >= DEFAULT_THRESHOLD, pd.Series(range(len(best))))
    return found


# What a bank knows of its customers, in the trial of the second-level review: shares of those without a birth date and
# without a country, and of birth dates that are the year alone, have day and month changed, or are a year or two off.
NO_BIRTH_DATE, NO_COUNTRY = 0.3, 0.4
YEAR_ALONE, DAY_AND_MONTH, OTHER_YEAR = 0.1, 0.05, 0.1
# Customers who live or are citizens elsewhere than the list says.
MOVED, LETTER_LOST = 0.15, 0.3
MADE_UP = 10_000


def noisy_customer(rng: random.Random, name: str, kind: str, born: str, country: str, countries: list[str]) -> Customer:
    """A customer as a bank has them: fields that are missing or wrong, in the same shares whoever it is."""
    born, chance = born.split("/")[0], rng.random()
    if rng.random() < NO_BIRTH_DATE:
        born = ""
    elif chance < YEAR_ALONE:
        born = born[:4]
    elif chance < YEAR_ALONE + DAY_AND_MONTH and len(born) == 10 and int(born[8:]) <= 12:
        born = f"{born[:4]}-{born[8:]}-{born[5:7]}"
    elif 1 - chance < OTHER_YEAR and born:
        born = f"{int(born[:4]) + rng.choice((-2, -1, 1, 2))}{born[4:]}"
    country = rng.choice(countries) if rng.random() < MOVED else country
    return Customer("c", name, (), kind, born, "" if rng.random() < NO_COUNTRY else country)


def as_written(rng: random.Random, name: str) -> str:
    """A listed name as a bank may have it: the family name last as often as not, sometimes with a letter lost."""
    if rng.random() < 0.5:
        name = " ".join(part.strip() for part in reversed(name.split(",", 1)))
    if rng.random() < LETTER_LOST and len(name) > 5:
        place = rng.randrange(1, len(name))
        name = name[:place] + name[place + 1 :]
    return name


def review_customers(entries: list[Entry], held_out: dict[int, str]) -> list[tuple[str, int, Customer]]:
    """
    Customers as (group, place of the entry they are or -1, customer): listed under a name that was taken off, and
    under the main one; named with the words of two listed names, with the birth date and country of a third; made up.
    """
    rng = random.Random(SEED + 2)
    of_kind = {kind: [entry for entry in entries if entry.kind == kind] for kind in ("person", "organisation")}
    births = [date for entry in entries for date in entry.birth_dates[:1]]
    countries = [country for entry in entries for country in entry.countries[:1]]
    found = []
    own = [("other name", place, as_written(rng, name)) for place, name in held_out.items()]
    own += [("main name", place, as_written(rng, entry.names[0])) for place, entry in enumerate(entries)]
    for group, place, name in own:
        entry = entries[place]
        born = rng.choice(entry.birth_dates or births) if entry.kind == "person" else ""
        country = rng.choice(entry.countries or countries)
        if parse_name(name).words:
            found.append((group, place, noisy_customer(rng, name, entry.kind, born, country, countries)))
    for _ in range(MADE_UP):
        kind = rng.choice(("person", "person", "organisation"))
        words = [rng.choice(rng.choice(of_kind[kind]).names).split() for _ in range(2)]
        name = as_written(rng, " ".join((*words[0][: -(len(words[0]) // 2) or None], *words[1][len(words[1]) // 2 :])))
        donor = rng.choice(of_kind[kind])
        born = rng.choice(donor.birth_dates or births) if kind == "person" else ""
        if parse_name(name).words:
            customer = noisy_customer(rng, name, kind, born, rng.choice(donor.countries or countries), countries)
            found.append(("mixed names", -1, customer))
    for world in ("global", "us"):
        for row in pd.read_csv(DATA / f"yente_negatives_{world}_20k.csv.gz").fillna("").itertuples():
            customer = noisy_customer(rng, row.full_name, "person", row.date_of_birth, row.nationality, countries)
            found.append((f"made up, {world}", -1, customer))
    return found


def review_rows(entries: list[Entry]) -> pd.DataFrame:
    """The fields of every alert that these customers raise, with 1 where the customer is the entry."""
    rng = random.Random(SEED)
    held_out, kept = {}, []
    for place, entry in enumerate(entries):
        names = list(entry.names)
        if len(names) > 1:
            held_out[place] = names.pop(rng.randrange(1, len(names)))
        kept.append(
            Entry(entry.list_name, entry.source_id, entry.kind, tuple(names), entry.birth_dates, entry.countries)
        )
    screener = Screener(kept)
    rows = []
    for group, place, customer in review_customers(kept, held_out):
        own = {parse_name(name).latin for name in entries[place].names} if place >= 0 else set()
        for match in screener.screen(customer):
            is_own = place >= 0 and match.entry is kept[place]
            # Who is on both lists is no false alert of the other.
            if not is_own and own & {parse_name(name).latin for name in match.entry.names}:
                continue
            key = f"{match.entry.list_name}/{match.entry.source_id}"
            values = field_values(customer, match.entry, match.customer_name, match.listed_name)
            rows.append({**values, "label": int(is_own), "entry": key, "group": group, "score": match.score})
    table = pd.DataFrame(rows)
    return table.assign(half=table["entry"].map(half_of))


def measure_review() -> None:
    """The second-level review: trained on the entries of one half, measured on those of the other."""
    entries = read_ofac(DATA / "ofac_sdn.csv.gz", DATA / "ofac_alt.csv.gz") + read_un(DATA / "un_consolidated.xml.gz")
    entries = [entry for entry in entries if entry.kind in ("person", "organisation")]
    counts = Counter(
        word for entry in entries for word in {word for name in entry.names for word in parse_name(name).words}
    )
    several = {word: count for word, count in sorted(counts.items()) if count > 2}
    write_text(WORD_COUNTS, json.dumps({"entries": len(entries), "words": several}) + "\n")
    rows = review_rows(entries)
    train, test = (rows[rows["half"] == half] for half in ("tune", "test"))
    fields = [name for name in rows if name not in ("label", "entry", "group", "score", "half")]
    stored = train[[*fields, "label", "entry"]].astype({**dict.fromkeys(fields, "float32"), "label": "int8"})
    stored.to_parquet(PUBLIC_ROWS, index=False, compression="zstd")
    start = time.process_time()
    model = train_model(
        train[fields].to_numpy(), train["label"].to_numpy(), train["entry"].tolist(), version="public-1", fields=fields
    )
    seconds = time.process_time() - start
    if model.auc < MIN_AUC:
        sys.exit(f"The best model has an AUC of {model.auc:.4f}: none is kept.")
    write_text(PUBLIC_MODEL, json.dumps(model.to_dict()) + "\n")
    model = FieldModel.from_dict(json.loads(PUBLIC_MODEL.read_text()))
    probabilities = model.probabilities(test[fields].to_numpy())
    labels = test["label"].to_numpy()
    matches, false_alerts = (
        {
            "all": labels == label,
            **{name: (labels == label) & (test["group"] == name).to_numpy() for name in names},
        }
        for label, names in (
            (1, ("main name", "other name")),
            (0, ("main name", "other name", "mixed names", "made up, global", "made up, us")),
        )
    )
    result = {
        "algorithm": model.algorithm,
        "fields": len(fields),
        "threshold": model.threshold,
        "cross_validated_auc": model.notes["auc"],
        "auc": float(roc_auc_score(labels, probabilities)),
        "auc_of_the_score": float(roc_auc_score(labels, test["score"])),
        "train": {"alerts": len(train), "matches": int(train["label"].sum())},
        "train_seconds": seconds,
        # One pair an entry in each: they are independent, which false alerts of one entry are not.
        "recall": {group: recall_of(probabilities[chosen] >= model.threshold) for group, chosen in matches.items()},
        "false_alerts_removed": {
            group: interval(probabilities[chosen] < model.threshold, test["entry"][chosen])
            for group, chosen in false_alerts.items()
        },
    }
    RESULTS.record(("review",), result)
    print(json.dumps(result, indent=1))


def recall_of(hits: np.ndarray) -> dict[str, float]:
    """A share with the 95 % interval of Clopper and Pearson."""
    low, high = recall_interval(int(hits.sum()), len(hits))
    return {"share": float(hits.mean()), "low": low, "high": high, "pairs": len(hits)}


def many_names(count: int, *, latin: bool | None = None) -> list[str]:
    """
    Real names, and beyond their number their words put together anew, those of one script; all of them, or those in
    Latin letters, or those that are not.
    """
    politicians = pd.read_parquet(DATA / "everypolitician_names.parquet")["names"].map(lambda names: names[0]).tolist()
    made_up = [pd.read_csv(DATA / f"yente_negatives_{world}_20k.csv.gz") for world in ("global", "us")]
    names = dict.fromkeys(politicians + [name for table in made_up for name in table["full_name"]])
    if latin is not None:
        names = dict.fromkeys(name for name in names if is_latin(name) == latin)
    rng = random.Random(SEED)
    parts = [name.split() for name in names if len(name.split()) > 1]
    of_script: dict[str, list[list[str]]] = {}
    for words in parts:
        of_script.setdefault(script_of(words[-1]), []).append(words)
    while len(names) < count:
        first = rng.choice(parts)
        last = rng.choice(of_script[script_of(first[-1])])
        names.setdefault(" ".join((*first[:-1], last[-1])))
    return list(names)[:count]


def measure_speed(count: int) -> None:
    """In a process of its own: memory is the process's peak. Times are processor time."""
    names = many_names(count)
    entries = [Entry("many", str(number), "person", (name,)) for number, name in enumerate(names)]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.process_time()
    screener = Screener(entries)
    build = time.process_time() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    rng = random.Random(SEED + 1)
    # Half of the customers are listed with a letter lost, half are not.
    queries = [name[:2] + name[3:] for name in rng.sample(names, 500)]
    parts = [name.split() for name in rng.sample(names, 1000)]
    queries += [" ".join((*a[:-1], b[-1])) for a, b in zip(parts[:500], parts[500:], strict=True)]
    customers = [Customer(str(number), name) for number, name in enumerate(queries) if parse_name(name).words]
    rng.shuffle(customers)
    search, screen = [], []
    for customer in customers:
        start = time.process_time()
        screener.index.search(parse_name(customer.name))
        search.append(time.process_time() - start)
        start = time.process_time()
        screener.screen(customer)
        screen.append(time.process_time() - start)
    start = time.process_time()
    for customer in customers[:5]:
        process.extract(customer.name, names, scorer=fuzz.token_sort_ratio, processor=utils.default_process, limit=5)
    scan = (time.process_time() - start) / 5
    result = {
        "build_seconds": build,
        "index_megabytes": screener.index.nbytes / 1e6,
        "process_megabytes": {"before": before / 1e3, "after": peak / 1e3},
        "search_ms": {"median": float(np.median(search) * 1e3), "p95": float(np.quantile(search, 0.95) * 1e3)},
        "screen_ms": {"median": float(np.median(screen) * 1e3), "p95": float(np.quantile(screen, 0.95) * 1e3)},
        "customers_per_second": len(screen) / sum(screen),
        "rapidfuzz_scan_ms": scan * 1e3,
    }
    RESULTS.record(("speed", str(count)), result)
    print(count, json.dumps(result, indent=1))


def measure_bulk(count: int, latin: bool) -> None:
    """A parquet of made-up customers against the published lists, in a process of its own."""
    entries = read_ofac(DATA / "ofac_sdn.csv.gz", DATA / "ofac_alt.csv.gz") + read_un(DATA / "un_consolidated.xml.gz")
    screener = Screener(entries)
    names = many_names(count, latin=latin)
    random.Random(SEED).shuffle(names)
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "customers.parquet", Path(folder) / "matches.parquet"
        pd.DataFrame({"id": [str(number) for number in range(count)], "name": names}).to_parquet(source)
        del names
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        start, processor = time.perf_counter(), time.process_time()
        counts = screen_parquet(source, target, screener)
        seconds, processor = time.perf_counter() - start, time.process_time() - processor
    result = {
        **counts,
        "names": len(screener.names),
        "seconds": seconds,
        "processor_seconds": processor,
        "customers_per_second": count / seconds,
        "customers_per_processor_second": count / processor,
        "process_megabytes": {
            "before": before / 1e3,
            "after": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3,
        },
    }
    RESULTS.record(("bulk", "Latin letters" if latin else "other scripts"), result)
    print(json.dumps(result, indent=1))


# From which cosine of the encoder on words are alike, and from which on the same; and the same of short ones.
COSINES = [
    ((0.55, 0.9), (0.7, 1.0)),
    ((0.67, 0.85), (0.7, 1.0)),
    ((0.67, 0.85), (0.67, 0.85)),
    ((0.7, 0.9), (0.7, 1.0)),
]


def measure_cosines() -> None:
    """Recall and false positives across scripts at the default threshold, on the half that is chosen on."""
    positives = positive_pairs()
    negatives = negative_pairs(positives)
    halves = [pairs.query("script == 'cross' and half == 'tune'") for pairs in (positives, negatives)]
    points = {}
    for matching.COSINES, matching.SHORT_COSINES in COSINES:
        matching.across_similarity.cache_clear()
        shares = [float((score_pairs(ours, pairs)[0] >= DEFAULT_THRESHOLD).mean()) for pairs in halves]
        name = f"{matching.COSINES}, short {matching.SHORT_COSINES}"
        points[name] = dict(zip(("recall", "false_positives"), shares, strict=True))
        print(name, shares)
    RESULTS.record(("cosines",), points)


COLUMNS = {
    "individual same": "sanctioned persons",
    "entity same": "organisations",
    "pep same": "politicians",
    "individual cross": "persons, other script",
    "pep cross": "politicians, other script",
    "negative same": "false positives",
    "negative cross": "false positives, other script",
}


def render(results: dict) -> str:
    """The README's table: recall, and the share of nearest wrong names that are taken for right."""
    lines = [f"| system | threshold | {' | '.join(COLUMNS.values())} |", "|---" * (len(COLUMNS) + 2) + "|"]
    systems = results["quality"]
    for name in (*SYSTEMS, *(f"nomenklatura {name}" for name in NOMENKLATURA)):
        for point in ("at 1% false positives", "at its own threshold"):
            found = systems[name].get(point)
            # Above 1: even the pairs that it is surest of are false too often.
            if found and found["threshold"] <= 1:
                cells = ["{share:.1%} ({low:.1%}-{high:.1%})".format(**found[column]) for column in COLUMNS]
                lines.append(f"| {name} | {found['threshold']:.3f} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    quality = commands.add_parser("quality")
    quality.add_argument("--nomenklatura", help="a Python that has nomenklatura")
    commands.add_parser("lists")
    commands.add_parser("review")
    commands.add_parser("cosines")
    commands.add_parser("speed").add_argument("counts", type=int, nargs="+")
    bulk = commands.add_parser("bulk")
    bulk.add_argument("count", type=int)
    bulk.add_argument("--other-scripts", action="store_true")
    commands.add_parser("render")
    given = parser.parse_args()
    if given.command == "quality":
        measure_quality(given.nomenklatura)
    elif given.command == "lists":
        measure_lists()
    elif given.command == "review":
        measure_review()
    elif given.command == "cosines":
        measure_cosines()
    elif given.command == "render":
        print(render(RESULTS.read()))
    elif given.command == "bulk":
        measure_bulk(given.count, not given.other_scripts)
    elif len(given.counts) > 1:
        for count in given.counts:
            subprocess.run([sys.executable, __file__, given.command, str(count)], check=True)
    else:
        measure_speed(given.counts[0])


if __name__ == "__main__":
    main()
