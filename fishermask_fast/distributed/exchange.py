"""Messages between the process that picks and those that hold shards of the pool.

Rank 0 tells all others what to do; each answers with plain objects and tensors, or with the error
that it met. Any failure of one process becomes an error of all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")

_CPU = torch.device("cpu")


class Answer(NamedTuple):
    """What a rank answers: any object that can be pickled, and tensors."""

    value: Any = None
    tensors: tuple[Tensor, ...] = ()


class _Failure(NamedTuple):
    kind: type[Exception]
    text: str

    @classmethod
    def of(cls, error: Exception, rank: int) -> _Failure:
        # Of other types not even the name may be known to the receiver.
        kinds = (ValueError, TypeError, OverflowError)
        kind = next((kind for kind in kinds if type(error) is kind), RuntimeError)
        return cls(kind, f"rank {rank}: {error}" if str(error) else f"rank {rank} failed")


class LostContact(RuntimeError):
    """A process of the group has died, or has not answered in time."""


class Exchange:
    """One process's end of the messages in a group.

    Args:
        group: a torch.distributed process group.

    Attributes:
        rank: of this process in the group.
        size: processes of the group.
        device: where tensors arrive: the CPU, or this process's GPU with NCCL.
        sent: bytes of tensors that this process has sent, once for each receiver.
    """

    def __init__(self, group: dist.ProcessGroup) -> None:
        if not dist.is_available() or not isinstance(group, dist.ProcessGroup):
            raise TypeError(f"group must be a torch.distributed process group; got {group!r}")
        self.rank = dist.get_rank(group)
        self.size = dist.get_world_size(group)
        self.sent = 0
        self._group = group
        on_gpu = dist.get_backend(group) == "nccl"
        self.device = torch.device("cuda", torch.cuda.current_device()) if on_gpu else _CPU

    def agree(self, work: Callable[[], T]) -> T:
        """Do this rank's work; where any rank fails, all raise.

        Raises:
            ValueError, TypeError, OverflowError, RuntimeError: of the first rank that failed.
        """
        done, error = self._attempt(work)
        failures = self.everyone(self._failure(error))
        self._raise_first(failures, error)
        return cast(T, done)  # which may be None by its own nature

    def everyone(self, value: Any) -> list[Any]:
        """What each rank gives, in the order of ranks, on every rank."""
        values: list[Any] = [None] * self.size
        with self._in_touch("comparing arguments"):
            dist.all_gather_object(values, value, group=self._group)
        return values

    def total(self, tensor: Tensor) -> Tensor:
        """The sum over ranks, on every rank."""
        summed = tensor.to(self.device, copy=True)
        with self._in_touch("adding up"):
            dist.all_reduce(summed, group=self._group)
        self.sent += summed.nbytes
        return summed.to(tensor.device)

    def tell(self, name: str, arguments: tuple[Any, ...] = (), *tensors: Tensor) -> None:
        """On rank 0: the same message to all others."""
        layouts = [(tuple(tensor.shape), tensor.dtype) for tensor in tensors]
        with self._in_touch(name):
            dist.broadcast_object_list(
                [name, arguments, layouts], group=self._group, group_src=0, device=self.device
            )
            for tensor in tensors:
                if tensor.numel():
                    wire = tensor.to(self.device).contiguous()
                    dist.broadcast(wire, group=self._group, group_src=0)
                    self.sent += wire.nbytes * (self.size - 1)

    def hear(self) -> tuple[str, tuple[Any, ...], list[Tensor]]:
        """On the other ranks: the next message."""
        message: list[Any] = [None, None, None]
        with self._in_touch("waiting for rank 0"):
            dist.broadcast_object_list(message, group=self._group, group_src=0, device=self.device)
            name, arguments, layouts = message
            return name, arguments, [self._receive(layout, None) for layout in layouts]

    def answer(self, work: Callable[[], Answer]) -> None:
        """On the other ranks: do what rank 0 asked for, and answer."""
        done, error = self._attempt(work)
        answer = done or Answer()
        failure = self._failure(error)
        layouts = [(tuple(tensor.shape), tensor.dtype) for tensor in answer.tensors]
        with self._in_touch("answering rank 0"):
            dist.gather_object((failure, answer.value, layouts), group=self._group, group_dst=0)
            for tensor in answer.tensors:
                if tensor.numel():
                    wire = tensor.to(self.device).contiguous()
                    dist.send(wire, group=self._group, group_dst=0)
                    self.sent += wire.nbytes

    def collect(self, name: str, work: Callable[[], Answer]) -> list[Answer]:
        """On rank 0: its own answer and those of all others, in the order of ranks.

        Raises:
            LostContact: a process has died, or does not answer.
            ValueError, TypeError, OverflowError, RuntimeError: of a rank that failed.
        """
        own, error = self._attempt(work)
        replies: list[Any] = [None] * self.size
        answers = [own or Answer()]
        with self._in_touch(name):
            dist.gather_object((None, None, []), replies, group=self._group, group_dst=0)
            for rank, (_, value, layouts) in enumerate(replies[1:], start=1):
                tensors = tuple(self._receive(layout, rank) for layout in layouts)
                answers.append(Answer(value, tensors))
        own_failure = self._failure(error)
        self._raise_first([own_failure, *(reply[0] for reply in replies[1:])], error)
        return answers

    def _attempt(self, work: Callable[[], T]) -> tuple[T | None, Exception | None]:
        try:
            return work(), None
        except Exception as error:
            return None, error

    def _failure(self, error: Exception | None) -> _Failure | None:
        return None if error is None else _Failure.of(error, self.rank)

    def _raise_first(self, failures: list[_Failure | None], own: Exception | None) -> None:
        """Raise the failure of the lowest rank that has one, with this rank's own as its cause."""
        for failed in failures:
            if failed is not None:
                raise failed.kind(failed.text) from own

    def _receive(self, layout: tuple[tuple[int, ...], torch.dtype], source: int | None) -> Tensor:
        """A tensor that is broadcast (None), or sent by one rank."""
        wire = torch.empty(layout[0], dtype=layout[1], device=self.device)
        if wire.numel() and source is None:
            dist.broadcast(wire, group=self._group, group_src=0)
        elif wire.numel():
            dist.recv(wire, group=self._group, group_src=source)
        return wire

    @contextmanager
    def _in_touch(self, step: str) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            raise LostContact(
                f"rank {self.rank} of {self.size} lost the others ({step}): a process has died, or "
                f"has not answered within the group's timeout. {error}"
            ) from error
