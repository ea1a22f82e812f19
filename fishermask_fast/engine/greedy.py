"""From a problem and its candidates to a selection: picks forward, then removals backward."""

from __future__ import annotations

import torch

from fishermask_fast.engine.blocks import Engine
from fishermask_fast.engine.candidates import LocalCandidates
from fishermask_fast.engine.device_blocks import BlockEngine
from fishermask_fast.engine.inputs import Options
from fishermask_fast.engine.log_det import LogDetProblem
from fishermask_fast.engine.problem import Problem
from fishermask_fast.engine.result import Selection
from fishermask_fast.engine.rules import Limits, Rules
from fishermask_fast.engine.state import Candidates
from fishermask_fast.progress import progress_bar


def select_greedily(
    pool: Candidates,
    problem: Problem,
    options: Options,
    dtype: torch.dtype,
    progress: bool,
    rules: Rules | None = None,
) -> Selection:
    """Pick (1 + b) K candidates, or all there are, then drop until K are left.

    Args:
        pool: the candidates.
        problem: the objective.
        options: as asked for.
        dtype: of the gradients.
        progress: show a bar.
        rules: who may be picked, and what gains count; None for all alike.
    """
    rules = rules or Rules()
    limits = Limits(len(pool), rules)
    n_select, block_size = problem.n_select, options.block_size
    n_forward = min((1 + options.backward_steps) * n_select, limits.n_together)
    n_drop = n_forward - n_select
    log_det = isinstance(problem, LogDetProblem)
    blocks = problem.device.type == "cuda" and rules.plain and not log_det
    kind = BlockEngine if blocks else Engine
    pending = pool.rows(rules.pending) if rules.pending else None
    float64 = options.precision == "float64" or dtype == torch.float64
    with progress_bar(n_forward + n_drop, "selection", "picks", progress) as advance:
        forward = kind(
            problem,
            pool,
            always_float64=float64,
            block_size=block_size,
            pending=pending,
            limits=limits,
        )
        forward.run(n_forward, advance)
        removed: list[int] = []
        removals: list[float] = []
        setups, passes = forward.setups, forward.passes
        if n_drop:
            rows = pool.rows(forward.taken)
            gains = None
            if rules.gains is not None:
                gains = torch.tensor(forward.gains, dtype=torch.float64, device=problem.device)
            picked = LocalCandidates(
                rows, problem.scale, -1, options.chunk_size, gains=gains, log_det=log_det
            )
            backward = kind(
                problem, picked, always_float64=True, block_size=block_size, pending=pending
            )
            backward.run(n_drop, advance)
            removed = backward.taken
            removals = backward.changes
            setups, passes = setups + backward.setups, passes + backward.passes
    dropped = set(removed)
    kept = [at for at in range(n_forward) if at not in dropped]
    course = forward.course()
    for change in removals:
        course.append(course[-1] - change)
    return Selection(
        indices=torch.tensor([forward.taken[at] for at in kept], dtype=torch.int64),
        scores=torch.tensor([forward.changes[at] for at in kept], dtype=torch.float64),
        objective=torch.tensor(course, dtype=torch.float64),
        dropped=torch.tensor([forward.taken[at] for at in removed], dtype=torch.int64),
        setups=setups,
        passes=passes,
        criterion=options.criterion,
    )
