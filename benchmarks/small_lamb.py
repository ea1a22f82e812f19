"""Picks as lamb becomes small against F: ours and the plain float64 formula's, held to 60 digits.

    python benchmarks/small_lamb.py

Pools of ten samples: dense rows of full and of lower rank, heads, masked heads, one column of some
a thousand times larger; with labels and without, no, one or two backward steps. Left out are pools
where 60 digits tell two samples apart by less than a tie. Prints a table and writes a dated record;
exits with 1 where plain float64 finds all picks and we do not.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from records import write_record

from fishermask_fast import PrecisionWarning, build_info, reference, select_batch

TESTS = Path(__file__).parents[1] / "tests"
sys.path[:0] = [str(TESTS), str(TESTS / "engine")]
import digits  # noqa: E402
from test_digits import KINDS, K, pool, problem, resolved  # noqa: E402

RATIOS = (1.0, 1e-2, 1e-4, 1e-6, 1e-8, 1e-10, 1e-12, 1e-13, 1e-14)


@dataclass
class Count:
    """Pools at one lamb.

    Attributes:
        ratio: lamb over the largest eigenvalue of F.
        pools: those in which no step is a tie.
        plain_wrong: in how many of them the plain formula finds other samples than 60 digits do.
        wrong: in how many of them we do.
        lost: in how many of them we do and the plain formula does not.
        warned: in how many of them a PrecisionWarning was given.
    """

    ratio: float
    pools: int = 0
    plain_wrong: int = 0
    wrong: int = 0
    lost: int = 0
    warned: int = 0


def count(ratio: float, seeds: int) -> Count:
    found = Count(ratio)
    settings = itertools.product(KINDS, range(seeds), (False, True), (0, 1, 2))
    for kind, seed, labels, backward in settings:
        factors = pool(kind, seed)
        given = problem(factors, ratio, labels, backward)
        exact = digits.select(factors.dense(), K, **given)
        if not resolved(exact):
            continue
        plain, _ = reference.select(factors.dense(), K, **given)
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always", PrecisionWarning)
            ours = select_batch(factors, K, **given)
        plain_wrong, wrong = plain != exact.kept, ours.indices.tolist() != exact.kept
        found.pools += 1
        found.plain_wrong += plain_wrong
        found.wrong += wrong
        found.lost += wrong and not plain_wrong
        found.warned += any(issubclass(each.category, PrecisionWarning) for each in told)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--output", type=Path, help="where the record goes; default: results/")
    arguments = parser.parse_args()
    counts = []
    print("| lamb / largest eigenvalue of F | pools | plain float64 wrong | ours wrong | warned |")
    print("|---:|---:|---:|---:|---:|")
    for ratio in RATIOS:
        one = count(ratio, arguments.seeds)
        print(f"| {ratio:g} | {one.pools} | {one.plain_wrong} | {one.wrong} | {one.warned} |")
        counts.append(one)
    record = {
        "instruction_set": build_info().instruction_set,
        "torch": torch.__version__,
        "seeds": arguments.seeds,
        "counts": [asdict(one) for one in counts],
    }
    write_record("small-lamb", record, arguments.output)
    sys.exit(any(one.lost for one in counts))


if __name__ == "__main__":
    main()
