"""The compiled ops of the selection: one typed wrapper and one fake kernel for each.

What each op computes is defined in ``reference``; importing this module loads them (``loading``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Protocol

import torch
from torch import Tensor

from fishermask_fast.ops import loading  # noqa: F401  registers the ops


class FactorTensors(Protocol):
    """Factors as ops take them: V_x = [middle_x | (coupling_x kron hidden_x)[head_index]].

    No coupling and no hidden: no structured head. No head_index: the whole head.
    """

    @property
    def middle(self) -> Tensor: ...  # (N, r, k_mid)
    @property
    def coupling(self) -> Tensor | None: ...  # (N, r, C)
    @property
    def hidden(self) -> Tensor | None: ...  # (N, d)
    @property
    def head_index(self) -> Tensor | None: ...  # (k_head,) int64
    @property
    def n_columns(self) -> int: ...


def score_update(
    factors: FactorTensors,
    index: Tensor,  # (n,) int64
    u: Tensor,  # (sum of ranks, k) float64
    w: Tensor,  # (sum of ranks, k) float64
    ranks: Sequence[int],
    thresholds: Tensor,  # (T,) float64
    a: Tensor,  # (N, r (r + 1) / 2) float64
    b: Tensor,  # (N, r (r + 1) / 2) float64
    scores: Tensor,  # (N,) float64
    *,
    scale: float = 1.0,
    float64_products: bool = True,
) -> tuple[Tensor, Tensor, Tensor]:
    """Takes T rank updates of A, B and score for some candidates, in order, in place.

    With V = scale * factors and U, W of update t the transposes of ranks[t] rows of `u` and `w`:
    P = V U, R = V W; A -= P P^T; B -= P R^T + R P^T; score = tr(A^-1 B). With T = 0
    only the scores are computed, from A and B.

    Args:
        factors: all N candidates; float32 or float64.
        index: the candidates to bring up to date.
        u: U^T of every update, one below the other.
        w: W^T of every update likewise.
        ranks: columns of each update; T = len(ranks).
        thresholds: a score for each update, see Returns.
        a: A of all candidates as packed lower triangles, changed in place.
        b: B likewise.
        scores: changed in place; before the call the score that A and B stand for.
        scale: V is scale * factors.
        float64_products: whether P and R are computed in float64 where the factors are float32. A
            GPU takes float32 products in TF32 where torch may; a selection sets that aside.

    Returns:
        (T,) tensors over the candidates in `index`, for the scores before each update: the largest,
        its lowest index, and the lowest index with a score of at least the threshold. An index is
        N where there is none.

    Raises:
        TypeError: a dtype other than stated.
        ValueError: a shape other than stated, or another device than the factors'.
    """
    (n, r, _), k = factors.middle.shape, factors.n_columns
    packed = (n, r * (r + 1) // 2)
    given = {
        "u": (u, (sum(ranks), k)),
        "w": (w, (sum(ranks), k)),
        "thresholds": (thresholds, (len(ranks),)),
        "a": (a, packed),
        "b": (b, packed),
        "scores": (scores, (n,)),
    }
    _check_state(factors, index, given, contiguous=("a", "b", "scores"))
    on_gpu = factors.middle.device.type == "cuda"
    # Autocast would take float32 products in half precision.
    with torch.autocast("cuda", enabled=False) if on_gpu else nullcontext():
        result: tuple[Tensor, Tensor, Tensor] = torch.ops.fishermask_fast.score_update(
            *contiguous_parts(factors),
            index.contiguous(),
            u,
            w,
            list(ranks),
            scale,
            thresholds.contiguous(),
            float64_products,
            a,
            b,
            scores,
        )
    return result


def _check_state(
    factors: FactorTensors,
    index: Tensor,
    given: Mapping[str, tuple[Tensor, tuple[int, ...]]],
    contiguous: tuple[str, ...],
) -> None:
    """What the ops of the selection have in common; `given`: float64 tensors and their shapes."""
    if factors.middle.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"factors must be float32 or float64; got {factors.middle.dtype}")
    for name, (tensor, shape) in given.items():
        if tensor.dtype != torch.float64:
            raise TypeError(f"{name} must be float64; got {tensor.dtype}")
        if tuple(tensor.shape) != shape:
            raise ValueError(f"{name} must have shape {shape}; got {tuple(tensor.shape)}")
        if name in contiguous and not tensor.is_contiguous():
            raise ValueError(f"{name} must be contiguous")
    if index.dtype != torch.int64 or index.ndim != 1:
        raise TypeError(f"index must be 1-d int64; got {index.dtype} of {tuple(index.shape)}")
    tensors = {"index": index, **{name: tensor for name, (tensor, _) in given.items()}}
    for name, tensor in tensors.items():
        if tensor.device != factors.middle.device:
            raise ValueError(
                f"{name} is on {tensor.device}; expected the factors' {factors.middle.device}"
            )


def contiguous_parts(
    factors: FactorTensors,
) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]:
    """The factors as ops take them."""
    return (
        factors.middle.contiguous(),
        None if factors.coupling is None else factors.coupling.contiguous(),
        None if factors.hidden is None else factors.hidden.contiguous(),
        None if factors.head_index is None else factors.head_index.contiguous(),
    )


@torch.library.register_fake("fishermask_fast::score_update")  # type: ignore[untyped-decorator]
def _score_update_fake(
    middle: Tensor,
    coupling: Tensor | None,
    hidden: Tensor | None,
    head_index: Tensor | None,
    index: Tensor,
    u: Tensor,
    w: Tensor,
    ranks: list[int],
    scale: float,
    thresholds: Tensor,
    float64_products: bool,
    a: Tensor,
    b: Tensor,
    scores: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    best = a.new_empty(len(ranks))
    return (
        best,
        torch.empty_like(best, dtype=torch.int64),
        torch.empty_like(best, dtype=torch.int64),
    )


def inverse_products(
    factors: FactorTensors,
    index: Tensor,  # (n,) int64
    first: Tensor,  # (k, k) float64
    second: Tensor,  # (k, k) float64
    u: Tensor,  # (h, k) float64
    w: Tensor,  # (h, k) float64
    *,
    scale: float = 1.0,
    sign: int = 1,
) -> tuple[Tensor, Tensor, Tensor]:
    """V_x, Y = V_x M^-1 and Z = V_x G of some samples, with the updates that wait to be folded in.

        M^-1 = first -+ U U^T,   G = second -+ (U W^T + W U^T),   V_x = scale * factors

    Args:
        factors: all N candidates; float32 or float64.
        index: the samples wanted.
        first: symmetric; only its lower triangle is read.
        second: likewise.
        u: U^T, for any number h of columns.
        w: W^T.
        scale: see above.
        sign: 1 for the upper signs (picks), -1 for the lower ones (removals).

    Returns:
        V_x, Y and Z, each (n, r, k) float64.

    Raises:
        TypeError: a dtype other than stated.
        ValueError: a shape other than stated, or another device than the factors', or rows that are
            not contiguous.
    """
    k, h = factors.n_columns, u.shape[0]
    given = {
        "first": (first, (k, k)),
        "second": (second, (k, k)),
        "u": (u, (h, k)),
        "w": (w, (h, k)),
    }
    _check_state(factors, index, given, contiguous=tuple(given))
    result: tuple[Tensor, Tensor, Tensor] = torch.ops.fishermask_fast.inverse_products(
        *contiguous_parts(factors),
        index.contiguous(),
        first,
        second,
        u,
        w,
        scale,
        sign,
    )
    return result


@torch.library.register_fake("fishermask_fast::inverse_products")  # type: ignore[untyped-decorator]
def _inverse_products_fake(
    middle: Tensor,
    coupling: Tensor | None,
    hidden: Tensor | None,
    head_index: Tensor | None,
    index: Tensor,
    first: Tensor,
    second: Tensor,
    u: Tensor,
    w: Tensor,
    scale: float,
    sign: float,
) -> tuple[Tensor, Tensor, Tensor]:
    rows = first.new_empty(index.shape[0], middle.shape[1], first.shape[0])
    return rows, torch.empty_like(rows), torch.empty_like(rows)


def pick_update(
    rows: Tensor,  # (n, r, k) float64
    y: Tensor,  # (n, r, k) float64
    z: Tensor,  # (n, r, k) float64
    *,
    sign: int = 1,
    negligible: float = 1e-13,
) -> tuple[Tensor, Tensor, Tensor]:
    """U and W of some samples and their scores, where every direction of each counts.

    With A = I +- Y V^T = L L^T, X = L^-1 and H = Z V^T,

        U^T = X Y,   W^T = X Z -+ (X H X^T) U^T / 2,   score = +- tr(X H X^T)

    Args:
        rows: V_x of each.
        y: V_x M^-1.
        z: V_x G.
        sign: 1 for the upper signs (picks), -1 for the lower ones (removals).
        negligible: the least eigenvalue of V_x M^-1 V_x^T that counts.

    Returns:
        U^T and W^T, each (n, r, k), and the scores (n,): -inf, with zeros for U and W, where an
        eigenvalue of V_x M^-1 V_x^T may be negligible, or A is not positive definite.

    Raises:
        TypeError: a dtype other than float64.
        ValueError: shapes that differ, rows that are not contiguous, or another device than the
            CPU.
    """
    if rows.ndim != 3:
        raise ValueError(f"rows must have shape (n, r, k); got {tuple(rows.shape)}")
    (n, r, k) = rows.shape
    for name, part in (("rows", rows), ("y", y), ("z", z)):
        _check_on_cpu(name, part, (n, r, k))
    result: tuple[Tensor, Tensor, Tensor] = torch.ops.fishermask_fast.pick_update(
        rows, y, z, sign, negligible
    )
    return result


@torch.library.register_fake("fishermask_fast::pick_update")  # type: ignore[untyped-decorator]
def _pick_update_fake(
    rows: Tensor, y: Tensor, z: Tensor, sign: float, negligible: float
) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(rows), torch.empty_like(rows), rows.new_empty(rows.shape[0])


def fold_updates(
    first: Tensor,  # (k, k) float64
    second: Tensor,  # (k, k) float64
    u: Tensor,  # (h, k) float64
    w: Tensor,  # (h, k) float64
    *,
    sign: int = 1,
) -> None:
    """Brings M^-1 and G up to date on the CPU: M^-1 -+= U U^T, G -+= U W^T + W U^T, in place.

    Args:
        first: M^-1, symmetric; only its lower triangle is read and written.
        second: G likewise.
        u: U^T, for any number h of columns.
        w: W^T.
        sign: 1 for the upper signs (picks), -1 for the lower ones (removals).

    Raises:
        TypeError: a dtype other than float64.
        ValueError: a shape other than stated, rows that are not contiguous, or another device than
            the CPU.
    """
    if u.ndim != 2:
        raise ValueError(f"u must have shape (h, k); got {tuple(u.shape)}")
    (h, k) = u.shape
    for name, part, shape in (
        ("first", first, (k, k)),
        ("second", second, (k, k)),
        ("u", u, (h, k)),
        ("w", w, (h, k)),
    ):
        _check_on_cpu(name, part, shape)
    torch.ops.fishermask_fast.fold_updates(first, second, u, w, sign)


def _check_on_cpu(name: str, part: Tensor, shape: tuple[int, ...]) -> None:
    if part.dtype != torch.float64:
        raise TypeError(f"{name} must be float64; got {part.dtype}")
    if tuple(part.shape) != shape:
        raise ValueError(f"{name} must have shape {shape}; got {tuple(part.shape)}")
    if not part.is_contiguous():
        raise ValueError(f"{name} must be contiguous")
    if part.device.type != "cpu":
        raise ValueError(f"{name} must be on the CPU; got {part.device}")


@torch.library.register_fake("fishermask_fast::fold_updates")  # type: ignore[untyped-decorator]
def _fold_updates_fake(first: Tensor, second: Tensor, u: Tensor, w: Tensor, sign: float) -> None:
    return None
