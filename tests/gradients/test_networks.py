"""Masked gradients and Fisher diagonal of every kind of network, against torch.func."""

from __future__ import annotations

from collections.abc import Callable

import networks as nets
import pytest
import torch
from conftest import relative_error
from networks import Case, expected_columns, some_of_each
from rule_checks import make_plan
from torch import Tensor, nn

from fishermask_fast import reference
from fishermask_fast.gradients.diagonal import fisher_diagonal
from fishermask_fast.gradients.masked import masked_gradients
from fishermask_fast.masks.mask import FisherMask
from fishermask_fast.models.networks import resnet18_small
from fishermask_fast.network.evaluation import evaluating

torchvision = pytest.importorskip("torchvision")

BOUNDS = {torch.float64: 1e-10, torch.float32: 1e-4}


def small_resnet() -> Case:
    return Case(resnet18_small(10, 3), torch.randn(2, 3, 32, 32))


def torchvision_resnet18() -> Case:
    return Case(torchvision.models.resnet18(num_classes=2), torch.randn(2, 3, 33, 33))


def vit() -> Case:
    model = torchvision.models.VisionTransformer(16, 8, 2, 2, 16, 32, num_classes=3)
    nn.init.normal_(model.heads.head.weight)
    return Case(model, torch.randn(2, 3, 16, 16))


def vgg() -> Case:
    from torchvision.models.vgg import VGG, make_layers

    model = VGG(make_layers([4, "M", 6, "M", 6, "M"]), num_classes=3)
    model.avgpool = nn.AdaptiveAvgPool2d(2)
    model.classifier = nn.Sequential(
        nn.Linear(24, 10), nn.ReLU(True), nn.Dropout(), nn.Linear(10, 3)
    )
    return Case(model, torch.randn(3, 3, 19, 19))


def convnext() -> Case:
    from torchvision.models.convnext import CNBlockConfig, ConvNeXt

    model = ConvNeXt([CNBlockConfig(6, 8, 1), CNBlockConfig(8, None, 1)], num_classes=3)
    nn.init.normal_(model.classifier[-1].weight)
    for name, p in model.named_parameters():
        if "layer_scale" in name:
            nn.init.uniform_(p, 0.5, 1.0)

    return Case(model, torch.randn(2, 3, 24, 24))


def mobilenet() -> Case:
    return Case(
        torchvision.models.MobileNetV2(
            num_classes=3, width_mult=0.1, inverted_residual_setting=[[1, 8, 1, 1], [3, 8, 2, 2]]
        ),
        torch.randn(2, 3, 20, 20),
    )


def grouped_and_dilated() -> Case:
    model = nn.Sequential(
        nn.Conv2d(4, 6, (3, 2), stride=(2, 1), padding=(1, 2), dilation=(1, 2), groups=2),
        nn.GroupNorm(3, 6),
        nn.ReLU(inplace=True),
        nn.Conv2d(6, 12, 3, padding="same", dilation=2, groups=6, padding_mode="reflect"),
        nn.BatchNorm2d(12),
        nn.ReLU(inplace=True),
        nn.Conv2d(12, 5, 1, bias=False),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(5, 4),
    )
    return Case(model, torch.randn(3, 4, 11, 9))


def one_and_three_dimensional() -> Case:
    model = nn.Sequential(
        nn.Conv3d(2, 4, 2, stride=(1, 2, 1), padding=1),
        nn.BatchNorm3d(4),
        nn.Flatten(2),
        nn.Conv1d(4, 6, 4, padding="same", padding_mode="circular"),
        nn.BatchNorm1d(6),
        nn.Tanh(),
        nn.AdaptiveAvgPool1d(1),
        nn.Flatten(),
        nn.Linear(6, 3),
    )
    return Case(model, torch.randn(2, 2, 3, 4, 5))


def text() -> Case:
    return Case(nets.TextClassifier(), torch.randint(0, 30, (4, 9)))


def tabular_mlp() -> Case:
    model = nn.Sequential(
        nn.Linear(7, 16), nn.BatchNorm1d(16), nn.ReLU(True), nn.Linear(16, 8), nn.ReLU(True),
        nn.Linear(8, 2),
    )  # fmt: skip
    return Case(model, torch.randn(6, 7))


def recurrent(kind: type[nn.RNNBase]) -> Callable[[], Case]:
    def case() -> Case:
        # On the CPU in float32, one operation of a library takes all of an LSTM's weights.
        slow = (lambda name: name[:3] == "rnn") if kind is nn.LSTM else (lambda name: False)
        return Case(nets.Recurrent(kind), torch.randint(0, 20, (3, 6)), slow)

    case.__name__ = kind.__name__.lower()
    return case


def attention() -> Case:
    return Case(nets.Attention(), torch.randn(3, 5, 8))


def dict_input() -> Case:
    inputs = {
        "input_ids": torch.randint(0, 25, (4, 9)),
        "attention_mask": (torch.rand(4, 9) > 0.3).long(),
    }
    return Case(nets.DictModel(), inputs)


def shared() -> Case:
    return Case(nets.SharedWeights(), torch.randn(3, 5))


def weight_norm() -> Case:
    norm = nn.utils.parametrizations
    model = nn.Sequential(
        norm.weight_norm(nn.Linear(5, 6)), nn.Tanh(), norm.spectral_norm(nn.Linear(6, 4)),
        nn.Tanh(), nn.Linear(4, 3),
    )  # fmt: skip
    return Case(model, torch.randn(3, 5))


def sequence_first() -> Case:
    return Case(nets.SequenceFirst(), torch.randn(3, 5, 4))


def windows() -> Case:
    return Case(nets.Windows(), torch.randn(3, 8, 4))


def tokens() -> Case:
    return Case(nets.FirstOf(nets.Tokens()), torch.randn(3, 5, 6))


def swin() -> Case:
    from torchvision.models.swin_transformer import SwinTransformer

    model = SwinTransformer([2, 2], 4, [2, 1], [1, 2], [4, 4], num_classes=3)
    for p in model.parameters():
        nn.init.normal_(p, std=0.3)
    return Case(model, torch.randn(2, 3, 24, 24))


def in_place() -> Case:
    return Case(nets.InPlace(), torch.randn(3, 2, 7, 8))


CASES = (
    small_resnet, torchvision_resnet18, vit, vgg, convnext, mobilenet, grouped_and_dilated,
    one_and_three_dimensional, text, tabular_mlp, recurrent(nn.LSTM), recurrent(nn.GRU), attention,
    dict_input, shared, weight_norm, sequence_first, windows, in_place, tokens, swin,
)  # fmt: skip


def cast(case: Case, dtype: torch.dtype) -> Case:
    def convert(value: Tensor) -> Tensor:
        return value.to(dtype) if value.is_floating_point() else value

    inputs = case.inputs
    inputs = (
        convert(inputs)
        if isinstance(inputs, Tensor)
        else {k: convert(v) for k, v in inputs.items()}
    )
    return Case(nets.settle(case.model).to(dtype).eval(), inputs, case.slow)


class OneBatch(torch.utils.data.Dataset[object]):
    """Samples as a dataset whose items are what the batch is made of."""

    def __init__(self, inputs: nets.Inputs) -> None:
        self.inputs = inputs

    def __len__(self) -> int:
        return (
            len(next(iter(self.inputs.values())))
            if isinstance(self.inputs, dict)
            else len(self.inputs)
        )

    def __getitem__(self, i: int) -> object:
        if isinstance(self.inputs, dict):
            return {key: value[i] for key, value in self.inputs.items()} | {"labels": 0}
        return self.inputs[i], 0


@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
@pytest.mark.parametrize("make", CASES, ids=lambda make: make.__name__)
def test_equals_torch_func(make: Callable[[], Case], dtype: torch.dtype) -> None:
    case = cast(make(), dtype)
    model, data = case.model, OneBatch(case.inputs)
    expected = reference.per_sample_gradients(model, case.inputs)
    mask = some_of_each(model)
    columns = expected_columns(expected, mask, None)
    factors = masked_gradients(model, data, mask, batch_size=2, rank=columns.shape[1])
    assert factors.dtype == dtype
    assert relative_error(factors.dense(), columns) < BOUNDS[dtype]

    diagonal = fisher_diagonal(model, data, batch_size=2)
    assert list(diagonal) == [n for n, p in model.named_parameters() if p.requires_grad]
    for name, values in expected.items():
        wanted = values.square().sum(1).mean(0)
        assert relative_error(diagonal[name], wanted) < 10 * BOUNDS[dtype], name


@pytest.mark.parametrize("make", CASES, ids=lambda make: make.__name__)
def test_rules_cover_all_but_the_expected(make: Callable[[], Case]) -> None:
    """The slow way is taken where it must be, and nowhere else."""
    case = cast(make(), torch.float32)
    names = [n for n, _ in case.model.named_parameters()]
    with evaluating(case.model) as net:
        plan = make_plan(net, case.inputs, names)
    assert set(plan.others) == {n for n in names if case.slow(n)}


@pytest.mark.parametrize("make", [small_resnet, text, tabular_mlp, vit], ids=lambda m: m.__name__)
def test_structured_head(make: Callable[[], Case]) -> None:
    case = cast(make(), torch.float64)
    scores = fisher_diagonal(case.model, OneBatch(case.inputs))
    mask = FisherMask.from_scores(scores, 0.3, model=case.model, inputs=case.inputs)
    head = mask.head_names[0].rpartition(".")[0]
    columns = expected_columns(reference.per_sample_gradients(case.model, case.inputs), mask, head)
    factors = masked_gradients(case.model, case.inputs, mask, rank=columns.shape[1])
    assert factors.coupling is not None and factors.head_index is None
    assert relative_error(factors.dense(), columns) < 1e-10
