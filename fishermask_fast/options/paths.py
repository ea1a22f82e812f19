"""Paths of flags and files, before any work: what is read is there, and what is written can be."""

from __future__ import annotations

from pathlib import Path

from cyclopts import App, ArgumentCollection

from fishermask_fast.options.files import plain_type

# Made where they are not there; and a path that may be another machine's.
WRITTEN, ELSEWHERE = ("--out", "--data-root"), "--document-root"
IMPORT = ("import-labels",)  # writes one file, all others folders


def check_paths(app: App, commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
    """Called by the parser between reading the command line and making sense of it.

    Raises:
        ValueError: A path is empty, what should be read is not there, or what should be made is
            below what is no folder.
    """
    a_file = commands == IMPORT
    for each in arguments:
        if plain_type(each.hint) is not Path and each.name not in WRITTEN:
            continue
        for token in each.tokens:
            if not token.value:
                raise ValueError(f"{each.name} must be a path; got ''")
            path = Path(token.value)
            if each.name in WRITTEN:
                whole = path.absolute()
                _check_made(each.name, path, whole.parent if a_file else whole)
            elif each.name.startswith("--") and each.name != ELSEWHERE:
                _check_there(each.name, path)


def _check_there(name: str, path: Path) -> None:
    try:
        path.stat()
    except FileNotFoundError:
        raise ValueError(f"{name} must be there; there is no {path}") from None
    except (OSError, ValueError) as error:
        raise ValueError(f"{name} must be a path that can be read; {path}: {error}") from error


def _check_made(name: str, path: Path, folder: Path) -> None:
    """Whether the nearest part of `folder` that is there is a folder."""
    try:
        nearest = next(each for each in (folder, *folder.parents) if each.exists())
        inside = nearest.is_dir()
    except (OSError, ValueError) as error:
        raise ValueError(f"{name} must be a path that can be made; {path}: {error}") from error
    if not inside:
        raise ValueError(f"{name} must be a path below folders; {nearest} is a file, in {path}")
