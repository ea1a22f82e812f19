"""What a query needs is counted before it begins, and refused where it does not fit."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fishermask_fast import FisherMaskSelector, estimates
from fishermask_fast.selector import counting, query

CODE = Path(__file__).parent


def model(n_classes: int = 3) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(20, 60), nn.Tanh(), nn.Linear(60, n_classes))


def pool(n: int = 30) -> Tensor:
    return torch.randn(n, 20, generator=torch.Generator().manual_seed(1))


def test_a_table_before_any_work(tmp_path: Path) -> None:
    net = model()
    flags = [p.requires_grad for p in net.parameters()]
    selector = FisherMaskSelector(net)
    told = selector.estimate(pool(), 5, pool(10))
    assert told.k == 366 and told.n_rows == 2
    assert set(told.seconds) == {"mask", "gradients", "fisher"}
    assert min(told.seconds.values()) > 0
    # The head is kept apart: 183 others twice, 2 x 3 of coupling and 61 inputs, in float32.
    sample = 4 * (2 * 183 + 2 * 3 + 61)
    assert told.parts["gradients"]["gradients of the pool"] == 30 * sample
    assert told.parts["selection"]["k x k matrices"] == pytest.approx(8.8 * 8 * 366**2, abs=8)
    shown = repr(told)
    assert "366 masked parameters: room beside the head's 183" in shown and "peak" in shown
    assert [p.requires_grad for p in net.parameters()] == flags and net.training
    stored = selector.estimate(pool(), 5, out=tmp_path / "v.safetensors")
    assert stored.file_bytes == 30 * sample and not list(tmp_path.iterdir())
    assert stored.parts["gradients"]["gradients of the pool"] == 0


@pytest.mark.parametrize(("n", "batch_size"), [(500, None), (500, 3), (7, None)])
def test_the_masks_seconds_are_those_of_a_whole_batch_and_a_quarter(
    n: int, batch_size: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    timed: list[int] = []
    real = query.fisher_diagonal

    def counted(net: nn.Module, data: Tensor, **more: Any) -> dict[str, Tensor]:
        timed.append(len(more["indices"]))
        return real(net, data, **more)

    monkeypatch.setattr(query, "fisher_diagonal", counted)
    FisherMaskSelector(model(), batch_size=batch_size).estimate(pool(n), 5, pool(10))
    most = min(n, batch_size or 16)
    assert timed == [max(1, most // 4), most]


@pytest.mark.parametrize("mask", ["global", "random", "middle"])
def test_of_many_classes_the_time_is_told_by_one_row(
    mask: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All rows of a batch would take as long as some queries."""
    asked: list[str] = []
    real = query.fisher_diagonal

    def counted(*given: Any, **more: Any) -> dict[str, Tensor]:
        asked.append(more["expectation"])
        return real(*given, **more)

    monkeypatch.setattr(query, "fisher_diagonal", counted)
    monkeypatch.setattr(query, "masked_gradients", None)
    told = FisherMaskSelector(model(40), fraction=0.3, mask=mask, keep_head=False).estimate(
        pool(), 5
    )
    assert told.n_rows == 39 and set(asked) == {"sampled"}
    assert set(told.seconds) == {"gradients", "fisher", *(() if mask == "random" else ("mask",))}
    assert min(told.seconds.values()) > 0


def test_what_is_taken_but_once_is_not_multiplied(monkeypatch: pytest.MonkeyPatch) -> None:
    """Work of 0.2 s, and 2 ms a sample, over 500 samples."""
    clock = [0.0]

    def slow(*_: Any, indices: Any = (), **__: Any) -> dict[str, Tensor]:
        clock[0] += 0.2 + 0.002 * len(indices)
        return {}

    monkeypatch.setattr(query, "fisher_diagonal", slow)
    monkeypatch.setattr(counting.time, "perf_counter", lambda: clock[0])
    told = FisherMaskSelector(model(), fisher_samples=500).estimate(pool(600), 5)
    assert told.seconds["mask"] == pytest.approx(1.2)


@pytest.mark.parametrize("mask", ["global", "per_layer", "relative", "random", "head", "middle"])
def test_every_mask_is_counted(mask: str) -> None:
    selector = FisherMaskSelector(model(), mask=mask)
    told = selector.estimate(pool(), 5)
    selector.query(pool(), 5, progress=False)
    if mask != "relative":
        assert told.k == len(selector.mask_)
    diagonal = told.parts["mask"]["the Fisher diagonal"]
    assert (diagonal > 0) == (mask in ("global", "per_layer", "relative", "middle"))


@pytest.mark.parametrize(
    ("options", "n", "way"),
    [
        ({"n_parameters": 1443}, 30, "n_parameters= masks fewer parameters"),
        ({"n_parameters": 200}, 400_000, "out=path keeps the gradients in a file"),
        ({"n_parameters": 200}, 400_000, "rank= takes fewer rows"),
        ({"mask": "relative", "batch_size": 10**6}, 400_000, "batch_size= takes fewer samples"),
    ],
)
def test_what_does_not_fit_is_refused_with_ways_out(
    options: dict[str, object], n: int, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = 200 * 2**20
    monkeypatch.setattr(estimates, "available_memory", lambda device: free)
    for name in ("fisher_diagonal", "masked_gradients"):
        monkeypatch.setattr(query, name, lambda *a, **k: pytest.fail("work"))
    selector = FisherMaskSelector(model(), **options)  # type: ignore[arg-type]
    start = time.process_time()
    with pytest.raises(ValueError, match=r"cpu has 200.0 MiB free") as refused:
        selector.query(torch.zeros(1, 20).expand(n, 20), 5, progress=False)
    assert way in str(refused.value) and "needs" in str(refused.value)
    assert time.process_time() - start < 1


def test_memory_never_changes_the_picks(monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for free in (2**28, 2**40):
        monkeypatch.setattr(estimates, "available_memory", lambda device, free=free: free)
        selector = FisherMaskSelector(model())
        picks = list(selector.query(pool(), 6, pool(4), progress=False))
        found.append((picks, selector.mask_))
    assert found[0] == found[1]


LIMITED = """
import resource, sys
import torch
from torch import nn
from fishermask_fast import FisherMaskSelector
torch.set_num_threads(1)
model = nn.Sequential(nn.Linear(20, 60), nn.Tanh(), nn.Linear(60, 3))
data = torch.randn(30, 20)
FisherMaskSelector(model).query(data, 3, progress=False)  # all libraries are there
used = int(next(l for l in open("/proc/self/status") if l.startswith("VmSize")).split()[1]) * 1024
limit = used + 220 * 2**20
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
big = nn.Sequential(nn.Linear(20, 300), nn.Tanh(), nn.Linear(300, 3))
selector = FisherMaskSelector(big, n_parameters=int(sys.argv[1]))
try:
    print("picked", len(selector.query(data, 3, progress=False)))
except ValueError as error:
    print("refused", error)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc and RLIMIT_AS")
@pytest.mark.parametrize(("k", "word"), [(1000, "picked 3"), (7000, "refused")])
def test_under_a_limit_it_finishes_or_refuses(k: int, word: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(k)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(word), done.stdout


def test_the_pages_give_the_figures_that_are_counted_with() -> None:
    docs = Path(__file__).parents[1] / "docs"
    faq, performance, scale = (
        (docs / f"{name}.md").read_text() for name in ("faq", "performance", "scale")
    )
    in_memory = f"{4 * estimates._TRIANGLES:g} r (r + 1) + {estimates._BESIDE}"
    in_a_file = f"{2 * estimates._TRIANGLES:g} r (r + 1) + {estimates._BESIDE_FILE}"
    least, labeled, most = (
        estimates.matrices_at_work(*how) for how in ((False, False), (True, False), (True, True))
    )
    assert in_memory in faq and in_memory in performance
    assert in_a_file in faq and in_a_file in scale
    assert all(str(count) in faq for count in (least, labeled, most))
    assert f"{least} to {most} k x k" in performance
