"""Plants one bug at a time in the CUDA kernels, and sees that the emulated tests catch it.

    python tests/cuda_on_cpu/planted_bugs.py [PART OF A NAME ...]

Ends with exit code 1 where a bug went unseen, or where its place in the source is gone.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from emulated_build import HERE, ROOT, build


@dataclass(frozen=True)
class Bug:
    """`right`, which must stand in the file once, becomes `wrong`."""

    name: str
    file: str
    right: str
    wrong: str

    def planted(self, text: str) -> str:
        """The file's text with the bug in it.

        Raises:
            ValueError: its place is gone, or no longer one alone.
        """
        places = text.count(self.right)
        if places != 1:
            raise ValueError(f"{self.name}: {self.file} holds {self.right!r} {places} times; not 1")
        return text.replace(self.right, self.wrong)


SCORE, PICK, WEIGHT = "cuda/score_update.cu", "cuda/pick_block.cu", "cuda/weight_gradient.cu"
UPDATES, TILES = "cuda/candidate_updates.cuh", "cuda/tiled_update.cuh"
# The tests that a bug in a file can fail, so that not all run each time.
ALL = "not classes and not ties"
RELEVANT = {
    SCORE: "score_update or any_number",
    UPDATES: "score_update or any_number",
    TILES: "score_update or any_number",
    PICK: "pick_block or classes",
    WEIGHT: "definitions and (grad or diag)",
    "common/weight_geometry.h": "definitions and (grad or diag)",
    "cuda/lanes.cuh": ALL,
    "cuda/utils.cuh": ALL,
}
PLAIN = ("-p", "no:cacheprovider")
BUGS = [
    Bug("update_by_group: groups share memory", UPDATES, "shared + group * each", "shared"),
    Bug(
        "update_by_group: no candidate is passed over",
        UPDATES,
        "first + group < chosen.count && chosen.has(x)",
        "first + group < chosen.count",
    ),
    Bug(
        "update_by_group: the last of a warp keep another's",
        UPDATES,
        "const bool own = first + group < chosen.count && ",
        "const bool own = ",
    ),
    Bug(
        "update_by_group: too little memory",
        UPDATES,
        "32 * warps, warps * bytes",
        "32 * warps, bytes",
    ),
    Bug(
        "tiles: staged while read",
        TILES,
        "    __syncwarp();\n  }\n\n  // A -=",
        "  }\n\n  // A -=",
    ),
    Bug(
        "tiles: columns are read too early",
        TILES,
        "        __syncwarp();\n        const double recip",
        "        const double recip",
    ),
    Bug("tiles: one column for all", TILES, "columns_ + 2 * x * kRows", "columns_"),
    Bug("tiles: R before P", TILES, ": q) + of_w) * kRows", ": q) + !of_w) * kRows"),
    Bug("tiles: the coupling of other rows", TILES, "coupling[i * c + at /", "coupling[at /"),
    Bug("tiles: a part of the coupling", TILES, "first += kAtOnce, inner", "first += 6, inner"),
    Bug(
        "tiles: half a lane's tiles",
        TILES,
        "const int e = lane + n * kGroup",
        "const int e = lane",
    ),
    Bug(
        "update_by_block: blocks share memory",
        UPDATES,
        "memory + blockIdx.x * doubles_of_block",
        "memory + 0 * doubles_of_block",
    ),
    Bug(
        "update_by_block: a candidate by many blocks",
        UPDATES,
        "for (int64_t x = blockIdx.x; x < chosen.count; x += gridDim.x)",
        "for (int64_t x = blockIdx.x; x < chosen.count; x += 1)",
    ),
    Bug("pack_columns: heads overlap", SCORE, "place / d * 2 * total", "place / d * total"),
    Bug("pack_columns: W before U", SCORE, "row < total ? u[", "row >= total ? u["),
    Bug("mark: of the place in the index", SCORE, "wanted[index[at]] = 1", "wanted[at] = 1"),
    Bug(
        "find_winners: no barrier",
        SCORE,
        "    __syncthreads();\n    if (thread < half)",
        "    if (thread < half)",
    ),
    Bug(
        "find_winners: stops early",
        SCORE,
        "half > 0; half /= 2) {\n    __sync",
        "half > 1; half /= 2) {\n    __sync",
    ),
    Bug(
        "score_update: later updates overwrite the history",
        SCORE,
        "state.history += packed.columns.count * pool.n();",
        "",
    ),
    Bug(
        "score_update: later updates take the first columns",
        SCORE,
        "column += packed.columns.total;",
        "",
    ),
    Bug(
        "score_update: chunks begin at the first",
        SCORE,
        "first, count,\n        ids",
        "0, count,\n        ids",
    ),
    Bug(
        "each_leader: blocks share memory",
        PICK,
        "work + leader * follow_work(block.r)",
        "work",
    ),
    Bug(
        "choose_one: leaders do not follow",
        PICK,
        "if (t + 1 < block.size)",
        "if (t + 2 < block.size)",
    ),
    Bug("lanes: a block does not wait", "cuda/lanes.cuh", "__syncthreads();", ""),
    Bug(
        "gather_entries: lanes part",
        WEIGHT,
        "first_item() / 32 * 32 / width",
        "first_item() / width",
    ),
    Bug(
        "gather_entries: half of a sum",
        WEIGHT,
        "half = width / 2; half > 0",
        "half = width / 4; half > 0",
    ),
    Bug(
        "gather_entries: too long a step",
        WEIGHT,
        "step = item_stride() / width",
        "step = item_stride()",
    ),
    Bug(
        "sum_squares: parts in one place",
        WEIGHT,
        "partial + blockIdx.y * geometry.numel()",
        "partial",
    ),
    Bug(
        "sum_squares: operands change while they are read",
        "common/weight_geometry.h",
        "      lanes.sync();\n    }",
        "    }",
    ),
    Bug(
        "add_parts: without the last",
        WEIGHT,
        "part < parts; ++part) sum",
        "part + 1 < parts; ++part) sum",
    ),
    Bug(
        "first_item: every block the first's",
        "cuda/utils.cuh",
        "static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x",
        "threadIdx.x",
    ),
]


def caught(bug: Bug, folder: Path, clean: Path) -> str | None:
    """The first test that fails of a build with this bug; None where none does."""
    sources = folder / "csrc"
    shutil.copytree(ROOT / "csrc", sources)
    path = sources / bug.file
    path.write_text(bug.planted(path.read_text()))
    shutil.copytree(clean, folder / "build")
    library = build(folder / "build", sources)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-x", "-q", *PLAIN, "-k", RELEVANT[bug.file], str(HERE)],
        cwd=ROOT,
        env=os.environ | {"FISHERMASK_EMULATED": str(library)},
        capture_output=True,
        text=True,
        timeout=900,
    )
    if done.returncode == 0:
        return None
    failed = [line for line in done.stdout.splitlines() if line.startswith("FAILED")]
    if done.returncode not in (1, -6, -11) or (done.returncode == 1 and not failed):
        raise SystemExit(f"{bug.name}: the tests did not run\n{done.stdout}{done.stderr}")
    return failed[0].split("::")[-1].split(" - ")[0] if failed else f"signal {-done.returncode}"


def main() -> int:
    chosen = [bug for bug in BUGS if not sys.argv[1:] or any(x in bug.name for x in sys.argv[1:])]
    unseen = 0
    with tempfile.TemporaryDirectory() as clean:
        build(Path(clean))
        for bug in chosen:
            with tempfile.TemporaryDirectory() as folder:
                by = caught(bug, Path(folder), Path(clean))
            print(f"{bug.name:52} {by or 'NOT CAUGHT'}", flush=True)
            unseen += by is None
    print(f"{len(chosen) - unseen} of {len(chosen)} bugs caught")
    return 1 if unseen else 0


if __name__ == "__main__":
    sys.exit(main())
