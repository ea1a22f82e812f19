"""The ``fishermask-fast`` command: ``run`` an active-learning loop, or show ``info`` on the build.

Whatever the user can set right is answered with one line on stderr and exit code 2, Ctrl-C with
one line and 130.
"""

from __future__ import annotations

import argparse
import dataclasses
import logging
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import NoReturn

import torch

import fishermask_fast
from fishermask_fast.loop import tables
from fishermask_fast.loop.datasets import DataOptions, load_data
from fishermask_fast.loop.experiment import Experiment, Schedule
from fishermask_fast.loop.models import default_fraction
from fishermask_fast.loop.plots import learning_curve
from fishermask_fast.loop.records import ROUNDS_FILE, Round, RunFolder, fresh_folder, versions
from fishermask_fast.loop.strategies import STRATEGIES, QueryOptions
from fishermask_fast.loop.train import Recipe

logger = logging.getLogger(__name__)

USAGE_ERROR, INTERRUPTED = 2, 130
CURVE_FILE = "learning_curve.png"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: Arguments after the program's name; the process's own unless given.

    Returns:
        The exit code: 0, 2 for something that the user can set right, 130 when interrupted.
    """
    arguments = _parser().parse_args(argv)
    logging.basicConfig(format="%(name)s: %(message)s")
    logging.getLogger("fishermask_fast").setLevel("DEBUG" if arguments.verbose else "WARNING")
    command = {"run": _run, "info": _info}[arguments.command]
    try:
        command(arguments)
    except KeyboardInterrupt:
        print("fishermask-fast: interrupted; recorded rounds are whole", file=sys.stderr)
        return INTERRUPTED
    except ModuleNotFoundError as error:
        return _complain(f"{error}: pip install 'fishermask-fast[loop]'")
    except (ValueError, TypeError, OSError) as error:
        return _complain(str(error))
    return 0


def _complain(message: str) -> int:
    logger.debug("what led to the error", exc_info=True)
    print(f"fishermask-fast: error: {' '.join(message.split())}", file=sys.stderr)
    return USAGE_ERROR


def _run(arguments: argparse.Namespace) -> None:
    # A package that is missing is better found before the training than after it.
    import_module("matplotlib")
    tqdm = import_module("tqdm").tqdm
    shows_progress = sys.stderr.isatty()
    experiment = _experiment(arguments, shows_progress)
    schedule, data = experiment.schedule, experiment.data
    name = f"{data.name}-{experiment.model}-seed{schedule.seed}"
    folder = RunFolder(arguments.out or fresh_folder("runs", name), experiment.config())
    print(
        f"{data.name}: {len(data.pool):,} images to label from, {len(data.test):,} to test on, "
        f"{len(data.classes)} classes; {experiment.model} on {experiment.device}"
    )
    print(tables.header(schedule.strategies), flush=True)
    rounds: list[Round] = []
    with tqdm(
        total=(schedule.rounds + 1) * len(schedule.strategies),
        desc="rounds",
        leave=False,
        disable=not shows_progress,
    ) as bar:
        for entry in experiment.run(folder):
            rounds.append(entry)
            bar.update()
            if len(rounds) % len(schedule.strategies) == 0:
                tqdm.write(tables.row(rounds[-len(schedule.strategies) :]), file=sys.stdout)
                sys.stdout.flush()
    curve = folder.path / CURVE_FILE
    learning_curve(rounds, curve, f"{data.name}, {experiment.model}, seed {schedule.seed}")
    print(f"\n{tables.summary(rounds)}\n\nrecord   {folder.path / ROUNDS_FILE}\npicture  {curve}")


def _experiment(arguments: argparse.Namespace, progress: bool) -> Experiment:
    """What the flags ask for, all of it checked before anything is trained."""
    model = arguments.model or ("cnn_small" if arguments.data == "digits" else "resnet18_small")
    schedule = Schedule(
        strategies=tuple(dict.fromkeys(arguments.strategy or STRATEGIES)),
        initial=arguments.initial,
        per_round=arguments.per_round,
        rounds=arguments.rounds,
        seed=arguments.seed,
    )
    recipe = Recipe(
        learning_rate=arguments.learning_rate,
        train_batch_size=arguments.train_batch_size,
        target_accuracy=arguments.target_accuracy,
        epochs=arguments.epochs,
        min_steps=arguments.min_steps,
    )
    device = _device(arguments.device)
    data = load_data(
        DataOptions(
            name=arguments.data,
            root=arguments.data_root,
            download=arguments.download,
            image_size=arguments.image_size,
            pool_size=arguments.pool_size,
            test_size=arguments.test_size,
            augment=arguments.augment,
            seed=arguments.seed,
        )
    )
    fraction = arguments.fraction
    if fraction is None:
        fraction = default_fraction(model, len(data.classes), data.image_shape)
    query = QueryOptions(
        fraction=fraction,
        mask=arguments.mask,
        keep_head=arguments.keep_head,
        weighting=arguments.weighting,
        lamb=arguments.lamb,
        fisher_samples=arguments.fisher_samples,
        rank=arguments.rank,
        batch_size=arguments.batch_size,
        progress=progress,
    )
    return Experiment(data, model, schedule, recipe, query, device)


def _device(name: str | None) -> torch.device:
    cuda = torch.cuda.is_available()
    if name is None:
        return torch.device("cuda" if cuda else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        present = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
        raise ValueError(f"device must be one of {', '.join(present)}; got {name!r}") from error
    return device


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


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="fishermask-fast",
        description="Active learning by Fisher masks: pick the batch that most reduces tr(M^-1 F).",
    )
    parser.add_argument("--version", action="version", version=fishermask_fast.__version__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="{run,info}")
    run = commands.add_parser(
        "run",
        help="train, query, label, train again; compare strategies",
        description="Run an active-learning loop on real images and compare strategies. Without "
        "options: scikit-learn's digits and every strategy, in under two minutes.",
        formatter_class=_HelpFormatter,
    )
    _add_data_options(run.add_argument_group("data"))
    _add_loop_options(run.add_argument_group("loop"))
    _add_training_options(run.add_argument_group("training"))
    _add_query_options(run.add_argument_group("picking"))
    info = commands.add_parser("info", help="show versions, devices and how this copy was built")
    for each in (run, info):
        each.add_argument("--verbose", action="store_true", help="log, and trace errors")
    return parser


def _add_data_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--data",
        default="digits",
        help="digits, fashion-mnist, cifar10, or a folder that holds one folder of images per "
        "class, or train and test folders of such",
    )
    group.add_argument("--data-root", default="data", help="where torchvision keeps its sets")
    group.add_argument("--download", action="store_true", help="download a set that is missing")
    group.add_argument("--image-size", type=int, help="side of a folder's images (default: 32)")
    group.add_argument("--pool-size", type=int, help="images to label from (default: all)")
    group.add_argument("--test-size", type=int, help="images to test on (default: all)")
    group.add_argument(
        "--no-augment",
        dest="augment",
        action="store_false",
        help="train on cifar10 and folders without random crops and flips",
    )


def _add_loop_options(group: argparse._ArgumentGroup) -> None:
    schedule = Schedule()
    group.add_argument(
        "--strategy",
        nargs="+",
        choices=list(STRATEGIES),
        metavar="NAME",
        help=f"one or more of {', '.join(STRATEGIES)}, to be compared (default: all)",
    )
    group.add_argument(
        "--initial", type=int, default=schedule.initial, help="labels of the first training"
    )
    group.add_argument(
        "--per-round", type=int, default=schedule.per_round, help="labels added each round"
    )
    group.add_argument(
        "--rounds", type=int, default=schedule.rounds, help="rounds after the first training"
    )
    group.add_argument("--seed", type=int, default=schedule.seed, help="of all that is drawn")
    group.add_argument("--out", help="folder of this run (default: runs/DATA-MODEL-seedSEED)")


def _add_training_options(group: argparse._ArgumentGroup) -> None:
    recipe = Recipe()
    group.add_argument(
        "--model",
        help="cnn_small, mlp_small, resnet18_small, or a torchvision classifier by name "
        "(default: cnn_small for digits, else resnet18_small)",
    )
    group.add_argument("--device", help="cpu, cuda, ... (default: cuda where there is one)")
    group.add_argument("--learning-rate", type=float, default=recipe.learning_rate, help="of Adam")
    group.add_argument(
        "--train-batch-size", type=int, default=recipe.train_batch_size, help="images of a step"
    )
    group.add_argument(
        "--target-accuracy",
        type=float,
        default=recipe.target_accuracy,
        help="training accuracy that ends training",
    )
    group.add_argument("--epochs", type=int, default=recipe.epochs, help="at most so many")
    group.add_argument(
        "--min-steps", type=int, default=recipe.min_steps, help="optimiser steps, at least"
    )


def _add_query_options(group: argparse._ArgumentGroup) -> None:
    query = QueryOptions()
    group.add_argument(
        "--fraction",
        type=float,
        help="share of the parameters that the mask keeps (default: 0.002; more for cnn_small "
        "and mlp_small, less for networks of more than 2 million parameters)",
    )
    group.add_argument(
        "--mask",
        choices=["global", "per_layer", "relative", "random", "head"],
        default=query.mask,
        help="how fishermask chooses parameters",
    )
    group.add_argument(
        "--no-keep-head",
        dest="keep_head",
        action="store_false",
        help="let the head's parameters compete with all others for the mask",
    )
    group.add_argument(
        "--weighting",
        choices=["fisher", "none"],
        default=query.weighting,
        help="gradients times sqrt(p), or as they are",
    )
    group.add_argument("--lamb", type=float, default=query.lamb, help="lambda I is where M starts")
    group.add_argument(
        "--fisher-samples", type=int, default=query.fisher_samples, help="images behind the mask"
    )
    group.add_argument("--rank", type=int, help="rows per image's factor (default: exact)")
    group.add_argument("--batch-size", type=int, help="images of a gradient batch")
