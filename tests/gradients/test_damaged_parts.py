"""What an earlier run has written is gone on with as it was written, or not at all."""

from __future__ import annotations

import errno
import json
import os
import threading
from pathlib import Path

import pytest
import torch
from damage import damaged_bytes
from pools import assert_same, random_factors

from fishermask_fast import GradientFactors, StoredFactors
from fishermask_fast.files import checksum
from fishermask_fast.gradients.resumable import ResumableFile

N, BATCH, DONE = 23, 4, 12
FINGERPRINT = {"model": "0123", "samples": str(N)}


@pytest.fixture
def factors() -> GradientFactors:
    return random_factors(torch.Generator().manual_seed(3), n=N, head="part")


@pytest.fixture
def begun(factors: GradientFactors, tmp_path: Path) -> Path:
    path = tmp_path / "gradients"
    with ResumableFile(path, N, FINGERPRINT) as file:
        for start in range(0, DONE, BATCH):
            file.append(factors[start : start + BATCH])
    return path


def part_of(path: Path) -> Path:
    return path.with_name(path.name + ".part")


def record_of(path: Path) -> Path:
    return path.with_name(path.name + ".part.json")


def go_on(path: Path, factors: GradientFactors) -> StoredFactors:
    with ResumableFile(path, N, FINGERPRINT) as file:
        assert file.batch_size == BATCH
        for start in range(file.n_done, N, BATCH):
            file.append(factors[start : start + BATCH])
        return file.finish()


def test_no_damage_of_the_record_is_gone_on_with(factors: GradientFactors, begun: Path) -> None:
    whole = record_of(begun).read_bytes()
    refused = 0
    for content in damaged_bytes(whole, 60):
        record_of(begun).write_bytes(content)
        try:
            with ResumableFile(begun, N, FINGERPRINT) as file:
                assert (file.n_done, file.batch_size) == (DONE, BATCH)
        except ValueError as error:
            assert str(part_of(begun)) in str(error)
            refused += 1
    assert refused > 250
    record_of(begun).write_bytes(whole)
    assert_same(go_on(begun, factors)[:], factors)


@pytest.mark.parametrize("sealed", [True, False])
@pytest.mark.parametrize(
    "change",
    [{"samples": 16}, {"samples": N + 1}, {"samples": -1}, {"samples": 12.0}, {"samples": "12"},
     {"samples": True}, {"samples": None}, {"batch_size": 0}, {"batch_size": None},
     {"batch_size": 2.5}, {"fingerprint": []}, {"fingerprint": None}],
    ids=str,
)  # fmt: skip
def test_records_of_other_types_and_ranges(
    change: dict[str, object], sealed: bool, begun: Path
) -> None:
    if sealed and change == {"samples": 16}:
        pytest.skip("a record with its checksum is as it was written")
    record = json.loads(record_of(begun).read_text()) | change
    if sealed:
        record["checksum"] = checksum(record | {"checksum": None})
    record_of(begun).write_text(json.dumps(record))
    with pytest.raises(ValueError, match="part"):
        ResumableFile(begun, N, FINGERPRINT)


@pytest.mark.parametrize("text", ["", "null", "3", "[" * 100_000, '{"samples": 1, "samples": 1}'])
def test_records_that_are_none(text: str, begun: Path) -> None:
    record_of(begun).write_text(text)
    with pytest.raises(ValueError, match="part.json does not say what it holds"):
        ResumableFile(begun, N, FINGERPRINT)


@pytest.mark.parametrize("n_done", [DONE, N])
def test_headers_that_have_changed(n_done: int, factors: GradientFactors, tmp_path: Path) -> None:
    path = tmp_path / "gradients"
    with ResumableFile(path, N, FINGERPRINT) as file:
        for start in range(0, n_done, BATCH):
            file.append(factors[start : min(start + BATCH, N)])
    content = bytearray(part_of(path).read_bytes())
    at = content.index(b"0123")
    content[at : at + 4] = b"0124"
    part_of(path).write_bytes(content)
    with pytest.raises(ValueError, match="has been changed since it was begun|checksum"):
        go_on(path, factors)
    assert not path.exists()


def test_a_link_in_the_place_of_the_part_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "victim").write_bytes(b"")
    part_of(tmp_path / "gradients").symlink_to("victim")
    with pytest.raises(OSError, match="a link, which is not followed") as caught:
        ResumableFile(tmp_path / "gradients", N, FINGERPRINT)
    assert caught.value.errno == errno.ELOOP


def test_a_pipe_in_the_place_of_the_part(tmp_path: Path) -> None:
    os.mkfifo(part_of(tmp_path / "gradients"))
    with pytest.raises(ValueError, match="must be a file"):
        ResumableFile(tmp_path / "gradients", N, FINGERPRINT)


def test_two_threads_that_write_one_file(factors: GradientFactors, begun: Path) -> None:
    found: list[BaseException] = []

    def second() -> None:
        try:
            ResumableFile(begun, N, FINGERPRINT)
        except BaseException as error:
            found.append(error)

    with ResumableFile(begun, N, FINGERPRINT):
        thread = threading.Thread(target=second)
        thread.start()
        thread.join()
        child = os.fork()  # which the lock must still keep out
        if child == 0:
            try:
                with pytest.raises(BlockingIOError, match="another process"):
                    file = object.__new__(ResumableFile)
                    file._part = part_of(begun)
                    file._descriptor = os.open(part_of(begun), os.O_RDWR)
                    file._lock()
            except BaseException:
                os._exit(1)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert isinstance(found[0], BlockingIOError) and "another thread" in str(found[0])
    assert_same(go_on(begun, factors)[:], factors)
