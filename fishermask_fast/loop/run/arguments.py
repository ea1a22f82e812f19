"""What ``fishermask-fast run`` is asked for: flags, and TOML files whose keys are flags.

A key is a flag without its dashes (``per-round = 50``), and a flag overrides a key. Tables
``[variants.NAME]`` are strategies under names of their own: ``strategy`` and flags of picking.
"""

from __future__ import annotations

import argparse
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch

from fishermask_fast.datasets import DataOptions, load_data
from fishermask_fast.loop.run.experiment import Experiment, Variant
from fishermask_fast.loop.run.schedule import DRAWS, Schedule
from fishermask_fast.loop.run.train import Recipe
from fishermask_fast.models import default_model, find_device
from fishermask_fast.strategies import MASK_NAMES, STRATEGIES, QueryOptions

NOT_IN_FILES = ("help", "config", "resume", "verbose", "variants", "command")


@dataclass(frozen=True)
class Request:
    """Experiments that differ in their seed alone, and where each is recorded.

    Attributes:
        arguments: What was asked for, flags and file together.
        seeds: One run each.
        device: Where to compute.
    """

    arguments: argparse.Namespace
    seeds: tuple[int, ...]
    device: torch.device

    @classmethod
    def of(cls, arguments: argparse.Namespace) -> Request:
        """Check what is the same for all seeds.

        Raises:
            ValueError: Seeds repeat themselves, or there is no such device.
        """
        seeds = tuple(arguments.seed)
        # So far torch's generators go.
        if not all(0 <= seed < 2**63 for seed in seeds):
            raise ValueError(f"seed must be between 0 and 2**63 - 1; got {_listed(seeds)}")
        if len(set(seeds)) < len(seeds):
            raise ValueError(f"seeds must differ; got {_listed(seeds)}")
        return cls(arguments, seeds, find_device(arguments.device))

    def experiment(self, seed: int, *, progress: bool = False) -> Experiment:
        """The experiment of one seed, all of it checked before anything is trained."""
        given = self.arguments
        schedule = Schedule(
            strategies=_strategies(given.strategy, given.variants),
            initial=given.initial,
            initial_draw=given.initial_draw,
            per_round=given.per_round,
            rounds=given.rounds,
            stop_labels=given.stop_labels,
            stop_accuracy=given.stop_accuracy,
            seed=seed,
        )
        recipe = Recipe(**{each.name: getattr(given, each.name) for each in fields(Recipe)})
        data = load_data(_data_options(given, seed))
        model = given.model or default_model(data.kind, data.name)
        query = QueryOptions(
            fraction=given.fraction,
            n_parameters=given.n_parameters,
            mask=given.mask,
            keep_head=given.keep_head,
            head=given.head,
            weighting=given.weighting,
            lamb=given.lamb,
            fisher_samples=given.fisher_samples,
            rank=given.rank,
            batch_size=given.batch_size,
            progress=progress,
        )
        variants = {
            name: Variant(options["strategy"], {k: options[k] for k in options if k != "strategy"})
            for name, options in given.variants.items()
        }
        return Experiment(data, model, schedule, recipe, query, self.device, variants)


def _listed(seeds: Sequence[int]) -> str:
    return " ".join(map(str, seeds))


def _data_options(given: argparse.Namespace, seed: int) -> DataOptions:
    return DataOptions(
        name=given.data,
        root=given.data_root,
        download=given.download,
        image_size=given.image_size,
        class_counts=None if given.class_counts is None else tuple(given.class_counts),
        imbalance_ratio=given.imbalance_ratio,
        pool_size=given.pool_size,
        test_size=given.test_size,
        augment=given.augment,
        seed=seed,
    )


def _strategies(names: Sequence[str] | None, variants: dict[str, Any]) -> tuple[str, ...]:
    if names is None:
        return tuple(variants) or Schedule().strategies
    if list(names) == ["all"]:
        return (*STRATEGIES, *variants)
    if "all" in names and "all" not in variants:
        raise ValueError(f"strategy all stands for every one, alone; got {' '.join(names)}")
    return tuple(names)


def read_file(path: str, parser: argparse.ArgumentParser) -> dict[str, Any]:
    """Defaults for a parser's flags, from a TOML file.

    Args:
        path: The file.
        parser: Whose flags may stand in the file.

    Returns:
        Values by the names that the parser gives them.

    Raises:
        ValueError: The file cannot be read, or holds a key or a value that no flag takes.
    """
    try:
        content = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ValueError(f"cannot read {path}: {error}") from error
    actions = {action.dest: action for action in parser._actions}
    flags = {
        name.removeprefix("--"): action
        for action in actions.values()
        for name in action.option_strings
        if action.dest not in NOT_IN_FILES
    }
    variants = content.pop("variants", {})
    if not isinstance(variants, dict):
        raise ValueError(f"{path}: variants must be tables [variants.NAME]; got {variants!r}")
    values = {}
    for key, value in content.items():
        if key not in flags:
            raise ValueError(f"{path}: {key} is no key of a file; keys are {', '.join(flags)}")
        values[flags[key].dest] = _value(f"{path}: {key}", value, flags[key])
    values["variants"] = {
        name: _variant(f"{path}: variants.{name}", table, flags) for name, table in variants.items()
    }
    return values


def _variant(where: str, table: Any, flags: dict[str, argparse.Action]) -> dict[str, Any]:
    name = where.rpartition("variants.")[2]
    if name in STRATEGIES:
        raise ValueError(f"{where} must have a name of its own; {name} is a strategy's")
    if not isinstance(table, dict) or not isinstance(table.get("strategy"), str):
        raise ValueError(f'{where} must be a table with a strategy, such as strategy = "random"')
    options = {each.name for each in fields(QueryOptions)} - {"progress"}
    found: dict[str, Any] = {"strategy": table["strategy"]}
    for key, value in table.items():
        if key == "strategy":
            continue
        if key not in flags or flags[key].dest not in options:
            raise ValueError(f"{where}: {key} is no option of picking")
        found[flags[key].dest] = _value(f"{where}: {key}", value, flags[key])
    return found


def _value(where: str, value: Any, action: argparse.Action) -> Any:
    """A TOML value as the flag itself would have read it."""
    if action.nargs == "+":
        if not isinstance(value, list) or not value:
            raise ValueError(f"{where} must be a list; got {value!r}")
        return [_single(where, each, action) for each in value]
    if action.nargs == 0:
        if not isinstance(value, bool):
            raise ValueError(f"{where} must be true or false; got {value!r}")
        # The key of a flag such as --no-augment says what the flag would.
        return action.const if value else not action.const
    return _single(where, value, action)


def _single(where: str, value: Any, action: argparse.Action) -> Any:
    wanted = action.type if isinstance(action.type, type) else str
    fits = isinstance(value, (int, float) if wanted is float else wanted)
    if not fits or isinstance(value, bool):
        raise ValueError(f"{where} must be of type {wanted.__name__}; got {value!r}")
    if action.choices is not None and value not in action.choices:
        raise ValueError(f"{where} must be one of {', '.join(action.choices)}; got {value!r}")
    return wanted(value)


def add_run_options(run: argparse.ArgumentParser) -> None:
    """All flags of ``fishermask-fast run``."""
    run.add_argument(
        "config",
        nargs="?",
        metavar="FILE.toml",
        help="keys are flags without dashes: per-round = 50; flags given override them",
    )
    run.set_defaults(variants={})
    _add_data_options(run.add_argument_group("data"))
    _add_loop_options(run.add_argument_group("loop"))
    _add_training_options(run.add_argument_group("training"))
    add_query_options(run.add_argument_group("picking"))


def _add_data_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--data",
        default="digits",
        help="digits, mnist, fashion-mnist, cifar10, svhn, breast-cancer, iris, wine, "
        "20newsgroups, a folder that holds one folder of images per class (or train and test "
        "folders of such), or a CSV file with a column label and a column text or numbers",
    )
    group.add_argument("--data-root", default="data", help="where downloaded sets are kept")
    group.add_argument("--download", action="store_true", help="download a set that is missing")
    group.add_argument("--image-size", type=int, help="side of a folder's images (default: 32)")
    group.add_argument(
        "--class-counts",
        type=int,
        nargs="+",
        metavar="N",
        help="samples that the pool keeps of its first classes, such as 250 5000 250 250; the "
        "other classes are left out",
    )
    group.add_argument(
        "--imbalance-ratio", type=float, help="largest class of the pool over the smallest"
    )
    group.add_argument("--pool-size", type=int, help="samples to label from (default: all)")
    group.add_argument("--test-size", type=int, help="samples to test on (default: all)")
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
        metavar="NAME",
        help=f"all, or some of {', '.join(STRATEGIES)} and of a file's variants, to be compared "
        f"(default: {', '.join(schedule.strategies)})",
    )
    group.add_argument(
        "--initial", type=int, default=schedule.initial, help="labels of the first training"
    )
    group.add_argument(
        "--initial-draw",
        choices=DRAWS,
        default=schedule.initial_draw,
        help="uniformly, or of each class its share and at least one",
    )
    group.add_argument(
        "--per-round", type=int, default=schedule.per_round, help="labels added each round"
    )
    group.add_argument(
        "--rounds", type=int, default=schedule.rounds, help="rounds after the first training"
    )
    group.add_argument("--stop-labels", type=int, help="stop at so many labels")
    group.add_argument("--stop-accuracy", type=float, help="stop at this test accuracy")
    group.add_argument(
        "--seed", type=int, nargs="+", default=[0], help="of all that is drawn; one run each"
    )
    group.add_argument(
        "--out", help="folder of the run, or of one folder a seed (default: runs/DATA-MODEL-seedS)"
    )
    group.add_argument("--resume", action="store_true", help="go on with the run that out holds")


def _add_training_options(group: argparse._ArgumentGroup) -> None:
    recipe = Recipe()
    group.add_argument(
        "--model",
        help="cnn_small, mlp_small, resnet18_small, vit_small, text_small, or a torchvision "
        "classifier by name (default: cnn_small for digits, mlp_small for tables, text_small for "
        "texts, else resnet18_small)",
    )
    group.add_argument("--device", help="cpu, cuda, ... (default: cuda where there is one)")
    group.add_argument("--learning-rate", type=float, default=recipe.learning_rate, help="of Adam")
    group.add_argument(
        "--train-batch-size", type=int, default=recipe.train_batch_size, help="samples of a step"
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
    group.add_argument(
        "--warm-start", action="store_true", help="train on from the last round's network"
    )


def add_query_options(group: argparse._ArgumentGroup) -> None:
    """Flags of picking, which ``run`` and ``select`` share."""
    query = QueryOptions()
    group.add_argument(
        "--fraction",
        type=float,
        help="share of the parameters that the mask keeps (default: 0.002, at least twice the "
        "head, at most 4,096 parameters or the head and 512)",
    )
    group.add_argument(
        "--n-parameters", type=int, help="how many parameters the mask keeps, instead of a share"
    )
    group.add_argument(
        "--mask", choices=MASK_NAMES, default=query.mask, help="how fishermask chooses parameters"
    )
    group.add_argument(
        "--no-keep-head",
        dest="keep_head",
        action="store_false",
        help="let the head's parameters compete with all others for the mask",
    )
    group.add_argument(
        "--head", help="name of the layer that gives the logits (default: found from the logits)"
    )
    group.add_argument(
        "--weighting",
        choices=["fisher", "none"],
        default=query.weighting,
        help="gradients times sqrt(p), or as they are",
    )
    group.add_argument("--lamb", type=float, default=query.lamb, help="lambda I is where M starts")
    group.add_argument(
        "--fisher-samples", type=int, default=query.fisher_samples, help="samples behind the mask"
    )
    group.add_argument("--rank", type=int, help="rows per sample's factor (default: exact)")
    group.add_argument("--batch-size", type=int, help="samples of a gradient batch")
