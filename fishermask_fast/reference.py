"""What every fast path must equal: each formula written out in plain torch, at any floating dtype.

The selection picks, n_select times, the unpicked sample x with the largest

    score(x) = tr( V_x M^-1 F M^-1 V_x^T A_x^-1 ),   A_x = I + V_x M^-1 V_x^T

and adds its V_x^T V_x to M. Nothing is carried from one pick to the next but M^-1, and nothing
here is meant to be quick.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, jacrev


def initial_precision(
    fisher: Tensor,  # (k, k)
    labeled_fisher: Tensor | None,  # (k, k)
    n_select: int,
    lamb: float,
    n_labeled: int,
) -> Tensor:
    """M^-1 before the first pick, M = lamb I + F_L n_L / (n_L + K), as (k, k).

    Example:
        >>> import torch
        >>> from fishermask_fast import reference
        >>> precision = reference.initial_precision(torch.eye(2), None, 5, lamb=2.0, n_labeled=0)
        >>> precision.diagonal().tolist()
        [0.5, 0.5]
    """
    m = lamb * torch.eye(fisher.shape[0], dtype=fisher.dtype, device=fisher.device)
    if labeled_fisher is not None:
        m = m + labeled_fisher * (n_labeled / (n_labeled + n_select))
    inverse: Tensor = torch.linalg.inv(m)
    return inverse


def scores(
    gradients: Tensor,  # (N, r, k)
    precision: Tensor,  # (k, k) M^-1
    fisher: Tensor,  # (k, k)
    sign: int = 1,
    chunk_size: int = 200,
) -> Tensor:
    """How much tr(M^-1 F) changes with each sample, (N,).

    sign = 1: the decrease when the sample is added, tr(B (I + V M^-1 V^T)^-1);
    sign = -1: the increase when it is removed, tr(B (I - V M^-1 V^T)^-1).

    Example:
        >>> import torch
        >>> from fishermask_fast import reference
        >>> v = torch.tensor([[[2.0, 0.0]], [[0.0, 1.0]]])  # two samples, one row, two parameters
        >>> fisher = torch.eye(2)
        >>> reference.scores(v, torch.eye(2), fisher).tolist()  # 4 / (1 + 4) and 1 / (1 + 1)
        [0.800000011920929, 0.5]
    """
    g = precision @ fisher @ precision
    eye = torch.eye(gradients.shape[1], dtype=gradients.dtype, device=gradients.device)
    out = []
    for v in gradients.split(chunk_size):
        a = eye + sign * (v @ precision @ v.mT)
        b = v @ g @ v.mT
        out.append(torch.linalg.solve(a, b).diagonal(dim1=-2, dim2=-1).sum(-1))
    return torch.cat(out)


def log_det_scores(
    gradients: Tensor,  # (N, r, k)
    precision: Tensor,  # (k, k) M^-1
    sign: int = 1,
) -> Tensor:
    """How much log det M changes with each sample, (N,): log det (I + V M^-1 V^T).

    sign = 1: the rise when the sample is added (D-optimal design: Atkinson, Donev, Tobias 2007,
    "Optimum Experimental Designs", chapter 10); sign = -1: the fall when it is removed,
    -log det (I - V M^-1 V^T).

    Example:
        >>> import torch
        >>> from fishermask_fast import reference
        >>> v = torch.tensor([[[1.0, 0.0]], [[0.0, 3.0]]])
        >>> [round(x, 4) for x in reference.log_det_scores(v, torch.eye(2)).tolist()]
        [0.6931, 2.3026]
    """
    eigenvalues = torch.linalg.eigvalsh(gradients @ precision @ gradients.mT)
    return sign * torch.log1p(sign * eigenvalues).sum(-1)


def change_precision(precision: Tensor, v: Tensor, sign: int = 1) -> Tensor:
    """M^-1 after V^T V has been added to M (sign = 1) or taken from it (sign = -1), by Woodbury.

    Example:
        >>> import torch
        >>> from fishermask_fast import reference
        >>> v = torch.tensor([[[2.0, 0.0]], [[0.0, 1.0]]])  # two samples, one row, two parameters
        >>> fisher = torch.eye(2)
        >>> reference.change_precision(torch.eye(2), v[1]).diagonal().tolist()
        [1.0, 0.5]
    """
    left = precision @ v.mT
    eye = torch.eye(v.shape[0], dtype=v.dtype, device=v.device)
    change: Tensor = left @ torch.linalg.solve(eye + sign * (v @ left), left.mT)
    return precision - sign * change


def auto_prior(fisher: Tensor, in_sums: bool = False) -> float:
    """What "auto" is: lamb = 0.1 tr(F) / k; in sums, prior_precision = tr(F) / k, one sample's.

    Example:
        >>> import torch
        >>> from fishermask_fast import reference
        >>> reference.auto_prior(4 * torch.eye(3)), reference.auto_prior(torch.eye(3), True)
        (0.4, 1.0)
    """
    return float(fisher.trace()) / fisher.shape[0] * (1.0 if in_sums else 0.1)


def select(
    gradients: Tensor,  # (N, r, k)
    n_select: int,
    fisher: Tensor | None = None,  # (k, k)
    labeled_fisher: Tensor | None = None,  # (k, k)
    *,
    lamb: float = 1.0,
    n_labeled: int = 0,
    backward_steps: int = 0,
    chunk_size: int = 200,
    prior_precision: float | None = None,
    gain_weights: Tensor | None = None,  # (N,)
    pending: Sequence[int] = (),
    exclude: Sequence[int] = (),
    cluster_ids: Sequence[int] | None = None,  # (N,)
    max_per_cluster: int = 1,
    criterion: str = "trace",
) -> tuple[list[int], list[float]]:
    """The published selection: recomputes every score at every pick (FisherMask, BAIT).

    Beside the published form there are

        prior_precision p:  M = p I + n_L F_L + sum_picked V_x^T V_x, in place of lamb's scale
        gain_weights w:     the pick is the largest w_x score(x), the drop the smallest
        pending:            samples in M from the start, like picks, and never picked
        exclude:            samples never picked
        cluster_ids:        at most max_per_cluster of a cluster, the pending ones counted
        criterion "logdet": the score is the change of log det M

    Runs in the dtype of `gradients`. Returns the picked indices in order (with backward steps the
    survivors) and the scores of the forward picks.

    Example:
        >>> import torch
        >>> from fishermask_fast import reference
        >>> v = torch.tensor([[[2.0, 0.0]], [[0.0, 1.0]]])  # two samples, one row, two parameters
        >>> fisher = torch.eye(2)
        >>> reference.select(v, 2)[0]
        [0, 1]
    """
    dtype, n = gradients.dtype, len(gradients)
    if fisher is None:
        fisher = torch.einsum("nrk,nrl->kl", gradients, gradients) / n
    fisher = fisher.to(dtype)
    labeled = None if labeled_fisher is None else labeled_fisher.to(dtype)
    if prior_precision is None:
        precision = initial_precision(fisher, labeled, n_select, lamb, n_labeled)
        v = gradients * (n_select / (n_labeled + n_select)) ** 0.5
    else:
        m = prior_precision * torch.eye(len(fisher), dtype=dtype, device=fisher.device)
        precision = torch.linalg.inv(m if labeled is None else m + n_labeled * labeled)
        v = gradients
    weights = torch.ones(n, dtype=dtype) if gain_weights is None else gain_weights.to(dtype)
    clusters = list(range(n)) if cluster_ids is None else list(cluster_ids)

    def values(some: Tensor, sign: int = 1) -> Tensor:
        if criterion == "logdet":
            return log_det_scores(some, precision, sign)
        return scores(some, precision, fisher, sign, chunk_size)

    for sample in pending:
        precision = change_precision(precision, v[sample])
    picked: list[int] = []
    gains: list[float] = []
    while len(picked) < (1 + backward_steps) * n_select:
        held = [clusters[x] for x in (*pending, *picked)]
        barred = {*pending, *exclude, *picked}
        free = [
            x for x in range(n) if x not in barred and held.count(clusters[x]) < max_per_cluster
        ]
        if not free:
            break
        score = values(v)
        best = free[int((weights * score)[free].argmax())]
        picked.append(best)
        gains.append(float(score[best]))
        precision = change_precision(precision, v[best])
    while len(picked) > n_select:
        increase = weights[picked] * values(v[picked], -1)
        dropped = picked.pop(int(increase.argmin()))
        precision = change_precision(precision, v[dropped], sign=-1)
    return picked, gains


def target_fisher(gradients: Tensor, weights: Tensor) -> Tensor:  # (N, r, k), (N,)
    """F = sum_x w_x V_x^T V_x / sum_x w_x, the samples whose uncertainty is to fall.

    Example:
        >>> import torch
        >>> from fishermask_fast import reference
        >>> v = torch.tensor([[[1.0, 0.0]], [[0.0, 2.0]]])
        >>> reference.target_fisher(v, torch.tensor([3.0, 1.0])).diagonal().tolist()
        [0.75, 1.0]
    """
    total = torch.einsum("n,nrk,nrl->kl", weights.to(gradients), gradients, gradients)
    return total / weights.sum().to(gradients)


def balanced_weights(probabilities: Tensor) -> Tensor:  # (N, C)
    """w_x = sum_c p_c(x) / mean p_c, by which each class counts alike.

    Example:
        >>> import torch
        >>> from fishermask_fast import reference
        >>> reference.balanced_weights(torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])).tolist()
        [1.5, 1.5, 3.0]
    """
    return (probabilities / probabilities.mean(0)).sum(1)


def uncovered_weights(features: Tensor, labeled: Tensor) -> Tensor:  # (N, d), (n_L, d)
    """w_x = 1 - exp(-(d_x / h)^2), (N,); 1 where nothing is labeled.

    d_x is the distance to the nearest labeled sample, h the median over the N samples of the
    distance to the fifth nearest of the others (the furthest, where there are fewer).

    Example:
        >>> import torch
        >>> from fishermask_fast import reference
        >>> x = torch.tensor([[0.0], [1.0]])
        >>> [round(w, 4) for w in reference.uncovered_weights(x, x[:1]).tolist()]
        [0.0, 0.6321]
    """
    if not len(labeled):
        return torch.ones(len(features), dtype=features.dtype)
    nearest = torch.stack([(labeled - x).norm(dim=1).min() for x in features])
    fifth = []
    for at, x in enumerate(features):
        others = torch.cat([features[:at], features[at + 1 :]])
        distances = (others - x).norm(dim=1).sort().values
        fifth.append(distances[min(4, len(distances) - 1)])
    return 1 - torch.exp(-((nearest / torch.stack(fifth).median()) ** 2))


def class_weights(probabilities: Tensor, counts: Tensor) -> Tensor:  # (N, C), (C,)
    """w_x = (sum_c p_c(x) / n_c)^0.5 with n_c >= 1 the labeled samples of class c.

    Example:
        >>> import torch
        >>> from fishermask_fast import reference
        >>> reference.class_weights(torch.eye(2), torch.tensor([4.0, 0.0])).tolist()
        [0.5, 1.0]
    """
    return (probabilities / counts.clamp(min=1)).sum(1).sqrt()


def top_class_rows(logits: Tensor) -> Tensor:  # (N, C)
    """R (N, 1, C), the row of the likeliest class against the rest: sqrt(q (1 - q)) dz / dlogits.

    q is its probability and z = log(q / (1 - q)), so that R^T R is the Fisher matrix of that one
    answer, yes or no; ties go to the lowest class.

    Example:
        >>> import torch
        >>> from fishermask_fast import reference
        >>> reference.top_class_rows(torch.zeros(1, 2)).tolist()
        [[[0.5, -0.5]]]
    """
    p = logits.softmax(1)
    top = torch.nn.functional.one_hot(logits.argmax(1), p.shape[1]).bool()
    q = p[top]
    others = p.masked_fill(top, 0.0) / (1 - q)[:, None]
    return ((q * (1 - q)).sqrt()[:, None] * (top.to(p) - others))[:, None]


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


def per_sample_gradients(
    model: nn.Module,
    inputs: Tensor | dict[str, Tensor],  # (N, ...), or keyword arguments (N, ...)
    weighting: str = "fisher",
) -> dict[str, Tensor]:
    """V_x over all trainable parameters: name -> (N, C, *parameter shape).

    Row c is sqrt(p_c) d log p_c(x) / d theta (weighting "fisher") or d log p_c(x) / d theta
    ("none"), one sample and one class at a time. The model must be in eval mode.

    Example:
        >>> import torch
        >>> from fishermask_fast import reference
        >>> model, inputs = torch.nn.Linear(4, 3), torch.rand(5, 4)
        >>> reference.per_sample_gradients(model, inputs)["weight"].shape
        torch.Size([5, 3, 3, 4])
    """
    parameters = {n: p.detach() for n, p in model.named_parameters() if p.requires_grad}

    def log_probabilities(theta: dict[str, Tensor], i: int) -> Tensor:
        if isinstance(inputs, Tensor):
            output = functional_call(model, theta, (inputs[i : i + 1],))
        else:
            sample = {key: value[i : i + 1] for key, value in inputs.items()}
            output = functional_call(model, theta, (), sample)
        logits: Tensor = output if isinstance(output, Tensor) else output.logits
        return logits[0].log_softmax(0)

    def row(i: int, c: int) -> dict[str, Tensor]:
        gradient, value = grad_and_value(lambda theta: log_probabilities(theta, i)[c])(parameters)
        weight = value.exp().sqrt() if weighting == "fisher" else 1.0
        return {name: weight * g for name, g in gradient.items()}

    n = len(inputs) if isinstance(inputs, Tensor) else len(next(iter(inputs.values())))
    with torch.no_grad():
        n_classes = len(log_probabilities(parameters, 0))
    rows = [[row(i, c) for c in range(n_classes)] for i in range(n)]
    return {
        name: torch.stack([torch.stack([row[name] for row in sample]) for sample in rows])
        for name in parameters
    }


def fisher_diagonal(model: nn.Module, inputs: Tensor | dict[str, Tensor]) -> dict[str, Tensor]:
    """f_i = (1/N) sum_x sum_c p_c(x) (d log p_c(x) / d theta_i)^2: name -> parameter shape.

    Example:
        >>> import torch
        >>> from fishermask_fast import reference
        >>> model, inputs = torch.nn.Linear(4, 3), torch.rand(5, 4)
        >>> reference.fisher_diagonal(model, inputs)["bias"].shape
        torch.Size([3])
    """
    return {n: v.square().sum(1).mean(0) for n, v in per_sample_gradients(model, inputs).items()}


def bernoulli_rows(
    outputs: Tensor,  # (N, C) or (N,)
    weighting: str = "fisher",
) -> Tensor:
    """R (N, C, C) of independent labels y_c ~ Bernoulli(p_c), p = sigmoid(outputs).

    R^T R = sum_y p(y) grad log p(y) grad log p(y)^T = diag(p (1 - p)), a logistic regression's
    weights (McCullagh, Nelder 1989, "Generalized Linear Models", section 4.4); without p(y)
    (weighting "none") the two outcomes of label c give (1 - p_c)^2 + p_c^2.

    Example:
        >>> import torch
        >>> from fishermask_fast import reference
        >>> reference.bernoulli_rows(torch.zeros(1, 2)).tolist()  # the root of 1/2 (1 - 1/2)
        [[[0.5, 0.0], [0.0, 0.5]]]
    """
    z = outputs.reshape(len(outputs), -1)
    p, q = z.sigmoid(), (-z).sigmoid()  # q = 1 - p without its rounding
    squared = p * q if weighting == "fisher" else q**2 + p**2
    return torch.diag_embed(squared.sqrt())


def gaussian_rows(outputs: Tensor, sigma: float = 1.0) -> Tensor:  # (N, d) or (N,)
    """R = I / sigma (N, d, d) of targets y ~ N(outputs, sigma^2 I).

    R^T R = E (y - z)(y - z)^T / sigma^4 = I / sigma^2 (Martens 2020, "New insights and perspectives
    on the natural gradient method", section 9, for the squared error). With one output, of
    which J_x = h_x^T, tr(M^-1 F) is the mean variance of predictions over the pool: V-optimality
    (Atkinson, Donev, Tobias 2007, "Optimum Experimental Designs", chapter 10).

    Example:
        >>> import torch
        >>> from fishermask_fast import reference
        >>> reference.gaussian_rows(torch.zeros(1, 2), sigma=2.0).tolist()
        [[[0.5, 0.0], [0.0, 0.5]]]
    """
    n, d = outputs.reshape(len(outputs), -1).shape
    return torch.eye(d, dtype=outputs.dtype, device=outputs.device).repeat(n, 1, 1) / sigma


def likelihood_gradients(
    model: nn.Module,
    inputs: Tensor | dict[str, Tensor],  # (N, ...), or keyword arguments (N, ...)
    rows_of: Callable[[Tensor], Tensor],  # outputs (1, ...) to R (1, r, o)
) -> dict[str, Tensor]:
    """V_x = R_x J_x over all trainable parameters: name -> (N, r, *parameter shape).

    J_x is the Jacobian of the flattened outputs of one sample at a time (Martens 2020, section 9:
    the Fisher matrix J^T (R^T R) J). The model must be in eval mode.

    Example:
        >>> import torch
        >>> from fishermask_fast import reference
        >>> model, inputs = torch.nn.Linear(4, 3), torch.rand(5, 4)
        >>> found = reference.likelihood_gradients(model, inputs, reference.gaussian_rows)
        >>> found["weight"].shape
        torch.Size([5, 3, 3, 4])
    """
    parameters = {n: p.detach() for n, p in model.named_parameters() if p.requires_grad}

    def outputs(theta: dict[str, Tensor], i: int) -> Tensor:
        if isinstance(inputs, Tensor):
            output = functional_call(model, theta, (inputs[i : i + 1],))
        else:
            sample = {key: value[i : i + 1] for key, value in inputs.items()}
            output = functional_call(model, theta, (), sample)
        logits: Tensor = output if isinstance(output, Tensor) else output.logits
        return logits.reshape(1) if logits.ndim == 0 else logits

    n = len(inputs) if isinstance(inputs, Tensor) else len(next(iter(inputs.values())))
    found: dict[str, list[Tensor]] = {name: [] for name in parameters}
    for i in range(n):
        with torch.no_grad():
            rows = rows_of(outputs(parameters, i))[0]
        jacobian = jacrev(lambda theta, i=i: outputs(theta, i).flatten())(parameters)
        for name, j in jacobian.items():
            found[name].append(torch.einsum("ro,o...->r...", rows.to(j), j))
    return {name: torch.stack(values) for name, values in found.items()}


def conv2d_weight_gradients(
    input: Tensor,  # (N, C_in, H, W), padded
    delta: Tensor,  # (N, C_out, Y, X)
    kernel: list[int],
    stride: list[int],
    dilation: list[int],
    groups: int,
) -> Tensor:
    """dW[n,o,i,u,v] = sum_yx delta[n,o,y,x] input[n,i,Y,X], Y = y*stride + u*dilation, X likewise.

    Returns (N, C_out, C_in / groups, kh, kw).

    Example:
        >>> import torch
        >>> from fishermask_fast import reference
        >>> image, delta = torch.ones(1, 1, 4, 4), torch.ones(1, 1, 3, 3)
        >>> found = reference.conv2d_weight_gradients(image, delta, [2, 2], [1, 1], [1, 1], 1)
        >>> found.flatten().tolist()
        [9.0, 9.0, 9.0, 9.0]
    """
    n, height, width = delta.shape[0], delta.shape[2], delta.shape[3]
    grad = delta.new_zeros(n, delta.shape[1], input.shape[1] // groups, *kernel)
    inputs, deltas = input.chunk(groups, 1), delta.chunk(groups, 1)
    for u in range(kernel[0]):
        for v in range(kernel[1]):
            top, left = u * dilation[0], v * dilation[1]
            parts = [
                torch.einsum(
                    "noyx,niyx->noi",
                    d,
                    a[:, :, top :: stride[0], left :: stride[1]][:, :, :height, :width],
                )
                for a, d in zip(inputs, deltas, strict=True)
            ]
            grad[..., u, v] = torch.cat(parts, 1)
    return grad


def linear_weight_gradients(
    input: Tensor,  # (N, T, C_in)
    delta: Tensor,  # (N, T, C_out)
) -> Tensor:
    """dW[n,o,i] = sum_t delta[n,t,o] input[n,t,i], (N, C_out, C_in).

    Example:
        >>> import torch
        >>> from fishermask_fast import reference
        >>> reference.linear_weight_gradients(torch.ones(1, 5, 2), torch.ones(1, 5, 1)).tolist()
        [[[5.0, 5.0]]]
    """
    return torch.einsum("nto,nti->noi", delta, input)
