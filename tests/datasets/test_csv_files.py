"""Tables of paths: what is written is read back byte for byte."""

from __future__ import annotations

import gzip
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fishermask_fast.datasets import load_data
from fishermask_fast.datasets.csv_files import path_cell, read_csv, write_csv
from fishermask_fast.labeling.pools import find_in_table
from fishermask_fast.labeling.tables import read_own_table
from fishermask_fast.options import DataOptions

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


HEADS = {"images": "path,label", "numbers": "x,y,label"}


def table(kind: str, n: int = 12) -> list[str]:
    cells = [f"i/{i}.png" if kind == "images" else f"{i / 7:.3f},{i * 3 % 5 / 4}" for i in range(n)]
    return [HEADS[kind], *(f"{cell},{'ab'[i % 2] * (i < 8)}" for i, cell in enumerate(cells))]


DAMAGE: dict[str, tuple[Callable[[list[str]], bytes], str]] = {
    "semicolons": (lambda t: joined(t).replace(b",", b";"), "commas .* line 1 has semicolons"),
    "tabs": (lambda t: joined(t).replace(b",", b"\t"), "commas .* line 1 has tabs"),
    "semicolons and decimal commas": (
        lambda t: joined(t).replace(b",", b";").replace(b".", b","), "line 1 has semicolons"
    ),
    "UTF-16": (lambda t: joined(t).decode().encode("utf-16"), "must be UTF-8; it is UTF-16"),
    "UTF-16 unmarked": (
        lambda t: joined(t).decode().encode("utf-16-le"), "line 1 holds a zero byte"
    ),
    "UTF-32": (lambda t: joined(t).decode().encode("utf-32"), "must be UTF-8; it is UTF-32"),
    "a workbook": (lambda t: b"PK\3\4" + joined(t), "a workbook of Excel"),
    "gzip": (lambda t: gzip.compress(joined(t)), "it is compressed"),
    "a zero byte": (lambda t: joined(t, 3, lambda row: row[:2] + "\0" + row[2:]), "line 4 holds"),
    "an open quote": (
        lambda t: joined(t, 2, lambda row: row.replace(",b", ',"b')), "row that begins in line 3"
    ),
    "an open quote first": (lambda t: joined(t, 2, '"'.__add__), "row that begins in line 3"),
    "a quote within": (
        lambda t: joined(t, 2, lambda row: f'"{row.replace(",", chr(34) + "x,", 1)}'),
        "row that begins in line 3",
    ),
    "a label of two lines": (
        lambda t: joined(t, 2, lambda row: row.replace(",b", ',"b\nb"')), "(line 4|row 2): label"
    ),
    "a label of another encoding": (
        lambda t: joined(t).replace(b",b\n", b",\xfc\n", 1), "(line 3|row 2).*(must|is not)"
    ),
    "a cell less": (lambda t: joined(t, 3, lambda row: row.rsplit(",", 1)[0]), "line 4"),
    "a cell more": (lambda t: joined(t, 3, lambda row: row + ",z"), "line 4"),
    "no rows": (lambda t: joined(t[:1]), "it has no rows$"),
    "two labels": (
        lambda t: joined([f"{row},{row.rsplit(',', 1)[1]}" for row in t]), "one column label"
    ),
}  # fmt: skip


def joined(lines: list[str], at: int = 0, change: Callable[[str], str] = str) -> bytes:
    rows = [change(row) if i == at and at else row for i, row in enumerate(lines)]
    return ("\n".join(rows) + "\n").encode()


@pytest.mark.parametrize("kind", HEADS)
@pytest.mark.parametrize("name", DAMAGE)
def test_what_cannot_be_right_is_refused_with_its_row(kind: str, name: str, tmp_path: Path) -> None:
    damaged, message = DAMAGE[name]
    path = tmp_path / "t.csv"
    path.write_bytes(damaged(table(kind)))
    with pytest.raises(ValueError, match=message) as raised:
        find_in_table(path, "label")
    assert str(path) in str(raised.value)
    if kind == "numbers":
        with pytest.raises(ValueError, match=message) as raised:
            load_data(DataOptions(str(path)))
        assert str(path) in str(raised.value)


@pytest.mark.parametrize("kind", HEADS)
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("header", [str, str.title, lambda head: f" {head} ".replace(",", " , ")])
def test_the_same_table_in_other_dress(
    kind: str, end: str, mark: str, header: Callable[[str], str], tmp_path: Path
) -> None:
    path = tmp_path / "t.csv"
    head, *rows = table(kind)
    path.write_bytes((mark + end.join([header(head), *rows[:3], "", *rows[3:]])).encode())
    found = find_in_table(path, "label")
    assert len(found.unlabeled) == 4 and found.labels == tuple("ab" * 4)


NUMBERS = {
    "0_5": "must be a finite number",
    '"0,5"': "",
    '"1.234,5"': "",
    '"1,234.5"': "",
    "1e400": "finite",
    "0x10": "finite",
    "1 5": "finite",
}


@pytest.mark.parametrize("every", [True, False], ids=["all cells", "one cell"])
@pytest.mark.parametrize("cell", NUMBERS)
def test_numbers_of_other_countries_and_languages_are_refused(
    cell: str, every: bool, tmp_path: Path
) -> None:
    rows = [f"{cell if every or i == 4 else i},{i},{'ab'[i % 2]}" for i in range(12)]
    path = tmp_path / "t.csv"
    path.write_text("\n".join(["x,y,label", *rows]))
    if every and not NUMBERS[cell]:
        with pytest.raises(ValueError, match="line 2: x must have numbers with a decimal point"):
            load_data(DataOptions(str(path)))
    elif not every:
        with pytest.raises(ValueError, match="line 6: x must be a finite number; got"):
            load_data(DataOptions(str(path)))
    with pytest.raises(ValueError, match=f"line {2 if every else 6}: x must be a finite number"):
        read_own_table(path, every=True).numbers(range(12))


def test_two_columns_of_one_name_are_refused_where_they_are_read(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("x,x,label\n" + "".join(f"{i},{i},{'ab'[i % 2]}\n" for i in range(8)) + "1,1,")
    with pytest.raises(ValueError, match="one column x; it has 2"):
        load_data(DataOptions(str(path)))
    with pytest.raises(ValueError, match="one column x; it has 2"):
        read_own_table(path).columns()


def test_long_texts_are_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("text,label\n" + "word " * 100_000 + ",a\nshort,\n")
    found = read_own_table(path)
    assert len(found.texts([0])[0]) == 500_000
    path.write_bytes(b"text,label\nplain,a\ncaf\xe9,\n")
    with pytest.raises(ValueError, match=r"the text in line 3 is not"):
        read_own_table(path)


@pytest.mark.parametrize("kind", HEADS)
@pytest.mark.parametrize(
    ("label", "said"),
    [("NA", "label 'NA' of 1 rows as a class"), ("nan", "'nan'"), ("A", "labels 'A' and 'a'")],
)
def test_labels_that_may_mean_something_else_are_said(
    kind: str, label: str, said: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(joined(table(kind), 3, lambda row: row.removesuffix(",a") + f",{label}"))
    found = find_in_table(path, "label")
    assert [said in note.reason for note in found.notes] == [True] and label in found.classes
    if kind == "numbers":
        path.write_text(path.read_text() + f"1,1,{label}\n")
        load_data(DataOptions(str(path)))
        assert said.replace(" 1 ", " 2 ") in caplog.text
