"""What can be asked for: each option declared once, for flags, TOML files and Python alike.

An option is a field of a frozen dataclass here: its name is the flag and the key of a file, its
type what they take, its default theirs, its line under "Attributes" the help. Rooms: picking (how
to pick), data, schedule and training (of run), commands (what else each command takes), told (help
beside the options), files (TOML), numbers (as they were written), paths (that are there, or can
be), recorded and recorded_config (what a run was asked for). May import: files; no torch, so that
``--help`` is instant.
"""

from __future__ import annotations

from fishermask_fast.options.commands import (
    ImportOptions,
    PlotOptions,
    RunOptions,
    SelectOptions,
    Telling,
    Variant,
)
from fishermask_fast.options.data import PHOTO_MEAN, PHOTO_STD, DataOptions
from fishermask_fast.options.files import OptionsFile
from fishermask_fast.options.numbers import check_whole_numbers
from fishermask_fast.options.paths import check_paths
from fishermask_fast.options.picking import (
    MASKS,
    STRATEGIES,
    LikelihoodName,
    QueryOptions,
    SampleOptions,
)
from fishermask_fast.options.recorded import forget_seeds, record_seeds
from fishermask_fast.options.recorded_config import check_config
from fishermask_fast.options.schedule import DRAWS, Schedule
from fishermask_fast.options.told import SENTENCES, epilogue, meant
from fishermask_fast.options.training import Recipe

__all__ = [
    "DRAWS",
    "DataOptions",
    "ImportOptions",
    "LikelihoodName",
    "MASKS",
    "OptionsFile",
    "PHOTO_MEAN",
    "PHOTO_STD",
    "PlotOptions",
    "QueryOptions",
    "Recipe",
    "RunOptions",
    "SENTENCES",
    "STRATEGIES",
    "SampleOptions",
    "Schedule",
    "SelectOptions",
    "Telling",
    "Variant",
    "check_config",
    "check_paths",
    "check_whole_numbers",
    "epilogue",
    "forget_seeds",
    "meant",
    "record_seeds",
]
