"""Models that move, split or overwrite their samples on the way."""

from __future__ import annotations

import pytest
import torch
from conftest import relative_error
from networks import expected_columns, some_of_each
from rule_checks import make_plan
from torch import Tensor, nn

from fishermask_fast import reference
from fishermask_fast.gradients.diagonal import fisher_diagonal
from fishermask_fast.gradients.masked import masked_gradients
from fishermask_fast.masks.mask import FisherMask
from fishermask_fast.network.evaluation import evaluating
from fishermask_fast.selector import FisherMaskSelector


class Body(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.fc = nn.Linear(6, 5).double(), nn.Linear(5, 3).double()


class Sorting(Body):
    """Sorts its samples, as text models do by length, and sorts them back."""

    def forward(self, x: Tensor) -> Tensor:
        order = x[:, 0].argsort(descending=True, stable=True)
        return self.fc(self.body(x[order]).tanh()[order.argsort()])


class Routed(Body):
    """Only some samples reach the body."""

    def forward(self, x: Tensor) -> Tensor:
        hidden = x[:, :5].clone()
        chosen = x[:, 0] > 0
        hidden[chosen] = self.body(x[chosen])
        return self.fc(hidden.tanh())


class Mirrored(Body):
    """Two views of each sample, all first ones before all second ones; blank samples are dead."""

    def forward(self, x: Tensor) -> Tensor:
        views = torch.cat([x, x.flip(1)])
        first, second = (self.body(views) * (views[:, :1] > -4)).chunk(2)
        return self.fc((first - 2 * second).tanh())


class Overwriting(Body):
    """Scales its input in place, and has a parameter without a rule."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1.5).double())

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.body(x.mul_(2.0)).tanh() * self.scale)


def columns(model: nn.Module, inputs: Tensor) -> tuple[FisherMask, Tensor]:
    mask = some_of_each(model)
    found = [reference.per_sample_gradients(model, x[None]) for x in inputs]
    return mask, torch.cat([expected_columns(one, mask, None) for one in found])


def tied_at_first() -> Tensor:
    inputs = torch.randn(8, 6).double()
    inputs[:3, 0] = 9.0
    return inputs


def test_samples_sorted_inside_are_never_mixed_up() -> None:
    model, inputs = Sorting(), tied_at_first()
    mask, expected = columns(model, inputs)
    with pytest.raises(RuntimeError, match="at body.weight, body.bias samples.*another order"):
        masked_gradients(model, inputs, mask, rank=3)
    alone = masked_gradients(model, inputs, mask, rank=3, batch_size=1)
    assert relative_error(alone.dense(), expected) < 1e-12
    in_order = inputs[inputs[:, 0].argsort(descending=True)]
    masked_gradients(model, in_order, mask)


@pytest.mark.parametrize("reached", [1, 4])
def test_a_layer_that_only_some_samples_reach(reached: int) -> None:
    """One row of the body would otherwise count for every sample of the batch."""
    model, inputs = Routed(), torch.randn(10, 6).double()
    inputs[:, 0] = 1.0
    inputs[5 + reached :, 0] = -1.0
    mask, expected = columns(model, inputs[:5])
    with pytest.raises(RuntimeError, match=f"met {reached} rows in this batch of 5 samples"):
        masked_gradients(model, inputs, mask, batch_size=5)
    found = masked_gradients(model, inputs[:5], mask, rank=3)
    assert relative_error(found.dense(), expected) < 1e-12


def test_rows_without_gradient_prove_no_order() -> None:
    model, inputs = Mirrored(), torch.randn(6, 6).double()
    inputs[:3] = -5.0
    mask, expected = columns(model, inputs)
    with evaluating(model) as net:
        assert set(make_plan(net, inputs, list(mask.shapes)).others) == {"body.weight", "body.bias"}
    assert relative_error(masked_gradients(model, inputs, mask, rank=3).dense(), expected) < 1e-12


def test_models_that_overwrite_their_input() -> None:
    class Copying(Overwriting):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.clone())

    model, inputs = Overwriting(), torch.randn(7, 6).double()
    same = Copying()
    same.load_state_dict(model.state_dict())
    mask, expected = columns(same, inputs)
    kept = inputs.clone()
    for batch_size in (None, 3):
        found = masked_gradients(model, inputs, mask, rank=3, batch_size=batch_size)
        assert relative_error(found.dense(), expected) < 1e-12
        fisher_diagonal(model, inputs)
        assert torch.equal(inputs, kept)


def test_a_module_with_two_names_keeps_its_parameters() -> None:
    class Twice(Body):
        def __init__(self, named_twice: bool) -> None:
            super().__init__()
            if named_twice:
                self.again = self.body

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(self.body(x).tanh())

    model, once, inputs = Twice(True), Twice(False), torch.randn(4, 6).double()
    once.load_state_dict(model.state_dict(), strict=False)
    # On a model of its own, since torch.func leaves what has two names in pieces.
    mask, expected = columns(once, inputs)
    before = model.body.weight
    for _ in range(2):
        found = masked_gradients(model, inputs, mask, rank=3)
        assert relative_error(found.dense(), expected) < 1e-12
        assert model.body.weight is before and type(model.body.weight) is nn.Parameter


def test_sparse_gradients_without_a_rule() -> None:
    class Bag(nn.Module):
        def __init__(self, sparse: bool) -> None:
            super().__init__()
            self.bag = nn.EmbeddingBag(9, 4, mode="sum", sparse=sparse).double()
            self.fc = nn.Linear(4, 3).double()

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(self.bag(x).tanh())

    sparse, dense, tokens = Bag(True), Bag(False), torch.randint(0, 9, (5, 6))
    dense.load_state_dict(sparse.state_dict())
    mask = some_of_each(sparse)
    expected = masked_gradients(dense, tokens, mask).dense()
    assert relative_error(masked_gradients(sparse, tokens, mask).dense(), expected) < 1e-12


def test_query_under_inference_mode() -> None:
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(27, 3))
    pool, labeled = torch.randn(9, 1, 5, 5), torch.randn(4, 1, 5, 5)
    expected = FisherMaskSelector(model, fraction=0.9).query(pool, 3, labeled, progress=False)
    with torch.inference_mode():
        own = pool.clone()
        found = FisherMaskSelector(model, fraction=0.9).query(own, 3, labeled, progress=False)
        inside = nn.Linear(4, 3)
    assert found.indices.tolist() == expected.indices.tolist()
    again = FisherMaskSelector(model, fraction=0.9).query(own, 3, labeled, progress=False)
    assert again.indices.tolist() == expected.indices.tolist()
    with pytest.raises(ValueError, match="made under torch.inference_mode"):
        fisher_diagonal(inside, torch.randn(3, 4))
    assert all(p.requires_grad for p in inside.parameters())
