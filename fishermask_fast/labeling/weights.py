"""The tensors of a checkpoint that are a network's, wherever its maker put them.

Rule: of all dictionaries in the file, the one that holds every name of the network after the fewest
prefixes are taken off. Only tensors and plain values come out of a file: an object of any other
class is replaced by an empty one, and none of its code runs.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fishermask_fast.checks import listed
from fishermask_fast.files import open_file
from fishermask_fast.memory import available_memory

WRAPPERS = ("_orig_mod", "module", "_forward_module", "_fsdp_wrapped_module")
"""Components that torch.compile, DataParallel, Fabric and FSDP put into names, at any place."""
COUNTER = "num_batches_tracked"  # missing in files of old versions, and made anew
SHOWN = 3
ZIP, PICKLE, LFS = b"PK\x03\x04", b"\x80", b"version https://git-lfs"


@dataclass(frozen=True)
class Weights:
    """What was found.

    Attributes:
        tensors: By the network's own names.
        where: Keys that lead to their dictionary in the file.
        taken_off: Prefix of the names in it, or a wrapper's component.
        left_out: Names of tensors beside them.
        also: Keys of other dictionaries that fit as well.
    """

    tensors: dict[str, Tensor]
    where: str
    taken_off: str
    left_out: tuple[str, ...]
    also: tuple[str, ...]


def find_weights(checkpoint: Path, names: Collection[str], model: str) -> Weights:
    """Read a checkpoint of torch or safetensors.

    Args:
        checkpoint: The file.
        names: Of the network's state_dict.
        model: The network's name, for messages.

    Raises:
        ValueError: The file cannot be read, or no dictionary in it fits.
    """
    content = _read(checkpoint)
    if not isinstance(content, Mapping) or hasattr(content, "in_place_of"):
        raise ValueError(
            f"{checkpoint} must hold a state_dict; got {_kind(content)}: save model.state_dict()"
        )
    found = list(_dictionaries(content))
    if not found:
        raise ValueError(f"{checkpoint} must hold a state_dict; got a dictionary without tensors")
    fits = [fit for where, tensors in found for fit in _fits(where, tensors, names)]
    if not fits:
        raise ValueError(f"{checkpoint} is no checkpoint of {model}: {_differences(found, names)}")
    best = min(fits, key=lambda fit: (fit.taken_off.count("."), fit.where.count(".")))
    also = [fit.where for fit in fits if fit.taken_off == best.taken_off and fit is not best]
    return Weights(best.tensors, best.where, best.taken_off, best.left_out, tuple(also))


class _NotRead:
    """In the place of a class that is not read: calling it gives an empty dictionary.

    An OrderedDict, the one thing of which torch's reader takes both items and attributes.
    """

    def __new__(cls, *_: object, **__: object) -> Any:
        empty: Any = OrderedDict()
        empty.in_place_of = cls.__name__
        return empty


def _kind(content: object) -> str:
    name = getattr(content, "in_place_of", None)
    return type(content).__name__ if name is None else f"a pickled {name}, whose code is not run"


def _read(checkpoint: Path) -> Any:
    wrong = f"cannot read {checkpoint} as a checkpoint (torch.save of a state_dict): "
    try:
        with os.fdopen(open_file(checkpoint, os.O_RDONLY), "rb") as file:
            start, size = file.read(512), os.fstat(file.fileno()).st_size
    except (OSError, ValueError) as error:
        raise ValueError(wrong + str(error)) from error
    if not start:
        raise ValueError(f"{wrong}it is empty")
    if start.startswith(LFS):
        raise ValueError(f"{wrong}it is a pointer of Git LFS; git lfs pull fetches the file")
    if start.lstrip().startswith(b"<"):
        raise ValueError(f"{wrong}it is a web page; download the file itself")
    memory = available_memory("cpu")
    if memory is not None and size > memory:
        raise ValueError(f"{wrong}its {size / 1e9:,.0f} GB are more than the free memory holds")
    try:
        if start[8:9] == b"{" and int.from_bytes(start[:8], "little") < size:
            from safetensors.torch import load_file

            return load_file(checkpoint)
        if not start.startswith((ZIP, PICKLE)):
            raise ValueError(f"{wrong}it is of neither torch.save nor safetensors")
        return _read_torch(checkpoint)
    except ModuleNotFoundError:
        raise
    # A damaged file can fail anywhere in a decoder, and torch's own words advise loading unsafely.
    except Exception as error:
        if str(error).startswith(wrong):
            raise
        raise ValueError(
            f"{wrong}it is damaged, or holds more than tensors and plain values "
            f"({type(error).__name__}); save model.state_dict()"
        ) from error


def _read_torch(checkpoint: Path) -> Any:
    stand_ins: list[Any] = []
    with open(checkpoint, "rb") as file:
        if file.read(4) == ZIP:
            names = torch.serialization.get_unsafe_globals_in_checkpoint(checkpoint)
            stand_ins = [(type(name.rpartition(".")[2], (_NotRead,), {}), name) for name in names]
    with torch.serialization.safe_globals(stand_ins):
        return torch.load(checkpoint, map_location="cpu", weights_only=True)


def _dictionaries(content: Mapping[Any, Any]) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """(keys that lead there, tensors) of each dictionary that holds some, the outer first."""
    queue: list[tuple[str, Mapping[Any, Any]]] = [("", content)]
    seen = set()
    while queue:
        where, each = queue.pop(0)
        if id(each) in seen:
            continue
        seen.add(id(each))
        tensors = {k: v for k, v in each.items() if isinstance(k, str) and isinstance(v, Tensor)}
        if tensors:
            yield where, tensors
        queue += [
            (f"{where}.{key}".removeprefix("."), value)
            for key, value in each.items()
            if isinstance(key, str) and isinstance(value, Mapping)
        ]


def _fits(where: str, tensors: dict[str, Tensor], names: Collection[str]) -> Iterator[Weights]:
    """The ways in which a dictionary holds all names."""
    needed = {name for name in names if not name.endswith(COUNTER)}
    own = {name.partition(".")[0] for name in names}
    anchor = max(needed, key=len)
    for variant, wrapper in _without_wrappers(tensors, names):
        for name in variant:
            if name != anchor and not name.endswith(f".{anchor}"):
                continue
            prefix = name.removesuffix(anchor)
            below = {
                key.removeprefix(prefix): value
                for key, value in variant.items()
                if key.startswith(prefix)
            }
            more = {key for key in below if key not in names}
            # More of the network's own parts is another network: resnet34 holds resnet18's names.
            if needed <= below.keys() and not any(key.partition(".")[0] in own for key in more):
                left = [key for key in variant if key.removeprefix(prefix) not in names]
                state = {key: value for key, value in below.items() if key in names}
                yield Weights(state, where, wrapper + prefix, tuple(left), ())


def _without_wrappers(
    tensors: dict[str, Tensor], names: Collection[str]
) -> Iterator[tuple[dict[str, Tensor], str]]:
    """The tensors as they are named; and, where wrappers stand inside of names, without them."""
    yield tensors, ""
    own = {part for name in names for part in name.split(".")}
    inside = [part for part in WRAPPERS if part not in own]
    found = sorted({part for name in tensors for part in name.split(".")} & set(inside))
    if found:
        plain = {
            ".".join(part for part in name.split(".") if part not in found): value
            for name, value in tensors.items()
        }
        if len(plain) == len(tensors):
            yield plain, "".join(f"{part}." for part in found)


def _differences(found: list[tuple[str, dict[str, Tensor]]], names: Collection[str]) -> str:
    """What is missing and what is too much in the dictionary that is nearest to fitting."""
    needed = {name for name in names if not name.endswith(COUNTER)}
    best: tuple[set[str], set[str]] | None = None
    for _, tensors in found:
        for prefix in _likely_prefixes(tensors, needed):
            below = {name.removeprefix(prefix) for name in tensors}
            pair = needed - below, below - set(names)
            if best is None or len(pair[0]) < len(best[0]):
                best = pair
    assert best is not None
    return "; ".join(
        f"{len(some):,} names {what}" + (f" ({_some(some)})" if some else "")
        for what, some in zip(("missing", "unexpected"), best, strict=True)
    )


def _likely_prefixes(tensors: Collection[str], needed: Collection[str]) -> list[str]:
    """What stands before the network's own names, and nothing; a few, in fixed order."""
    found = {""}
    for name in tensors:
        parts = name.split(".")
        ends = (i for i in range(1, len(parts)) if ".".join(parts[i:]) in needed)
        found |= {"".join(f"{part}." for part in parts[:i]) for i in ends}
    return sorted(found)[:20]


def _some(names: Collection[str]) -> str:
    return listed([name[:80] for name in sorted(names)], SHOWN)
