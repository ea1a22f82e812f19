"""Processes that are killed, disks that are full, files that go: nothing acknowledged is lost.

    python tests/check_faults.py [KILLS]

Each of four kinds of work (a run, a selection of images, gradients into a file, a query of two
ranks) is killed with SIGKILL at KILLS random moments (50 unless given) between its first and last
step, and done again. After each kill, what the process had acknowledged must be there, and what is
there must be readable; the work that goes on must end with the bytes of work that nobody stopped.
Other faults follow: a full disk, folders that cannot be written, files removed under way, limits.
Processes are forked, so that only the first pays for the imports. Prints a table of counts.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import os
import random
import resource
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import killed_gradients
import killed_run
import numpy as np
import torch
from faulty_works import Gradients, Killed, Masks, Ranks, Run, Select, Work, in_child, tree

from fishermask_fast import FisherMask, StoredFactors, masked_gradients
from fishermask_fast.files import replace_file
from fishermask_fast.loop.records import RunFolder

NOBODY = 65534


def kill_at_random(work: Work, kills: int, rng: random.Random) -> tuple[int, int]:
    """How often the work was killed, and how many whole works that took."""
    with tempfile.TemporaryDirectory() as name:
        began = time.monotonic()
        in_child(partial(work.do, Path(name)))
        whole = time.monotonic() - began
        expected = work.result(Path(name))
    killed = works = 0
    while killed < kills:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            told: list[bytes] = []
            # A few kills in one folder, then to the end.
            for _ in range(rng.randrange(1, 6)):
                try:
                    told += in_child(partial(work.do, folder), rng.uniform(0.0, whole))
                except Killed as error:
                    told += error.args[0]
                    killed += 1
                    settle(work)
                work.check(folder, told)
            in_child(partial(work.do, folder))
            found = work.result(folder)
            assert found == expected, f"{work.name} ended otherwise than without kills"
            works += 1
    return killed, works


def settle(work: Work) -> None:
    """Until what a killed process has left behind, such as another rank, has ended."""
    if isinstance(work, Ranks):
        time.sleep(0.3)


@contextlib.contextmanager
def full_disk(folder: Path, size: str) -> Iterator[Path]:
    """A file system of that size, mounted in the folder; needs to be root."""
    folder.mkdir()
    if os.system(f"mount -t tmpfs -o size={size} tmpfs {folder} 2>/dev/null"):
        raise PermissionError("a file system cannot be mounted here")
    try:
        yield folder
    finally:
        os.system(f"umount {folder}")


def on_a_full_disk(folder: Path) -> str:
    mask = Masks().masks[0]
    with full_disk(folder / "disk", "64k") as disk:
        replace_file(disk / "file", b"before")
        try:
            replace_file(disk / "file", bytes(200_000))
        except OSError as error:
            assert error.errno == errno.ENOSPC and error.filename == str(disk / "file")
        else:
            raise AssertionError("it fits")
        replace_file(disk / "filler", bytes(48_000))
        try:
            masked_gradients(
                killed_gradients.make_model(),
                killed_gradients.Slow(60, 0.0),
                killed_gradients.make_mask(killed_gradients.make_model()),
                out=disk / "gradients",
            )
        except OSError as error:
            assert error.errno == errno.ENOSPC
        else:
            raise AssertionError("they fit")
        assert (disk / "file").read_bytes() == b"before"
        assert not [path for path in disk.iterdir() if path.name.startswith(".")]
        (disk / "filler").unlink()
        mask.save(disk / "mask")
        assert FisherMask.load(disk / "mask") == mask
    return "what was there stays, no drafts"


def with_a_limit_on_files(folder: Path) -> str:
    def work(told: int) -> int:
        resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000))
        for _ in range(3):
            try:
                killed_gradients.write(str(folder / "gradients"))
            except OSError as error:
                assert error.errno == errno.EFBIG
            else:
                return 1
            try:
                replace_file(folder / "file", bytes(100_000))
            except OSError as error:
                assert error.errno == errno.EFBIG
            else:
                return 1
        return 0

    in_child(work)
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]
    killed_gradients.write(str(folder / "gradients"))
    StoredFactors(folder / "gradients")
    return "refused, and goes on without the limit"


def in_a_folder_that_cannot_be_written(folder: Path) -> str:
    (folder / "mine").mkdir()
    for each in (folder, *folder.parents[:-2]):
        each.chmod(0o755)

    def work(told: int) -> int:
        os.setuid(NOBODY)
        calls: list[Callable[[], object]] = [
            lambda: Masks().masks[0].save(folder / "mine" / "mask"),
            lambda: killed_gradients.write(str(folder / "mine" / "gradients")),
            lambda: RunFolder(folder / "mine" / "run", {}),
        ]
        for call in calls:
            try:
                call()
            except PermissionError:
                continue
            return 1
        return 0

    in_child(work)
    assert not tree(folder)
    return "refused, nothing written"


def when_the_record_is_removed(folder: Path) -> str:
    experiment = killed_run.experiment()
    run = RunFolder(folder / "run", experiment.config())
    running = experiment.run(run)
    next(running)
    (folder / "run" / "rounds.jsonl").unlink()
    try:
        list(running)
    except ValueError as error:
        assert "was removed while the run was going" in str(error)
    else:
        raise AssertionError("it went on")
    return "the run ends with an error"


def when_gradients_are_rewritten(folder: Path) -> str:
    seen = 0
    for value in (np.nan, 3.0):
        path = folder / f"gradients of {value}"
        killed_gradients.write(str(path))
        chunks = StoredFactors(path).chunks(7)
        next(chunks)
        with path.open("r+b") as file:
            file.seek(path.stat().st_size - 400)
            file.write(np.full(100, value, np.float32).tobytes())
        try:
            list(chunks)
        except ValueError as error:
            seen += "was changed while in use" in str(error)
    assert seen == 2
    return "the pass ends with an error"


def with_little_memory(folder: Path) -> str:
    def work(told: int) -> int:
        used = next(
            int(line.split()[1]) * 1024
            for line in Path("/proc/self/status").read_text().splitlines()
            if line.startswith("VmSize")
        )
        resource.setrlimit(resource.RLIMIT_AS, (used + 2**28, -1))
        from fishermask_fast import select_batch

        try:
            select_batch(torch.randn(10, 1, 5000), 2)
        except ValueError as error:
            return 0 if "GiB free" in str(error) else 1
        return 1

    in_child(work)
    return "refused before any work"


FAULTS: dict[str, Callable[[Path], str]] = {
    "full disk": on_a_full_disk,
    "RLIMIT_FSIZE": with_a_limit_on_files,
    "RLIMIT_AS": with_little_memory,
    "read-only folder": in_a_folder_that_cannot_be_written,
    "rounds.jsonl removed": when_the_record_is_removed,
    "gradients rewritten": when_gradients_are_rewritten,
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("kills", type=int, nargs="?", default=50)
    parser.add_argument("--only", help="one kind of work or fault")
    given = parser.parse_args()
    torch.set_num_threads(1)  # threads do not survive a fork
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    rng = random.Random(0)
    with tempfile.TemporaryDirectory() as name:
        kinds: list[Work] = [Run(), Select(Path(name)), Gradients(), Masks(), Ranks()]
        killed_gradients.write(None)
        for work in kinds:
            if given.only in (None, work.name):
                killed, works = kill_at_random(work, given.kills, rng)
                print(f"{work.name:<24}{killed:>4} kills, {works:>3} works end alike", flush=True)
    for fault, provoke in FAULTS.items():
        if given.only not in (None, fault):
            continue
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            (folder / "here").mkdir()
            try:
                found: Any = provoke(folder / "here")
            except PermissionError as error:
                if os.geteuid() == 0:
                    raise
                found = f"not tried: {error}"
            print(f"{fault:<24}{found}", flush=True)
            shutil.rmtree(folder / "here", ignore_errors=True)


if __name__ == "__main__":
    main()
