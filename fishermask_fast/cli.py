"""The ``fishermask-fast`` command: ``run`` an active-learning loop, ``select``, ``plot``, ``info``.

Whatever the user can set right is answered with one line on stderr and exit code 2, Ctrl-C with
one line and 130.
"""

from __future__ import annotations

import argparse
import dataclasses
import logging
import sys
from collections.abc import Sequence
from typing import NoReturn

import torch

import fishermask_fast
from fishermask_fast.labeling.select import add_select_options, select
from fishermask_fast.loop.records import versions
from fishermask_fast.loop.report.report import add_plot_options, plot
from fishermask_fast.loop.run.arguments import add_run_options, read_file
from fishermask_fast.loop.runner import run

logger = logging.getLogger(__name__)

USAGE_ERROR, INTERRUPTED = 2, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: Arguments after the program's name; the process's own unless given.

    Returns:
        The exit code: 0, 2 for something that the user can set right, 130 when interrupted.
    """
    arguments = _parser()[0].parse_args(argv)
    logging.basicConfig(format="%(name)s: %(message)s")
    logging.getLogger("fishermask_fast").setLevel("DEBUG" if arguments.verbose else "WARNING")
    try:
        if arguments.command == "run" and arguments.config is not None:
            arguments = _with_file(arguments.config, argv)
        {"run": run, "select": select, "plot": plot, "info": _info}[arguments.command](arguments)
    except KeyboardInterrupt:
        left = "recorded rounds are whole" if arguments.command == "run" else "nothing half-written"
        print(f"fishermask-fast: interrupted; {left}", file=sys.stderr)
        return INTERRUPTED
    except ModuleNotFoundError as error:
        return _complain(f"{error}: pip install 'fishermask-fast[loop]'")
    except (ValueError, TypeError, OSError) as error:
        return _complain(str(error))
    return 0


def _with_file(path: str, argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line read again, with a file's values as the defaults of its flags."""
    parser, commands = _parser()
    commands["run"].set_defaults(**read_file(path, commands["run"]))
    return parser.parse_args(argv)


def _complain(message: str) -> int:
    logger.debug("what led to the error", exc_info=True)
    print(f"fishermask-fast: error: {' '.join(message.split())}", file=sys.stderr)
    return USAGE_ERROR


def _info(arguments: argparse.Namespace) -> None:
    facts: dict[str, object] = {"version": fishermask_fast.__version__}
    facts |= dataclasses.asdict(fishermask_fast.build_info())
    facts["devices"] = ", ".join(
        ["cpu", *(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))]
    )
    facts |= {name: found or "not installed" for name, found in versions().items()}
    for name, value in facts.items():
        print(f"{name.replace('_', ' '):<26}{value}")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(USAGE_ERROR, f"{self.prog}: error: {message} (see {self.prog} --help)\n")


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default is None or isinstance(action.default, bool):
            return action.help
        return super()._get_help_string(action)


def _parser() -> tuple[argparse.ArgumentParser, dict[str, argparse.ArgumentParser]]:
    parser = _Parser(
        prog="fishermask-fast",
        description="Active learning by Fisher masks: pick the batch that most reduces tr(M^-1 F).",
    )
    parser.add_argument("--version", action="version", version=fishermask_fast.__version__)
    commands = parser.add_subparsers(
        dest="command", required=True, metavar="{run,select,plot,info}"
    )
    run_ = commands.add_parser(
        "run",
        help="train, query, label, train again; compare strategies",
        description="Run an active-learning loop and compare strategies. Without options: "
        "scikit-learn's digits and three strategies, in under two minutes.",
        formatter_class=_HelpFormatter,
    )
    add_run_options(run_)
    select_ = commands.add_parser(
        "select",
        help="pick images of your own to label next",
        description="Pick the images of a folder that a trained model should learn from next; "
        "writes picks.csv, a picture of the picks, and tasks that Label Studio imports.",
        formatter_class=_HelpFormatter,
    )
    add_select_options(select_)
    plot_ = commands.add_parser(
        "plot",
        help="pictures and a table of runs",
        description="Draw the runs of one experiment, all seeds together, as PNG and SVG: learning "
        "curves, gains over random picks, label distribution, mask profile and overlap, picks, "
        "time by step; and a table of areas and of labels needed, with intervals.",
        formatter_class=_HelpFormatter,
    )
    add_plot_options(plot_)
    info = commands.add_parser("info", help="show versions, devices and how this copy was built")
    for each in (run_, select_, plot_, info):
        each.add_argument("--verbose", action="store_true", help="log, and trace errors")
    return parser, {"run": run_, "info": info}
