"""Embeddings that stay in files, and one row a sample: the factors of embeddings in memory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fishermask_fast import factors_from_embeddings, fast_select, reference, select_batch
from fishermask_fast.factors import EmbeddingFactors

N, D, CLASSES = 230, 7, 4


def written(folder: Path, kind: str, embeddings: Tensor) -> list[Path]:
    """Embeddings in three files."""
    paths = []
    for at, part in enumerate(embeddings.split([100, 1, N - 101])):
        paths.append(folder / f"{at}.{kind}")
        if kind == "npy":
            np.save(paths[-1], part.numpy())
            continue
        from safetensors.torch import save_file

        save_file({"embeddings": part.contiguous()}, paths[-1], metadata={"by": "hand"})
    return paths


def data(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    h = torch.randn(N, D, dtype=torch.float64).to(dtype)
    return h, torch.randn(N, CLASSES, dtype=torch.float64).mul(2).softmax(1)


CASES = [("npy", torch.float32), ("npy", torch.float16), ("npy", torch.float64)] + [
    ("safetensors", dtype) for dtype in (torch.float32, torch.float16, torch.bfloat16)
]


@pytest.mark.parametrize("kind,dtype", CASES)
@pytest.mark.parametrize("rows", ["all", "top_class"])
def test_files_are_what_memory_is(rows: str, kind: str, dtype: torch.dtype, tmp_path: Path) -> None:
    if kind == "safetensors":
        pytest.importorskip("safetensors")
    h, p = data(dtype)
    paths = written(tmp_path, kind, h)
    for mask in (None, 5):
        near = factors_from_embeddings(h, p, rows=rows, mask=mask)
        far = factors_from_embeddings(paths, p, rows=rows, mask=mask)
        assert isinstance(far, EmbeddingFactors)
        assert (len(far), far.n_rows, far.n_columns) == (N, near.n_rows, near.n_columns)
        assert far.dtype == near.dtype
        some = torch.tensor([229, 3, 100, 100, 101])
        assert torch.equal(far[some].dense(), near[some].dense())
        whole = torch.cat([chunk.dense() for _, chunk in far.chunks(33)])
        assert torch.equal(whole, near.dense())
        torch.testing.assert_close(far.fisher(), near.fisher())
        given: dict[str, Any] = {"fisher": near.fisher(), "backward_steps": 1}
        given |= {"cluster_ids": torch.arange(N) // 4, "max_per_cluster": 1}
        assert fast_select(far, 20, **given) == fast_select(near, 20, **given)
        assert fast_select(far, 20, criterion="logdet") == fast_select(near, 20, criterion="logdet")
    one = factors_from_embeddings(paths[2], p[101:], rows=rows)
    assert torch.equal(one[torch.arange(5)].hidden, h[101:106].to(one.dtype))


def test_a_row_for_the_likeliest_class() -> None:
    h, p = data(torch.float64)
    q = p.max(1).values
    expected = (q * (1 - q)).sqrt()[:, None, None] * h[:, None]
    for given in (p, q, q[:, None]):
        found = factors_from_embeddings(h, given, rows="top_class")
        torch.testing.assert_close(found.dense(), expected)
    picked = reference.select(expected, 15)[0]
    every = factors_from_embeddings(h, p)
    assert fast_select(factors_from_embeddings(h, p, rows="top_class"), 15) == picked
    assert len(set(picked) - set(fast_select(every, 15))) >= 7
    biased = factors_from_embeddings(h, p, rows="top_class", bias=True)
    assert biased.n_columns == D + 1


def test_blocks_over_files(tmp_path: Path) -> None:
    h, p = data(torch.float32)
    far = factors_from_embeddings(written(tmp_path, "npy", h), p, rows="top_class")
    picks = [select_batch(far, 30, block_size=size).indices.tolist() for size in (1, 8, 32, None)]
    assert all(each == picks[0] for each in picks)


ENTRY = {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}
HEADERS: list[tuple[bytes, type[Exception], str]] = [
    (b"[" * 5000, ValueError, "is no safetensors file"),
    (b"[1, 2]", ValueError, "is no safetensors file"),
    (b"{}", ValueError, r"must hold one tensor; got \[\]"),
    (json.dumps({"h": ENTRY, "g": ENTRY}).encode(), ValueError, "must hold one tensor"),
    (json.dumps({"h": {"dtype": "F32"}}).encode(), ValueError, "is no safetensors file"),
    (json.dumps({"h": [1]}).encode(), ValueError, "is no safetensors file"),
    (json.dumps({"h": ENTRY | {"dtype": "U8"}}).encode(), TypeError, "got U8"),
    (json.dumps({"h": ENTRY | {"dtype": "I64"}}).encode(), TypeError, "got I64"),
    (json.dumps({"h": ENTRY | {"shape": [2, 4]}}).encode(), ValueError, "32 bytes; its header"),
    (json.dumps({"h": ENTRY | {"shape": [-2, -3]}}).encode(), ValueError, "whole numbers from 0"),
    (
        json.dumps({"h": ENTRY | {"shape": [2, 9], "data_offsets": [0, 72]}}).encode(),
        ValueError,
        "truncated",
    ),
]


@pytest.mark.parametrize("header,kind,text", HEADERS, ids=range(len(HEADERS)))
def test_headers_that_cannot_be(
    header: bytes, kind: type[Exception], text: str, tmp_path: Path
) -> None:
    path = tmp_path / "h.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(24))
    with pytest.raises(kind, match=text) as refused:
        factors_from_embeddings([path], data(torch.float32)[1])
    assert str(path) in str(refused.value)


def test_what_is_refused(tmp_path: Path) -> None:
    h, p = data(torch.float32)
    np.save(tmp_path / "h.npy", h.numpy())
    np.save(tmp_path / "wide.npy", torch.ones(3, D + 1).numpy())
    np.save(tmp_path / "long.npy", h.long().numpy())
    np.save(tmp_path / "cube.npy", h[None].numpy())
    (tmp_path / "cut.safetensors").write_bytes(b"\x10")
    cases: list[tuple[Any, dict[str, Any], type[Exception], str]] = [
        ("h.npy", {"bias": True}, ValueError, "bias=True needs embeddings in memory"),
        (["h.npy", "wide.npy"], {}, ValueError, r"one width in all files; got \[7, 8\]"),
        ("long.npy", {}, TypeError, "floating-point numbers; got torch.int64"),
        ("cube.npy", {}, ValueError, "must hold one matrix"),
        ("h.csv", {}, TypeError, "in .npy or .safetensors files"),
        ("cut.safetensors", {}, ValueError, "is no safetensors file"),
        ("none.npy", {}, FileNotFoundError, "none.npy"),
        ("h.npy", {"rows": "two"}, ValueError, "rows must be one of all, top_class"),
        ("h.npy", {"rows": "top_class", "rank": 1}, ValueError, "leave out rank; got 1"),
    ]
    for names, options, kind, text in cases:
        paths = [tmp_path / name for name in ([names] if isinstance(names, str) else names)]
        with pytest.raises(kind, match=text):
            factors_from_embeddings(paths, p, **options)
