"""What the ops of the selection compute, one by one."""

from __future__ import annotations

import torch
from torch import Tensor


def score_update(
    gradients: Tensor,  # (n, r, k)
    updates: list[tuple[Tensor, Tensor]],  # T pairs U, W of (k, q_t)
    a: Tensor,  # (n, r, r)
    b: Tensor,  # (n, r, r)
) -> tuple[Tensor, Tensor, Tensor]:
    """T rank updates of A and B in order; the scores before each of them and after the last.

    P = V U, R = V W;  A <- A - P P^T;  B <- B - P R^T - R P^T;  score = tr(A^-1 B).

    Returns A, B and scores (T + 1, n).

    Example:
        >>> import torch
        >>> from fishermask_fast import reference
        >>> v = torch.tensor([[[2.0, 0.0]], [[0.0, 1.0]]])  # two samples, one row, two parameters
        >>> fisher = torch.eye(2)
        >>> a, b = torch.eye(1).repeat(2, 1, 1), v @ v.mT
        >>> u = torch.tensor([[0.25], [0.0]])
        >>> reference.score_update(v, [(u, u)], a, b)[2].shape  # before and after, of both
        torch.Size([2, 2])
    """
    history = [torch.linalg.solve(a, b).diagonal(dim1=-2, dim2=-1).sum(-1)]
    for u, w in updates:
        p, r = gradients @ u, gradients @ w
        a = a - p @ p.mT
        b = b - p @ r.mT - r @ p.mT
        history.append(torch.linalg.solve(a, b).diagonal(dim1=-2, dim2=-1).sum(-1))
    return a, b, torch.stack(history)


def pick_block(
    e: Tensor,  # (m r, m r)
    h: Tensor,  # (m r, m r)
    rows: int,
    size: int,
    sign: int = 1,
) -> tuple[list[int], list[Tensor], Tensor, Tensor, Tensor]:
    """Greedy picks among m leaders by their inner products E = V M^-1 V^T and H = V G V^T.

    With P = V U and R = V W for all leaders at once, U the pick's, everything changes in full:
    E <- E -+ P P^T,  H <- H -+ (P R^T + R P^T).

    Returns the picks, all leaders' scores (m,) before each and after the last, E and H after the
    last, and all P side by side, (m r, size r).

    Example:
        >>> import torch
        >>> from fishermask_fast import reference
        >>> e = torch.diag(torch.tensor([4.0, 1.0]))  # inner products of two leaders of one row
        >>> reference.pick_block(e, e, rows=1, size=2)[0]
        [0, 1]
    """

    def scores() -> Tensor:
        blocks = [slice(at, at + rows) for at in range(0, len(e), rows)]
        eye = torch.eye(rows, dtype=e.dtype, device=e.device)
        values = [torch.linalg.solve(eye + sign * e[x, x], sign * h[x, x]).trace() for x in blocks]
        return torch.stack(values)

    picks: list[int] = []
    history, products = [scores()], [e[:, :0]]
    for _ in range(size):
        free = history[-1].clone()
        free[picks] = -torch.inf
        picks.append(int(free.argmax()))
        s = slice(picks[-1] * rows, (picks[-1] + 1) * rows)
        eye = torch.eye(rows, dtype=e.dtype, device=e.device)
        x = torch.linalg.inv(torch.linalg.cholesky(eye + sign * e[s, s]))
        p = e[:, s] @ x.T
        r = h[:, s] @ x.T - sign * p @ (x @ h[s, s] @ x.T) / 2
        e, h = e - sign * p @ p.T, h - sign * (p @ r.T + r @ p.T)
        history.append(scores())
        products.append(p)
    return picks, history, e, h, torch.cat(products, 1)


def inverse_products(
    v: Tensor,  # (n, r, k)
    first: Tensor,  # (k, k)
    second: Tensor,  # (k, k)
    u: Tensor,  # (h, k) U^T
    w: Tensor,  # (h, k) W^T
    sign: float,
) -> tuple[Tensor, Tensor]:
    """V_x M^-1 and V_x G, (n, r, k), for M^-1 = first -+ U U^T, G = second -+ (U W^T + W U^T).

    Example:
        >>> import torch
        >>> from fishermask_fast import reference
        >>> v = torch.tensor([[[2.0, 0.0]], [[0.0, 1.0]]])  # two samples, one row, two parameters
        >>> fisher = torch.eye(2)
        >>> nothing = torch.zeros(0, 2)
        >>> inverse, _ = reference.inverse_products(v, fisher, fisher, nothing, nothing, 1.0)
        >>> torch.equal(inverse, v)
        True
    """
    inverse = first - sign * u.T @ u
    double = second - sign * (u.T @ w + w.T @ u)
    return v @ inverse, v @ double


def pick_update(
    v: Tensor,  # (n, r, k)
    inverse: Tensor,  # (k, k) M^-1
    double: Tensor,  # (k, k) G
    sign: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """U^T and W^T, (n, r, k), of samples without a direction that changes nothing; their scores.

    With A = I +- V M^-1 V^T = L L^T:  U = M^-1 V^T L^-T,  W = G V^T L^-T -+ U (U^T F U) / 2, where
    U^T F U = L^-1 V G V^T L^-T, and the score is its trace.

    Example:
        >>> import torch
        >>> from fishermask_fast import reference
        >>> v = torch.tensor([[[2.0, 0.0]], [[0.0, 1.0]]])  # two samples, one row, two parameters
        >>> fisher = torch.eye(2)
        >>> reference.pick_update(v.double(), fisher.double(), fisher.double(), 1)[2].shape
        torch.Size([2])
    """
    eye = torch.eye(v.shape[1], dtype=v.dtype, device=v.device)
    x = torch.linalg.inv(torch.linalg.cholesky(eye + sign * (v @ inverse @ v.mT)))
    u, change = x @ v @ inverse, x @ v @ double @ v.mT @ x.mT
    return u, x @ v @ double - sign * change @ u / 2, sign * change.diagonal(dim1=1, dim2=2).sum(1)
