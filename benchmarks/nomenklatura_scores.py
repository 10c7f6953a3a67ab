"""Scores of nomenklatura's matchers for pairs of names, for `name_screening.py`: its environment is its own.

python benchmarks/nomenklatura_scores.py logic-v2 < pairs.json > scores.json
"""

import json
import sys
import time

from followthemoney import model
from nomenklatura.matching import get_algorithm


SCHEMAS = {"person": "Person", "organisation": "Organization"}


def entity(number: int, kind: str, name: str):
    made = model.make_entity(SCHEMAS[kind])
    # The matchers remember what they know of an identifier.
    made.id = f"entity-{number}"
    made.add("name", name)
    return made


def main():
    algorithm = get_algorithm(sys.argv[1])
    config = algorithm.default_config()
    pairs = [
        (entity(2 * number, kind, first), entity(2 * number + 1, kind, second))
        for number, (first, second, kind) in enumerate(json.load(sys.stdin))
    ]
    # Loads what it needs before the clock runs.
    algorithm.compare(entity(-1, "person", "Ann Lee"), entity(-2, "person", "Anna Li"), config)
    start = time.perf_counter()
    scores = [algorithm.compare(first, second, config).score for first, second in pairs]
    json.dump({"scores": scores, "seconds": time.perf_counter() - start}, sys.stdout)


if __name__ == "__main__":
    main()
