"""The Fisher diagonal: how much each parameter alone tells of the model's predictions.

With the rows R_x of a likelihood and the Jacobian J_x of the outputs, over N_f samples,

    f = (1/N_f) sum_x sum_rows (R_x J_x)^2

squared and summed layer by layer, so that no array of samples times parameters is ever made.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from fishermask_fast.checks import check_choice, check_flag
from fishermask_fast.gradients.capture import Tape, backward, forward
from fishermask_fast.gradients.fallback import per_sample_rows
from fishermask_fast.gradients.passes import batches
from fishermask_fast.gradients.terms import Product, Term, add_squares
from fishermask_fast.likelihoods import LikelihoodLike, likelihood_of
from fishermask_fast.network import (
    Pool,
    check_count,
    check_finite,
    check_indices,
    check_seed,
    compute_dtype,
    evaluating,
    trainable,
    unflattening,
    unwrap,
    warn_where_another_is_stated,
)

EXPECTATIONS = ("exact", "sampled")


def fisher_diagonal(
    model: nn.Module,
    data: object,
    *,
    likelihood: LikelihoodLike = "categorical",
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
        likelihood: as for `masked_gradients`.
        n_samples: N_f; all samples where the data hold fewer.
        expectation: "exact": over all labels, by a backward pass a batch and row, as many as
            `masked_gradients` has without a rank (C-1 for one of C classes); "sampled": one
            label a sample, drawn from the model's own prediction, by one pass (for a function as
            likelihood one sum of its rows with random signs, whose square is right on average).
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
            expectation or likelihood, outputs that are not the likelihood's, an empty pool, a
            BatchNorm without running statistics, or NaN or Inf in outputs or gradients.

    Example:
        >>> import torch
        >>> from fishermask_fast import fisher_diagonal
        >>> scores = fisher_diagonal(torch.nn.Linear(4, 3), torch.rand(20, 4))
        >>> {name: tuple(score.shape) for name, score in scores.items()}
        {'weight': (3, 4), 'bias': (3,)}
    """
    check_flag("progress", progress)
    check_count("n_samples", n_samples, optional=False)
    check_count("batch_size", batch_size)
    seed = check_seed(seed)
    check_choice("expectation", expectation, EXPECTATIONS)
    assumed = likelihood_of(likelihood)
    parameters = trainable(unwrap(model))
    warn_where_another_is_stated(model, assumed.name)
    pool = Pool.of(data)
    if indices is not None:
        pool = pool.subset(check_indices(indices, len(pool)))
    generator = torch.Generator().manual_seed(seed)
    drawn = draw(len(pool), n_samples, generator)
    pool = pool.subset(drawn.tolist())
    dtype = compute_dtype(parameters)
    with evaluating(model, device) as net:
        total = {
            name: torch.zeros(p.shape, dtype=dtype, device=p.device)
            for name, p in parameters.items()
        }
        uniform: Tensor | None = None
        for start, inputs, plan in batches(net, pool, list(total), batch_size, progress):
            with unflattening(net) as unflatten:
                tape = forward(net, plan, inputs, dtype)
                outputs = unflatten(tape.logits.detach())
            check_finite("the model's logits", outputs, start, len(pool))
            assumed.check_shape(outputs.shape)
            if expectation == "exact":
                rows = assumed.make_rows(outputs)
            else:
                if uniform is None:
                    # Of all samples at once, so that the draw depends on no batch size.
                    shape = len(pool), assumed.n_uniform(outputs)
                    uniform = torch.rand(shape, generator=generator, dtype=torch.float64)
                rows = assumed.sampled_rows(outputs, uniform[start : start + len(outputs)])
            rows = rows.to(dtype)
            _add_rows(total, tape, rows)
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


def _add_rows(total: dict[str, Tensor], tape: Tape, rows: Tensor) -> None:
    """Adds a batch's squares, of the parameters that go by rule."""
    together: dict[str, list[Term]] = {}
    for deltas in backward(tape, rows):
        for name in tape.uses:
            term = tape.term(name, deltas)
            if isinstance(term, Product) and term.single:
                together.setdefault(name, []).append(term)  # small, and faster all at once
            elif term is not None:
                add_squares(total[name], [term])
    for name, terms in together.items():
        add_squares(total[name], terms)


def draw(n: int, n_samples: int, generator: torch.Generator) -> Tensor:
    """Which of n samples the diagonal is taken over, ascending, (min(n_samples, n),) int64."""
    return torch.randperm(n, generator=generator)[:n_samples].sort().values
