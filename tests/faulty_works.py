"""Kinds of work that a process may be killed in, and what must then be there."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import socket
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import killed_gradients
import killed_run
import numpy as np
import torch
import torch.distributed as dist
from PIL import Image
from torch import nn

from fishermask_fast import FisherMask, FisherMaskSelector, StoredFactors
from fishermask_fast.cli import main as cli
from fishermask_fast.files import replace_file
from fishermask_fast.loop.records import RunFolder, read_rounds


class Killed(Exception):
    """The process that did the work was killed."""


def in_child(work: Callable[[int], object], seconds: float | None = None) -> list[bytes]:
    """Do some work in a process of its own, which is killed after so many seconds.

    Args:
        work: gets a descriptor to which it may write lines that acknowledge something.
        seconds: None to let it end.

    Returns:
        The lines.

    Raises:
        Killed: it was; its lines are the error's arguments.
        RuntimeError: it failed otherwise.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        os.setpgid(0, 0)
        try:
            with (
                contextlib.redirect_stdout(io.StringIO()),
                contextlib.redirect_stderr(io.StringIO()) as errors,
            ):
                code = work(writing)
            if code:
                os.write(2, errors.getvalue().encode())
            os._exit(int(bool(code)))
        except BaseException as error:
            os.write(2, f"{type(error).__name__}: {error}\n".encode())
            os._exit(1)
    os.close(writing)
    if seconds is not None:
        time.sleep(seconds)
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
    with os.fdopen(reading, "rb") as pipe:
        lines = pipe.read().splitlines()
    status = os.waitpid(child, 0)[1]
    if os.WIFSIGNALED(status):
        raise Killed(lines)
    if status:
        raise RuntimeError(f"it failed with status {status}")
    return lines


def tree(folder: Path) -> dict[str, bytes]:
    """All files below a folder, by name."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


class Work:
    """One kind of work, in a folder of its own."""

    name = ""

    def do(self, folder: Path, told: int) -> object:
        """The work, from where it was stopped; acknowledges by lines to `told`."""
        raise NotImplementedError

    def check(self, folder: Path, told: list[bytes]) -> None:
        """Raise unless what was acknowledged is there."""

    def result(self, folder: Path) -> object:
        """What must be the same in the end."""
        return tree(folder)


class Run(Work):
    name = "run"

    def __init__(self) -> None:
        self.experiment = killed_run.experiment(warm_start=True)

    def do(self, folder: Path, told: int) -> object:
        run = RunFolder(folder / "run", self.experiment.config(), resume=True)
        for number, _ in enumerate(self.experiment.run(run), len(run.rounds) + 1):
            os.write(told, f"{number}\n".encode())
        run.close()
        return 0

    def check(self, folder: Path, told: list[bytes]) -> None:
        recorded = 0
        if (folder / "run" / "rounds.jsonl").exists():
            recorded = len(read_rounds(folder / "run"))
        assert recorded >= int(told[-1] if told else 0), "a round that was told of is lost"

    def result(self, folder: Path) -> object:
        rounds = [vars(entry) | {"seconds": {}} for entry in read_rounds(folder / "run")]
        names = sorted(path.name for path in (folder / "run").iterdir())
        return json.dumps(rounds), names


class Select(Work):
    name = "select --out"

    def __init__(self, folder: Path) -> None:
        rng = np.random.default_rng(0)
        for where, count in (("pool", 12), ("known/cat", 3), ("known/dog", 3)):
            (folder / where).mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / where / f"{i}.png")
        from fishermask_fast.models import build_model

        torch.manual_seed(0)
        model = build_model("resnet18_small", 2, (3, 32, 32), 0)
        torch.save(model.state_dict(), folder / "model.pt")
        self.arguments = [
            "select", "--unlabeled", str(folder / "pool"), "--labeled", str(folder / "known"),
            "--model", "resnet18_small", "--checkpoint", str(folder / "model.pt"),
            "--image-size", "32", "-n", "3", "--strategy", "margin",
        ]  # fmt: skip

    def do(self, folder: Path, told: int) -> object:
        if (folder / "picks").exists():  # whole or not at all: the result is compared
            return 0
        return cli([*self.arguments, "--out", str(folder / "picks")])

    def result(self, folder: Path) -> object:
        # The tasks name the pool's file, which lies in the folder.
        here = str(folder).encode()
        return {name: content.replace(here, b"") for name, content in tree(folder).items()}


class Gradients(Work):
    name = "gradients into a file"

    def do(self, folder: Path, told: int) -> object:
        killed_gradients.write(str(folder / "gradients"), seconds=0.002)
        os.write(told, b"whole\n")
        return 0

    def check(self, folder: Path, told: list[bytes]) -> None:
        if told:
            StoredFactors(folder / "gradients")


class Masks(Work):
    name = "masks, again and again"

    def __init__(self) -> None:
        model = killed_gradients.make_model()
        torch.manual_seed(0)
        self.masks = [
            FisherMask.random(model, 0.9, seed=seed) for seed in range(2)
        ]  # one after the other

    def do(self, folder: Path, told: int) -> object:
        for turn in range(40):
            self.masks[turn % 2].save(folder / "mask")
            os.write(told, f"{turn}\n".encode())
        return 0

    def check(self, folder: Path, told: list[bytes]) -> None:
        if told:
            assert FisherMask.load(folder / "mask") in self.masks


class Ranks(Work):
    name = "query of two ranks"

    def do(self, folder: Path, told: int) -> object:
        """Rank 0 here and rank 1 in a process of its own, which dies with rank 0."""
        with socket.socket() as found:
            found.bind(("127.0.0.1", 0))
            port = found.getsockname()[1]
        other = os.fork()
        rank = 1 if other == 0 else 0
        dist.init_process_group(
            "gloo",
            init_method=f"tcp://127.0.0.1:{port}",
            rank=rank,
            world_size=2,
            timeout=timedelta(seconds=20),
        )
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3))
        generator = torch.Generator().manual_seed(rank)
        pool = torch.randn(60, 6, generator=generator)
        selector = FisherMaskSelector(model, fraction=0.7, group=dist.group.WORLD, batch_size=3)
        out = folder / f"rank{rank}"
        try:
            picks = selector.query(pool, 8, progress=False, out=out)
        except RuntimeError:
            if rank == 1:
                os._exit(1)
            raise
        if rank == 0:
            replace_file(folder / "picks", str(picks.indices.tolist()).encode())
            os.write(told, b"picks\n")
        dist.barrier()
        if rank == 1:
            os._exit(0)
        os.waitpid(other, 0)
        return 0

    def check(self, folder: Path, told: list[bytes]) -> None:
        if told:
            assert (folder / "picks").exists()
