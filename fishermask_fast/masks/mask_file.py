"""A mask in a file: numpy's npz archive of a header in JSON and one array of positions a tensor.

Each member is read as a whole, so that the archive's CRC-32 of it is always compared.
"""

from __future__ import annotations

import io
import json
import os
import zipfile
import zlib
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from fishermask_fast.files import parse_json, read_file, written_whole
from fishermask_fast.memory import available_memory

_FORMAT = 1


class MaskContent(NamedTuple):
    """What a file says of a mask; see FisherMask."""

    shapes: dict[str, tuple[int, ...]]
    indices: dict[str, Tensor]
    method: str
    head_names: tuple[str, ...]
    reason: str


def write_mask(path: str | os.PathLike[str], content: MaskContent) -> None:
    """Write a mask, whole or not at all.

    Raises:
        OSError: the file cannot be written.
    """
    header = {
        "format": _FORMAT,
        "method": content.method,
        "head_names": content.head_names,
        "reason": content.reason,
        "shapes": [[name, list(shape)] for name, shape in content.shapes.items()],
        "masked": list(content.indices),
    }
    arrays = {f"index{i}": index.numpy() for i, index in enumerate(content.indices.values())}
    with written_whole(path) as file:
        np.savez_compressed(file, allow_pickle=False, header=json.dumps(header), **arrays)


def read_mask(path: str | os.PathLike[str]) -> MaskContent:
    """What `write_mask` wrote, of such types as that has; FisherMask checks the rest.

    Raises:
        OSError: the file cannot be read.
        ValueError, KeyError, TypeError: it holds no mask, is damaged, or of a newer format.
    """
    raw = read_file(path)
    try:
        with zipfile.ZipFile(io.BytesIO(raw)) as archive:
            _check_size(archive)
            header = _read_header(_array(archive, "header"))
            names = header["masked"]
            if len(archive.namelist()) != len(names) + 1:
                raise ValueError(
                    f"it must hold {len(names) + 1} arrays; got {len(archive.namelist())}"
                )
            indices = {name: _positions(archive, f"index{i}") for i, name in enumerate(names)}
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise ValueError(f"no archive, or a damaged one: {error}") from error
    shapes = {name: tuple(shape) for name, shape in header["shapes"]}
    head_names, reason = tuple(header["head_names"]), header.get("reason", "")
    return MaskContent(shapes, indices, header["method"], head_names, reason)


def _check_size(archive: zipfile.ZipFile) -> None:
    size, free = sum(entry.file_size for entry in archive.infolist()), available_memory("cpu")
    if free is not None and size > free:
        raise ValueError(f"its arrays take {size / 2**30:.1f} GiB, more memory than is free")


def _array(archive: zipfile.ZipFile, name: str) -> np.ndarray[Any, Any]:
    """One array of the archive.

    Raises:
        KeyError, ValueError: it is not there, or damaged.
    """
    content = io.BytesIO(archive.read(f"{name}.npy"))
    found: np.ndarray[Any, Any] = np.lib.format.read_array(content, allow_pickle=False)
    return found


def _positions(archive: zipfile.ZipFile, name: str) -> Tensor:
    array = _array(archive, name)
    if array.dtype != np.int64:
        raise TypeError(f"{name} must be int64; got {array.dtype}")
    return torch.from_numpy(array)


def _read_header(text: np.ndarray[Any, Any]) -> dict[str, Any]:
    """The header, whose parts are of the types that `write_mask` gives them.

    Raises:
        ValueError, KeyError, TypeError: they are not.
    """
    header = parse_json(str(text))
    if not isinstance(header, dict) or type(header["format"]) is not int:
        raise TypeError("its header must be an object with a format")
    if not 1 <= header["format"] <= _FORMAT:
        relation = "newer than" if header["format"] > _FORMAT else "not"
        raise ValueError(f"its format {header['format']} is {relation} {_FORMAT}")
    if not isinstance(header["method"], str):
        raise TypeError(f"method must be a text; got {header['method']!r}")
    if not isinstance(header.get("reason", ""), str):
        raise TypeError(f"reason must be a text; got {header['reason']!r}")
    for key in ("masked", "head_names"):
        _check_names(key, header[key])
    if not isinstance(header["shapes"], list) or any(
        not isinstance(each, list) or len(each) != 2 for each in header["shapes"]
    ):
        raise TypeError("shapes must be a list of names with their shapes")
    _check_names("shapes", [name for name, _ in header["shapes"]])
    for name, shape in header["shapes"]:
        if not isinstance(shape, list):
            raise TypeError(f"the shape of {name} must be a list; got {shape!r}")
    return header


def _check_names(key: str, names: Any) -> None:
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise TypeError(f"{key} must be a list of names")
    if len(set(names)) < len(names):
        raise ValueError(f"{key} must name each tensor once")
