"""Every bad value of every argument is refused by us, in words that name it; nothing is changed.

The cases are generated from the signatures: see bad_inputs.py.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from pathlib import Path
from traceback import extract_tb
from typing import Any

import bad_inputs
import pytest
import torch
from bad_inputs import Call
from bad_values import brief
from torch import Tensor, nn

import fishermask_fast

OURS = str(Path(fishermask_fast.__file__).parent)


@pytest.fixture(scope="module")
def calls(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Call]:
    return bad_inputs.calls(tmp_path_factory.mktemp("files"))


def state(value: Any) -> Any:
    """What of a valid argument must be the same after the call."""
    if isinstance(value, nn.Module):
        flags = [module.training for module in value.modules()]
        asked = [p.requires_grad for p in value.parameters()]
        return copy.deepcopy(value.state_dict()), flags, asked
    return value.clone() if isinstance(value, Tensor) else value


def same(value: Any, before: Any) -> bool:
    if isinstance(value, Tensor):
        return torch.equal(value, before)
    if isinstance(value, nn.Module):
        (numbers, *flags), (were, *flags_before) = state(value), before
        return flags == flags_before and all(torch.equal(numbers[n], were[n]) for n in were)
    return value is before


def test_every_public_function_has_calls(calls: dict[str, Call]) -> None:
    assert sorted(calls) == sorted(bad_inputs.NAMES)
    public = [name for name in fishermask_fast.__all__ if name not in bad_inputs.WITHOUT_INPUT]
    public += ["compat.select", "compat.fresh_select", "compat.bait_select"]
    assert set(public) <= set(calls)
    assert sum(1 for call in calls.values() for _ in bad_inputs.bad_arguments(call)) > 1000


@pytest.mark.parametrize("name", bad_inputs.NAMES)
def test_bad_values_are_refused_in_our_words(
    name: str, calls: dict[str, Call], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    call = calls[name]
    assert set(bad_inputs.signature_of(name)) == set(call.kinds)
    call.function(**call.valid())
    faults = list(_faults(name, call))
    assert not faults, "\n".join(faults)


def _faults(name: str, call: Call) -> Iterator[str]:
    for argument, number, value in bad_inputs.bad_arguments(call):
        given = call.valid()
        given[argument] = value
        others = {key: x for key, x in given.items() if key != argument}
        before = {key: state(x) for key, x in others.items()}
        shown = f"{name}({argument}={brief(value)}, number {number})"
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                call.function(**given)
        except (TypeError, ValueError, OSError) as error:
            frame = extract_tb(error.__traceback__)[-1]
            names = (argument, *call.also.get(argument, ()))
            if call.kinds[argument] in ("path", "stored"):
                names += (str(value),)
            if isinstance(error, OSError) and error.filename is not None:
                names, raised_here = (str(error.filename),), True
            else:
                raised_here = frame.filename.startswith(OURS)
            if not raised_here:
                yield f"{shown}: raised by {frame.filename}:{frame.lineno}: {error!r}"
            elif not any(word in str(error) for word in names):
                yield f"{shown}: does not name the argument: {error!r}"
        except Exception as error:
            yield f"{shown}: {error!r}"
        else:
            yield f"{shown}: accepted"
        for key, x in others.items():
            if not same(x, before[key]):
                yield f"{shown}: changed {key}"
