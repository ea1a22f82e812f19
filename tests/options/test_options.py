"""Declared names are those that the functions behind them know."""

from __future__ import annotations

import re
from pathlib import Path

from fishermask_fast import options, strategies
from fishermask_fast.datasets.pools import NAMED
from fishermask_fast.datasets.rows import TABLE_ENDINGS
from fishermask_fast.selector import MASKS


def test_declared_names_are_known() -> None:
    assert tuple(strategies.STRATEGIES) == options.STRATEGIES
    assert MASKS == options.MASKS


def test_the_help_and_the_page_name_every_kind_of_data() -> None:
    documented = (options.DataOptions.__doc__ or "").partition("name: ")[2]
    of_name = re.split(r"\n +\w+: ", documented)[0]
    page = Path(__file__).parents[2] / "docs" / "loop.md"
    rows = "".join(line for line in page.read_text().splitlines() if line.startswith("| "))
    for known in (*NAMED, *TABLE_ENDINGS):
        assert re.search(rf"(?<!\w){re.escape(known)}\b", of_name), known
        assert f"`{known}`" in rows, known
