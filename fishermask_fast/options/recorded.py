"""What a run was asked for, read back from its folder: ``run --resume DIR`` needs no other flag.

A folder holds ``config.json``; that of several seeds holds folders of such, and until all of them
are done ``seeds.json``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fishermask_fast.files import parse_json, read_file, replace_file
from fishermask_fast.options.commands import Variant
from fishermask_fast.options.recorded_config import check_config

CONFIG_FILE, SEEDS_FILE = "config.json", "seeds.json"
# Names of the record that are not those of flags, and what is no flag or is chosen anew.
_RENAMED = {"name": "data", "root": "data-root", "strategies": "strategy"}
_NO_FLAGS = ("seed", "download")


def recorded_flags(folder: Path) -> tuple[dict[str, Any], dict[str, Variant]]:
    """Values of flags, without those that were left open, and variants.

    Args:
        folder: Of a run, or of one folder a seed.

    Raises:
        ValueError: It holds no run that could be gone on with.
    """
    runs = (
        [folder]
        if (folder / CONFIG_FILE).is_file()
        else sorted(path.parent for path in folder.glob(f"seed*/{CONFIG_FILE}"))
    )
    if not runs:
        raise ValueError(
            f"{folder} holds no run to go on with: neither {CONFIG_FILE} nor seed*/{CONFIG_FILE}"
        )
    configs = [_config(run / CONFIG_FILE) for run in runs]
    content = configs[0]
    flags: dict[str, Any] = {"model": content.get("model"), "device": content.get("device")}
    for part in ("data", "schedule", "recipe", "query"):
        values = content.get(part)
        if isinstance(values, Mapping):
            for name, value in values.items():
                if name not in _NO_FLAGS:
                    flags[_RENAMED.get(name, name.replace("_", "-"))] = value
    seeds = [config.get("schedule", {}).get("seed", 0) for config in configs]
    rounds = [config.get("schedule", {}).get("rounds", 0) for config in configs]
    flags["rounds"] = max(rounds)  # where more were asked for, and a seed had not begun them
    flags["seed"] = seeds if runs == [folder] else _all_seeds(folder, seeds)
    variants = {
        name: Variant(each["strategy"], each.get("options", {}))
        for name, each in (content.get("variants") or {}).items()
    }
    return {name: value for name, value in flags.items() if value is not None}, variants


def record_seeds(folder: Path, seeds: tuple[int, ...]) -> None:
    """Keep which seeds a folder is of, for those that have no round yet when a run stops."""
    folder.mkdir(parents=True, exist_ok=True)
    replace_file(folder / SEEDS_FILE, (json.dumps(list(seeds)) + "\n").encode())


def forget_seeds(folder: Path) -> None:
    """Once every seed has a folder of its own, which says the same."""
    (folder / SEEDS_FILE).unlink(missing_ok=True)


def _all_seeds(folder: Path, found: list[int]) -> list[int]:
    file = folder / SEEDS_FILE
    if not file.is_file():
        return found
    try:
        seeds = parse_json(read_file(file))
        if not isinstance(seeds, list) or not all(type(seed) is int for seed in seeds):
            raise ValueError("it must be a list of seeds")
    except (OSError, ValueError) as error:
        raise ValueError(f"cannot read {file}: {error}") from error
    return list(dict.fromkeys([*seeds, *found]))


def _config(file: Path) -> dict[str, Any]:
    try:
        content = parse_json(read_file(file))["config"]
        check_config(content)
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{file} is not a run's configuration: {error}") from error
    return dict(content)
