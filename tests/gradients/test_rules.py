"""The rule of every operation against autograd, sample by sample, over many shapes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import op_nodes
import pytest
import torch
import torch.nn.functional as F
from conftest import relative_error
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from fishermask_fast.gradients import capture, planning, rules, weight_products
from fishermask_fast.gradients.planning import make_plan
from fishermask_fast.network import evaluating

BOUNDS = {torch.float64: 1e-12, torch.float32: 1e-5}
N_CLASSES = 3


class Logits(nn.Module):
    """Logits from all numbers of a layer's output by a fixed random map that is not linear."""

    def __init__(self, layer: nn.Module, n: int, inputs: Tensor) -> None:
        super().__init__()
        self.layer = layer
        with torch.no_grad():
            size = layer(inputs).numel() // n
        self.register_buffer("fixed", torch.randn(size, N_CLASSES, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        y = self.layer(x)
        return y.reshape(len(x), -1).sin() @ self.fixed.to(y.dtype)


@contextmanager
def products_only() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(weight_products, "compiled", lambda delta: False)
        yield


def check_rules(
    layer: nn.Module, inputs: Tensor, slow: tuple[str, ...] = (), dtype: torch.dtype = torch.float64
) -> None:
    """Every parameter in all three forms, by the compiled ops and by torch's products."""
    n = len(inputs)
    layer = layer.to(dtype).eval()
    if inputs.is_floating_point():
        inputs = inputs.to(dtype)
    model = Logits(layer, n, inputs)
    with evaluating(model) as net:
        names = [name for name, _ in net.named_parameters()]
        parameters = dict(net.named_parameters())
        plan = make_plan(net, inputs, names)
        assert plan.others == tuple(f"layer.{name}" for name in slow)
        cotangent = torch.randn(n, 1, N_CLASSES, dtype=dtype)
        expected = _one_by_one(net, inputs, cotangent[:, 0], parameters)
        check_tape(net, inputs, plan, cotangent, expected, BOUNDS[dtype])
        with products_only():
            check_tape(net, inputs, plan, cotangent, expected, BOUNDS[dtype])


def _one_by_one(
    net: nn.Module, inputs: Tensor, cotangent: Tensor, parameters: dict[str, nn.Parameter]
) -> dict[str, Tensor]:
    flags = {name: p.requires_grad for name, p in parameters.items()}
    for p in parameters.values():
        p.requires_grad_(True)
    rows = [
        torch.autograd.grad(
            net(x[None].clone()), list(parameters.values()), c[None], allow_unused=True
        )
        for x, c in zip(inputs, cotangent, strict=True)
    ]
    for name, p in parameters.items():
        p.requires_grad_(flags[name])
    return {
        name: torch.stack([torch.zeros_like(p) if row[i] is None else row[i] for row in rows])
        for i, (name, p) in enumerate(parameters.items())
    }


def check_tape(
    net: nn.Module,
    inputs: Tensor,
    plan: capture.Plan,
    cotangent: Tensor,
    expected: dict[str, Tensor],
    bound: float,
) -> None:
    tape = capture.forward(net, plan, inputs, cotangent.dtype)
    (deltas,) = capture.backward(tape, cotangent)
    assert set(tape.uses) | set(plan.others) >= set(expected)
    n = len(inputs)
    for name in tape.uses:
        term, wanted = tape.term(name, deltas), expected[name]
        if term is None:
            assert not wanted.any()
            continue
        assert term.n == n
        assert relative_error(term.dense(slice(None)).view(wanted.shape), wanted) < bound
        squared = term.squared().view(wanted.shape[1:])
        assert relative_error(squared, wanted.square().sum(0)) < 2 * bound
        size = wanted[0].numel()
        for count in {0, 1, min(3, size), size}:
            index = torch.randperm(size)[:count].sort().values
            masked = term.masked(index)
            assert masked.shape == (n, count)
            assert relative_error(masked, wanted.reshape(n, -1)[:, index]) < bound


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.data())
def test_convolution(data: st.DataObject) -> None:
    draw = data.draw
    dims = draw(st.integers(1, 3))
    groups = draw(st.integers(1, 3))
    small = st.integers(1, 2)

    def each(strategy: st.SearchStrategy[int]) -> tuple[int, ...]:
        return tuple(draw(strategy) for _ in range(dims))

    kernel, dilation = each(st.integers(1, 3)), each(small)
    padding: tuple[int, ...] | str = draw(
        st.sampled_from([each(st.integers(0, 2)), "same", "valid"])
    )
    stride = (1,) * dims if padding == "same" else each(st.integers(1, 3))
    kind = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dims - 1]
    module = kind(
        groups * draw(small),
        groups * draw(small),
        kernel,
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
        bias=draw(st.booleans()),
        padding_mode=draw(st.sampled_from(["zeros", "reflect", "replicate", "circular"])),
    )
    size = tuple(
        (k - 1) * d + draw(st.integers(1, 4)) for k, d in zip(kernel, dilation, strict=True)
    )
    # Reflection and wrapping take no more than the input holds.
    size = tuple(max(s, 5) for s in size)
    check_rules(module, torch.randn(draw(st.integers(1, 3)), module.in_channels, *size))


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.data())
def test_transposed_convolution(data: st.DataObject) -> None:
    draw = data.draw
    dims = draw(st.integers(1, 3))
    groups = draw(st.integers(1, 2))

    def each(low: int, high: int) -> tuple[int, ...]:
        return tuple(draw(st.integers(low, high)) for _ in range(dims))

    stride, dilation, kernel = each(1, 3), each(1, 2), each(1, 3)
    extra = tuple(
        draw(st.integers(0, max(s, d) - 1)) for s, d in zip(stride, dilation, strict=True)
    )
    kind = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)[dims - 1]
    module = kind(
        2 * groups, 3 * groups, kernel, stride, each(0, 1), extra, groups, dilation=dilation
    )
    check_rules(module, torch.randn(draw(st.integers(1, 3)), 2 * groups, *each(3, 4)))


@pytest.mark.parametrize("between", [(), (1,), (4,), (2, 3)])
@pytest.mark.parametrize("n", [1, 3])
def test_linear(n: int, between: tuple[int, ...]) -> None:
    check_rules(nn.Linear(5, 4), torch.randn(n, *between, 5))


def test_wide_linear_with_few_entries() -> None:
    check_rules(nn.Linear(40, 30), torch.randn(2, 3, 40))


@pytest.mark.parametrize(
    ("module", "shape"),
    [
        (nn.BatchNorm1d(4), (3, 4)),
        (nn.BatchNorm1d(4), (3, 4, 5)),
        (nn.BatchNorm2d(4, eps=0.1), (2, 4, 3, 5)),
        (nn.BatchNorm3d(2), (2, 2, 3, 2, 2)),
        (nn.GroupNorm(2, 4), (3, 4, 5)),
        (nn.GroupNorm(2, 4), (3, 4)),
        (nn.LayerNorm(6), (3, 6)),
        (nn.LayerNorm(6), (3, 4, 6)),
        (nn.LayerNorm((4, 6), eps=0.1), (3, 2, 4, 6)),
        (nn.LayerNorm((4, 6), bias=False), (3, 4, 6)),
        (nn.RMSNorm(6), (3, 4, 6)),
        (nn.InstanceNorm1d(4, affine=True, track_running_stats=True), (3, 4, 5)),
        (nn.PReLU(), (3, 4)),
        (nn.PReLU(4), (3, 4, 5)),
    ],
)
def test_norms_and_slopes(module: nn.Module, shape: tuple[int, ...]) -> None:
    if getattr(module, "running_mean", None) is not None:
        module.running_mean.uniform_(-1, 1)
        module.running_var.uniform_(0.5, 2)
    # An instance norm's parameters are repeated for each sample, and so consumed by Repeat.
    check_rules(module, torch.randn(shape))


@pytest.mark.parametrize("padding_idx", [None, 2])
@pytest.mark.parametrize("shape", [(3,), (3, 7), (2, 3, 4), (1, 1)])
def test_embedding(shape: tuple[int, ...], padding_idx: int | None) -> None:
    check_rules(nn.Embedding(6, 3, padding_idx=padding_idx), torch.randint(0, 6, shape))


@pytest.mark.parametrize("padding_idx", [None, 2])
@pytest.mark.parametrize("mode", ["sum", "mean"])
def test_embedding_bag(mode: str, padding_idx: int | None) -> None:
    bag = nn.EmbeddingBag(6, 3, mode=mode, padding_idx=padding_idx)
    check_rules(bag, torch.randint(0, 6, (4, 7)))


class Applied(nn.Module):
    """A function of the input and of parameters of the shapes given."""

    def __init__(self, how: Callable[..., Tensor], *shapes: tuple[int, ...]) -> None:
        super().__init__()
        self.how = how
        self.w = nn.ParameterList([nn.Parameter(torch.rand(shape) + 0.5) for shape in shapes])

    def forward(self, x: Tensor) -> Tensor:
        return self.how(x, *self.w)


def words(x: Tensor) -> Tensor:
    return (x * 10).long().abs() % 6


PLACES = torch.tensor([[0, 1, 2, 1], [2, 0, 1, 1], [1, 1, 2, 0], [0, 2, 2, 1]])

# The input is (n, 4, 6) throughout.
USES: dict[str, tuple[Callable[..., Tensor], tuple[tuple[int, ...], ...]]] = {
    "linear of its own": (F.linear, ((5, 6), (5,))),
    "columns to rows": (lambda x, w: x @ w, ((6, 5),)),
    "vector": (lambda x, w: x @ w, ((6,),)),
    "left": (lambda x, w: (w @ x[:, 0].T).T, ((5, 6),)),
    "left of each": (lambda x, w: w @ x, ((5, 4),)),
    "scaled sum of products": (
        lambda x, b, w: torch.addmm(b, x[:, 1], w, beta=0.5, alpha=3.0),
        ((5,), (6, 5)),
    ),
    "matrix of each place": (lambda x, w: torch.einsum("nti,tio->nto", x, w), ((4, 6, 5),)),
    "left matrix of each place": (
        lambda x, w: torch.bmm(w, x.permute(1, 2, 0)).permute(2, 0, 1),
        ((4, 5, 6),),
    ),
    "sum": (lambda x, w: x + w, ((4, 6),)),
    "sum of fewer": (lambda x, w: x + w, ((1, 1, 6),)),
    "scaled sum": (lambda x, w: torch.add(x, w, alpha=3), ((6,),)),
    "difference": (lambda x, w: x - w, ((4, 1),)),
    "difference from it": (lambda x, w: torch.sub(w, x, alpha=2), ((4, 1),)),
    "scale": (lambda x, w: x * w, ((6,),)),
    "scale first": (lambda x, w: w[:, None] * x, ((4,),)),
    "one number": (lambda x, w: x * w, ((),)),
    "divided": (lambda x, w: w / x.cosh(), ((6,),)),
    "chosen": (lambda x, w: torch.where(x > 0, w, x), ((6,),)),
    "chosen else": (lambda x, w: torch.where(x > 0, x, w), ((6,),)),
    "class token": (
        lambda x, w: torch.cat([w.expand(len(x), -1, -1), x], 1),
        ((1, 1, 6),),
    ),
    "repeated": (lambda x, w: torch.cat([w.repeat(len(x), 2, 1), x], 1), ((1, 1, 6),)),
    "looked up": (lambda x, w: w[words(x)], ((6, 5),)),
    "looked up from the end": (lambda x, w: w[words(x) - 6], ((6, 5),)),
    "selected": (
        lambda x, w: w.index_select(0, words(x).flatten()).view(*x.shape, -1),
        ((6, 2),),
    ),
    "positions": (lambda x, w: x + w[:4], ((9, 6),)),
    "embedded positions": (
        lambda x, w: x + F.embedding(torch.arange(4), w, padding_idx=1),
        ((9, 6),),
    ),
    "relative positions": (
        lambda x, w: (x @ x.mT + w[PLACES].permute(2, 0, 1)[0]).softmax(-1),
        ((3, 2),),
    ),
    "thirds": (
        lambda x, w: (x @ w[:6].mT) * (x @ w[6:12].mT) + x @ w.chunk(3)[2].mT,
        ((18, 6),),
    ),
    "used three times": (lambda x, w: F.linear(F.linear(F.linear(x, w).sin(), w), w), ((6, 6),)),
    "used otherwise": (lambda x, w: F.linear(x, w, w[0]) * w[1] + w[2], ((6, 6),)),
    "tied": (lambda x, w: F.embedding(words(x)[:, :, 0], w).tanh() @ w.T, ((6, 5),)),
    "merged": (lambda x, w, a, b: x @ (w + 0.5 * b @ a).T, ((5, 6), (2, 6), (5, 2))),
    "normalised": (lambda x, g, v: x @ (g * v / v.norm(dim=1, keepdim=True)).T, ((5, 1), (5, 6))),
    "table by a network": (
        lambda x, a, b: x + (torch.arange(24.0).view(4, 6, 1).to(a) @ a).sin().matmul(b)[..., 0],
        ((1, 3), (3, 1)),
    ),
    "tokens first": (lambda x, w: F.linear(x.transpose(0, 1), w).transpose(0, 1), ((5, 6),)),
    "tokens between": (
        lambda x, w, b: F.linear(x.view(-1, 2, 2, 6).permute(1, 0, 2, 3), w, b).transpose(0, 1),
        ((5, 6), (5,)),
    ),
    "windows": (
        lambda x, w, b: F.linear(x.reshape(-1, 2, 6), w, b).view(len(x), -1),
        ((5, 6), (5,)),
    ),
    "windows first": (
        lambda x, w: F.linear(torch.cat(x.chunk(2, 1)), w).view(2, len(x), -1).transpose(0, 1),
        ((5, 6),),
    ),
    "convolved windows": (
        lambda x, w: F.conv1d(x.reshape(-1, 2, 6), w).view(len(x), -1),
        ((3, 2, 3),),
    ),
    "not at all": (lambda x, v, w: x * v + 0 * w.detach().sum(), ((6,), (6,))),
}


@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
@pytest.mark.parametrize("use", USES)
def test_every_kind_of_use(use: str, dtype: torch.dtype) -> None:
    how, shapes = USES[use]
    check_rules(Applied(how, *shapes), torch.randn(5, 4, 6), dtype=dtype)


class DoubledConv(nn.Conv2d):
    def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return 2 * super()._conv_forward(x, weight, bias)


def test_a_module_of_ones_own_has_the_rules_of_its_operations() -> None:
    check_rules(DoubledConv(2, 2, 1), torch.randn(3, 2, 4, 4))


@pytest.mark.parametrize(
    ("module", "inputs", "slow"),
    [
        (
            nn.Embedding(4, 2, scale_grad_by_freq=True),
            torch.randint(0, 4, (3, 5)),
            ("weight",),
        ),
        (nn.EmbeddingBag(4, 2, mode="max"), torch.randint(0, 4, (3, 5)), ("weight",)),
        (Applied(lambda x, w: x**w, (6,)), torch.rand(3, 6) + 1, ("w.0",)),
        (Applied(lambda x, w: x - x.mean(0) + w * x.sum(0), (6,)), torch.rand(3, 6), ("w.0",)),
    ],
    ids=["counted embedding", "largest of a bag", "power", "samples that interact"],
)
def test_no_rule_where_the_formula_is_another(
    module: nn.Module, inputs: Tensor, slow: tuple[str, ...]
) -> None:
    check_rules(module, inputs, slow)


def test_a_release_that_saves_something_else_falls_back_and_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(rules.SAVED, "MulBackward0", ("_saved_self", "_saved_gone"))
    check_rules(Applied(lambda x, w: x * w, (6,)), torch.randn(3, 6), ("w.0",))
    assert "saves no _saved_gone on MulBackward0" in caplog.text


def test_a_rule_that_is_wrong_is_found_out(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    right = rules._RULES["MulBackward0"]

    def wrong(r: rules.Reading) -> rules.Maker | None:
        make = right(r)
        return None if make is None else lambda delta: make(1.01 * delta)

    monkeypatch.setitem(rules._RULES, "MulBackward0", wrong)
    check_rules(Applied(lambda x, w: x * w, (6,)), torch.randn(3, 6), ("w.0",))
    assert "differs from autograd" in caplog.text
    assert planning.logger.name in {record.name for record in caplog.records}


@pytest.mark.parametrize("kind", rules.SAVED)
def test_each_operation_saves_what_its_rule_reads(kind: str) -> None:
    node = op_nodes.node_of(kind)
    if node is None:
        assert kind in op_nodes.ELSEWHERE
    else:
        assert rules.missing_fields(node) == []
