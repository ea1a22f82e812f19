"""What a selection is asked for: checked, and made fit to compute with."""

from __future__ import annotations

import logging
import math
import warnings
from dataclasses import dataclass

import torch
from torch import Tensor

from fishermask_fast.arrays import as_tensor
from fishermask_fast.checks import (
    as_device,
    caller_level,
    check_choice,
    check_integer,
    check_matrix,
)
from fishermask_fast.engine.candidates import LocalCandidates
from fishermask_fast.engine.copies import DistinctCandidates
from fishermask_fast.engine.log_det import LogDetProblem
from fishermask_fast.engine.option_checks import (
    auto_prior,
    check_criterion,
    check_prior,
    check_samples,
)
from fishermask_fast.engine.problem import Problem
from fishermask_fast.engine.rules import Limits, Rules
from fishermask_fast.factors import (
    EmbeddingFactors,
    FactorSource,
    GradientFactors,
    StoredFactors,
    StreamedFactors,
    as_factors,
    check_finite,
)
from fishermask_fast.memory import available_memory, check_memory
from fishermask_fast.ops import has_cuda_ops

# Of a GPU's free memory: the rest is for the state and for work.
_SHARE_OF_GPU = 0.5

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Options:
    """The arguments of select_batch that are no tensors of a sample each; see there."""

    n_select: int
    lamb: float | str  # or, in sums, the prior precision
    n_labeled: int
    backward_steps: int
    chunk_size: int | None
    block_size: int | None
    precision: str
    in_sums: bool = False
    criterion: str = "trace"
    max_per_cluster: int | None = None
    pending: Tensor | None = None  # (p,) int64
    exclude: Tensor | None = None  # (q,) int64

    @classmethod
    def checked(
        cls,
        n_select: int,
        lamb: float | str,
        n_labeled: int,
        backward_steps: int,
        chunk_size: int | None,
        block_size: int | None,
        precision: str,
        *,
        prior_precision: float | str | None = None,
        criterion: str = "trace",
        max_per_cluster: int | None = None,
        pending: object = None,
        exclude: object = None,
    ) -> Options:
        """The same, checked.

        Raises:
            TypeError, ValueError: see select_batch.
        """
        check_choice("precision", precision, ("mixed", "float64"))
        return cls(
            check_integer("n_select", n_select, 1),
            check_prior(lamb, prior_precision),
            check_integer("n_labeled", n_labeled, 0),
            check_integer("backward_steps", backward_steps, 0),
            None if chunk_size is None else check_integer("chunk_size", chunk_size, 1),
            None if block_size is None else check_integer("block_size", block_size, 1),
            precision,
            prior_precision is not None,
            check_criterion(criterion),
            None
            if max_per_cluster is None
            else check_integer("max_per_cluster", max_per_cluster, 1),
            check_samples("pending", pending),
            check_samples("exclude", exclude),
        )

    @property
    def log_det(self) -> bool:
        """Whether log det M is to rise."""
        return self.criterion == "logdet"

    def check_pool(
        self, factors: FactorSource, n: int, device: torch.device, rules: Rules | None = None
    ) -> None:
        """Raise where so many cannot be picked from n samples, `factors` those of this process.

        Raises:
            ValueError: no samples, rows or columns, n_select above those that may be picked, or
                matrices or the state of this process's samples too large for its memory.
        """
        r, k = factors.n_rows, factors.n_columns
        if n == 0:
            raise ValueError("gradients hold no samples; expected a pool of at least one")
        if r == 0 or k == 0:
            raise ValueError(f"gradients must have rows and columns; got shape {(n, r, k)}")
        if self.n_select > n:
            raise ValueError(
                f"n_select must be at most the pool's {n} samples; got {self.n_select}"
            )
        free = n if rules is None else self.check_room(n, rules)
        check_memory(k, device)
        _check_state(factors, device)
        if free < (1 + self.backward_steps) * self.n_select:
            holds = f"pool holds {n}" if free == n else f"pool leaves {free} to pick"
            warnings.warn(
                f"backward_steps={self.backward_steps} picks "
                f"{(1 + self.backward_steps) * self.n_select} samples before it drops any, but the "
                f"{holds}: all of them are picked first",
                UserWarning,
                stacklevel=caller_level(),
            )

    def check_room(self, n: int, rules: Rules) -> int:
        """How many of n samples may be picked together.

        Raises:
            ValueError: fewer than n_select.
        """
        free = Limits(n, rules).n_together
        if self.n_select > free:
            raise ValueError(
                f"n_select must be at most the {free} samples that pending, exclude and "
                f"max_per_cluster leave of the pool's {n}; got {self.n_select}"
            )
        return free

    def rules(self, n: int, gains: Tensor | None, clusters: Tensor | None) -> Rules:
        """Who of n samples may be picked.

        Args:
            n: samples of the pool.
            gains: of this process's candidates.
            clusters: (n,) int64, of all.

        Raises:
            ValueError: samples that are not there, or clusters without max_per_cluster.
        """
        for name in ("pending", "exclude"):
            index = getattr(self, name)
            if index is not None and len(index) and int(index.max()) >= n:
                raise ValueError(
                    f"{name} must be indices within 0..{n - 1}, the pool's; got {int(index.max())}"
                )
        if (clusters is None) != (self.max_per_cluster is None):
            raise ValueError(
                "cluster_ids and max_per_cluster belong together: give both or neither"
            )
        pending, exclude = (
            [] if index is None else index.tolist() for index in (self.pending, self.exclude)
        )
        return Rules(gains, clusters, self.max_per_cluster or 1, pending, exclude)

    def candidates(
        self,
        factors: FactorSource,
        problem: Problem,
        rules: Rules,
        n_total: int,
        places: Tensor | None = None,
    ) -> LocalCandidates:
        """This process's candidates; `places` are theirs among all, None for all themselves."""
        device = factors.device
        barred, clusters = Limits(n_total, rules).barred, rules.clusters
        if places is not None:
            barred = barred[places] if len(barred) else barred
            clusters = None if clusters is None else clusters[places]
        # On a GPU asking costs more than the updates of copies.
        alone = places is None and isinstance(factors, GradientFactors) and device.type == "cpu"
        kind = DistinctCandidates if alone else LocalCandidates
        return kind(
            factors,
            problem.scale,
            1,
            self.chunk_size,
            gains=None if rules.gains is None else rules.gains.to(device),
            clusters=None if clusters is None else clusters.to(device),
            barred=barred if len(barred) else None,
            log_det=self.log_det,
        )

    def problem(
        self, fisher: Tensor, labeled_fisher: Tensor | None, device: torch.device
    ) -> Problem:
        """The objective, on the device where it is computed.

        Raises:
            ValueError: "auto" where F is zero.
        """
        lamb = self.lamb if isinstance(self.lamb, float) else auto_prior(fisher, self.in_sums)
        kind = LogDetProblem if self.log_det else Problem
        return kind(
            fisher[:0].to(device) if self.log_det else fisher.to(device),
            None if labeled_fisher is None else labeled_fisher.to(device),
            lamb,
            self.n_labeled,
            self.n_select,
            self.in_sums,
        )

    def needed_fisher(self, factors: FactorSource) -> Tensor:
        """F of the pool, (k, k) float64, or (0, k) where nothing asks for it."""
        if self.log_det and isinstance(self.lamb, float):
            k = factors.n_columns
            return torch.empty(0, k, dtype=torch.float64, device=factors.device)
        return mean_fisher(factors)


def _check_state(factors: FactorSource, device: torch.device) -> None:
    """Raise where A and B of all samples, and their copies, do not fit into the free memory.

    Raises:
        ValueError: says how much they need.
    """
    n, r = len(factors), factors.n_rows
    needed = n * 8 * (4 * (r * (r + 1) // 2) + 2)
    available = available_memory(device)
    if available is not None and needed > available:
        raise ValueError(
            f"gradients hold {n} samples of {r} rows, whose scores need {needed / 2**30:.1f} GiB; "
            f"{device} has {available / 2**30:.1f} GiB free. Select from fewer samples, or keep "
            "fewer rows of each"
        )


def check_matrices(
    factors: FactorSource,
    fisher: object,
    labeled_fisher: object,
    n_labeled: int,
    criterion: str = "trace",
) -> tuple[Tensor | None, Tensor | None]:
    """F and F_L in float64, None where there is none.

    Raises:
        TypeError, ValueError: see select_batch.
    """
    if criterion == "logdet" and fisher is not None:
        raise ValueError(
            "fisher plays no part in criterion='logdet', which aims at no samples; leave it out"
        )
    given, labeled = as_tensor("fisher", fisher), as_tensor("labeled_fisher", labeled_fisher)
    if given is not None:
        given = check_matrix("fisher", given, factors.n_columns, factors.device)
    if labeled is None:
        if n_labeled > 0:
            k = factors.n_columns
            raise ValueError(f"n_labeled = {n_labeled} needs labeled_fisher, a ({k}, {k}) matrix")
        return given, None
    labeled = check_matrix("labeled_fisher", labeled, factors.n_columns, factors.device)
    if n_labeled > 0:
        return given, labeled
    if bool(labeled.any()):
        raise ValueError("labeled_fisher was given with n_labeled = 0; expected how many")
    return given, None


def as_source(gradients: object) -> FactorSource:
    """The gradients as they are read.

    Raises:
        TypeError, ValueError: see select_batch.
    """
    if isinstance(gradients, (StoredFactors, EmbeddingFactors)):
        return gradients
    return as_factors(as_tensor("gradients", gradients))


def mean_fisher(factors: FactorSource) -> Tensor:
    """F = (1/N) sum_x V_x^T V_x, (k, k) float64; zero where there are no samples.

    Raises:
        ValueError: gradients are not finite.
    """
    k = factors.n_columns
    if len(factors) == 0:
        return torch.zeros(k, k, dtype=torch.float64, device=factors.device)
    fisher = factors.fisher()
    if not bool(fisher.isfinite().all()):
        for start, chunk in factors.chunks():
            check_finite(chunk, start)
    return fisher


def check_device(device: object, source: FactorSource) -> torch.device:
    """Where a selection from these gradients is computed.

    Raises:
        TypeError, ValueError: no device, or one for which the ops were not built.
    """
    if device is None:
        here = source.device
        if here.type == "cpu" or runs_on(here):
            return here
        _logger.info("selection runs on the CPU: copying gradients from %s", here)
        return torch.device("cpu")
    asked = as_device(device)
    if asked.type == "cuda" and asked.index is None and torch.cuda.is_available():
        asked = torch.device("cuda", torch.cuda.current_device())
    if asked.type != "cpu" and not runs_on(asked):
        raise ValueError(
            f"device must be the CPU, or a GPU for which the ops were built; got {asked}"
        )
    return asked


def runs_on(device: torch.device) -> bool:
    """Whether it is a GPU of this machine for which the ops were built."""
    if device.type != "cuda" or not has_cuda_ops() or not torch.cuda.is_available():
        return False
    return device.index is None or device.index < torch.cuda.device_count()


def computable(source: FactorSource, device: torch.device) -> FactorSource:
    """The gradients in a form that the ops know: on the device, or on their way to it in chunks."""
    if isinstance(source, GradientFactors):
        half = source.dtype in (torch.float16, torch.bfloat16)
        room = math.inf
        if device.type == "cuda" and source.device.type == "cpu":
            room = (available_memory(device) or 0) * _SHARE_OF_GPU
        if len(source) * source.sample_bytes * (2 if half else 1) <= room:
            return source.to(device, torch.float32 if half else None)
    if device == source.device:
        return source
    return StreamedFactors(source, device)
