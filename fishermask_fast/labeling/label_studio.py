"""Label Studio: tasks, the labelling configuration and the folders for it; and its exports back.

Its server hands out ``/data/local-files/?d=PATH``, PATH relative to LOCAL_FILES_DOCUMENT_ROOT, for
files below a Local Files storage of the project, and takes only storages that lie strictly below
that root.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote_to_bytes
from xml.sax.saxutils import quoteattr

from fishermask_fast.datasets import SKIPPED, Note, read_rows
from fishermask_fast.files import open_file, parse_json

CHOICE, IMAGE, TEXT, ROW = "choice", "image", "text", "cells"
_SHOWN = {"images": ("Image", IMAGE), "texts": ("Text", TEXT), "table": ("Table", ROW)}
"""Tag and name of what a task shows, by the kind of samples."""
BETWEEN = "; "
"""Between the labels of a sample that has several."""
_LOCAL = "/data/local-files/?d="


@dataclass(frozen=True)
class Places:
    """What a server is to be told.

    Attributes:
        root: LOCAL_FILES_DOCUMENT_ROOT.
        storages: Folders of Local Files storages.
    """

    root: Path
    storages: tuple[Path, ...]


def places(
    folder: Path, files: Sequence[Path], root: Path | None = None, copies: Path | None = None
) -> Places:
    """Where a server finds images.

    Args:
        folder: That all of them lie below.
        files: The images.
        root: LOCAL_FILES_DOCUMENT_ROOT of a server that is set up; None is the narrowest.
        copies: A folder of more images.

    Raises:
        ValueError: The root does not lie above the folder of each image.
    """
    known = root is not None
    above = Path(os.path.abspath(root)) if root else folder.parent
    if copies is not None and not known:
        above = Path(os.path.commonpath([above, copies.parent]))
    storages = {folder}
    if above not in folder.parents:
        inside = [Path(os.path.abspath(file)) for file in files]
        storages = {Path(*each.parts[: len(above.parts) + 1]) for each in inside}
        for each in inside if known else ():
            if above not in each.parent.parents:
                raise ValueError(
                    f"document_root must lie above the folders of all images, as Label Studio "
                    f"shows none that lie in it itself; {each} is not in a folder of {above}"
                )
    if copies is not None and above in copies.parents:
        storages.add(copies)
    return Places(above, tuple(sorted(storages)))


@dataclass(frozen=True)
class Guess:
    """What a model predicts of a sample.

    Attributes:
        labels: That are predicted.
        score: Of the likeliest.
        model: Who predicts.
    """

    labels: Sequence[str]
    score: float
    model: str


def image_data(file: Path, root: Path, copy: Path | None = None) -> dict[str, Any]:
    """Of a task that shows an image, or a copy of it, below LOCAL_FILES_DOCUMENT_ROOT."""
    full = os.path.abspath(file)
    shown = os.path.relpath(full if copy is None else copy, root)
    return {IMAGE: f"{_LOCAL}{quote(os.fsencode(shown))}", "file": full}


def row_data(cells: Mapping[str, str], text: bool) -> dict[str, Any]:
    """Of a task that shows a text, or a table's row."""
    return {TEXT: cells[TEXT]} if text else {ROW: dict(cells)}


def task(data: Mapping[str, Any], kind: str, guess: Guess | None) -> dict[str, Any]:
    """A task, with the model's prediction where there is one.

    Args:
        data: What it shows, and more that an export has again.
        kind: ``"images"``, ``"texts"`` or ``"table"``.
        guess: The prediction.
    """
    found: dict[str, Any] = {"data": dict(data)}
    if guess is None:
        return found
    result = {
        "from_name": CHOICE,
        "to_name": _SHOWN[kind][1],
        "type": "choices",
        "value": {"choices": list(guess.labels)},
    }
    score = round(guess.score, 3)
    return found | {
        "predictions": [{"model_version": guess.model, "score": score, "result": [result]}]
    }


def configuration(classes: Sequence[str], several: bool, kind: str = "images") -> str:
    """The labelling configuration: one choice among the classes, or several."""
    lines = [f"    <Choice value={quoteattr(name)}/>" for name in classes]
    tag, name = _SHOWN[kind]
    return "\n".join(
        [
            "<View>",
            f'  <{tag} name="{name}" value="${name}"/>',
            f'  <Choices name="{CHOICE}" toName="{name}" showInLine="true" '
            f'choice="{"multiple" if several else "single"}">',
            *lines,
            "  </Choices>",
            "</View>\n",
        ]
    )


@dataclass(frozen=True)
class Labels:
    """What an export says.

    Attributes:
        by_sample: Label of each image's file, or of each row of a table, by its number from 1;
            several labels joined by ``"; "``.
        pools: Tables of the pools that the tasks were picked from.
        root: The server's document root, where the tasks tell.
        notes: Tasks without a label, and why.
    """

    by_sample: dict[Path | int, str]
    pools: tuple[Path, ...]
    root: Path | None
    notes: tuple[Note, ...]


def read_export(export: Path) -> Labels:
    """Labels of an export in Label Studio's formats JSON, JSON-MIN or CSV.

    Raises:
        ValueError: It cannot be read, or is none of these, or of other tasks.
    """
    said: dict[Path | int, list[list[str] | None]] = {}
    pools: dict[Path, None] = {}
    roots: set[Path] = set()
    for number, (data, labels) in enumerate(_answers(export), 1):
        roots |= _roots(data)
        said.setdefault(_sample(export, number, data), []).extend(labels)
        if data.get("pool"):
            pools[Path(str(data["pool"]))] = None
    if any(isinstance(each, int) for each in said) and len(pools) > 1:
        raise ValueError(
            f"{export} holds rows of {len(pools)} pools, whose numbers say nothing: export the "
            "tasks of each by themselves"
        )
    by_sample: dict[Path | int, str] = {}
    notes = []
    for sample, answers in said.items():
        file = sample if isinstance(sample, Path) else Path(f"row {sample}")
        different = sorted({BETWEEN.join(sorted(each)) for each in answers if each})
        if len(different) == 1:
            by_sample[sample] = different[0]
        elif different:
            notes.append(Note(file, SKIPPED, f"annotators differ: {' or '.join(different)}"))
        else:
            notes.append(
                Note(file, SKIPPED, "not labeled" if not answers else "cancelled or empty")
            )
    root = roots.pop() if len(roots) == 1 else None
    return Labels(by_sample, tuple(pools), root, tuple(notes))


def _roots(data: Mapping[str, Any]) -> set[Path]:
    """The document root of a task that shows its file itself, below it."""
    url, file = str(data.get(IMAGE, "")), str(data.get("file", ""))
    inside = "/" + os.fsdecode(unquote_to_bytes(url.removeprefix(_LOCAL)))
    if not url.startswith(_LOCAL) or not file.endswith(inside):
        return set()
    return {Path(file.removesuffix(inside) or "/")}


def _sample(export: Path, number: int, data: Mapping[str, Any]) -> Path | int:
    """The file of a task's image, or the number of its row."""
    name, row = data.get("file") or data.get("path"), data.get("row")
    if isinstance(name, str) and name:
        return Path(os.path.abspath(name))
    if str(row).isdecimal() and int(str(row)) > 0:
        return int(str(row))
    raise ValueError(f"{export}, task {number} has neither file nor path of its image, nor a row")


def _answers(export: Path) -> Iterator[tuple[Mapping[str, Any], list[list[str] | None]]]:
    """(data, choices of each annotation) of each task, or of each annotation by itself."""
    try:
        with os.fdopen(open_file(export, os.O_RDONLY), "rb") as file:
            content = file.read()
    except OSError as error:
        raise ValueError(f"cannot read {export}: {error}") from error
    if not content.lstrip(b"\xef\xbb\xbf \t\r\n").startswith((b"[", b"{")):
        yield from _csv_answers(export)
        return
    try:
        tasks = parse_json(content.decode("utf-8-sig"))
    except ValueError as error:
        raise ValueError(f"cannot read {export}: {error}") from error
    if not isinstance(tasks, list) or not all(isinstance(each, dict) for each in tasks):
        raise ValueError(f"{export} must be a list of tasks, as Label Studio exports them")
    for number, each in enumerate(tasks, 1):
        if isinstance(each.get("data"), dict):
            yield each["data"], _annotations(export, number, each.get("annotations"))
        else:
            yield each, [_choices(export, number, each.get(CHOICE))]


def _csv_answers(export: Path) -> Iterator[tuple[Mapping[str, Any], list[list[str] | None]]]:
    table = read_rows(export, (), CHOICE, f"a column {CHOICE}, as Label Studio's CSV exports have")
    for number, cells in enumerate(table.cells, 1):
        row = dict(zip(table.names, cells, strict=True))
        cell: Any = row[CHOICE]
        if cell.startswith("{"):
            try:
                cell = json.loads(cell)
            except ValueError as error:
                raise ValueError(f"{export}, row {number}: {cell!r} is no JSON") from error
        yield row, [_choices(export, number, cell)]


def _annotations(export: Path, number: int, annotations: Any) -> list[list[str] | None]:
    if not isinstance(annotations, list) or not all(isinstance(a, dict) for a in annotations):
        raise ValueError(f"{export}, task {number} must have a list of annotations")
    found: list[list[str] | None] = []
    for each in annotations:
        results = [r for r in each.get("result") or [] if isinstance(r, dict)]
        values = [r.get("value") for r in results if r.get("type") == "choices"]
        labels = [label for value in values for label in _choices(export, number, value) or []]
        found.append(None if each.get("was_cancelled") else labels)
    return found


def _choices(export: Path, number: int, value: Any) -> list[str] | None:
    """The labels of "cat", or of {"choices": ["cat", "dog"]}."""
    if isinstance(value, dict):
        value = value.get("choices")
    if value is None or value == "":
        return None
    labels = [value] if isinstance(value, str) else value
    if not isinstance(labels, list) or not all(isinstance(each, str) for each in labels):
        raise ValueError(f"{export}, task {number}: choices must be texts; got {value!r}")
    return labels
