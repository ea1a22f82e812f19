"""The ``fishermask-fast`` command: ``run``, ``select``, ``import-labels``, ``plot``, ``info``.

A command is a function of ``commands``, its options a dataclass of ``options``. Any error is one
line on stderr and exit code 2, and --traceback shows where it was raised; Ctrl-C is one line and
130. Nothing is imported before it is needed, so that ``--version`` is instant.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from traceback import print_exception

from fishermask_fast.version import __version__

USAGE_ERROR, INTERRUPTED = 2, 130
LOOP_PACKAGES = "pip install 'fishermask-fast[loop]'"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: Arguments after the program's name; the process's own unless given.

    Returns:
        The exit code: 0, 2 for an error, 130 when interrupted.
    """
    given = list(sys.argv[1:] if argv is None else argv)
    logging.basicConfig(format="%(name)s: %(message)s")
    verbose = "--verbose" in given
    logging.getLogger("fishermask_fast").setLevel("DEBUG" if verbose else "WARNING")
    try:
        with _printing_any_name():
            _run(given)
            sys.stdout.flush()
    except KeyboardInterrupt as interrupt:
        left = str(interrupt) or "nothing half-written"
        print(f"fishermask-fast: interrupted; {left}", file=sys.stderr)
        return INTERRUPTED
    # What nobody thought of is one line as well: a batch system's log should not end in a stack.
    except Exception as error:
        if "--traceback" in given or verbose:
            print_exception(error)
        return _complain(_said(error))
    return 0


def _run(given: Sequence[str]) -> None:
    # What tells of an installation works without the packages of the loop.
    if given == ["--version"]:
        print(__version__)
    elif given == ["info"]:
        from fishermask_fast.installation import print_info

        print_info()
    else:
        with _ending_in_good_order():
            _parse_and_run(given)


@contextmanager
def _printing_any_name() -> Iterator[None]:
    """Names of files that the terminal's encoding does not have are escaped, as on stderr."""
    out = sys.stdout
    errors = getattr(out, "errors", None)
    if errors != "strict" or not hasattr(out, "reconfigure"):
        yield
        return
    out.reconfigure(errors="backslashreplace")
    try:
        yield
    finally:
        with suppress(OSError):
            out.reconfigure(errors=errors)


def _said(error: Exception) -> str:
    """An error's own words where they are for the user, else with its name and where to look."""
    if isinstance(error, ModuleNotFoundError):
        return f"{error}: {LOOP_PACKAGES}"
    if isinstance(error, (ValueError, TypeError, OSError)) and str(error):
        return str(error)
    return f"{type(error).__name__}: {error} (--traceback shows where)"


@contextmanager
def _ending_in_good_order() -> Iterator[None]:
    """Let what ends a program, as a batch system's SIGTERM, take drafts away as Ctrl-C does."""

    def end(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    numbers = [getattr(signal, name, None) for name in ("SIGTERM", "SIGHUP")]  # Windows has one
    if threading.current_thread() is not threading.main_thread():
        numbers = []
    # As under nohup, what is ignored stays so.
    ours = [n for n in numbers if n is not None and signal.getsignal(n) is signal.SIG_DFL]
    for number in ours:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, signal.SIG_DFL)


def _parse_and_run(given: Sequence[str]) -> None:
    from cyclopts import CycloptsError, MissingArgumentError, ValidationError

    from fishermask_fast.commands import parse

    if not given:
        raise ValueError(
            "a command is needed: run, select, import-labels, plot or info (see --help)"
        )
    try:
        command = parse(given)
    except ValidationError as error:
        raise ValueError(error.exception_message or str(error)) from error
    except CycloptsError as error:
        message = str(error)
        if isinstance(error, MissingArgumentError) and error.argument and not error.keyword:
            message = f"{error.argument.name} is needed"
        name = " ".join(("fishermask-fast", *(error.command_chain or ())))
        raise ValueError(f"{message} (see {name} --help)") from error
    command()


def _complain(message: str) -> int:
    try:
        sys.stdout.flush()
    except OSError:  # nobody reads on, or the disk is full: no second error at the program's end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    # In one piece, as other processes may write to the same place.
    sys.stderr.write(f"fishermask-fast: error: {' '.join(message.split())}\n")
    return USAGE_ERROR
