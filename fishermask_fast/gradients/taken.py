"""What a forward takes from the time before it.

In z = f(x; theta, c) c is whatever is neither input nor parameter nor computed on the way: a
constant, or g(theta) of an earlier forward, kept in an attribute, a closure, a function's cache.
Where it lies cannot be known, but every operation shows the tensors that it is given.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fishermask_fast.network import Inputs, call


@dataclass(frozen=True)
class Taken:
    """What was seen of a forward.

    Attributes:
        parameters: those asked about that some operation was given.
        called: paths of the modules whose forwards ran.
        takers: paths of those in whose own forwards floating-point tensors from before were used.
    """

    parameters: frozenset[str]
    called: frozenset[str]
    takers: frozenset[str]

    def of(self, name: str) -> bool:
        """Whether the module of a parameter itself took something."""
        return name.rpartition(".")[0] in self.takers

    def near(self, name: str) -> bool:
        """Whether what was taken may have been made from a parameter that was not.

        A module that is not called is hidden by one that it lies in, which keeps its results.
        """
        owner = name.rpartition(".")[0]
        if owner in self.called:
            return bool(self.takers)
        return any(not path or f"{owner}.".startswith(f"{path}.") for path in self.takers)


@torch.no_grad()
def taken_from_before(model: nn.Module, inputs: Inputs, names: Collection[str]) -> Taken:
    """Watches a forward.

    Args:
        model: as `evaluation.evaluating` gives it.
        inputs: a batch.
        names: parameters to ask about.
    """
    parameters = dict(model.named_parameters())
    known: list[Any] = tree_leaves(inputs if isinstance(inputs, Tensor) else dict(inputs))
    known += [p for name, p in parameters.items() if name not in names]
    for module in model.modules():
        if type(module).__module__.startswith("torch.nn.modules."):  # such as running statistics
            known += module.buffers(recurse=False)
    watch = _Watch(known, {name: parameters[name] for name in names})
    with ExitStack() as stack:
        for path, module in model.named_modules():
            for handle in watch.hooks(path, module):
                stack.callback(handle.remove)
        stack.enter_context(watch)
        torch.manual_seed(0)
        call(model, inputs)
    return Taken(frozenset(watch.seen), frozenset(watch.called), frozenset(watch.takers))


class _Watch(TorchDispatchMode):
    """Notes what operations are given, and in whose forward."""

    def __init__(self, known: Iterable[Any], asked: Mapping[str, Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        # Held, so that no other tensor comes to lie in the same place.
        self.known = {_place(tensor): tensor for tensor in known if isinstance(tensor, Tensor)}
        self.names = {id(tensor): name for name, tensor in asked.items()}
        self.running: list[str] = []
        self.seen: set[str] = set()
        self.called: set[str] = set()
        self.takers: set[str] = set()

    def hooks(self, path: str, module: nn.Module) -> list[Any]:
        def enter(module: nn.Module, args: object, kwargs: object) -> None:
            if self.running:
                self._note((args, kwargs))
            self.called.add(path)
            self.running.append(path)

        def leave(module: nn.Module, args: object, output: object) -> None:
            self.running.pop()

        return [
            module.register_forward_pre_hook(enter, with_kwargs=True),
            module.register_forward_hook(leave, always_call=True),
        ]

    def __torch_dispatch__(
        self, func: Any, types: object, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func is torch.ops.aten.lift_fresh.default:  # of a literal in the model's code
            self._learn(args)
        self._note((args, kwargs))
        result = func(*args, **(kwargs or {}))
        self._learn(result)
        return result

    def _note(self, given: object) -> None:
        for tensor in tree_leaves(given):
            if not isinstance(tensor, Tensor):
                continue
            name = self.names.get(id(tensor))
            if name is not None:
                self.seen.add(name)
            elif tensor.is_floating_point() and _place(tensor) not in self.known:
                self.takers.add(self.running[-1] if self.running else "")

    def _learn(self, made: object) -> None:
        for tensor in tree_leaves(made):
            if isinstance(tensor, Tensor):
                self.known.setdefault(_place(tensor), tensor)


def _place(tensor: Tensor) -> int:
    """The memory of a tensor, which its views share."""
    if tensor.layout != torch.strided:
        return id(tensor)
    return int(tensor.untyped_storage()._cdata)
