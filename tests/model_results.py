"""Results of long runs over many models: a file that grows by lines, and a table in the docs."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

Result = dict[str, Any]


def read_results(path: Path | None) -> dict[str, Result]:
    """Name -> result of those that a file holds, in its order."""
    if path is None or not path.exists():
        return {}
    lines = path.read_text(encoding="utf-8").splitlines()
    return {f"{found['library']}/{found['name']}": found for found in map(json.loads, lines)}


def add_results(
    path: Path | None, cases: Iterable[tuple[str, str]], work: Callable[[str, str], Result]
) -> dict[str, Result]:
    """The results of these (library, name): those in the file, and what `work` finds of the others.

    Each goes into the file as soon as it is there, so that a run that was stopped goes on.
    """
    known = read_results(path)
    found: dict[str, Result] = {}
    for library, name in cases:
        key = f"{library}/{name}"
        if key not in known:
            known[key] = work(library, name)
            if path is not None:
                with path.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(known[key]) + "\n")
        found[key] = known[key]
    return found


def write_table(page: Path, name: str, table: str) -> None:
    """Puts a table into a page of the docs, between the comments that are called by its name.

    Raises:
        ValueError: the page has no place for it.
    """
    start, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    text = page.read_text(encoding="utf-8")
    pattern = re.compile(f"{re.escape(start)}.*{re.escape(end)}", re.DOTALL)
    if not pattern.search(text):
        raise ValueError(f"{page} must hold {start} and {end}, between which the table goes")
    whole = f"{start}\n\n{table}\n\n{end}"
    page.write_text(pattern.sub(lambda _: whole, text), encoding="utf-8")
