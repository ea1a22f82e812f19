"""Images of more bits than 8, and of other colours: levels are kept, or what was lost is said."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from mixed_files import (
    SIDE,
    deep_png,
    deep_ppm,
    deep_tiff,
    encoded,
    pixels,
    reasons,
    save,
    twelve_bits,
)
from PIL import Image, features
from torch import Tensor, nn
from torchvision.transforms.v2 import functional

from fishermask_fast import FisherMask, masked_gradients
from fishermask_fast.datasets import (
    IDENTITY,
    FolderImages,
    LabeledSamples,
)
from fishermask_fast.datasets import pixels as pixels_room
from fishermask_fast.datasets import samples as samples_room
from fishermask_fast.labeling import read_folder
from fishermask_fast.labeling.images import read_images

RAMP = torch.arange(256).view(16, 16)


def first_channel(path: Path, size: int = 16) -> Tensor:
    """As a network sees it before it is normalised, float32 on the scale 0 to 1."""
    image = FolderImages([str(path)], size)[0]
    return functional.to_dtype(image, torch.float32, scale=True)[0]


@pytest.mark.parametrize("ending", ["png", "tif"])
def test_16_bit_grey_keeps_its_levels(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"ramp.{ending}"
    values = RAMP * 257 - RAMP % 5
    Image.fromarray(values.to(torch.uint16).numpy()).save(path)
    assert torch.equal(first_channel(path), (values.double() / 65535).float())
    read = read_images([path], 16, "images", False)
    assert reasons(list(read.notes)) == {path.name: "converted: 16-bit grey, 65,535 as white"}


def test_images_that_differ_in_low_bits_have_gradients_of_their_own(tmp_path: Path) -> None:
    """As of a camera of 12 bits, whose files have 16: beside them others of 8 bits."""
    values = torch.from_numpy(np.random.default_rng(0).integers(0, 4096, (16, 16)))
    paths = []
    for low in (0, 1, 2):
        paths.append(tmp_path / f"{low}.png")
        Image.fromarray((values | low).to(torch.uint16).numpy()).save(paths[-1])
    paths.append(save(tmp_path / "plain.png"))
    pool = read_folder(tmp_path, image_size=16)
    assert pool.names == tuple(paths)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(768, 3))
    v = masked_gradients(model, pool.unlabeled, FisherMask.head(model)).dense()
    assert all(not torch.equal(v[i], v[j]) for i in range(4) for j in range(i))
    plain = read_folder(save(tmp_path / "alone" / "plain.png").parent, image_size=16)
    assert torch.equal(pool.unlabeled[3][0], plain.unlabeled[0][0])


@pytest.mark.parametrize("keep", [True, False])
def test_deep_images_are_kept_decoded_only_where_they_fit(
    keep: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.fromarray((RAMP * 257).to(torch.uint16).numpy()).save(tmp_path / "a.png")
    save(tmp_path / "b.png")
    monkeypatch.setattr(samples_room, "LARGEST_DECODED", 2 * 12 * 16**2 - (not keep))
    source = read_images([tmp_path / "a.png", tmp_path / "b.png"], 16, "images", False).source
    assert isinstance(source, Tensor) == keep
    both = LabeledSamples(source, torch.zeros(2, dtype=torch.int64), IDENTITY).stored([0, 1])
    assert both.dtype == torch.float32 and both[1, 0].unique().tolist() == [pytest.approx(7 / 255)]
    assert torch.equal(both[0, 0], (RAMP / 255).float())


def test_what_a_models_own_preparation_takes_has_8_bits_and_is_said(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray((RAMP * 257 + 3).clamp(max=65535).to(torch.uint16).numpy()).save(path)
    seen: list[Tensor] = []

    def prepare(images: list[Tensor]) -> Tensor:
        seen.extend(images)
        return torch.stack(images).float()

    pool = read_folder(tmp_path, prepare=prepare)
    assert pool.unlabeled[0].shape == (3, 16, 16)
    assert seen[0].dtype == torch.uint8 and torch.equal(seen[0][0].long(), RAMP)
    assert [note.reason for note in pool.notes] == [
        "16-bit grey, 65,535 as white", "rounded to 8 bits",
    ]  # fmt: skip


@pytest.mark.parametrize(("white", "scale"), [(1, 255), (255, 1)])
def test_grey_of_floats(tmp_path: Path, white: int, scale: int) -> None:
    path = tmp_path / "ramp.tif"
    Image.fromarray((RAMP / scale).float().numpy()).save(path)
    assert torch.equal(first_channel(path), RAMP / 255)
    assert f"{white} as white" in str(read_images([path], 16, "images", False).notes)


@pytest.mark.parametrize("values", [torch.tensor([[0, 70_000]]), torch.tensor([[-1, 5]])])
def test_grey_of_no_known_white_is_refused(tmp_path: Path, values: Tensor) -> None:
    for name, dtype in (("i.tif", torch.int32), ("f.tif", torch.float32)):
        Image.fromarray(values.to(dtype).numpy()).save(tmp_path / name)
        with pytest.raises(ValueError, match="no known white"):
            FolderImages([str(tmp_path / name)], 8)[0]


def test_dark_16_bit_grey_is_said(tmp_path: Path) -> None:
    Image.fromarray((RAMP * 10).to(torch.uint16).numpy()).save(tmp_path / "a.png")
    assert "nearly black" in str(read_images([tmp_path / "a.png"], 16, "images", False).notes)


@pytest.mark.parametrize(("mode", "ending"), [("CMYK", "jpg"), ("RGBA", "png"), ("P", "gif")])
def test_other_colours_are_said(tmp_path: Path, mode: str, ending: str) -> None:
    path = save(tmp_path / f"a.{ending}", mode)
    notes = read_images([path], 8, "images", False).notes
    assert any(note.what == "converted" and note.reason.startswith(mode) for note in notes)


@pytest.mark.parametrize(
    ("name", "content"),
    [("a.png", deep_png(1)), ("a.tif", deep_tiff(1)), ("a.ppm", deep_ppm(1))],
)
def test_colours_of_more_bits_are_said(tmp_path: Path, name: str, content: bytes) -> None:
    """The upper 8 bits of each value are read, as Pillow has it."""
    (tmp_path / name).write_bytes(content)
    values = np.random.default_rng(1).integers(0, 65536, (SIDE, SIDE, 3))
    seen = FolderImages([str(tmp_path / name)], SIDE)[0].permute(1, 2, 0).long()
    assert (seen - torch.as_tensor(values) / 257).abs().max() <= 1
    read = read_images([tmp_path / name], SIDE, "images", False)
    assert reasons(list(read.notes)) == {
        name: "converted: more than 8 bits a channel, of which the upper 8 are read"
    }


@pytest.mark.parametrize("form", ["JPEG2000", "AVIF"])
def test_compressed_colours_of_more_bits_are_said(tmp_path: Path, form: str) -> None:
    """Files of 8 bits whose header is set to say 10, which decoders read as such."""
    if form == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    plain = encoded(pixels(1), form)
    at = plain.index(b"\xff\x51" if form == "JPEG2000" else b"av1C")
    deep = bytearray(plain)
    if form == "JPEG2000":
        deep[at + 40 : at + 49 : 3] = b"\x09\x09\x09"
    else:
        deep[at + 6] |= 0x40
        depths = plain.index(b"pixi") + 9
        deep[depths : depths + 3] = b"\x0a\x0a\x0a"
    for content, said in ((plain, False), (bytes(deep), True)):
        (tmp_path / "a").write_bytes(content)
        with Image.open(tmp_path / "a") as image, (tmp_path / "a").open("rb") as file:
            file.read(3)
            assert pixels_room.is_deep(image, file) is said
            assert file.tell() == 3


@pytest.mark.parametrize("whites", [True, False])
def test_12_bit_grey_keeps_its_levels(tmp_path: Path, whites: bool) -> None:
    """In 12 bits white is known; in a container of 16 the values are as dark as they say."""
    values = RAMP * 4095 // 255
    if whites:
        (tmp_path / "a.tif").write_bytes(twelve_bits(values.numpy()))
    else:
        Image.fromarray(values.to(torch.uint16).numpy()).save(tmp_path / "a.tif")
    notes = str(read_images([tmp_path / "a.tif"], 16, "images", False).notes)
    if whites:
        assert torch.equal(first_channel(tmp_path / "a.tif"), (values.double() / 4095).float())
        assert "12-bit grey, 4,095 as white" in notes
    else:
        assert "16-bit grey, 65,535 as white, though it stays below 4,096" in notes
