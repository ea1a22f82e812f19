"""Who consumes which parameter: of every kind of use, and of whole networks."""

from __future__ import annotations

import networks as nets
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from fishermask_fast.network import (
    VIEWS,
    Consumer,
    Consumers,
    asking,
    call,
    evaluating,
    find_again,
    match_consumers,
    read_graph,
    trial_samples,
)

norms = nn.utils.parametrizations


def find_consumers(net: nn.Module, inputs: nets.Inputs) -> Consumers:
    """Of all parameters, by a forward pass of two samples and one of three."""
    wanted = dict(net.named_parameters())
    with asking(wanted.values()):
        few, more = (read_graph(call(net, some)) for some in trial_samples(inputs))
    return match_consumers(few, more, wanted)


def consumers_of(model: nn.Module, inputs: nets.Inputs) -> Consumers:
    with evaluating(model) as net:
        return find_consumers(net, inputs)


def unreached(found: Consumers) -> tuple[str, ...]:
    """Parameters on which the logits do not depend."""
    return tuple(name for name, uses in found.uses.items() if not (uses or name in found.unknown))


def direct(use: Consumer) -> bool:
    """Whether the parameter's own numbers are consumed: no arithmetic lies between."""
    return VIEWS.issuperset(use.path)


def all_uses(found: Consumers) -> list[Consumer]:
    return [use for uses in found.uses.values() for use in uses]


def last(found: Consumers) -> list[Consumer]:
    """Those whose result goes to no other consumer: nothing but the logits lies behind them."""
    below: set[object] = set()
    stack = [node for use in all_uses(found) for node, _ in use.node.next_functions]
    while stack:
        node = stack.pop()
        if node is not None and node not in below:
            below.add(node)
            stack.extend(source for source, _ in node.next_functions)
    return [use for use in all_uses(found) if use.node not in below]


def kinds(found: Consumers, name: str) -> list[tuple[str, int]]:
    return [(use.kind.removesuffix("Backward0"), use.argument) for use in found.uses[name]]


class Uses(nn.Module):
    """One parameter `w` (6, 6), used by `how(x, w)`, and a head."""

    def __init__(self, how: object) -> None:
        super().__init__()
        self.how = how
        self.w = nn.Parameter(torch.randn(6, 6))
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.how(x, self.w))


USES = {
    "linear": (F.linear, [("Mm", 1)], ["T"]),
    "product": (lambda x, w: x @ w, [("Mm", 1)], []),
    "first": (lambda x, w: (w @ x.T).T, [("Mm", 0)], []),
    "row": (lambda x, w: x + w[2], [("Add", 1)], ["Select"]),
    "column": (lambda x, w: w[:, 1:2].T * x, [("Mul", 0)], ["Slice", "Permute"]),
    "expanded": (lambda x, w: x + w[0].expand(len(x), -1), [("Expand", 0)], ["Select"]),
    "merged": (
        lambda x, w: F.linear(x, 2 * w + w @ w),
        [("Mm", 1)],
        ["Add", "Mm", "Mul", "T"],
    ),
    "twice": (lambda x, w: (x @ w).tanh() @ w, [("Mm", 1), ("Mm", 1)], []),
    "constant table": (
        lambda x, w: x + F.embedding(torch.tensor([4]), w),
        [("Add", 1)],
        ["Embedding"],
    ),
    "looked up": (lambda x, w: F.embedding((x[:, 0] > 0).long(), w), [("Embedding", 0)], []),
    "dtype": (lambda x, w: x @ w.double().float(), [("Mm", 1)], ["ToCopy", "ToCopy"]),
    "not at all": (lambda x, w: x * w.detach().sum(), [], []),
}


@pytest.mark.parametrize("name", USES)
def test_kinds_of_use(name: str) -> None:
    how, uses, path = USES[name]
    model = Uses(how)
    found = consumers_of(model, torch.randn(5, 6))
    assert found.unknown == frozenset()
    assert kinds(found, "w") == uses
    (first, *_) = found.uses["w"] or (None,)
    if first is None:
        assert unreached(found) == ("w",)
    else:
        steps = [step.removesuffix("Backward0") for step in first.path]
        assert steps == path or sorted(steps) == path
        assert direct(first) is (name not in ("merged", "constant table"))
    assert [use.parameter for use in last(found)] == ["head.weight", "head.bias"]
    assert all(p.requires_grad for p in model.parameters())


def test_a_parameter_that_is_used_at_two_arguments() -> None:
    found = consumers_of(Uses(lambda x, w: F.linear(x, w, w[0])), torch.randn(5, 6))
    assert {use.argument: use.path for use in found.uses["w"]} == {
        0: ("SelectBackward0",),
        2: ("TBackward0",),
    }


@pytest.mark.parametrize(
    ("layer", "names"),
    [
        (norms.weight_norm(nn.Linear(6, 6)), ["original0", "original1"]),
        (norms.spectral_norm(nn.Linear(6, 6)), ["original"]),
        (norms.orthogonal(nn.Linear(6, 6), use_trivialization=False), ["original"]),
    ],
)
def test_weights_behind_arithmetic(layer: nn.Module, names: list[str]) -> None:
    model = nn.Sequential(layer, nn.Tanh(), nn.Linear(6, 3))
    found = consumers_of(model, torch.randn(4, 6))
    for name in names:
        (use,) = found.uses[f"0.parametrizations.weight.{name}"]
        assert (use.kind, use.argument, direct(use)) == ("AddmmBackward0", 2, False)


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("name", ["weight_g", "weight_v"])
def test_old_weight_norm(name: str) -> None:
    layer = nn.utils.weight_norm(nn.Conv1d(2, 3, 2))
    model = nn.Sequential(layer, nn.Flatten(), nn.Linear(12, 3))
    (use,) = consumers_of(model, torch.randn(4, 2, 5)).uses[f"0.{name}"]
    assert (use.kind, use.argument, direct(use)) == ("ConvolutionBackward0", 1, False)


class Lora(nn.Module):
    """A frozen weight with an update of rank two merged into it."""

    def __init__(self) -> None:
        super().__init__()
        self.base = nn.Linear(6, 5)
        self.a, self.b = nn.Parameter(torch.randn(2, 6)), nn.Parameter(torch.randn(5, 2))
        self.head = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.linear(x, self.base.weight + 0.5 * self.b @ self.a).tanh())


def test_lora_merged() -> None:
    found = consumers_of(Lora(), torch.randn(4, 6))
    for name in ("a", "b", "base.weight"):
        (use,) = found.uses[name]
        assert (use.kind, use.argument, direct(use)) == ("MmBackward0", 1, False)
    assert unreached(found) == ("base.bias",)


def test_weights_used_often() -> None:
    found = consumers_of(nets.SharedWeights(), torch.randn(3, 5))
    assert kinds(found, "first.weight") == [("Addmm", 2)]
    assert kinds(found, "twice.weight") == [("Addmm", 2)] * 2
    assert kinds(found, "one.weight") == [("Mm", 1)] * 2
    assert sorted(kinds(found, "besides.weight")) == [("Addmm", 2), ("Mm", 1)]
    assert kinds(found, "besides.bias") == [("Addmm", 0)]


@pytest.mark.parametrize(
    ("model", "inputs", "nearest"),
    [
        (nets.TextClassifier(), torch.randint(0, 30, (4, 9)), "fc.weight"),
        (nets.Attention(), torch.randn(3, 5, 8), "head.weight"),
        (nets.SequenceFirst(), torch.randn(3, 5, 4), "head.weight"),
        (nets.Windows(), torch.randn(3, 8, 4), "head.weight"),
        (nets.InPlace(), torch.randn(3, 2, 7, 8), "head.weight"),
        (nets.Scaled(), torch.randn(3, 5), "fc.weight"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else None,
)
def test_every_parameter_has_consumers(model: nn.Module, inputs: Tensor, nearest: str) -> None:
    found = consumers_of(model, inputs)
    assert not found.unknown and not unreached(found)
    assert last(found)[0].parameter == nearest


def test_another_batch_has_the_same_consumers() -> None:
    class Sometimes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(2, 2), nn.Linear(2, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.a(x) if x.max() < 10 else self.b(self.a(x))

    with evaluating(Sometimes()) as net:
        found = find_consumers(net, torch.zeros(3, 2))
        parameters = dict(net.named_parameters())
        assert unreached(found) == ("b.weight", "b.bias")
        for inputs, same in ((torch.ones(7, 2), True), (torch.full((7, 2), 20.0), False)):
            with asking(parameters.values()):
                graph = read_graph(call(net, inputs))
            for name, parameter in parameters.items():
                again = find_again(graph, parameter, found.trails[name])
                if same:
                    uses = [(use.kind, use.argument) for use in found.uses[name]]
                    assert [(node.name(), i) for node, i in again] == uses
                elif name[0] == "b":
                    assert again is None


def test_what_the_graph_does_not_tell_is_unknown() -> None:
    class Hidden(nn.Module):
        def __init__(self, reentrant: bool) -> None:
            super().__init__()
            self.first, self.body = nn.Linear(4, 4), nn.Linear(4, 4)
            self.head, self.reentrant = nn.Linear(4, 3), reentrant

        def forward(self, x: Tensor) -> Tensor:
            x = checkpoint(self.body, self.first(x), use_reentrant=self.reentrant)
            return self.head(x)

    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.body(x) if len(x) < 3 else self.body(x).tanh()

    inputs = torch.randn(4, 4)
    assert consumers_of(Hidden(True), inputs).unknown == {"body.weight", "body.bias"}
    assert consumers_of(Hidden(False), inputs).unknown == frozenset()
    assert consumers_of(Counting(), inputs).unknown == {"body.weight", "body.bias"}


class Auxiliary(nn.Module):
    """A second head, which only training asks."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.aux, self.head = nn.Linear(4, 4), nn.Linear(4, 3), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        x = self.body(x).tanh()
        return self.head(x), self.aux(x)


def test_heads_that_do_not_reach_the_logits() -> None:
    found = consumers_of(Auxiliary(), torch.randn(3, 4))
    assert unreached(found) == ("aux.weight", "aux.bias") and not found.unknown


def swin() -> nn.Module:
    from torchvision.models.swin_transformer import SwinTransformer

    return SwinTransformer([2, 2], 4, [2, 1], [1, 2], [4, 4], num_classes=3)


def mobilenet() -> nn.Module:
    from torchvision.models import MobileNetV2

    setting = [[1, 8, 1, 1], [3, 8, 2, 2]]
    return MobileNetV2(3, width_mult=0.1, inverted_residual_setting=setting)


def test_whole_networks() -> None:
    pytest.importorskip("torchvision")
    expected = {
        swin: {"Addmm", "Mm", "NativeLayerNorm", "Add", "Convolution"},
        mobilenet: {"Addmm", "Convolution", "NativeBatchNorm"},
    }
    for make, kinds_there in expected.items():
        found = consumers_of(make(), torch.randn(2, 3, 32, 32))
        assert not found.unknown and not unreached(found)
        uses = all_uses(found)
        assert {use.kind.removesuffix("Backward0") for use in uses} == kinds_there
        assert {use.kind for use in last(found)} == {"AddmmBackward0"}
        paths = {use.path for use in uses if not direct(use)}
        assert (make is swin) is bool(paths)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("Albert", {"Addmm", "NativeLayerNorm", "Embedding", "Add"}),
        ("GPT2", {"Addmm", "Mm", "NativeLayerNorm", "Embedding", "Add"}),
        ("Llama", {"Mm", "Mul", "Embedding"}),
    ],
)
def test_transformers(kind: str, expected: set[str]) -> None:
    hf = pytest.importorskip("transformers")
    sizes = {
        "Albert": {"embedding_size": 4},
        "GPT2": {"n_embd": 8, "n_layer": 2, "n_head": 2},
        "Llama": {"num_key_value_heads": 2},
    }[kind]
    if kind != "GPT2":
        sizes |= {"hidden_size": 8, "intermediate_size": 12, "num_attention_heads": 2}
        sizes |= {"num_hidden_layers": 2}
    config = getattr(hf, f"{kind}Config")(vocab_size=20, num_labels=3, pad_token_id=0, **sizes)
    model = getattr(hf, f"{kind}ForSequenceClassification")(config)
    found = consumers_of(model, {"input_ids": torch.randint(1, 20, (3, 7))})
    assert not found.unknown and not unreached(found)
    assert {use.kind.removesuffix("Backward0") for use in all_uses(found)} == expected
    assert last(found)[0].parameter == ("classifier.weight" if kind == "Albert" else "score.weight")
    shared = {name for name, uses in found.uses.items() if len(uses) == 2}
    assert all("albert_layers" in name for name in shared) and (kind == "Albert") is bool(shared)
