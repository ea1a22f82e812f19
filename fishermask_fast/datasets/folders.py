"""Which files of a folder are images, and a word for each that is not taken as it lies there.

An image is what Pillow opens, by its ending or, where that tells nothing, by its first bytes.
Hidden files and folders are left out; links are followed, each file and folder once.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from fishermask_fast.checks import listed
from fishermask_fast.files import open_file

FOLLOWED, TAKEN, SKIPPED, CONVERTED = "followed", "taken", "skipped", "converted"


@dataclass(frozen=True)
class Note:
    """What was done with a file or folder that was not simply read.

    Attributes:
        path: Of the file or folder.
        what: ``"skipped"``, ``"followed"`` (a link), ``"taken"`` (for what it holds, not for its
            name) or ``"converted"`` (its values are not those of the file).
        reason: Why.
    """

    path: Path
    what: str
    reason: str


@cache
def image_endings() -> frozenset[str]:
    """Endings, in lower case and with their dot, of the formats that Pillow opens."""
    from PIL import Image

    return frozenset(
        ending for ending, name in Image.registered_extensions().items() if name in Image.OPEN
    )


def images_below(folder: Path) -> tuple[list[Path], list[Note]]:
    """Images in and below a folder, sorted, each file once; and what was done with the rest.

    Raises:
        ValueError: There is no such folder.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder} must be a folder of images; it is not there")
    walk = _Walk(os.path.realpath(folder))
    walk.read(folder)
    walk.follow_links()
    return sorted(walk.images), sorted(walk.notes, key=lambda note: note.path)


def images_by_class(folder: Path) -> tuple[dict[str, list[Path]], list[Note]]:
    """Images of the class folders in a folder, by the class's name, in alphabetical order.

    Classes without an image are left out.

    Raises:
        ValueError: There is no such folder, or a file is linked into two classes.
    """
    found: dict[str, list[Path]] = {}
    notes: list[Note] = []
    owner: dict[tuple[int, int] | str, Path] = {}
    for entry in sorted(folder.iterdir()):
        if entry.name.startswith("."):
            notes.append(Note(entry, SKIPPED, "hidden"))
        elif not entry.is_dir():
            notes.append(Note(entry, SKIPPED, "lies in no class folder"))
        else:
            members, more = images_below(entry)
            notes += more
            for path in members:
                real = same_file(path)
                if real in owner:
                    raise ValueError(f"{owner[real]} and {path} are one file in two classes")
                owner[real] = path
            if members:
                if entry.is_symlink():
                    notes.append(Note(entry, FOLLOWED, f"link to {os.path.realpath(entry)}"))
                found[entry.name] = members
            else:
                notes.append(Note(entry, SKIPPED, "class folder without images"))
    return found, notes


def summary(notes: Iterable[Note], shown: int = 3) -> Iterator[str]:
    """One line for each reason: how many, and the first of them.

    Reasons that differ in numbers alone are one, told by its first.
    """
    groups: dict[tuple[str, str], list[Note]] = {}
    for note in notes:
        groups.setdefault((note.what, re.sub(r"[0-9][0-9.,]*", "#", note.reason)), []).append(note)
    for (what, _), some in groups.items():
        if len(some) == 1:
            yield _one_line(f"{what}  {some[0].path}: {some[0].reason}")
            continue
        such = "" if len({note.reason for note in some}) == 1 else "such as "
        paths = listed([note.path for note in some], shown)
        yield _one_line(f"{what}  {len(some):,} files: {such}{some[0].reason} ({paths})")


def _one_line(text: str) -> str:
    """Names of files may hold what ends a line or steers a terminal."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def sorted_notes(notes: Sequence[Note]) -> dict[str, list[Note]]:
    """What was left out, and what was taken otherwise than it lies there; by the file's name."""
    skipped = [note for note in notes if note.what == SKIPPED]
    return {"skipped": skipped, "converted": [note for note in notes if note.what != SKIPPED]}


@dataclass
class _Walk:
    root: str
    images: list[Path] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)
    folders: dict[tuple[int, int], Path] = field(default_factory=dict)
    files: dict[tuple[int, int], Path] = field(default_factory=dict)
    links: list[Path] = field(default_factory=list)

    def note(self, path: Path, what: str, reason: str) -> None:
        self.notes.append(Note(path, what, reason))

    def read(self, folder: Path) -> None:
        try:
            status, entries = folder.stat(), sorted(folder.iterdir())
        except OSError as error:
            self.note(folder, SKIPPED, f"cannot be listed: {error.strerror}")
            return
        # A file system that numbers nothing has no loops that could be found so.
        if status.st_ino:
            first = self.folders.setdefault((status.st_dev, status.st_ino), folder)
            if first != folder:
                self.note(folder, SKIPPED, f"the same folder as {first}")
                return
        for path in entries:
            if path.name.startswith("."):
                self.note(path, SKIPPED, "hidden")
                continue
            try:
                status = path.lstat()
            except OSError as error:  # of a folder that may be listed and no more
                self.note(path, SKIPPED, f"cannot be read: {error.strerror}")
                continue
            if stat.S_ISLNK(status.st_mode):
                self.links.append(path)
            elif stat.S_ISDIR(status.st_mode):
                self.read(path)
            else:
                self.take(path, status)

    def follow_links(self) -> None:
        """After all that lies there itself, so that a link is the second of two names."""
        while self.links:
            link = self.links.pop(0)
            target = os.path.realpath(link)
            try:
                status = os.stat(link)
            except OSError as error:
                self.note(link, SKIPPED, f"link that leads nowhere: {error.strerror}")
                continue
            if not stat.S_ISDIR(status.st_mode):
                self.take(link, status)
            elif os.path.commonpath([target, self.root]) == target:
                self.note(link, SKIPPED, "link to a folder that it lies in")
            elif (status.st_dev, status.st_ino) in self.folders:
                self.note(link, SKIPPED, "link to a folder that is read already")
            else:
                self.note(link, FOLLOWED, f"link to {target}")
                self.read(link)

    def take(self, path: Path, status: os.stat_result) -> None:
        if not stat.S_ISREG(status.st_mode):
            self.note(path, SKIPPED, "a pipe, a socket or a device")
            return
        if path.suffix.lower() not in image_endings():
            name = image_format(path)
            if name is None:
                self.note(path, SKIPPED, "no image by its ending or its first bytes")
                return
            self.note(path, TAKEN, f"{name} image by its first bytes")
        # A file system that numbers nothing has no second names either.
        first = self.files.setdefault((status.st_dev, status.st_ino), path)
        if first != path and status.st_ino:
            kind = "link" if path.is_symlink() else "hard link"
            self.note(path, SKIPPED, f"{kind} to an image that is taken already")
            return
        if path.is_symlink():
            self.note(path, FOLLOWED, f"link to {os.path.realpath(path)}")
        self.images.append(path)


def same_file(path: Path) -> tuple[int, int] | str:
    """What tells a file from others, whatever its name: equal of links and hard links to it."""
    try:
        status = path.stat()
    except OSError:
        return os.path.realpath(path)
    return (status.st_dev, status.st_ino) if status.st_ino else os.path.realpath(path)


def image_format(path: Path) -> str | None:
    """Pillow's name of the format that a file's first bytes are of, or None."""
    from PIL import Image

    try:
        with os.fdopen(open_file(path, os.O_RDONLY), "rb") as file, Image.open(file) as image:
            return image.format
    # The reader of any format may stumble over bytes that are not of it.
    except Exception:
        return None
