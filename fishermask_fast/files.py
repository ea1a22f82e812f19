"""One way to write a file or a folder: it is there whole, or what was there before still is.

A draft of a name that nobody can foretell is made beside it, filled, flushed to the disk, renamed,
and the renaming flushed as well. A link to a file that has the final name is replaced, never
followed; what is no file (a folder, a pipe, a device, a socket) is refused and stays. Drafts
go when writing fails or is interrupted; one that a killed process left goes with the next writing
of the same name.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import secrets
import shutil
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO

fcntl: ModuleType | None
try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

# On Windows a file is text, and line ends are translated, unless O_BINARY says otherwise.
_ALWAYS = getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
NO_LINKS = getattr(os, "O_NOFOLLOW", 0)
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NONE = -1  # a descriptor of nothing, as Windows has of folders
_LONGEST_NAME = 100
_LONGEST_PREFIX = 150  # of bytes, in the name of a draft


def open_file(path: Path, flags: int) -> int:
    """A descriptor of a regular file of bytes, which programs started later do not inherit.

    Raises:
        OSError: it cannot be opened.
        ValueError: it is a folder, a pipe, a device or the like.
    """
    # To open a device may do something, and whoever writes to a pipe would be told of a reader.
    with suppress(FileNotFoundError):
        _check_regular(path, os.stat(path).st_mode)
    # What has come to be a pipe since would otherwise wait for its other end.
    descriptor = os.open(path, flags | _ALWAYS | getattr(os, "O_NONBLOCK", 0), 0o666)
    try:
        _check_regular(path, os.fstat(descriptor).st_mode)
    except ValueError:
        os.close(descriptor)
        raise
    return descriptor


def read_file(path: str | os.PathLike[str]) -> bytes:
    """All bytes of a regular file.

    Raises:
        OSError: it cannot be read.
        ValueError: it is a folder, a pipe, a device or the like.
    """
    with os.fdopen(open_file(Path(path), os.O_RDONLY), "rb") as file:
        return file.read()


def _check_regular(path: Path, mode: int) -> None:
    if not stat.S_ISREG(mode):
        raise ValueError(f"{path} must be a file; it is {_kind(mode)}")


def check_replaceable(path: str | os.PathLike[str]) -> None:
    """Raise where something stands at a path that a file must not take the place of.

    Raises:
        ValueError: it is neither a regular file nor a link to one or to nothing.
    """
    target = Path(path)
    with suppress(OSError):  # nothing is there, or what opens the file will say why not
        mode = target.stat().st_mode
        if not stat.S_ISREG(mode):
            link = "a link to " if target.is_symlink() else ""
            raise ValueError(f"{target} must be a file or not there; it is {link}{_kind(mode)}")


def _kind(mode: int) -> str:
    kinds = {
        stat.S_IFDIR: "a folder",
        stat.S_IFIFO: "a pipe",
        stat.S_IFSOCK: "a socket",
        stat.S_IFCHR: "a device",
        stat.S_IFBLK: "a device",
    }
    return kinds.get(stat.S_IFMT(mode), "no file")


@contextmanager
def written_whole(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """A binary file that takes its name when the block ends well, and goes otherwise.

    Several threads and processes may write one name at a time: the last one's file stays.

    Args:
        path: where the file is to be, in a folder that exists.

    Raises:
        OSError: it cannot be written.
        ValueError: something else than a file is there.
    """
    check_replaceable(path)
    with (
        _draft(Path(path), _new_file, _rename_over) as (_, descriptor),
        os.fdopen(descriptor, "wb", closefd=False) as file,
    ):
        yield file
        file.flush()
        os.fsync(descriptor)


def replace_file(path: str | os.PathLike[str], content: bytes) -> None:
    """Write a file so that it is there whole or, when interrupted, as it was before.

    Raises:
        OSError: it cannot be written.
        ValueError: something else than a file is there.
    """
    with written_whole(path) as file:
        file.write(content)


@contextmanager
def folder_written_whole(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A folder that takes its name when the block ends well, and goes otherwise.

    Args:
        path: where the folder is to be; its parents are made where they are missing.

    Raises:
        OSError: it cannot be written, or there is something of that name.
    """
    target = Path(path)
    _check_absent(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    with _draft(target, _new_folder, _rename_to_new) as (draft, _):
        yield draft
        sync_folder(draft)


def sync_folder(folder: Path) -> None:
    """Flush to the disk which files a folder holds."""
    if not hasattr(os, "O_DIRECTORY"):  # Windows opens no folders
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):  # as some network file systems say
            raise
    finally:
        os.close(descriptor)


def parse_json(content: bytes | str) -> Any:
    """What a JSON text says, where each object holds a name once.

    Raises:
        ValueError: it is no such text, or nested too deeply to be read.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            raise ValueError("a name stands twice in one object")
        return found

    try:
        return json.loads(content, object_pairs_hook=unique)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def checksum(record: Mapping[str, Any], more: bytes = b"") -> str:
    """Of a record that JSON can hold, whatever the order of its names, and of more bytes."""
    text = json.dumps(record, sort_keys=True).encode()
    return hashlib.sha256(text + more).hexdigest()[:32]


def check_name(what: str, name: object) -> str:
    """`name`, where it can become a part of a file's name everywhere.

    Raises:
        ValueError: it is no text, empty, too long, or holds more than letters, digits and _.+=-
    """
    if not isinstance(name, str) or not re.fullmatch(r"[\w.+=-]+", name):
        raise ValueError(f"{what} may hold letters, digits, _.+=-; got {name!r}")
    if len(name.encode(errors="replace")) > _LONGEST_NAME:
        raise ValueError(f"{what} must be at most {_LONGEST_NAME} bytes long; got {name!r}")
    return name


def check_no_link(path: Path) -> None:
    """Raise where a folder that is to be written is a link to elsewhere.

    Raises:
        ValueError: it is.
    """
    if path.is_symlink():
        raise ValueError(f"{path} must be a folder of its own; it is a link to {os.readlink(path)}")


@contextmanager
def _draft(
    target: Path, create: Callable[[Path], int], rename: Callable[[Path, Path], None]
) -> Iterator[tuple[Path, int]]:
    """A new draft, and a descriptor whose lock tells others that it is being written."""
    _sweep(target)
    done = False
    while not done:
        draft = target.with_name(f"{_draft_prefix(target)}{secrets.token_hex(8)}.part")
        descriptor = _NONE
        try:
            with _naming(target, draft):
                descriptor = create(draft)
                if _lock(descriptor, wait=True) and not os.fstat(descriptor).st_nlink:
                    continue  # swept away before it was locked
                yield draft, descriptor
                done = True
                if fcntl is None:  # Windows renames nothing that is open
                    os.close(descriptor)
                    descriptor = _NONE
                rename(draft, target)
                sync_folder(target.parent)
        finally:
            if descriptor != _NONE:
                os.close(descriptor)
            _remove(draft)


@contextmanager
def _naming(target: Path, draft: Path) -> Iterator[None]:
    """Errors are told of the file that was asked for, not of its draft."""
    try:
        yield
    except OSError as error:
        of_draft = error.filename == str(draft) or (error.filename is None and error.errno in FULL)
        if not of_draft or error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, str(target)) from error


def _draft_prefix(target: Path) -> str:
    # Names are limited to 255 bytes.
    return f".{os.fsdecode(os.fsencode(target.name)[:_LONGEST_PREFIX])}."


def _new_file(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | NO_LINKS | _ALWAYS, 0o666)


def _new_folder(path: Path) -> int:
    path.mkdir()
    return _NONE if fcntl is None else os.open(path, os.O_RDONLY | _ALWAYS)


def _rename_over(draft: Path, target: Path) -> None:
    check_replaceable(target)
    os.replace(draft, target)


def _rename_to_new(draft: Path, target: Path) -> None:
    _check_absent(target)
    draft.rename(target)


def _check_absent(target: Path) -> None:
    if target.exists() or target.is_symlink():
        raise FileExistsError(errno.EEXIST, "exists already", str(target))


def _lock(descriptor: int, wait: bool) -> bool:
    """Whether the lock could be had, which goes with the descriptor."""
    if fcntl is None:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError:  # another's, or a file system without locks
        return False
    return True


def _sweep(target: Path) -> None:
    """Remove drafts of a name that nobody is writing any more."""
    pattern = re.compile(re.escape(_draft_prefix(target)) + r"[0-9a-f]{16}\.part")
    with suppress(OSError):
        for name in os.listdir(target.parent):
            if pattern.fullmatch(name):
                _remove_abandoned(target.with_name(name))


def _remove_abandoned(draft: Path) -> None:
    with suppress(OSError):
        descriptor = os.open(draft, os.O_RDONLY | NO_LINKS | _ALWAYS)
        try:
            if _lock(descriptor, wait=False):
                _remove(draft)
        finally:
            os.close(descriptor)


def _remove(draft: Path) -> None:
    if draft.is_dir() and not draft.is_symlink():
        shutil.rmtree(draft, ignore_errors=True)
    else:
        draft.unlink(missing_ok=True)
