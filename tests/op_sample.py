"""One call of an op: its arguments, and what its definition makes of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Sample:
    """Arguments of one call, what it must return, and what it must leave in changed arguments."""

    label: str
    arguments: tuple[Any, ...]
    returned: tuple[Tensor, ...]
    changed: dict[int, Tensor]
    bound: float

    def fresh_arguments(self) -> tuple[Any, ...]:
        return tuple(x.clone() if isinstance(x, Tensor) else x for x in self.arguments)
