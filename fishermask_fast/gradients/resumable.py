"""A file of gradient factors that is written batch by batch, and goes on where it was stopped.

    PATH.part        the file, at its final size from the first batch on
    PATH.part.json   the fingerprint of what is written, how many of its samples are whole, and a
                     checksum of both

Samples are counted once they are on the disk. When all are, PATH.part becomes PATH.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any

from fishermask_fast.factors import (
    GradientFactors,
    Layout,
    StoredFactors,
    Written,
    drop_pages,
    plan_file,
    read_bytes,
    read_layout,
    write_rows,
    write_start,
)
from fishermask_fast.files import (
    FULL,
    NO_LINKS,
    checksum,
    open_file,
    parse_json,
    read_file,
    replace_file,
    sync_folder,
)
from fishermask_fast.gradients.fingerprint import differences

fcntl: ModuleType | None
try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

_logger = logging.getLogger(__name__)

# A process that closes any descriptor of a file gives up all its locks on it, so that a second
# writer in this process must not even open it.
_opened: set[str] = set()
_opening = threading.Lock()


def find_finished(path: Path, fingerprint: dict[str, str]) -> StoredFactors | None:
    """The file at `path` if it was written under this fingerprint, or None if there is none.

    Raises:
        ValueError: another file is there.
    """
    if not path.exists():
        return None
    stored = StoredFactors(path)
    different = differences(stored.metadata, fingerprint)
    if different:
        raise ValueError(
            f"{path} holds other gradients, which differ in {different}; delete it or give "
            "another path"
        )
    if not _part_of(path).exists():
        _record_of(path).unlink(missing_ok=True)
    _logger.info("%s holds the gradients of all %d samples already", path, len(stored))
    return stored


class ResumableFile:
    """Appends the factors of n samples to a file, after those that an earlier run has written.

    A context manager, which may be left at any time.

    Attributes:
        n_done: samples that are written.
        batch_size: of the run that began the file; None where this one does.

    Raises:
        BlockingIOError: another process or thread is writing the file.
        OSError: the file cannot be written.
        ValueError: what has been written is of another fingerprint or of unknown origin.
    """

    n_done: int
    batch_size: int | None

    def __init__(self, path: Path, n: int, fingerprint: dict[str, str]) -> None:
        self._path, self._n, self._fingerprint = path, n, fingerprint
        self._part, self._record = _part_of(path), _record_of(path)
        self._layout: Layout | None = None
        self._written: Written | None = None
        self._recording: Future[None] | None = None
        self._opened_as = _claim(self._part)
        try:
            self._descriptor = _open_part(self._part)
            try:
                self._lock()
                self.n_done, self.batch_size = self._read_record()
            except BaseException:
                os.close(self._descriptor)
                raise
        except BaseException:
            _opened.discard(self._opened_as)
            raise
        self._recorder = ThreadPoolExecutor(1, thread_name_prefix="fishermask_fast recorder")
        if self.n_done:
            _logger.info("going on from sample %d of %d in %s", self.n_done, n, self._part)

    def __enter__(self) -> ResumableFile:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            self._recorder.shutdown()
            if os.fstat(self._descriptor).st_size == 0:
                self._part.unlink(missing_ok=True)
                self._record.unlink(missing_ok=True)
        finally:
            os.close(self._descriptor)
            _opened.discard(self._opened_as)

    def append(self, factors: GradientFactors) -> None:
        """Writes the next samples.

        Raises:
            OSError: the disk is full, or fails; what was whole before still is.
            ValueError: the samples are more than were announced, or of another shape.
        """
        if self.n_done + len(factors) > self._n:
            raise ValueError(f"expected {self._n} samples; got {self.n_done + len(factors)}")
        with self._saying_what_a_full_disk_keeps():
            if self._layout is None:
                self._layout = self._begin(factors)
                self._written = Written(self._descriptor, self._layout)
            write_rows(self._descriptor, self._layout, self.n_done, factors)
            self._wait()
        # The next batch is computed while the disk takes this one.
        self._recording = self._recorder.submit(
            self._settle, self._layout, self.n_done, len(factors)
        )
        self.n_done += len(factors)

    def finish(self) -> StoredFactors:
        """The whole file at its path.

        Raises:
            OSError: as `append`.
            ValueError: samples are missing, or a file has come to be at the path.
        """
        if self.n_done != self._n:
            raise ValueError(f"expected {self._n} samples; got {self.n_done}")
        with self._saying_what_a_full_disk_keeps():
            self._wait()
            # Whether all of the file is there, and is what was to be written.
            layout = read_layout(self._descriptor, whole=False)
            if differences(layout.metadata, self._fingerprint):
                raise ValueError(self._has_been_changed())
            (self._written or Written(self._descriptor, layout)).seal()
            os.fsync(self._descriptor)
        if self._path.exists():
            raise ValueError(f"{self._path} has come to be while {self._part} was written")
        self._part.rename(self._path)
        sync_folder(self._path.parent)
        self._record.unlink(missing_ok=True)
        return StoredFactors(self._path)

    def _lock(self) -> None:
        if fcntl is None:
            _logger.warning("%s cannot be locked against other writers here", self._part)
            return
        # Of the process and not of the descriptor: a DataLoader's workers inherit the latter, and
        # may outlive a run that is killed.
        try:
            fcntl.lockf(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                raise BlockingIOError(
                    error.errno, "another process is writing this file", str(self._part)
                ) from error
            _logger.warning("%s cannot be locked against other writers: %s", self._part, error)

    def _read_record(self) -> tuple[int, int | None]:
        """Samples whole and batch size."""
        if os.fstat(self._descriptor).st_size == 0:
            return 0, None
        try:
            n_done, batch_size, known = _checked(parse_json(read_file(self._record)))
        except (FileNotFoundError, KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{self._part} cannot be gone on with, since {self._record.name} does not say what "
                f"it holds ({error!r}); delete both or give another path"
            ) from error
        different = differences(known, self._fingerprint)
        if different:
            raise ValueError(
                f"{self._part} was begun for other gradients, which differ in {different}; delete "
                f"it and {self._record.name}, or give another path"
            )
        if n_done > self._n:
            raise ValueError(self._has_been_changed())
        return n_done, batch_size

    def _has_been_changed(self) -> str:
        return (
            f"{self._part} has been changed since it was begun; delete it and "
            f"{self._record.name}, or give another path"
        )

    def _begin(self, factors: GradientFactors) -> Layout:
        """Makes room for all samples, or finds it made."""
        header, layout = plan_file(factors, self._n, self._fingerprint)
        if self.n_done:
            size = os.fstat(self._descriptor).st_size
            if read_bytes(self._descriptor, len(header), 0) != header or size != layout.size:
                raise ValueError(self._has_been_changed())
            return layout
        self.batch_size = len(factors)
        # Before the file has any content, so that none is of unknown origin.
        self._write_record(0)
        try:
            _reserve(self._descriptor, layout.size)
        except OSError as error:
            if error.errno in FULL:
                os.ftruncate(self._descriptor, 0)
                free = shutil.disk_usage(self._part.parent).free
                raise OSError(
                    error.errno,
                    f"no room for {layout.size / 2**30:.2f} GiB of gradients "
                    f"({free / 2**30:.2f} GiB free)",
                    str(self._part),
                ) from error
            raise
        write_start(self._descriptor, header, layout, factors.head_index)
        return layout

    def _settle(self, layout: Layout, start: int, n: int) -> None:
        """Counts samples once they are on the disk."""
        if self._written is not None:
            self._written.add(start, start + n)
        _sync_data(self._descriptor)
        self._write_record(start + n)
        if layout.outgrows_memory:
            drop_pages(self._descriptor, layout, start, n)

    def _write_record(self, n_done: int) -> None:
        record: dict[str, Any] = {
            "samples": n_done,
            "batch_size": self.batch_size,
            "fingerprint": self._fingerprint,
            "checksum": None,
        }
        record["checksum"] = checksum(record)
        replace_file(self._record, json.dumps(record).encode())

    def _wait(self) -> None:
        """Until what was appended is counted."""
        if self._recording is not None:
            self._recording.result()

    @contextmanager
    def _saying_what_a_full_disk_keeps(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno not in FULL or error.filename is not None:
                raise
            raise OSError(
                error.errno,
                "the disk is full; what is written stays, and the same call goes on from there",
                str(self._part),
            ) from error


def _part_of(path: Path) -> Path:
    return path.with_name(path.name + ".part")


def _record_of(path: Path) -> Path:
    return path.with_name(path.name + ".part.json")


def _claim(part: Path) -> str:
    """A name for the file by which no other thread has it open now."""
    name = os.path.realpath(part)
    with _opening:
        if name in _opened:
            raise BlockingIOError(errno.EAGAIN, "another thread is writing this file", str(part))
        _opened.add(name)
    return name


def _open_part(part: Path) -> int:
    try:
        return open_file(part, os.O_RDWR | os.O_CREAT | NO_LINKS)
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise OSError(error.errno, "it is a link, which is not followed", str(part)) from error


def _checked(record: Any) -> tuple[int, int, dict[str, str]]:
    """Samples whole, batch size and fingerprint of a record.

    Raises:
        KeyError, TypeError, ValueError: it is not as it was written.
    """
    if not isinstance(record, dict):
        raise TypeError("it must be an object")
    if checksum({**record, "checksum": None}) != record["checksum"]:
        raise ValueError("its checksum is another")
    n_done, batch_size, known = record["samples"], record["batch_size"], record["fingerprint"]
    if type(n_done) is not int or type(batch_size) is not int or not isinstance(known, dict):
        raise TypeError("samples and batch_size must be integers, and fingerprint an object")
    if n_done < 0 or batch_size < 1:
        raise ValueError(f"samples {n_done} and batch_size {batch_size} are out of range")
    return n_done, batch_size, known


def _reserve(descriptor: int, size: int) -> None:
    """Gives the file its size, on the disk too where the file system can."""
    if not hasattr(os, "posix_fallocate"):
        os.ftruncate(descriptor, size)
        return
    try:
        os.posix_fallocate(descriptor, 0, size)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS):
            raise
        os.ftruncate(descriptor, size)


def _sync_data(descriptor: int) -> None:
    getattr(os, "fdatasync", os.fsync)(descriptor)  # macOS and Windows have fsync alone
