"""Tables of paths: what is written is read back byte for byte."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fishermask_fast.datasets.csv_files import path_cell, read_csv, write_csv

NAMES = [
    "a.png", "a,b.png", 'a"b.png', "a\nb.png", "a\rb.png", "a\r\nb.png", " a.png ", "'a.png",
    "=1+2.png", "+a.png", "-a.png", "@a.png", "\ta.png", "./-a.png", "ä.png", "\ufeffa.png",
    os.fsdecode(b"\xff\xfe.png"), '""', ",", "\u2028.png",
]  # fmt: skip


def round_trip(names: list[str], path: Path) -> list[str]:
    write_csv(path, ["path", "label"], [(path_cell(Path(name)), "cat") for name in names])
    return read_csv(path, ["path", "label"], "path", "a path").column("path")


def test_names_of_every_kind(tmp_path: Path) -> None:
    found = round_trip(NAMES, tmp_path / "table.csv")
    assert [Path(name) for name in found] == [Path(name) for name in NAMES]
    assert [os.fsencode(Path(name)) for name in found] == [os.fsencode(Path(n)) for n in NAMES]


@given(st.lists(st.binary(min_size=1, max_size=12).filter(lambda b: b"\0" not in b), min_size=1))
def test_any_bytes(tmp_path_factory: pytest.TempPathFactory, names: list[bytes]) -> None:
    path = tmp_path_factory.mktemp("csv") / "table.csv"
    paths = [Path(os.fsdecode(name)) for name in names]
    assert [os.fsencode(Path(name)) for name in round_trip(list(map(str, paths)), path)] == [
        os.fsencode(each) for each in paths
    ]


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r"])
def test_no_cell_begins_as_a_formula(start: str) -> None:
    assert path_cell(Path(f"{start}1.png")) == f"./{start}1.png"
