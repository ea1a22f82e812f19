"""From a problem and its candidates to a selection: picks forward, then removals backward."""

from __future__ import annotations

import torch

from fishermask_fast.engine.blocks import Engine
from fishermask_fast.engine.candidates import LocalCandidates
from fishermask_fast.engine.device_blocks import BlockEngine
from fishermask_fast.engine.inputs import Options
from fishermask_fast.engine.problem import Problem
from fishermask_fast.engine.result import Selection
from fishermask_fast.engine.state import Candidates
from fishermask_fast.progress import progress_bar


def select_greedily(
    pool: Candidates, problem: Problem, options: Options, dtype: torch.dtype, progress: bool
) -> Selection:
    """Pick (1 + b) K candidates, or all there are, then drop until K are left.

    Args:
        pool: the candidates.
        problem: the objective.
        options: as asked for.
        dtype: of the gradients.
        progress: show a bar.
    """
    n_select, block_size = problem.n_select, options.block_size
    n_forward = min((1 + options.backward_steps) * n_select, len(pool))
    n_drop = n_forward - n_select
    kind = BlockEngine if problem.fisher.device.type == "cuda" else Engine
    float64 = options.precision == "float64" or dtype == torch.float64
    with progress_bar(n_forward + n_drop, "selection", "picks", progress) as advance:
        forward = kind(problem, pool, always_float64=float64, block_size=block_size)
        forward.run(n_forward, advance)
        changes = list(forward.changes)
        removed: list[int] = []
        setups, passes = forward.setups, forward.passes
        if n_drop:
            rows = pool.rows(forward.taken)
            picked = LocalCandidates(rows, problem.scale, -1, options.chunk_size)
            backward = kind(problem, picked, always_float64=True, block_size=block_size)
            backward.run(n_drop, advance)
            removed = backward.taken
            changes += backward.changes
            setups, passes = setups + backward.setups, passes + backward.passes
    dropped = set(removed)
    kept = [at for at in range(n_forward) if at not in dropped]
    steps = [forward.objective, *(-change for change in changes)]
    return Selection(
        indices=torch.tensor([forward.taken[at] for at in kept], dtype=torch.int64),
        scores=torch.tensor([forward.changes[at] for at in kept], dtype=torch.float64),
        objective=torch.tensor(steps, dtype=torch.float64).cumsum(0),
        dropped=torch.tensor([forward.taken[at] for at in removed], dtype=torch.int64),
        setups=setups,
        passes=passes,
    )
