"""Watching a model leaves no trace, sees through wrappers, and refuses what it cannot watch."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from conftest import relative_error
from networks import Recurrent, Scaled, expected_columns, some_of_each
from rule_checks import make_plan
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from fishermask_fast import FisherMaskSelector, reference
from fishermask_fast.gradients import passes
from fishermask_fast.gradients.capture import backward, forward
from fishermask_fast.gradients.diagonal import fisher_diagonal
from fishermask_fast.gradients.masked import masked_gradients
from fishermask_fast.network.evaluation import evaluating, unwrap


def make_model() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(True), nn.Dropout(), nn.Flatten(),
        nn.Linear(27, 4),
    )  # fmt: skip


def state(model: nn.Module) -> list[object]:
    return [
        *(m.training for m in model.modules()),
        *(p.requires_grad for p in model.parameters()),
        *(p.grad for p in model.parameters()),
        *(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()),
        torch.get_rng_state().tolist(),
        torch.get_default_dtype(),
        torch.is_grad_enabled(),
        torch.is_autocast_cache_enabled(),
        torch.backends.mha.get_fastpath_enabled(),
        *(t.tolist() for t in model.state_dict().values()),
    ]


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("recurrent", [False, True])
def test_everything_is_restored(fails: bool, recurrent: bool) -> None:
    model: nn.Module
    if recurrent:
        model, inputs = Recurrent(nn.LSTM), torch.randint(0, 20, (5, 4))
    else:
        model, inputs = make_model(), torch.randn(5, 1, 5, 5)
        model[0].weight.requires_grad_(False)
        model[1].eval()
    if fails:
        with torch.no_grad():
            next(reversed(list(model.parameters())))[0] = torch.nan
    model[3].train(False) if not recurrent else None
    before, kept = state(model), inputs.clone()
    mask = some_of_each(model)
    for work in (
        lambda: masked_gradients(model, inputs, mask, batch_size=2),
        lambda: fisher_diagonal(model, inputs, batch_size=2),
    ):
        if fails:
            with pytest.raises(ValueError, match="logits must be finite"):
                work()
        else:
            work()
        assert str(state(model)) == str(before)
        assert torch.equal(inputs, kept)


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_under_the_callers_no_grad(context: Callable[[], object]) -> None:
    model, inputs = make_model().double(), torch.randn(3, 1, 5, 5).double()
    mask = some_of_each(model)
    expected = masked_gradients(model, inputs, mask).dense()
    with context():  # type: ignore[attr-defined]
        assert torch.equal(masked_gradients(model, inputs, mask).dense(), expected)


def wrapped_in_data_parallel(model: nn.Module) -> nn.Module:
    return nn.DataParallel(model)


def compiled(model: nn.Module) -> nn.Module:
    return torch.compile(model, backend="eager")  # type: ignore[return-value]


def compiled_in_place(model: nn.Module) -> nn.Module:
    model[0].compile(backend="eager")  # type: ignore[operator]
    model.compile(backend="eager")
    return model


@pytest.mark.parametrize("wrap", [wrapped_in_data_parallel, compiled, compiled_in_place])
def test_wrappers_are_seen_through(wrap: Callable[[nn.Module], nn.Module]) -> None:
    model, inputs = make_model().eval(), torch.randn(4, 1, 5, 5)
    mask, expected = some_of_each(model), fisher_diagonal(model, inputs)
    gradients = masked_gradients(model, inputs, mask).dense()
    wrapper = wrap(model)
    with torch.no_grad():
        wrapper(inputs)
    assert torch.equal(masked_gradients(wrapper, inputs, mask).dense(), gradients)
    found = fisher_diagonal(wrapper, inputs)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_scripted_models_are_refused() -> None:
    scripted = torch.jit.trace(make_model().eval(), torch.randn(1, 1, 5, 5))
    with pytest.raises(TypeError, match="scripted or traced"):
        unwrap(scripted)
    with pytest.raises(TypeError, match="must be an nn.Module; got function"):
        unwrap(lambda x: x)  # type: ignore[arg-type]


def test_backward_stops_at_the_earliest_layer_watched() -> None:
    model, inputs = make_model(), torch.randn(2, 1, 5, 5)
    reached = []

    class Notice(torch.autograd.Function):
        @staticmethod
        def forward(ctx: object, x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: object, g: Tensor) -> Tensor:
            reached.append(g)
            return g

    class Noticing(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return Notice.apply(x)  # type: ignore[no-any-return]

    model.insert(4, Noticing())
    with evaluating(model) as net:
        plan = make_plan(net, inputs, ["6.weight"])
        tape = forward(net, plan, inputs, torch.float32)
        deltas = list(backward(tape, torch.eye(4).expand(2, 4, 4)))
    assert not reached and len(deltas) == 4
    assert torch.equal(deltas[1][0], torch.eye(4)[1].expand(2, 4))


class Checkpointed(nn.Module):
    def __init__(self, use: bool) -> None:
        super().__init__()
        self.use = use
        self.body = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 6), nn.Tanh())
        self.fc = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        hidden = checkpoint(self.body, x, use_reentrant=False) if self.use else self.body(x)
        return self.fc(hidden)


def test_checkpointing_changes_nothing() -> None:
    plain, recomputing, inputs = Checkpointed(False), Checkpointed(True), torch.randn(4, 5)
    recomputing.load_state_dict(plain.state_dict())
    mask = some_of_each(plain)
    expected = masked_gradients(plain, inputs, mask).dense()
    assert relative_error(masked_gradients(recomputing, inputs, mask).dense(), expected) < 1e-6


class OwnHook(nn.Module):
    """A user's hook on a watched layer changes its output."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(5, 6)
        self.fc = nn.Linear(6, 3)
        self.body.register_forward_hook(lambda module, args, output: 3 * output)
        self.fc.register_forward_pre_hook(lambda module, args: (args[0].sin(),))

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.body(x))


class FrozenBody(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(5, 6)
        self.unused = nn.Linear(5, 6)
        self.fc = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        self.unused(x)
        with torch.no_grad():
            x = self.body(x)
        return self.fc(x.tanh())


class Flipped(nn.Module):
    """Samples change places inside."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(5, 6)
        self.fc = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.body(x.flip(0)).flip(0).tanh())


@pytest.mark.parametrize("kind", [OwnHook, FrozenBody, Flipped])
def test_unusual_paths(kind: type[nn.Module]) -> None:
    model, inputs = kind().double().eval(), torch.randn(4, 5).double()
    mask = some_of_each(model)
    expected = expected_columns(reference.per_sample_gradients(model, inputs), mask, None)
    factors = masked_gradients(model, inputs, mask, rank=expected.shape[1])
    assert relative_error(factors.dense(), expected) < 1e-12


def test_head_followed_by_something() -> None:
    model, inputs = Scaled().double(), torch.randn(6, 5).double()
    mask = type(some_of_each(model)).from_scores(
        fisher_diagonal(model, inputs), 0.8, model=model, inputs=inputs
    )
    first = nn.Module()
    first.inner = model
    first.forward = lambda x: model(x)[0]  # type: ignore[method-assign]
    expected = {
        name.removeprefix("inner."): value
        for name, value in reference.per_sample_gradients(first, inputs).items()
    }
    columns = expected_columns(expected, mask, "fc")
    factors = masked_gradients(model, inputs, mask, rank=columns.shape[1])
    assert factors.coupling is not None
    assert relative_error(factors.dense(), columns) < 1e-12


def test_path_that_changes_with_the_input() -> None:
    class Sometimes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(2, 2), nn.Linear(2, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.a(x) if x.max() < 10 else self.b(self.a(self.a(x)))

    model, inputs = Sometimes(), torch.tensor([[0.0, 1.0], [2.0, 3.0], [20.0, 3.0]])
    with pytest.raises(RuntimeError, match="path changes with its input"):
        masked_gradients(model, inputs, some_of_each(model), batch_size=2)


def test_autocast() -> None:
    model, inputs = make_model().eval(), torch.randn(4, 1, 5, 5)
    mask = some_of_each(model)
    exact = masked_gradients(model, inputs, mask).dense()
    with torch.autocast("cpu", torch.bfloat16):
        rounded = masked_gradients(model, inputs, mask)
    assert rounded.dtype == torch.float32
    assert 0 < relative_error(rounded.dense(), exact) < 0.05


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_models(dtype: torch.dtype) -> None:
    model, inputs = make_model().eval(), torch.randn(4, 1, 5, 5)
    mask = some_of_each(model)
    exact = masked_gradients(model, inputs, mask).dense()
    low = masked_gradients(model.to(dtype), inputs, mask)
    assert low.dtype == torch.float32
    assert relative_error(low.dense(), exact) < 0.05


def test_channels_last() -> None:
    model, inputs = make_model().double().eval(), torch.randn(4, 1, 5, 5).double()
    mask = some_of_each(model)
    exact, diagonal = masked_gradients(model, inputs, mask).dense(), fisher_diagonal(model, inputs)
    model = model.to(memory_format=torch.channels_last)
    inputs = inputs.to(memory_format=torch.channels_last)
    assert relative_error(masked_gradients(model, inputs, mask).dense(), exact) < 1e-12
    for name, values in fisher_diagonal(model, inputs).items():
        assert relative_error(values, diagonal[name]) < 1e-12


class Viewing(nn.Module):
    """Flattens images as only the usual strides allow."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.view(len(x), -1)


class ReadingMemory(nn.Module):
    """Takes numbers in their order in memory, whatever the strides say."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.as_strided((len(x), x[0].numel()), (x[0].numel(), 1))


@pytest.mark.parametrize(
    ("flatten", "share", "expected"),
    [
        (nn.Flatten, 0, True),
        (nn.Flatten, 1e9, False),
        (Viewing, 0, False),
        (ReadingMemory, 0, False),
    ],
)
def test_images_go_channels_last_where_that_pays(
    flatten: type[nn.Module], share: float, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(passes, "_CHANNELS_LAST", share)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh(), flatten(), nn.Linear(36, 3)).double()
    inputs = torch.randn(5, 3, 5, 5).double()
    mask, layouts = some_of_each(model), []
    model[0].register_forward_pre_hook(
        lambda module, args: layouts.append(
            args[0].is_contiguous(memory_format=torch.channels_last)
        )
    )
    found = masked_gradients(model, inputs, mask, rank=3).dense()
    assert layouts[-1] is expected
    exact = expected_columns(reference.per_sample_gradients(model, inputs), mask, None)
    assert relative_error(found, exact) < 1e-12
    assert inputs.is_contiguous()


def test_weight_used_under_autocast_twice() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Linear(5, 5)

        def forward(self, x: Tensor) -> Tensor:
            return F.linear(self.body(x).tanh(), self.body.weight)

    model, inputs = Twice(), torch.randn(3, 5)
    with torch.autocast("cpu", torch.bfloat16), evaluating(model) as net:
        plan = make_plan(net, inputs, ["body.weight", "body.bias"])
        assert plan.others == () and len(plan.ways["body.weight"]) == 2
        tape = forward(net, plan, inputs, torch.float32)
    assert len(tape.uses["body.weight"]) == 2


@pytest.mark.parametrize("estimated", [False, True])
def test_nothing_of_a_model_stays_in_memory(estimated: bool) -> None:
    model = nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 3))
    if estimated:
        FisherMaskSelector(model).estimate(torch.randn(4, 5), 2)
    else:
        masked_gradients(model, torch.randn(4, 5), some_of_each(model))
    held = [weakref.ref(p) for p in model.parameters()]
    del model
    gc.collect()
    assert not any(p() is not None for p in held)
