"""Whole numbers of flags and files, as they were written: none is rounded, and none overflows."""

from __future__ import annotations

from typing import get_args, get_origin

from cyclopts import App, ArgumentCollection

from fishermask_fast.options.files import plain_type


def check_whole_numbers(app: App, commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
    """Called by the parser between reading the command line and making sense of it.

    Raises:
        ValueError: Where a whole number is wanted, a value has a fraction or takes 64 bits or more.
    """
    for each in arguments:
        wanted = plain_type(each.hint)
        if int not in (wanted, *(get_args(wanted) if get_origin(wanted) is tuple else ())):
            continue
        name = each.name.lstrip("-").replace("-", "_")
        for token in each.tokens:
            try:
                number = _exactly(token.value)
            except ValueError:  # told by the parser
                continue
            if isinstance(number, float):
                raise ValueError(f"{name} must be a whole number; got {token.value}")
            if abs(number) >= 2**63:
                raise ValueError(f"{name} must be between 0 and 2**63 - 1; got {token.value}")


def _exactly(text: str) -> int | float:
    """The number that is written, an int where it is whole."""
    try:
        return int(text)
    except ValueError:
        number = float(text)
        return int(number) if number.is_integer() else number
