"""The Fisher diagonal: how much each parameter alone tells of the model's predictions.

With the rows L_x^T of `rows` and the Jacobian J_x of the logits, over N_f samples,

    f = (1/N_f) sum_x sum_rows (L_x^T J_x)^2

squared and summed layer by layer, so that no array of samples times parameters is ever made.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from fishermask_fast.gradients.capture import backward, forward
from fishermask_fast.gradients.fallback import per_sample_rows
from fishermask_fast.gradients.passes import batches
from fishermask_fast.likelihoods import make_rows, sampled_rows
from fishermask_fast.network import (
    Pool,
    check_count,
    check_finite,
    check_indices,
    check_seed,
    compute_dtype,
    evaluating,
    trainable,
    unwrap,
)

EXPECTATIONS = ("exact", "sampled")


def fisher_diagonal(
    model: nn.Module,
    data: object,
    *,
    n_samples: int = 1024,
    expectation: str = "exact",
    seed: int = 0,
    batch_size: int | None = None,
    device: torch.device | str | None = None,
    progress: bool = False,
    indices: Iterable[int] | None = None,
) -> dict[str, Tensor]:
    """The Fisher information of every trainable parameter alone.

    f_i = (1/N_f) sum_x E_{y~p(y|x)} (d log p_y(x) / d theta_i)^2 (Sung, Nair, Raffel 2021), over
    samples drawn from the data at random, without replacement. No (N, P) array is made.

    Args:
        model: as for `masked_gradients`.
        data: as for `masked_gradients`; give it without augmentation.
        n_samples: N_f; all samples where the data hold fewer.
        expectation: "exact": over all classes, by C-1 backward passes a batch; "sampled": one class
            a sample, drawn from the model's own prediction, by one.
        seed: of both draws; the global random state plays no part.
        batch_size: samples a batch; by default the DataLoader's, or chosen here.
        device: where to compute; by default where the model is.
        progress: whether to show a bar.
        indices: draw from these samples only, in this order.

    Returns:
        name -> tensor of the parameter's shape, float32 (float64 for a float64 model).

    Raises:
        TypeError: a model, data or argument of the wrong type.
        ValueError: no trainable parameters, n_samples below 1, a negative seed, an unknown
            expectation, an empty pool, a BatchNorm without running statistics, or NaN or Inf in
            logits or gradients.
    """
    check_count("n_samples", n_samples, optional=False)
    check_count("batch_size", batch_size)
    seed = check_seed(seed)
    if expectation not in EXPECTATIONS:
        raise ValueError(f'expectation must be "exact" or "sampled"; got {expectation!r}')
    parameters = trainable(unwrap(model))
    pool = Pool.of(data)
    if indices is not None:
        pool = pool.subset(check_indices(indices, len(pool)))
    generator = torch.Generator().manual_seed(seed)
    drawn = draw(len(pool), n_samples, generator)
    uniform = torch.rand(len(drawn), generator=generator, dtype=torch.float64)
    pool = pool.subset(drawn.tolist())
    dtype = compute_dtype(parameters)
    with evaluating(model, device) as net:
        total = {
            name: torch.zeros(p.shape, dtype=dtype, device=p.device)
            for name, p in parameters.items()
        }
        for start, inputs, plan in batches(net, pool, list(total), batch_size, progress):
            tape = forward(net, plan, inputs, dtype)
            logits = tape.logits.detach()
            check_finite("the model's logits", logits, start, len(pool))
            if expectation == "exact":
                rows = make_rows(logits, "fisher", logits.shape[1] - 1)
            else:
                rows = sampled_rows(logits, uniform[start : start + len(logits)])
            rows = rows.to(dtype)
            for deltas in backward(tape, rows):
                for name in tape.uses:
                    term = tape.term(name, deltas)
                    if term is not None:
                        total[name] += term.squared().view(total[name].shape)
            if tape.others:
                for _, _, found in per_sample_rows(net, inputs, rows, tape.others):
                    for name, gradient in found.items():
                        # Out of place: gradients of different parameters may share memory.
                        total[name] += gradient.to(dtype).square().sum((0, 1))
    for name, values in total.items():
        values /= len(pool)
        if not values.sum().isfinite() and not values.isfinite().all():
            raise ValueError(f"gradients must be finite; those of {name} hold NaN or Inf")
    return total


def draw(n: int, n_samples: int, generator: torch.Generator) -> Tensor:
    """Which of n samples the diagonal is taken over, ascending, (min(n_samples, n),) int64."""
    return torch.randperm(n, generator=generator)[:n_samples].sort().values
