"""Files and folders are there whole, or what was there before still is."""

from __future__ import annotations

import errno
import os
import resource
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fishermask_fast import files
from fishermask_fast.files import (
    check_name,
    check_no_link,
    folder_written_whole,
    open_file,
    replace_file,
    written_whole,
)


def names(folder: Path) -> list[str]:
    return sorted(each.name for each in folder.iterdir())


def write_file(path: Path) -> None:
    replace_file(path, b"after")


def write_folder(path: Path) -> None:
    with folder_written_whole(path) as draft:
        replace_file(draft / "inside", b"after")


WRITERS = (write_file, write_folder)


@contextmanager
def stopping(where: str, error: BaseException) -> Iterator[None]:
    """Within it, one call of the system ends with an error."""
    with pytest.MonkeyPatch.context() as patch:

        def stop(*_: object, **__: object) -> None:
            patch.undo()
            raise error

        patch.setattr(files.os, where, stop)
        yield


STEPS = [
    (write_file, "fsync"),
    (write_file, "replace"),
    (write_folder, "rename"),
    *((write, where) for write in WRITERS for where in ("fstat", "fdopen", "open")),
]


@pytest.mark.parametrize(("write", "where"), STEPS)
@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(errno.EIO, "disk"), SystemExit(1)])
def test_what_stops_writing_leaves_what_was_there(
    write: Callable[[Path], None], where: str, error: BaseException, tmp_path: Path
) -> None:
    (tmp_path / "old").write_bytes(b"before")
    target = tmp_path / "old" if write is write_file else tmp_path / "new"
    with stopping(where, error), pytest.raises(type(error)) as caught:
        write(target)
    assert caught.value is error
    assert names(tmp_path) == ["old"]
    assert (tmp_path / "old").read_bytes() == b"before"


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_a_block_that_fails_leaves_nothing(error: type[BaseException], tmp_path: Path) -> None:
    with pytest.raises(error), written_whole(tmp_path / "file") as file:
        file.write(b"half")
        raise error
    with pytest.raises(error), folder_written_whole(tmp_path / "folder") as draft:
        replace_file(draft / "file", b"half")
        raise error
    assert names(tmp_path) == []


def test_a_link_of_the_final_name_is_replaced_and_not_followed(tmp_path: Path) -> None:
    (tmp_path / "victim").write_bytes(b"precious")
    (tmp_path / "file").symlink_to("victim")
    replace_file(tmp_path / "file", b"ours")
    assert (tmp_path / "victim").read_bytes() == b"precious"
    assert not (tmp_path / "file").is_symlink()
    (tmp_path / "folder").symlink_to("elsewhere")
    with pytest.raises(FileExistsError), folder_written_whole(tmp_path / "folder"):
        pass
    assert names(tmp_path) == ["file", "folder", "victim"]


@pytest.mark.parametrize("write", WRITERS)
def test_names_of_drafts_cannot_be_foretold_nor_taken(
    write: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "victim").write_bytes(b"precious")
    monkeypatch.setattr(files.secrets, "token_hex", lambda n: "0" * 2 * n)
    planted = tmp_path / f".target.{'0' * 16}.part"
    planted.symlink_to("victim")
    with pytest.raises(FileExistsError):
        write(tmp_path / "target")
    assert (tmp_path / "victim").read_bytes() == b"precious"
    monkeypatch.undo()
    seen = set()
    for _ in range(3):
        with written_whole(tmp_path / "file"):
            seen |= {name for name in names(tmp_path) if name.startswith(".file.")}
    assert len(seen) == 3


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_existing_folders_are_not_overwritten(kind: str, tmp_path: Path) -> None:
    target = tmp_path / "target"
    replace_file(target, b"before") if kind == "file" else target.mkdir()
    with pytest.raises(FileExistsError), folder_written_whole(target):
        pass
    assert names(tmp_path) == ["target"]


def test_threads_that_write_one_name_and_readers_of_it(tmp_path: Path) -> None:
    path, size, failures = tmp_path / "file", 200_000, []
    replace_file(path, b"0" * size)
    end = time.monotonic() + 1.0

    def work(digit: bytes) -> None:
        try:
            while time.monotonic() < end:
                replace_file(path, digit * size)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(b"%d" % i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    reads = 0
    while time.monotonic() < end:
        content = path.read_bytes()
        assert len(content) == size and len(set(content)) == 1
        reads += 1
    for thread in threads:
        thread.join()
    assert not failures and reads > 3
    assert names(tmp_path) == ["file"]


@pytest.mark.parametrize("write", WRITERS)
def test_what_a_killed_process_left_goes_with_the_next_writing(
    write: Callable[[Path], None], tmp_path: Path
) -> None:
    child = os.fork()
    if child == 0:
        if write is write_file:
            files.os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
        else:
            Path.rename = lambda *_: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[assignment, method-assign, return-value]
        write(tmp_path / "target")
        os._exit(0)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    assert len(names(tmp_path)) == 1 and "target" not in names(tmp_path)
    write_file(tmp_path / "other")
    assert len(names(tmp_path)) == 2, "drafts of other names are not ours"
    write(tmp_path / "target")
    assert names(tmp_path) == ["other", "target"]


def test_a_draft_that_is_being_written_is_left_alone(tmp_path: Path) -> None:
    with written_whole(tmp_path / "file") as first:
        first.write(b"first")
        replace_file(tmp_path / "file", b"second")
        assert (tmp_path / "file").read_bytes() == b"second"
    assert (tmp_path / "file").read_bytes() == b"first"


def test_a_draft_that_is_swept_away_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock, calls = files._lock, []

    def swept(descriptor: int, wait: bool) -> bool:
        if not calls:
            calls.append(None)
            for each in tmp_path.iterdir():
                each.unlink()
        return lock(descriptor, wait)

    monkeypatch.setattr(files, "_lock", swept)
    replace_file(tmp_path / "file", b"whole")
    assert calls and (tmp_path / "file").read_bytes() == b"whole"


def test_full_disks_are_told_of_the_file_that_was_asked_for(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    replace_file(tmp_path / "file", b"before")
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
    try:
        with pytest.raises(OSError, match="File too large: .*/file'") as caught:
            replace_file(tmp_path / "file", bytes(100_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert caught.value.errno == errno.EFBIG
    assert names(tmp_path) == ["file"]
    assert (tmp_path / "file").read_bytes() == b"before"


@pytest.mark.skipif(os.geteuid() != 0, reason="to drop rights one needs some")
@pytest.mark.parametrize("write", WRITERS)
def test_folders_that_cannot_be_written(write: Callable[[Path], None], tmp_path: Path) -> None:
    for folder in (tmp_path, *list(tmp_path.parents)[:3]):
        folder.chmod(0o755)
    child = os.fork()
    if child == 0:
        os.setuid(65534)
        try:
            write(tmp_path / "target")
        except PermissionError as error:
            os._exit(0 if str(error).endswith("target'") else 2)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert names(tmp_path) == []


def test_rights_are_those_of_any_new_file(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_file(tmp_path / "file")
        write_folder(tmp_path / "folder")
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o640
    assert (tmp_path / "folder").stat().st_mode & 0o777 == 0o750


@pytest.mark.parametrize(
    "name", ["a" * 250, "ä" * 120, "a.b c", b"\xff\xfe".decode(errors="surrogateescape")]
)
@pytest.mark.parametrize("write", WRITERS)
def test_names_of_every_kind(write: Callable[[Path], None], name: str, tmp_path: Path) -> None:
    write(tmp_path / name)
    assert names(tmp_path) == [name]


@pytest.mark.parametrize("what", ["pipe", "folder", "device"])
def test_only_files_are_opened(what: str, tmp_path: Path) -> None:
    path = tmp_path / "it"
    if what == "pipe":
        os.mkfifo(path)
    elif what == "folder":
        path.mkdir()
    else:
        path = Path(os.devnull)
    with pytest.raises(ValueError, match="must be a file"):
        open_file(path, os.O_RDONLY)


@pytest.mark.parametrize("name", ["random", "fisher-0.5", "a_b+c=d", "Größe", "x" * 100, ".."])
def test_names_that_become_parts_of_files(name: str) -> None:
    assert check_name("strategy", name) == name


@pytest.mark.parametrize(
    "name", ["", "a/b", "../x", "a\0", "a b", "a\nb", "a\\b", "x" * 101, 3, None]
)
def test_names_that_do_not(name: object) -> None:
    with pytest.raises(ValueError, match="strategy"):
        check_name("strategy", name)


def test_folders_that_are_links(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    check_no_link(tmp_path)
    with pytest.raises(ValueError, match="it is a link to"):
        check_no_link(tmp_path / "link")
