"""``select --embeddings``: no network at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_any_model import select, tables
from test_select import rows
from torch import nn

from fishermask_fast import factors_from_embeddings, fast_select
from fishermask_fast.labeling import read_embeddings


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def embeddings() -> dict[str, np.ndarray[Any, Any]]:
    generator = torch.Generator().manual_seed(0)
    h = torch.randn(40, 6, generator=generator)
    p = torch.randn(40, 3, generator=generator).softmax(1)
    return {
        "embeddings": h.numpy(),
        "probabilities": p.numpy(),
        "labeled": np.arange(40) % 4 == 0,
    }


@pytest.mark.parametrize("kind", ["npz", "safetensors"])
def test_embeddings_need_no_network(here: Path, kind: str) -> None:
    arrays = embeddings()
    if kind == "npz":
        np.savez("pool.npz", **arrays, names=np.array([f"s{i}" for i in range(40)]))
    else:
        pytest.importorskip("safetensors.numpy").save_file(arrays, "pool.safetensors")
    assert select("--embeddings", f"pool.{kind}", "-n", "5", "--n-parameters", "10") == 0
    known = torch.as_tensor(arrays["labeled"])
    h, p = torch.as_tensor(arrays["embeddings"]), torch.as_tensor(arrays["probabilities"])
    pool = factors_from_embeddings(h[~known], p[~known], mask=10)
    labeled = factors_from_embeddings(h[known], p[known], mask=pool.head_index).fisher()
    fisher = torch.lerp(pool.fisher(), labeled, 10 / 40)
    expected = fast_select(pool, 5, fisher, labeled, n_labeled=10)
    found = rows(Path("picks/picks.csv"))
    places = (~known).nonzero().flatten()[torch.as_tensor(expected)].tolist()
    assert [int(row["row"]) for row in found] == places
    if kind == "npz":
        assert [row["name"] for row in found] == [f"s{i}" for i in places]


@pytest.mark.parametrize(
    "strategy",
    [
        *("bait", "random", "entropy", "margin", "least_confidence", "coreset", "badge"),
        *("uherding", "typiclust", "fishermask_coverage"),
    ],
)
def test_every_strategy_picks_from_embeddings_as_with_a_head(here: Path, strategy: str) -> None:
    """The embeddings and probabilities of a linear head, against the head itself."""
    torch.manual_seed(0)
    head, h = nn.Linear(6, 3, bias=False), torch.randn(30, 6)
    p = head(h).softmax(1).detach()
    known = np.arange(30) % 5 == 0
    np.savez("pool.npz", embeddings=h.numpy(), probabilities=p.numpy(), labeled=known)
    assert select("--embeddings", "pool.npz", "-n", "6", "--strategy", strategy) == 0
    torch.save({"weight": head.weight.detach()}, "head.pt")
    Path(f"head_{here.name}.py").write_text(
        "from torch import nn\ndef make(n_classes):\n    return nn.Linear(6, n_classes, bias=False)"
    )
    records = [
        {**{f"h{i}": x for i, x in enumerate(row)}, "label": "a" if k else ""}
        for row, k in zip(h.tolist(), known.tolist(), strict=True)
    ]
    path = tables(".csv", records)
    flags = ["--model", f"head_{here.name}:make", "--checkpoint", "head.pt", "--strategy", strategy]
    classes = ["--classes", "0", "1", "2"]
    assert select("--csv", str(path), *flags, *classes, "-n", "6", "--out", "with") == 0
    first = [int(row["row"]) for row in rows(Path("picks/picks.csv"))]
    assert first == [int(row["row"]) - 1 for row in rows(Path("with/picks.csv"))]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"embeddings": None}, "must hold embeddings; it holds probabilities, labeled"),
        ({"probabilities": np.zeros((3, 2), "f4")}, "40 embeddings, but 3 rows of probabilities"),
        ({"probabilities": np.ones((40, 3), "f4")}, "index 0: smallest 1, sum 3"),
        ({"probabilities": np.full((40, 3), -1, "f4")}, "index 0: smallest -1, sum -3"),
        ({"embeddings": np.zeros(40, "f4")}, "embeddings must be (N, ...) of floating point"),
        ({"labeled": np.arange(40)}, "labeled must be 0 or 1, no class"),
        ({"labeled": np.ones(40, bool)}, "all are"),
        ({"embeddings": np.array([None] * 40)}, "cannot read pool.npz: Object arrays"),
    ],
)
def test_embeddings_that_do_not_fit(
    here: Path, change: dict[str, Any], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    arrays = {k: v for k, v in {**embeddings(), **change}.items() if v is not None}
    np.savez("pool.npz", **arrays)
    assert select("--embeddings", "pool.npz", "-n", "2") == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not Path("picks").exists()


def test_what_was_read_of_embeddings(here: Path) -> None:
    np.savez("pool.npz", **embeddings())
    found = read_embeddings("pool.npz")
    assert (len(found.unlabeled), len(found.labeled)) == (30, 10)
