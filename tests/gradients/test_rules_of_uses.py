"""Whatever consumes a parameter, however its module was written: its rule against autograd."""

from __future__ import annotations

from collections.abc import Callable

import op_nodes
import pytest
import torch
import torch.nn.functional as F
from rule_checks import BOUNDS, Applied, check_rules
from torch import Tensor, nn

from fishermask_fast.gradients import reading, rules, trial


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
    "scaled sum of products of each place": (
        lambda x, b, w: torch.baddbmm(b, x.permute(1, 0, 2), w, beta=0.5, alpha=3.0).permute(
            1, 0, 2
        ),
        ((4, 1, 5), (4, 6, 5)),
    ),
    "left of products of each place": (
        lambda x, b, w: torch.baddbmm(b, w, x.permute(1, 2, 0)).permute(2, 0, 1),
        ((5, 1), (4, 5, 6)),
    ),
    "bilinear": (lambda x, w, b: F.bilinear(x[:, 0], x[:, 1, :5], w, b), ((3, 6, 5), (3,))),
    "bilinear of tokens": (lambda x, w: F.bilinear(x, x[..., :5].cos(), w), ((3, 6, 5),)),
    "joined": (lambda x, v, w: x @ torch.cat([v, w], 1), ((6, 2), (6, 3))),
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


def _attended(rows: Tensor, n: int) -> Tensor:
    """Each sample's row by its likeness to the first n rows."""
    return (rows[n:] @ rows[:n].T).softmax(1) @ rows[:n]


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
        (
            # Rows beside the samples': what all samples do to them is summed before they are met.
            Applied(lambda x, w: torch.softmax(x @ torch.cat([w, w.detach()]).T, 1), (4, 6)),
            torch.rand(3, 6),
            (),
        ),
        (
            Applied(lambda x, w: _attended(torch.cat([w, x]), len(w)), (2, 6)),
            torch.rand(3, 6),
            ("w.0",),
        ),
        (Applied(lambda x, w: x - x.mean(0) + w * x.sum(0), (6,)), torch.rand(3, 6), ("w.0",)),
    ],
    ids=[
        "counted embedding",
        "largest of a bag",
        "power",
        "joined before",
        "joined to samples",
        "samples that interact",
    ],  # fmt: skip
)
def test_no_rule_where_the_formula_is_another(
    module: nn.Module, inputs: Tensor, slow: tuple[str, ...]
) -> None:
    check_rules(module, inputs, slow)


def test_a_release_that_saves_something_else_falls_back_and_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(reading.SAVED, "MulBackward0", ("_saved_self", "_saved_gone"))
    check_rules(Applied(lambda x, w: x * w, (6,)), torch.randn(3, 6), ("w.0",))
    assert "saves no _saved_gone on MulBackward0" in caplog.text


def test_a_rule_that_is_wrong_is_found_out(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    right = rules._RULES["MulBackward0"]

    def wrong(r: reading.Reading) -> reading.Maker | None:
        make = right(r)
        return None if make is None else lambda delta: make(1.01 * delta)

    monkeypatch.setitem(rules._RULES, "MulBackward0", wrong)
    check_rules(Applied(lambda x, w: x * w, (6,)), torch.randn(3, 6), ("w.0",))
    assert "differs from autograd" in caplog.text
    assert trial.logger.name in {record.name for record in caplog.records}


@pytest.mark.parametrize("kind", reading.SAVED)
def test_each_operation_saves_what_its_rule_reads(kind: str) -> None:
    node = op_nodes.node_of(kind)
    if node is None:
        assert kind in op_nodes.ELSEWHERE
    else:
        assert reading.missing_fields(node) == []
