"""Masks in files: what is read is the mask that was written, or an error that says why not."""

from __future__ import annotations

import json
import threading
import time
import zipfile
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from damage import damaged_bytes

from fishermask_fast import FisherMask
from fishermask_fast.masks import mask_file


@pytest.fixture
def mask() -> FisherMask:
    shapes = {"body.weight": (40, 30), "norm.bias": (7,), "fc.weight": (3, 40)}
    indices = {
        "body.weight": torch.arange(0, 1200, 7),
        "fc.weight": torch.tensor([0, 5, 119]),
    }
    return FisherMask(shapes, indices, "global", ("fc.weight",))


def test_no_damage_gives_another_mask(mask: FisherMask, tmp_path: Path) -> None:
    path = tmp_path / "mask"
    mask.save(path)
    whole = path.read_bytes()
    refused = 0
    for content in damaged_bytes(whole, 100):
        path.write_bytes(content)
        try:
            found = FisherMask.load(path)
        except ValueError as error:
            assert str(path) in str(error)
            refused += 1
        else:
            assert found == mask
            assert (found.method, found.head_names) == (mask.method, mask.head_names)
    assert refused > 350


def archive(header: Any, arrays: dict[str, Any]) -> bytes:
    stream = BytesIO()
    text = header if isinstance(header, str) else json.dumps(header)
    np.savez_compressed(stream, allow_pickle=False, header=text, **arrays)
    return stream.getvalue()


HEADER = {
    "format": 1,
    "method": "global",
    "head_names": ["a"],
    "shapes": [["a", [2, 3]], ["b", [4]]],
    "masked": ["a"],
}
INDEX = np.array([0, 5])


@pytest.mark.parametrize(
    "change",
    [
        *({"shapes": [["a", shape], ["b", [4]]]} for shape in (
            [-3], [3.5], [10**30], [2, "3"], [True, 3], None, 6, "23", [[2, 3]], [2**62, 2**62],
            [1, 5],
        )),
        {"shapes": [["a", [2, 3]], ["a", [2, 3]]]},
        {"shapes": {"a": [2, 3]}}, {"shapes": [["a"]]}, {"shapes": [3]}, {"shapes": [[1, [2]]]},
        {"shapes": [["b", [4]]]},
        {"masked": ["a", "a"]}, {"masked": "a"}, {"masked": [1]}, {"masked": None}, {"masked": []},
        {"masked": ["a", "b"]}, {"masked": ["c"]},
        {"head_names": "a"}, {"head_names": [3]}, {"head_names": ["c"]}, {"head_names": {}},
        {"method": 3}, {"method": None},
        {"format": 0}, {"format": 2}, {"format": "1"}, {"format": True}, {"format": 1.0},
    ],
    ids=str,
)  # fmt: skip
def test_headers_of_other_types_and_ranges(change: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "mask"
    path.write_bytes(archive(HEADER, {"index0": INDEX}))
    assert len(FisherMask.load(path)) == 2
    path.write_bytes(archive(HEADER | change, {"index0": INDEX}))
    with pytest.raises(ValueError, match="mask is not a saved FisherMask"):
        FisherMask.load(path)


@pytest.mark.parametrize("key", HEADER)
def test_headers_without_a_part(key: str, tmp_path: Path) -> None:
    path = tmp_path / "mask"
    header = {name: value for name, value in HEADER.items() if name != key}
    path.write_bytes(archive(header, {"index0": INDEX}))
    with pytest.raises(ValueError, match="mask is not a saved FisherMask"):
        FisherMask.load(path)


@pytest.mark.parametrize(
    "arrays",
    [
        {},
        {"index0": INDEX, "index1": INDEX},
        {"index1": INDEX},
        {"index0": INDEX.astype(np.float64)},
        {"index0": INDEX.astype(np.int32)},
        {"index0": INDEX[::-1]},
        {"index0": INDEX.reshape(1, 2)},
        {"index0": np.array([0, 6])},
        {"index0": np.array(3)},
        {"index0": np.array(["a"])},
    ],
    ids=str,
)
def test_other_arrays(arrays: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "mask"
    path.write_bytes(archive(HEADER, arrays))
    with pytest.raises(ValueError, match="mask is not a saved FisherMask"):
        FisherMask.load(path)


@pytest.mark.parametrize(
    "text", ["", "[]", "null", "3", "[" * 100_000, '{"a": ' * 100_000, '{"format": 1, "format": 1}']
)
def test_headers_that_are_none(text: str, tmp_path: Path) -> None:
    path = tmp_path / "mask"
    path.write_bytes(archive(text, {"index0": INDEX}))
    with pytest.raises(ValueError, match="mask is not a saved FisherMask"):
        FisherMask.load(path)


def test_arrays_that_memory_cannot_hold(
    mask: FisherMask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mask.save(tmp_path / "mask")
    monkeypatch.setattr(mask_file, "available_memory", lambda device: 10)
    with pytest.raises(ValueError, match="more memory than is free"):
        FisherMask.load(tmp_path / "mask")


@pytest.mark.parametrize("kind", ["stored", "bzip2", "lzma", "encrypted"])
def test_archives_of_other_kinds(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "mask"
    method = {"bzip2": zipfile.ZIP_BZIP2, "lzma": zipfile.ZIP_LZMA}.get(kind, zipfile.ZIP_STORED)
    with zipfile.ZipFile(path, "w", method) as written:
        written.writestr("header.npy", b"no array")
    content = bytearray(path.read_bytes())
    if kind == "encrypted":
        for mark, flag in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
            content[content.index(mark) + flag] |= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match="mask is not a saved FisherMask"):
        FisherMask.load(path)


def test_threads_that_save_to_one_path(mask: FisherMask, tmp_path: Path) -> None:
    path, failures = tmp_path / "mask", []
    mask.save(path)
    end = time.monotonic() + 0.6

    def work() -> None:
        try:
            while time.monotonic() < end:
                mask.save(path)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    while time.monotonic() < end:
        assert FisherMask.load(path) == mask
    for thread in threads:
        thread.join()
    assert not failures
    assert [each.name for each in tmp_path.iterdir()] == ["mask"]


@pytest.mark.parametrize(
    "change",
    [
        {"shapes": [("a", (2, 3))]}, {"shapes": None}, {"shapes": {"a": (2, 3.0)}},
        {"shapes": {"a": 6}}, {"shapes": {"a": None}}, {"shapes": {3: (2,), "a": (2, 3)}},
        {"indices": [torch.tensor([1])]}, {"indices": None}, {"indices": {"a": None}},
        {"head_names": "a"}, {"head_names": None}, {"head_names": 3}, {"head_names": (3,)},
        {"shapes": {"a": (2, -3)}}, {"shapes": {"a": (2**40, 2**40)}},
    ],
    ids=str,
)  # fmt: skip
def test_masks_of_wrong_types(change: dict[str, Any]) -> None:
    arguments = {"shapes": {"a": (2, 3)}, "indices": {"a": torch.tensor([0])}, "method": "own"}
    with pytest.raises((TypeError, ValueError), match="must be|cannot have"):
        FisherMask(**arguments | change)
