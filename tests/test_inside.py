"""The wings say what they hold, and the documentation's map shows the house that there is."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "fishermask_fast"
WINGS = sorted(path.parent for path in PACKAGE.glob("*/__init__.py"))
LINTER = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
LAYERS = [
    # In brackets: rooms that need not be there.
    [name for name in layer.split(" | ") if name[0] != "("]
    for layer in next(each for each in LINTER["contracts"] if each["id"] == "layers")["layers"]
]


def said_of(wing: Path) -> str:
    return ast.get_docstring(ast.parse((wing / "__init__.py").read_text())) or ""


def imports_of(path: Path) -> Iterator[str]:
    """What a file imports of ours, by full name, wherever in it the import stands."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module == PACKAGE.name:
            found = [f"{PACKAGE.name}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found = [node.module or ""]
        else:
            continue
        yield from (name for name in found if name.startswith(f"{PACKAGE.name}."))


@pytest.mark.parametrize("wing", WINGS, ids=lambda path: path.name)
def test_a_wing_names_its_rooms(wing: Path) -> None:
    text = said_of(wing)
    said = text[text.find("Rooms") :]
    while (without := re.sub(r"\([^()]*\)", "", said)) != said:
        said = without
    rooms = {path.stem for path in wing.iterdir() if path.suffix == ".py" or path.is_dir()}
    rooms -= {"__init__", "__pycache__"}
    missing = {room for room in rooms if not re.search(rf"\b{room}\b", said)}
    assert not missing, f"{wing.name}/__init__.py does not say what these rooms are: {missing}"
    assert len(text.splitlines()) <= 12


@pytest.mark.parametrize("wing", WINGS, ids=lambda path: path.name)
def test_a_wing_imports_what_it_says_that_it_may(wing: Path) -> None:
    said = re.search(r"May import: ([\w, ]+)", " ".join(said_of(wing).split()))
    assert said is not None, f"{wing.name}/__init__.py does not say what it may import"
    allowed = set() if said[1] == "nothing of ours" else set(said[1].split(", "))
    reached = {name.split(".")[1] for path in wing.rglob("*.py") for name in imports_of(path)}
    rooms = {name for layer in LAYERS for name in layer}
    assert allowed == reached & rooms - {wing.name}


def test_other_wings_are_imported_as_wings_not_room_by_room() -> None:
    names = {wing.name for wing in WINGS}
    reached = []
    for path in PACKAGE.rglob("*.py"):
        own = path.relative_to(PACKAGE).parts[0]
        for name in imports_of(path):
            _, wing, *rooms = name.split(".")
            if wing in names - {own} and rooms:
                reached.append(f"{path.relative_to(ROOT)}: {name}")
    assert not reached


def test_each_wing_and_file_has_a_twin_among_the_tests_or_the_page_says_that_it_has_none() -> None:
    tests = ROOT / "tests"
    twins = {wing.name: tests / wing.name for wing in WINGS}
    twins |= {p.stem: tests / f"test_{p.stem}.py" for p in PACKAGE.glob("*.py") if p.stem[0] != "_"}
    page = (ROOT / "docs" / "inside.md").read_text()
    said = re.search(r"No twin of their own there:([^.]*)\.", page)
    assert said is not None
    missing = {name for name, twin in twins.items() if not twin.exists()}
    assert missing == set(re.findall(r"`(\w+)`", said[1]))


def test_the_map_shows_every_wing_and_door_in_its_layer() -> None:
    page = (ROOT / "docs" / "inside.md").read_text()
    picture = re.search(r"```mermaid\n(.*?)```", page, re.DOTALL)
    assert picture is not None
    shown = re.findall(r'^ *\w+\["(.*?)"\]', picture[1], re.MULTILINE)
    assert shown == [" · ".join(names) for names in LAYERS]
