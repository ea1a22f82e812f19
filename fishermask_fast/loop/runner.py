"""``fishermask-fast run``: experiments of one or several seeds, their tables, records, picture."""

from __future__ import annotations

import logging
import shlex
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

from fishermask_fast.datasets import load_data, sorted_notes, write_notes
from fishermask_fast.loop.records import ROUNDS_FILE, RunFolder, fresh_folder
from fishermask_fast.loop.report import learning_curves, read_runs, tables
from fishermask_fast.loop.rounds import Round
from fishermask_fast.loop.run import Experiment
from fishermask_fast.models import default_model, find_device
from fishermask_fast.options import STRATEGIES, QueryOptions, RunOptions, forget_seeds, record_seeds
from fishermask_fast.plotting import check_picture
from fishermask_fast.strategies import unread

CURVE_NAME = "learning_curve"
logger = logging.getLogger(__name__)

OUTPUTS = {"categorical": "classes", "bernoulli": "labels", "gaussian": "targets"}


def run_experiments(options: RunOptions) -> None:
    """Run what the options ask for, one seed after the other, and print how it goes.

    Raises:
        ValueError: Something that the user can set right, found before anything is trained.
    """
    # A package that is missing is better found before the training than after it.
    import_module("matplotlib")
    on_a_terminal = sys.stderr.isatty()
    # Each seed has its own pool, initial set and folder: all are checked before the first one runs.
    experiments = [make_experiment(options, seed, progress=True) for seed in options.seed]
    with ExitStack() as opened:
        folders = []
        for experiment in experiments:
            path = _folder(options, experiment)
            folders.append(RunFolder(path, experiment.config(), resume=options.resume))
            opened.callback(folders[-1].close)
            check_picture(path / CURVE_NAME)
        if len(options.seed) > 1 and options.out is not None:
            record_seeds(options.out, options.seed)
        try:
            for experiment, folder in zip(experiments, folders, strict=True):
                _run_in(experiment, folder, on_a_terminal)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(_way_to_resume(options, folders)) from None
        if len(options.seed) > 1 and options.out is not None:
            forget_seeds(options.out)


def _way_to_resume(options: RunOptions, folders: Sequence[RunFolder]) -> str:
    """What goes on with runs that were interrupted."""
    begun = [folder.path for folder in folders if (folder.path / ROUNDS_FILE).exists()]
    if not begun:
        return "no round was recorded"
    several = len(folders) > 1 and options.out is not None
    where = [options.out] if several else begun
    lines = [f"fishermask-fast run --resume {shlex.quote(str(path))}" for path in where]
    return f"recorded rounds are whole; this goes on: {' ; '.join(lines)}"


def make_experiment(options: RunOptions, seed: int, progress: bool = False) -> Experiment:
    """The experiment of one seed, all of it checked before anything is trained."""
    device = find_device(options.device)
    names = _strategies(options)
    data = load_data(replace(options.data, seed=seed), progress)
    model = options.model or default_model(data.kind, data.name)
    experiment = Experiment(
        data,
        model,
        replace(options.schedule, strategies=names, seed=seed),
        options.recipe,
        replace(options.query, progress=progress),
        device,
        options.variants,
    )
    if seed == options.seed[0]:
        _warn_of_unread(options.query, experiment)
    return experiment


def _warn_of_unread(query: QueryOptions, experiment: Experiment) -> None:
    """Says which of the options given no strategy of the run reads."""
    each = [set(unread(strategy, query)) for strategy, _ in experiment.arms.values()]
    if ignored := sorted(set.intersection(*each)):
        names = ", ".join(experiment.arms)
        logger.warning("%s: no strategy of the run (%s) reads it", ", ".join(ignored), names)


def _strategies(options: RunOptions) -> tuple[str, ...]:
    names = options.schedule.strategies
    if names == ("all",):
        return (*STRATEGIES, *options.variants)
    if "all" in names and "all" not in options.variants:
        raise ValueError(f"strategy all stands for every one, alone; got {' '.join(names)}")
    return names


def _folder(options: RunOptions, experiment: Experiment) -> Path:
    seed = experiment.schedule.seed
    if options.out is None:
        return fresh_folder("runs", f"{experiment.data.name}-{experiment.model}-seed{seed}")
    return options.out / f"seed{seed}" if len(options.seed) > 1 else options.out


def _run_in(experiment: Experiment, folder: RunFolder, on_a_terminal: bool) -> None:
    tqdm: Any = import_module("tqdm").tqdm
    schedule, data = experiment.schedule, experiment.data
    print(
        f"{data.name}: {len(data.pool):,} samples to label from, {len(data.test):,} to test on, "
        f"{len(data.classes)} {OUTPUTS[data.likelihood]}; {experiment.model} on "
        f"{experiment.device}, seed {schedule.seed}"
    )
    print(tables.header(schedule.strategies, experiment.task.metric), flush=True)
    rounds: list[Round] = list(folder.rounds)
    shown = 0
    with tqdm(
        total=experiment.n_rounds(),
        initial=len(rounds),
        desc="rounds",
        leave=False,
        disable=not on_a_terminal,
    ) as bar:

        def show(last: bool) -> None:
            nonlocal shown
            while same := [entry for entry in rounds if entry.round == shown]:
                # One that has stopped early is missed only when a later round begins.
                later = any(entry.round > shown for entry in rounds)
                if not (later or last or len(same) == len(schedule.strategies)):
                    return
                tqdm.write(tables.row(same, schedule.strategies), file=sys.stdout)
                sys.stdout.flush()
                shown += 1

        show(last=False)
        for entry in experiment.run(folder):
            if not rounds:
                write_notes(folder.path, data.notes)
            rounds.append(entry)
            bar.update()
            show(last=False)
        show(last=True)
    curve = folder.path / CURVE_NAME
    learning_curves(read_runs([folder.path]), curve)
    print(
        f"\n{tables.summary(rounds, experiment.task.metric)}\n\n"
        f"record   {folder.path / ROUNDS_FILE}"
    )
    print(f"picture  {curve}.png")
    for name, some in sorted_notes(data.notes).items():
        if some:
            print(f"{name:<9}{len(some):,}, listed in {folder.path / name}.csv")
