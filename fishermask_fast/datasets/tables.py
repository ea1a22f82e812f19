"""Tables and texts: scikit-learn's sets, and files of one's own.

A table's columns are standardised by the pool's means and deviations. A text is the ids of its
first ``LENGTH`` words among the ``VOCABULARY`` that the pool uses most; 0 is padding, 1 any other
word.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fishermask_fast.datasets.columns import odd_labels, read_columns
from fishermask_fast.datasets.downloads import fetched
from fishermask_fast.datasets.images import split
from fishermask_fast.datasets.rows import read_rows
from fishermask_fast.datasets.samples import IDENTITY, LabeledSamples, PoolAndTest

logger = logging.getLogger(__name__)

TABLES = ("breast-cancer", "iris", "wine")
NUMBERS = ("diabetes", "multilabel")
TEXTS = ("20newsgroups",)
TEST_SHARE = 0.3
MOST_LABELS = 100
VOCABULARY, LENGTH = 10_000, 200
PADDING, UNKNOWN = 0, 1


def load_table(name: str, seed: int) -> PoolAndTest:
    """One of scikit-learn's bundled ``TABLES``, split class by class."""
    from sklearn import datasets

    found: Any = getattr(datasets, f"load_{name.replace('-', '_')}")()
    values = torch.as_tensor(found.data, dtype=torch.float64)
    targets = torch.as_tensor(found.target, dtype=torch.int64)
    return _table(name, values, targets, [str(label) for label in found.target_names], seed)


def load_numbers(name: str, seed: int) -> PoolAndTest:
    """One of ``NUMBERS``, split at random.

    ``diabetes`` is scikit-learn's regression of a disease's progression on 10 columns (442
    patients), the target standardised by the pool's; ``multilabel`` are 2,000 documents of 20 word
    counts with some of 5 topics each, as its ``make_multilabel_classification`` generates them.
    """
    from sklearn import datasets

    if name == "diabetes":
        values, found = datasets.load_diabetes(return_X_y=True)
        targets = torch.as_tensor(found, dtype=torch.float64)[:, None]
        names = ["progression"]
    else:
        values, found = datasets.make_multilabel_classification(2000, random_state=0)
        targets = torch.as_tensor(found, dtype=torch.float64)
        names = [f"topic {i}" for i in range(targets.shape[1])]
    order = torch.randperm(len(targets), generator=torch.Generator().manual_seed(seed))
    n_test = round(TEST_SHARE * len(targets))
    pool, test = order[n_test:].sort().values, order[:n_test].sort().values
    if name == "diabetes":
        mean, std = targets[pool].mean(0), targets[pool].std(0, correction=0)
        targets = (targets - mean) / std
    table = _split_table(name, torch.as_tensor(values).double(), targets.float(), names, pool, test)
    return replace(table, likelihood="gaussian" if name == "diabetes" else "bernoulli")


def load_newsgroups(root: str, download: bool) -> PoolAndTest:
    """The 20 newsgroups, headers, footers and quotes removed, with their own split.

    Raises:
        ValueError: They are not there, or could not be downloaded.
    """
    from sklearn import datasets

    with fetched("20newsgroups", root, download):
        parts: list[Any] = [
            datasets.fetch_20newsgroups(
                data_home=root,
                subset=subset,
                remove=("headers", "footers", "quotes"),
                download_if_missing=download,
            )
            for subset in ("train", "test")
        ]
    texts = [list(part.data) for part in parts]
    targets = [torch.as_tensor(part.target, dtype=torch.int64) for part in parts]
    return _text("20newsgroups", texts[0], targets[0], texts[1], targets[1], parts[0].target_names)


def load_rows(file: Path, seed: int, label: str = "label") -> PoolAndTest:
    """A table with a column of labels and either a column ``text`` or columns of its own.

    Columns of numbers are standardised, and others become a column 0 or 1 for each text in them;
    see ``columns``.

    Raises:
        ValueError: The file cannot be read, has not these columns, or holds what cannot be right.
    """
    table = read_rows(file, (label, "text"), label, f"a column {label} and others")
    if len(table.names) < 2:
        raise ValueError(f"{file} must have a column {label} and others; it has {label}")
    labels = [each.strip() for each in table.column(label)]
    for line, each in zip(table.lines, labels, strict=True):
        if not each.isprintable():
            raise ValueError(f"{file}, line {line}: {label} must be printable; got {each[:80]!r}")
    for said in odd_labels(labels):
        logger.warning("taken  %s: %s", file, said)
    kept = [i for i, label in enumerate(labels) if label]
    if len(kept) < len(labels):
        first = table.lines[next(i for i, label in enumerate(labels) if not label)]
        logger.warning(
            "skipped  %d of %d rows of %s: no label (the first is line %d)",
            len(labels) - len(kept),
            len(labels),
            file,
            first,
        )
    classes = sorted({labels[i] for i in kept})
    if len(classes) < 2:
        raise ValueError(f"{file} must hold at least two labels; got {', '.join(classes)}")
    if len(classes) > MOST_LABELS and len(classes) * 2 > len(kept):
        raise ValueError(
            f"{file}: column {label} holds {len(classes):,} different labels in {len(kept):,} rows,"
            f" such as {classes[0]}; name the column of the classes with --label-column"
        )
    targets = torch.tensor([classes.index(labels[i]) for i in kept])
    if "text" in table.names and label != "text":
        written = table.column("text")
        texts = [written[i] for i in kept]
        chosen, left = (part.tolist() for part in split(targets, TEST_SHARE, seed))
        return _text(
            file.stem,
            [texts[i] for i in chosen],
            targets[chosen],
            [texts[i] for i in left],
            targets[left],
            classes,
        )
    columns = read_columns(file, table, kept, label)
    pool, test = split(targets, TEST_SHARE, seed)
    values = torch.stack([v for column in columns for v in column.encoded(pool.tolist())], 1)
    return _split_table(file.stem, values, targets, classes, pool, test)


def _table(
    name: str, values: Tensor, targets: Tensor, classes: Sequence[str], seed: int
) -> PoolAndTest:
    pool, test = split(targets, TEST_SHARE, seed)
    return _split_table(name, values, targets, classes, pool, test)


def _split_table(
    name: str, values: Tensor, targets: Tensor, classes: Sequence[str], pool: Tensor, test: Tensor
) -> PoolAndTest:
    mean, std = values[pool].mean(0), values[pool].std(0, correction=0)
    # A column that never changes tells nothing, and becomes zero.
    scaled = ((values - mean) / std.where(std > 0, 1.0)).float()
    return PoolAndTest(
        name,
        "tabular",
        tuple(classes),
        LabeledSamples(scaled[pool], targets[pool], IDENTITY),
        LabeledSamples(scaled[test], targets[test], IDENTITY),
        IDENTITY,
    )


def _text(
    name: str,
    texts: Sequence[str],
    targets: Tensor,
    test_texts: Sequence[str],
    test_targets: Tensor,
    classes: Sequence[str],
) -> PoolAndTest:
    counts = Counter(word for text in texts for word in _words(text))
    # Equally frequent words in alphabetical order: the ids do not depend on the order of the texts.
    common = sorted(counts, key=lambda word: (-counts[word], word))[:VOCABULARY]
    ids = {word: number for number, word in enumerate(common, UNKNOWN + 1)}
    length = min(LENGTH, max([1, *(len(_words(text)) for text in texts)]))
    return PoolAndTest(
        name,
        "text",
        tuple(classes),
        LabeledSamples(_encoded(texts, ids, length), targets, IDENTITY),
        LabeledSamples(_encoded(test_texts, ids, length), test_targets, IDENTITY),
        IDENTITY,
        vocabulary=len(ids) + UNKNOWN + 1,
    )


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def _encoded(texts: Sequence[str], ids: dict[str, int], length: int) -> Tensor:
    """int64 (N, length)."""
    found = torch.full((len(texts), length), PADDING)
    for row, text in enumerate(texts):
        words = [ids.get(word, UNKNOWN) for word in _words(text)[:length]]
        found[row, : len(words)] = torch.tensor(words, dtype=torch.int64)
    return found
