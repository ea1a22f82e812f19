"""Every way to choose the mask, for texts, tables and images, labeled ones beside the others."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from test_any_model import TEXTS, save_text_model, tables
from test_select import rows, write_image
from torch import nn

from fishermask_fast import FisherMaskSelector
from fishermask_fast.cli import main
from fishermask_fast.labeling import load_trained, read_folder, read_table
from fishermask_fast.models import build_model
from fishermask_fast.options import MASKS
from fishermask_fast.selector import query


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(kind: str) -> list[str]:
    """Samples and a model of a kind; the flags that name them."""
    if kind == "texts":
        # Batches pad to their longest: no two of these are as long.
        texts = [" ".join(TEXTS[: 1 + i % 5]) for i in range(9)] + TEXTS
        labels = [*("good", "bad") * 2, *[""] * (len(texts) - 4)]
        records = [{"text": t, "label": label} for t, label in zip(texts, labels, strict=True)]
        tables(".csv", records)
        save_text_model(
            Path("bert"), id2label={0: "bad", 1: "good"}, label2id={"bad": 0, "good": 1}
        )
        return ["--csv", "data.csv", "--model", "hf:bert"]
    if kind == "table":
        values = torch.randn(12, 2, generator=torch.Generator().manual_seed(0)).tolist()
        tables(".csv", [{"x": x, "y": y, "label": "ab"[i % 2] if i < 4 else ""}
                        for i, (x, y) in enumerate(values)])  # fmt: skip
        torch.save(build_model("mlp_small", 2, (2,), seed=1).state_dict(), "net.pt")
        return ["--csv", "data.csv", "--model", "mlp_small", "--checkpoint", "net.pt"]
    for number in range(9):
        write_image(Path("new") / f"{number}.png", number)
    for number in range(4):
        write_image(Path("old") / "ab"[number % 2] / f"{number}.png", 100 + number)
    torch.save(build_model("cnn_small", 2, (3, 12, 12), seed=1).state_dict(), "net.pt")
    model = ["--model", "cnn_small", "--checkpoint", "net.pt", "--image-size", "12"]
    return ["--unlabeled", "new", "--labeled", "old", *model]


def by_selector(kind: str, mask: str) -> tuple[FisherMaskSelector, list[str]]:
    """The same query in Python; the names of its picks, as picks.csv has them."""
    if kind == "images":
        trained = load_trained("cnn_small", "net.pt", shape=(3, 12, 12))
        pool = read_folder("new", "old", image_size=12)
    elif kind == "texts":
        trained = load_trained("hf:bert", kind="texts")
        pool = read_table("data.csv", prepare=trained.prepare)
    else:
        trained = load_trained("mlp_small", "net.pt", "table", (2,))
        pool = read_table("data.csv")
    selector = FisherMaskSelector(trained.model, mask=mask, fisher_samples=8)
    picks = selector.query(pool.unlabeled, 4, pool.labeled, progress=False)
    return selector, [str(pool.names[i]) for i in picks.indices]


@pytest.mark.parametrize("kind", ["texts", "table", "images"])
@pytest.mark.parametrize("mask", MASKS)
def test_every_mask_picks(here: Path, kind: str, mask: str) -> None:
    flags = write(kind)
    assert main(["select", *flags, "-n", "4", "--mask", mask, "--fisher-samples", "8"]) == 0
    selector, expected = by_selector(kind, mask)
    found = rows(Path("picks/picks.csv"))
    assert [row["path" if kind == "images" else "row"] for row in found] == expected
    head = [len(i) for n, i in selector.mask_.indices.items() if n in selector.mask_.head_names]
    assert (sum(head) == 0) == (mask == "middle")


def network() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(4, 3, bias=False), nn.ReLU(), nn.Linear(3, 2, bias=False))


def test_the_middle_mask_never_takes_the_head() -> None:
    """Also where nothing else has any information, and the head stands first by its name."""
    model = network()
    with torch.no_grad():
        model[0].weight.fill_(-1.0)  # no unit is ever active
    pool = torch.rand(12, 4)
    selector = FisherMaskSelector(model, mask="middle", n_parameters=12)
    assert len(selector.query(pool, 3, progress=False)) == 3
    assert set(selector.mask_.indices) == {"0.weight"}
    assert selector.mask_.method == "middle"
    # With nothing set as many as "global" would take, where the other layers have them.
    wide = FisherMaskSelector(network(), mask="middle")
    wide.query(pool, 3, progress=False)
    assert len(wide.mask_) == 12 and wide.mask_.reason in repr(wide.mask_)


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        (network(), {"n_parameters": 13}, "at most the 12 parameters outside the head; got k = 13"),
        (network(), {"fraction": 1.0}, "at most the 12 parameters outside the head; got k = 18"),
        (nn.Linear(4, 2), {}, "needs trainable parameters outside the head"),
    ],
)
def test_middle_masks_that_cannot_be(
    model: nn.Module, options: dict[str, float], message: str
) -> None:
    selector = FisherMaskSelector(model, mask="middle", **options)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=message):
        selector.query(torch.rand(9, 4), 2, progress=False)


def test_without_a_head_there_is_no_middle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(query, "find_head", lambda *_: None)
    selector = FisherMaskSelector(network(), mask="middle")
    with pytest.raises(ValueError, match="no layer was found to be it: name it with head="):
        selector.query(torch.rand(9, 4), 2, progress=False)
