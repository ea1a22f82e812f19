"""From a model and a pool to a batch: mask, masked gradients, Fisher matrices, selection.

One query chooses k parameters by the Fisher diagonal, takes V_x on them for every sample, and picks
the batch that most reduces tr(M^-1 F), where

    F   = (1/N)   sum over all samples, labelled and unlabelled, of V_x^T V_x
    F_L = (1/n_L) sum over the labelled samples of V_x^T V_x,   M = lambda I + F_L n_L / (n_L + K)
"""

from __future__ import annotations

import importlib.util
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from fishermask_fast.checks import check_positive, is_integer
from fishermask_fast.data import Pool, check_count, check_seed, to_model
from fishermask_fast.evaluation import call, check_device, device_of, evaluating, input_dtype
from fishermask_fast.factors import GradientFactors
from fishermask_fast.gradients import masked_gradients
from fishermask_fast.mask import METHODS, FisherMask, check_fraction, find_head, fisher_diagonal
from fishermask_fast.rows import check_rows
from fishermask_fast.selection import Selection, select_batch

logger = logging.getLogger(__name__)

Data = Dataset[Any] | DataLoader[Any] | Tensor

MASKS = (*METHODS, "random", "head")


class FisherMaskSelector:
    """Picks batches for a classification model by FisherMask (Gul et al. 2024).

    Parameters are stored as given and checked by ``query``. With ``mask="head"`` and
    ``backward_steps=1`` the batch is BAIT's (Ash et al. 2021).

    Args:
        model: From a batch to logits (N, C), to an object with ``.logits``, or to a tuple whose
            first item is logits. It is read in eval mode and left as it was.
        fraction: Share of the parameters that the mask keeps, in (0, 1]; of each tensor for
            ``"per_layer"``. Of no account for ``"relative"`` and ``"head"``.
        mask: How parameters are chosen: ``"global"``, ``"per_layer"``, ``"relative"``,
            ``"random"``, ``"head"``, or a ``FisherMask`` made before.
        keep_head: Whether the first three of them keep the whole head.
        weighting: ``"fisher"``: rows sqrt(p_c) grad log p_c, as the paper's formula has it;
            ``"none"``: rows grad log p_c, as its published code has it.
        lamb: lambda > 0.
        backward_steps: b >= 0: pick (1 + b) K, then drop b K of them one at a time.
        fisher_samples: Samples of the Fisher diagonal, drawn by ``seed`` from all samples.
        rank: Rows r of V_x; None is exact.
        batch_size: Samples of a forward pass; None leaves it to the DataLoader, or to a default.
        device: Where to compute; None is the model's device.
        seed: Of the samples behind the mask, and of a random mask.

    Attributes:
        mask_: The mask of the last query.
        fisher_: F of the last query, (k, k) float64.
        labeled_fisher_: F_L of the last query, (k, k) float64, or None without labelled samples.
        seconds_: Seconds of the last query by step: mask, gradients, fisher, selection.
    """

    mask_: FisherMask
    fisher_: Tensor
    labeled_fisher_: Tensor | None
    seconds_: dict[str, float]

    def __init__(
        self,
        model: nn.Module,
        *,
        fraction: float = 0.002,
        mask: str | FisherMask = "global",
        keep_head: bool = True,
        weighting: str = "fisher",
        lamb: float = 1.0,
        backward_steps: int = 0,
        fisher_samples: int = 1024,
        rank: int | None = None,
        batch_size: int | None = None,
        device: torch.device | str | None = None,
        seed: int = 0,
    ) -> None:
        self.model = model
        self.fraction = fraction
        self.mask = mask
        self.keep_head = keep_head
        self.weighting = weighting
        self.lamb = lamb
        self.backward_steps = backward_steps
        self.fisher_samples = fisher_samples
        self.rank = rank
        self.batch_size = batch_size
        self.device = device
        self.seed = seed

    def query(
        self,
        unlabeled: Data,
        n_select: int,
        labeled: Data | None = None,
        *,
        progress: bool = True,
    ) -> Selection:
        """Pick ``n_select`` samples of ``unlabeled``.

        Give both data sets with the transform of evaluation: random crops and flips would make
        the gradients of a sample depend on the draw.

        Args:
            unlabeled: N_U samples to pick from: Dataset, DataLoader or Tensor. A batch is a tensor,
                a tuple whose first item is the input, or a dict of keyword arguments. Labels
                are never read. Picks are indices into the data set, in its own order.
            n_select: K, 1 <= K <= N_U.
            labeled: The n_L samples that are labelled already; None or empty when there are none.
            progress: Show a bar for each step, where tqdm is installed.

        Returns:
            The picks in order, with their scores and the course of tr(M^-1 F).

        Raises:
            TypeError: A parameter or a data set is of the wrong type.
            ValueError: A parameter is out of range, the pool is empty or smaller than
                ``n_select``, the mask cannot be made for this model, or the model does not take
                the samples, or its outputs are not finite logits of at least two classes.
        """
        self.check_parameters()
        check_count("n_select", n_select, optional=False)
        pool = Pool.of(unlabeled, "unlabeled")
        if n_select > len(pool):
            raise ValueError(
                f"n_select must be at most the {len(pool)} unlabeled samples; got {n_select}"
            )
        if labeled is not None and _is_empty(labeled):
            labeled = None
        n_labeled = 0 if labeled is None else len(Pool.of(labeled, "labeled"))
        self._try_model(pool, "unlabeled")
        if labeled is not None:
            self._try_model(Pool.of(labeled, "labeled"), "labeled")
        progress = progress and _has_tqdm()
        self.seconds_ = {}

        with self._timed("mask"):
            mask = self._make_mask(unlabeled, len(pool), labeled, n_labeled, progress)
        labeled_fisher = None
        if labeled is not None:
            with self._timed("gradients"):
                factors = self._gradients(labeled, mask, progress)
            with self._timed("fisher"):
                labeled_fisher = factors.fisher()
        with self._timed("gradients"):
            factors = self._gradients(unlabeled, mask, progress)
        with self._timed("fisher"):
            fisher = factors.fisher()
            if labeled_fisher is not None:
                share = n_labeled / (n_labeled + len(pool))
                fisher = torch.lerp(fisher, labeled_fisher, share)
        with self._timed("selection"):
            selection = select_batch(
                factors,
                n_select,
                fisher,
                labeled_fisher,
                lamb=self.lamb,
                n_labeled=n_labeled,
                backward_steps=self.backward_steps,
                progress=progress,
            )
        self.mask_, self.fisher_, self.labeled_fisher_ = mask, fisher, labeled_fisher
        return selection

    def make_mask(self, data: Data, *, progress: bool = False) -> FisherMask:
        """The mask that ``query`` would take for a pool of these samples.

        Raises:
            TypeError, ValueError: As ``query``.
        """
        self.check_parameters()
        return self._make_mask(data, len(Pool.of(data)), None, 0, progress and _has_tqdm())

    def check_parameters(self) -> None:
        """Check everything but the data, as ``query`` does before any work.

        Raises:
            TypeError: A parameter is of the wrong type.
            ValueError: A parameter is out of range, or does not suit the model.
        """
        if not isinstance(self.model, nn.Module):
            raise TypeError(f"model must be an nn.Module; got {type(self.model).__name__}")
        if not isinstance(self.mask, FisherMask) and self.mask not in MASKS:
            raise ValueError(
                f"mask must be one of {', '.join(MASKS)} or a FisherMask; got {self.mask!r}"
            )
        check_rows(self.weighting, self.rank)
        check_positive("lamb", self.lamb)
        if self.device is not None:
            check_device(self.device)
        if not is_integer(self.backward_steps):
            raise TypeError(
                f"backward_steps must be an int, 0 or more; got {self.backward_steps!r}"
            )
        if self.backward_steps < 0:
            raise ValueError(f"backward_steps must be 0 or more; got {self.backward_steps}")
        check_seed(self.seed)
        check_count("fisher_samples", self.fisher_samples, optional=False)
        check_count("batch_size", self.batch_size)
        if isinstance(self.mask, FisherMask):
            self.mask.check(self.model)
        else:
            keep_head = self.keep_head and self.mask in METHODS
            check_fraction(self.model, self.fraction, self.mask, keep_head)

    def _try_model(self, pool: Pool, name: str) -> None:
        """One sample through the model, so that a wrong width is found before any work."""
        inputs = pool.first(1)
        with evaluating(self.model, self.device) as net, torch.no_grad():
            inputs = to_model(inputs, device_of(net), input_dtype(net, inputs))
            try:
                call(net, inputs)
            except torch.OutOfMemoryError:
                raise
            except (RuntimeError, IndexError) as error:
                shape = tuple(inputs.shape) if isinstance(inputs, Tensor) else sorted(inputs)
                raise ValueError(
                    f"the model does not take {name} samples, here a batch of one, {shape}: {error}"
                ) from error

    def _make_mask(
        self,
        unlabeled: Data,
        n_unlabeled: int,
        labeled: Data | None,
        n_labeled: int,
        progress: bool,
    ) -> FisherMask:
        if isinstance(self.mask, FisherMask):
            return self.mask
        if self.mask == "head":
            return FisherMask.head(self.model)
        if self.mask == "random":
            return FisherMask.random(self.model, self.fraction, seed=self.seed)
        # The samples are drawn from both sets together; each set then gives its share of them.
        n_drawn = min(self.fisher_samples, n_labeled + n_unlabeled)
        generator = torch.Generator().manual_seed(int(self.seed))
        drawn = torch.randperm(n_labeled + n_unlabeled, generator=generator)[:n_drawn]
        from_labeled = int((drawn < n_labeled).sum())
        scores: dict[str, Tensor] = {}
        for data, count in ((labeled, from_labeled), (unlabeled, n_drawn - from_labeled)):
            if data is None or count == 0:
                continue
            part = fisher_diagonal(
                self.model,
                data,
                n_samples=count,
                seed=self.seed,
                batch_size=self.batch_size,
                device=self.device,
                progress=progress,
            )
            for name, value in part.items():
                weighted = value * (count / n_drawn)
                scores[name] = scores[name] + weighted if name in scores else weighted
        return FisherMask.from_scores(
            scores,
            self.fraction,
            self.mask,
            head=find_head(self.model),
            keep_head=self.keep_head,
        )

    def _gradients(self, data: Data, mask: FisherMask, progress: bool) -> GradientFactors:
        return masked_gradients(
            self.model,
            data,
            mask,
            weighting=self.weighting,
            rank=self.rank,
            batch_size=self.batch_size,
            device=self.device,
            progress=progress,
        )

    @contextmanager
    def _timed(self, step: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds_[step] = self.seconds_.get(step, 0.0) + time.perf_counter() - start


def _is_empty(data: Data) -> bool:
    # A DataLoader's own length counts batches, and may be 0 where it drops an incomplete one.
    samples = data.dataset if isinstance(data, DataLoader) else data
    return hasattr(samples, "__len__") and len(samples) == 0


def _has_tqdm() -> bool:
    if importlib.util.find_spec("tqdm") is None:
        logger.warning("progress bars need tqdm: pip install tqdm, or query with progress=False")
        return False
    return True
