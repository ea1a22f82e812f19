"""Per-sample gradients by torch.func, for each likelihood, and of single layers."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, jacrev


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
