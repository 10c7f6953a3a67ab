"""Scores of nomenklatura's matchers for pairs of names, for `name_screening.py`: its environment is its own.

python benchmarks/nomenklatura_scores.py logic-v2 < pairs.json > scores.json
"""

import json
import sys
import time

from followthemoney import model
from nomenklatura.matching import get_algorithm


SCHEMAS = {"person": "Person", "organisation": "Organization"}


def entity(side: str, kind: str, name: str):
    made = model.make_entity(SCHEMAS[kind])
    made.id = side
    made.add("name", name)
    return made


def main():
    algorithm = get_algorithm(sys.argv[1])
    config = algorithm.default_config()
    pairs = [(entity("a", kind, first), entity("b", kind, second)) for first, second, kind in json.load(sys.stdin)]
    start = time.perf_counter()
    scores = [algorithm.compare(first, second, config).score for first, second in pairs]
    json.dump({"scores": scores, "seconds": time.perf_counter() - start}, sys.stdout)


if __name__ == "__main__":
    main()
