"""The wings say what they hold, and the documentation's map shows the house that there is."""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "fishermask_fast"
WINGS = sorted(path.parent for path in PACKAGE.glob("*/__init__.py"))
LAYERS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]


@pytest.mark.parametrize("wing", WINGS, ids=lambda path: path.name)
def test_a_wing_names_its_rooms_and_what_it_may_import(wing: Path) -> None:
    text = ast.get_docstring(ast.parse((wing / "__init__.py").read_text())) or ""
    rooms = {path.stem for path in wing.iterdir() if path.suffix == ".py" or path.is_dir()}
    rooms -= {"__init__", "__pycache__"}
    missing = {room for room in rooms if not re.search(rf"\b{room}\b", text)}
    assert not missing, f"{wing.name}/__init__.py does not say what these rooms are: {missing}"
    assert re.search(r"may\s+import|imports neither", text, re.IGNORECASE)
    assert len(text.splitlines()) <= 12


def test_other_wings_are_imported_as_wings_not_room_by_room() -> None:
    names = {wing.name for wing in WINGS}
    reached = []
    for path in PACKAGE.rglob("*.py"):
        own = path.relative_to(PACKAGE).parts[0]
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.ImportFrom) or not node.module:
                continue
            _, wing, *rooms = [*node.module.split("."), "", ""][:3]
            if node.module.startswith("fishermask_fast.") and wing in names - {own} and rooms[0]:
                reached.append(f"{path.relative_to(ROOT)}: {node.module}")
    assert not reached


def test_the_map_shows_every_wing_and_door_in_its_layer() -> None:
    page = (ROOT / "docs" / "inside.md").read_text()
    picture = re.search(r"```mermaid\n(.*?)```", page, re.DOTALL)
    assert picture is not None
    shown = re.findall(r'^ *\w+\["(.*?)"\]', picture[1], re.MULTILINE)
    layers = next(each["layers"] for each in LAYERS if each["id"] == "layers")
    # In brackets: rooms that need not be there.
    there = [[name for name in layer.split(" | ") if name[0] != "("] for layer in layers]
    assert shown == [" · ".join(names) for names in there]
