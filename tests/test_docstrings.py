"""What the API's page shows has an example each, and these run."""

from __future__ import annotations

import doctest
import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import fishermask_fast

PAGE = Path(__file__).parents[1] / "docs" / "api.md"
SHOWN = re.compile(
    r"^::: (?P<path>\S+)\n(?:    options:\n      members: \[(?P<members>.*?)\])?", re.MULTILINE
)
FRAMEWORKS = ("baal", "lightning", "skactiveml", "small_text", "transformers", "pandas")


def documented() -> Iterator[str]:
    """Every function, class and listed member of the page, by its full name."""
    for match in SHOWN.finditer(PAGE.read_text()):
        path, members = match["path"], match["members"]
        if path in ("fishermask_fast.compat", "fishermask_fast.reference"):
            module = importlib.import_module(path)
            yield from (f"{path}.{name}" for name in functions_of(module))
        else:
            yield path
            yield from (f"{path}.{member}" for member in (members or "").split(", ") if member)


def functions_of(module: ModuleType) -> list[str]:
    return [
        name
        for name, value in vars(module).items()
        if inspect.isfunction(value) and value.__module__ == module.__name__ and name[0] != "_"
    ]


def resolve(path: str) -> Any:
    for framework in FRAMEWORKS:
        if framework in path:
            pytest.importorskip(framework)
    return pkgutil.resolve_name(path)


DOCUMENTED = list(documented())


def test_the_page_shows_every_public_name() -> None:
    public = {name for name in fishermask_fast.__all__ if name != "__version__"}
    shown = {path.split(".")[1] for path in DOCUMENTED}
    assert public - shown == set()


@pytest.mark.parametrize("path", DOCUMENTED)
def test_its_example_runs(path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    value = resolve(path)
    text = inspect.getdoc(value) or ""
    assert ">>>" in text, f"{path} has no example"
    for framework in FRAMEWORKS:
        if f"{framework} import" in text or f"import {framework}" in text or "to_frame" in path:
            pytest.importorskip(framework if "to_frame" not in path else "pandas")
    monkeypatch.chdir(tmp_path)  # for the files that an example writes
    # Names of the module are not there for its reader: an example imports what it uses.
    test = doctest.DocTestParser().get_doctest(text, {}, path, None, None)
    told: list[str] = []
    doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test, out=told.append)
    assert not told, "".join(told)
