"""The GPU table: checks, then the times of selection, gradients and a whole round.

    python benchmarks/gpu.py                      # on the current CUDA device
    python benchmarks/gpu.py --device cpu --small # the script's own logic, on any machine

The rows are those of gpu_rows.py, what is worth most first. Each is measured in a process of its
own, so that whatever ends one leaves the others, and written the moment it has its time, to a
dated JSON file in benchmarks/results. Rows that failed, or for which no time was left, say so. Ends
with exit code 1 where a check fails or picks are not float64's.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
RESULTS = Path(__file__).parent / "results"
if str(ROOT) not in sys.path:  # as where the package was built in place and not installed
    sys.path.insert(0, str(ROOT))

from gpu_rows import PLANS, SMALL, Clock, Row, Sizes, judge  # noqa: E402  after the path

# A row says what it came to, and then what else was found out about it: one line each time.
_MARK = "row: "


def measure_here(name: str, device: torch.device, small: bool, seconds: float) -> None:
    """One plan, in this process; its rows go to stdout."""
    torch.set_float32_matmul_precision("highest")
    for row in PLANS[name](Clock(device, seconds), SMALL if small else Sizes()):
        print(_MARK + json.dumps(row), flush=True)


def measured(name: str, arguments: argparse.Namespace, seconds: float) -> Iterator[Row]:
    """The rows of one plan as they come; the last says what ended it where something did."""
    command = [sys.executable, __file__, "--row", name, "--device", arguments.device]
    command += ["--seconds", str(seconds), *(["--small"] if arguments.small else [])]
    row: Row = {"row": name}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as (
        process
    ):
        timer = threading.Timer(seconds, process.kill)
        timer.start()
        said = ""
        for line in process.stdout or ():
            if line.startswith(_MARK):
                row = json.loads(line.removeprefix(_MARK))
                yield row
            elif line.strip():
                said = line.strip()
        code = process.wait()
        timer.cancel()
    if code:
        ended = f"no time was left after {seconds:.0f} s" if code == -9 else f"exit {code}: {said}"
        yield row | {"ended_early" if "seconds" in row else "not_measured": ended}


def table_line(row: Row) -> str:
    if "seconds" not in row:
        facts = {key: value for key, value in row.items() if key not in ("row", "sizes")}
        return f"{row['row']:32} {facts}"
    published = ""
    if "published_seconds" in row:
        published = f"published {row['published_seconds'] / row['seconds']:.0f}x (extrapolated)"
    shown = ("picks_equal_float64", "late_passes_per_pick", "setups", "bound_seconds")
    more = {key: row[key] for key in (*shown, "floor_seconds", "ended_early") if key in row}
    return (
        f"{row['row']:32} {row['seconds']:9.3f} s  to reach {row['to_reach']:30} "
        f"{'yes' if row['reached'] else 'NO':3}  {published:32} {more}"
    )


def write(record: Row, output: Path) -> None:
    """All at once, so that whoever is killed leaves the rows that were there."""
    draft = output.with_suffix(".part")
    draft.write_text(json.dumps(record, indent=1) + "\n")
    os.replace(draft, output)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true", help="run through, on tiny sizes")
    parser.add_argument("--seconds", type=float, default=300.0, help="for all of it")
    parser.add_argument("--output", type=Path, help="JSON; dated in benchmarks/results if none")
    parser.add_argument("--row", choices=PLANS, help="this row alone, to stdout")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        parser.error("there is no CUDA device; --device cpu --small only runs it through")
    if arguments.row:
        measure_here(arguments.row, device, arguments.small, arguments.seconds)
        return 0
    end = time.perf_counter() + arguments.seconds
    record: Row = {"date": datetime.date.today().isoformat(), "card": {}, "rows": []}
    output = arguments.output or RESULTS / f"gpu-{record['date']}.json"
    output.parent.mkdir(exist_ok=True)
    for name in PLANS:
        left = end - time.perf_counter()
        rows = measured(name, arguments, left) if left > 1 else iter([])
        last: Row = {"row": name, "not_measured": "no time was left"}
        for position, row in enumerate(rows):
            last = row
            if name == "card":
                record["card"] = row
            else:
                if "seconds" in row:
                    judge(row, record["card"])
                record["rows"][len(record["rows"]) - (position > 0) :] = [row]
            write(record, output)
        if "not_measured" in last and last not in record["rows"]:
            record["rows"].append(last)
            write(record, output)
        print(table_line(last), flush=True)
    print(output)
    unequal = [row for row in record["rows"] if row.get("picks_equal_float64") is False]
    return 1 if record["card"].get("failed_checks", ["not run"]) or unequal else 0


if __name__ == "__main__":
    sys.exit(main())
