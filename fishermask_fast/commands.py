"""The commands: what each takes, as ``options`` declares it, and which wing does the work.

A wing is imported when its command runs, so that ``--help`` needs no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from fishermask_fast.options import (
    ImportOptions,
    OptionsFile,
    PlotOptions,
    RunOptions,
    SelectOptions,
    Telling,
    check_paths,
    check_whole_numbers,
    epilogue,
)
from fishermask_fast.version import __version__

RUN, PLOT, IMPORT, TELLING = RunOptions(), PlotOptions(), ImportOptions(), Telling()


def parse(argv: Sequence[str]) -> partial[None]:
    """The command that is asked for, ready to be called.

    Raises:
        CycloptsError: The command line, or what an option says of its value, is wrong.
        ValueError: The same of a file.
    """
    file = OptionsFile()
    given = _with_folder_to_resume(list(argv))
    command, bound, _ = _app(file).parse_args(given, print_error=False, exit_on_error=False)
    bound.apply_defaults()
    if file.variants:
        bound.arguments["options"] = replace(bound.arguments["options"], variants=file.variants)
    return partial(command, *bound.args, **bound.kwargs)


def _with_folder_to_resume(argv: list[str]) -> list[str]:
    """``--resume DIR`` as ``--resume --out DIR``."""
    if argv[:1] != ["run"] or "--out" in argv or "--resume" not in argv[:-1]:
        return argv
    place = argv.index("--resume") + 1
    return argv if argv[place].startswith("-") else [*argv[:place], "--out", *argv[place:]]


def _app(file: OptionsFile) -> App:
    app = App(
        name="fishermask-fast",
        help="Active learning by Fisher masks: pick the batch that most reduces tr(M^-1 F).",
        version=__version__,
        config=(file, check_whole_numbers, check_paths),
        # Of a flag that is given twice the last counts; a list grows.
        default_parameter=Parameter(
            consume_multiple=(1, None), negative_iterable=(), allow_repeating=True
        ),
    )
    commands: dict[str, Callable[..., None]] = {
        "run": run,
        "select": select,
        "plot": plot,
        "import-labels": _import_labels,
        "info": _info,
    }
    for name, command in commands.items():
        app.command(command, name=name, help_epilogue=epilogue(name))
    return app


def run(
    config: Annotated[Path | None, Parameter(name="FILE.toml")] = None,
    /,
    *,
    options: RunOptions = RUN,
    telling: Telling = TELLING,
) -> None:
    """Train, query, label, train again; compare strategies.

    Without options: scikit-learn's digits and three strategies, in under two minutes.

    Args:
        config: Keys are flags without dashes (per-round = 50); flags given override them.
        options: What to run.
        telling: What is told beside the results.
    """
    from fishermask_fast.loop import run_experiments

    run_experiments(options)


def select(*, options: SelectOptions, telling: Telling = TELLING) -> None:
    """Pick images of your own to label next.

    Picks the images of a folder that a trained model should learn from next; writes picks.csv, a
    picture of the picks, tasks and a labelling configuration for Label Studio, and what was skipped
    or converted.

    Args:
        options: What to pick from.
        telling: What is told beside the results.
    """
    from fishermask_fast.labeling import select_samples

    select_samples(options)


def _import_labels(
    export: Annotated[Path, Parameter(name="EXPORT")],
    /,
    *,
    options: ImportOptions = IMPORT,
    telling: Telling = TELLING,
) -> None:
    """Turn labels from Label Studio into the CSV of the next select.

    Takes its exports as JSON, JSON-MIN or CSV; writes all images of the pool, with labels where
    there are some.

    Args:
        export: The file that Label Studio exported.
        options: What to write.
        telling: What is told beside the results.
    """
    from fishermask_fast.labeling import import_labels

    import_labels(export, options)


def plot(
    folders: Annotated[tuple[Path, ...], Parameter(name="DIR")],
    /,
    *,
    options: PlotOptions = PLOT,
    telling: Telling = TELLING,
) -> None:
    """Draw pictures and a table of runs.

    All seeds of one experiment together, as PNG and SVG: learning curves, gains over random picks,
    label distribution, mask profile and overlap, picks, time by step; and a table of areas and of
    labels needed, with intervals.

    Args:
        folders: Runs of one experiment, or folders of them.
        options: How to draw them.
        telling: What is told beside the results.
    """
    from fishermask_fast.loop import plot_runs

    plot_runs(folders, options)


def _info(*, telling: Telling = TELLING) -> None:
    """Show versions, devices and how this copy was built.

    Args:
        telling: What is told beside the results.
    """
    from fishermask_fast.installation import print_info

    print_info()
