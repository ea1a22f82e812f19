"""`select --embeddings`: what is wrong is refused, read or not, with --dry-run as without."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from test_any_model import select
from test_own_embeddings import embeddings

BAD = {
    "--device": "nosuch", "--batch-size": "-1", "--fisher-samples": "-1", "--rank": "0",
    "--n-parameters": "0", "--fraction": "1.5", "--lamb": "nan", "--prior-precision": "-1",
    "--image-size": "0", "--std": "1 0 1", "--mean": "nan 0 0", "--seed": "-1", "-n": "1000",
    "--mask": "per_layer", "--class-weight": "balanced", "--likelihood": "gaussian",
}  # fmt: skip


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    np.savez("pool.npz", **embeddings())
    return tmp_path


@pytest.mark.parametrize("dry", [[], ["--dry-run"]], ids=["picks", "dry run"])
@pytest.mark.parametrize("strategy", ["fishermask", "bait", "random", "entropy"])
def test_no_flag_can_be_anything(
    strategy: str, dry: list[str], here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    usual = ["--embeddings", "pool.npz", "-n", "5", "--strategy", strategy, *dry]
    for flag, value in BAD.items():
        if (flag == "--mask" and strategy != "fishermask") or (
            flag == "--class-weight" and strategy in ("random", "entropy")
        ):
            continue
        given = usual if flag != "-n" else [each for each in usual if each not in ("-n", "5")]
        assert select(*given, flag, *value.split()) == 2, flag
        said = capsys.readouterr().err
        assert flag.lstrip("-").replace("-", "_") in said.replace("-", "_"), said
        assert not Path("picks").exists()


@pytest.mark.parametrize("dry", [[], ["--dry-run"]], ids=["picks", "dry run"])
@pytest.mark.parametrize("strategy", ["fishermask", "random", "coreset"])
@pytest.mark.parametrize(
    ("name", "value"),
    [("embeddings", np.nan), ("embeddings", np.inf), ("probabilities", np.nan),
     ("probabilities", -0.5), ("probabilities", 3.0)],
)  # fmt: skip
def test_no_file_can_hold_anything(
    name: str, value: float, strategy: str, dry: list[str], here: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    arrays = embeddings()
    arrays[name][7, 1] = value
    np.savez("bad.npz", **arrays)
    assert select("--embeddings", "bad.npz", "-n", "5", "--strategy", strategy, *dry) == 2
    said = capsys.readouterr().err
    assert name in said and "7" in said
    assert not Path("picks").exists()


def test_flags_that_nobody_reads_are_said_to_be_ignored(
    here: Path, caplog: pytest.LogCaptureFixture
) -> None:
    flags = "--device cpu --batch-size 4 --image-size 8 --fisher-samples 9 --label-column x"
    assert select("--embeddings", "pool.npz", "-n", "5", *flags.split(), "--dry-run") == 0
    said = " ".join(caplog.messages)
    for name in ("device", "batch_size", "image_size", "fisher_samples", "label_column"):
        assert name in said
