"""Values that are good for an argument of a kind, and values that are bad for it.

A kind is what an annotation and a docstring say an argument is: CHOICES, say, or a matrix. Its bad
values are of another type, shape or dtype, out of range, NaN, empty, huge.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import fishermask_fast as fm

N, R, K = 6, 2, 4
NAN, INF = float("nan"), float("inf")


class Odd:
    """What no argument is."""

    def __repr__(self) -> str:
        return "Odd()"


def brief(value: object) -> str:
    """The beginning of a value as text; Python does not print integers of thousands of digits."""
    if isinstance(value, int) and value.bit_length() > 4000:
        return "''"
    return repr(str(value)[:60])


def spoiled(tensor: Tensor, value: float) -> Tensor:
    tensor = tensor.clone()
    tensor.flatten()[-1] = value
    return tensor


def gradients() -> Tensor:
    return torch.randn(N, R, K, generator=torch.Generator().manual_seed(0))


def matrix() -> Tensor:
    root = torch.randn(K, K, generator=torch.Generator().manual_seed(1))
    return root @ root.T


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 3))


def data() -> Tensor:
    return torch.randn(N, 3, generator=torch.Generator().manual_seed(2))


def mask() -> fm.FisherMask:
    return fm.FisherMask.head(model())


def factors(n_rows: int = R, headed: bool = False) -> fm.GradientFactors:
    middle = torch.randn(N, n_rows, K, generator=torch.Generator().manual_seed(3))
    if not headed:
        return fm.GradientFactors(middle)
    return fm.GradientFactors(middle, torch.randn(N, n_rows, 3), torch.randn(N, 2))


class NoForward(nn.Linear):
    def __init__(self) -> None:
        super().__init__(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)[:, :1]


def frozen() -> nn.Module:
    return model().requires_grad_(False)


class OddIndex:
    """What says that it is an integer and gives none."""

    def __init__(self, index: Any) -> None:
        self.index = index

    def __repr__(self) -> str:
        return f"OddIndex({self.index!r})"

    def __index__(self) -> int:
        if isinstance(self.index, Exception):
            raise self.index
        found: int = self.index
        return found

    __float__ = __index__  # type: ignore[assignment]


HUGE = 10**5000  # which Python does not even print
_NO_INT: list[Any] = [
    "3", 1.5, NAN, [2], True, Odd(), torch.tensor([1, 2]), torch.tensor(1.5), b"1", int, OddIndex,
    OddIndex("1"), OddIndex(1.5), OddIndex(RuntimeError("odd")), OddIndex(None), np.array(1.5),
    np.array([1]), np.array("1"), np.array(True), np.float64(1.0), torch.tensor(True),
    torch.tensor(1j), torch.zeros(0), 10**400, HUGE, -HUGE, 2**70, lambda: 1,
    np.datetime64(1, "s"), torch.empty((), dtype=torch.int64, device="meta"),
]  # fmt: skip
_NO_TENSOR: list[Any] = ["x", 3, Odd(), [[1.0]], {"a": 1}, b"1"]
# Tensors without numbers of their own that can be read.
_NO_NUMBERS: list[Tensor] = [
    torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]),
    torch.ones(N, device="meta"),
    torch.quantize_per_tensor(torch.ones(N), 0.1, 0, torch.qint8),
]
_NO_FLOAT: list[Any] = [
    "1", [1.0], Odd(), True, torch.tensor([1.0, 2.0]), 1j, float, HUGE, np.array([1.0]),
    np.array("1"), np.array(True), OddIndex("1"), OddIndex(RuntimeError("odd")),
    torch.tensor(1j), torch.tensor(1.0, device="meta"),
]  # fmt: skip

# kind -> values that are bad for any argument of it.
BAD: dict[str, Callable[[], list[Any]]] = {
    "count": lambda: [*_NO_INT, 0, -1, -(2**70), np.array(0), torch.tensor(0)],
    "size": lambda: [*_NO_INT, -1, -(2**70)],
    "pool count": lambda: [*_NO_INT, 0, -1, N + 1, 2**62, None],
    "seed": lambda: [*_NO_INT, -1, 2**63, None],
    "positive": lambda: [*_NO_FLOAT, 0.0, -1.0, NAN, INF, 10**400, None],
    "optional positive": lambda: [x for x in BAD["positive"]() if x is not None],
    "optional choice": lambda: [x for x in BAD["choice"]() if x is not None],
    "factors above 0": lambda: [
        "x", Odd(), b"1", torch.ones(N + 1), torch.zeros(N), -torch.ones(N), torch.ones(N, 1),
        spoiled(torch.ones(N), NAN), spoiled(torch.ones(N), INF), torch.ones(N) * 1j, {"a": 1},
    ],
    "sum weights": lambda: [
        "x", Odd(), b"1", torch.ones(N + 1), -torch.ones(N), torch.ones(N, 1),
        spoiled(torch.ones(N), NAN), spoiled(torch.ones(N), INF), torch.ones(N) * 1j, {"a": 1},
    ],
    "samples": lambda: [
        "x", Odd(), [N], [-1], [0.5], ["a"], torch.tensor([[0]]), torch.tensor([0.5]), [True],
    ],
    "clusters": lambda: [
        "x", Odd(), torch.zeros(N + 1).long(), torch.zeros(N), ["a"] * N, [0.5] * N,
        torch.zeros(N, 1).long(),
    ],
    "eval data": lambda: [
        "data", 3, Odd(), {"x": data()}, torch.zeros(0, 3), torch.tensor(1.0), torch.zeros(N, 4),
        spoiled(data(), NAN), [None] * N,
    ],
    "pair": lambda: [3, "x", Odd(), [], [np.zeros((N, 3))], {"a": 1}],
    "eval weights": lambda: ["nonsense", 3, Odd(), -torch.ones(N), torch.ones(N + 1),
                             spoiled(torch.ones(N), NAN), torch.ones(N, 2), ["a"]],
    "fraction": lambda: [*_NO_FLOAT, 0.0, -0.5, 1.5, NAN, INF, 10**400],
    "flag": lambda: ["yes", 2, Odd(), None, [], torch.tensor([True, False])],
    "choice": lambda: ["nonsense", "", 3, Odd(), None, ["a"], np.array(["a", "b"])],
    "path": lambda: [3, Odd(), b"x", ["a"], "", "no/such/folder/file", "."],
    "gradients": lambda: [
        *_NO_TENSOR, torch.zeros(0, R, K), torch.zeros(N, 0, K), torch.zeros(N, R, 0),
        torch.zeros(N, K), torch.zeros(N), torch.zeros(N, R, K, 1), torch.zeros(()),
        torch.zeros(N, R, K, dtype=torch.int64), torch.zeros(N, R, K, dtype=torch.bool),
        torch.zeros(N, R, K, dtype=torch.complex64), spoiled(gradients(), NAN),
        spoiled(gradients(), INF), torch.zeros(N, R, K, device="meta"),
        gradients().to_sparse(), np.array(["a"]), np.zeros((N, R, K), dtype=object),
        np.ma.masked_array(np.zeros((N, R, K)), mask=True), np.zeros((N, R, K), dtype=int),
    ],
    "matrix": lambda: [
        *_NO_TENSOR, torch.zeros(K), torch.zeros(K, K + 1), torch.zeros(K + 1, K + 1),
        torch.zeros(0, 0), matrix().triu(), spoiled(matrix(), NAN), spoiled(matrix(), INF),
        matrix().long(), matrix().bool(), matrix().to(torch.complex64),
        torch.zeros(K, K, device="meta"), matrix().to_sparse(), np.array("a"),
    ],
    "model": lambda: [
        "model", 3, Odd(), None, nn.Linear, model().state_dict(), nn.Flatten(), frozen(),
        nn.LazyLinear(3), torch.jit.trace(model(), data()),
    ],
    "model of data": lambda: [
        *BAD["model"](),
        nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5, track_running_stats=False),
                      nn.Linear(5, 3)),
        nn.Linear(4, 3), NoForward(), nn.Linear(3, 1),
        nn.Sequential(nn.Linear(3, 3), nn.Unflatten(1, (3, 1)), nn.Identity()),
    ],
    "data": lambda: [
        "data", 3, Odd(), {"x": data()}, iter([1]), torch.zeros(0, 3), torch.tensor(1.0),
        data().to_sparse(), [], torch.zeros(N, 4), spoiled(data(), NAN), [None] * N,
        [Odd()] * N, torch.utils.data.DataLoader(list(data()), sampler=[1, 2]),  # type: ignore[arg-type]
    ],
    "labeled data": lambda: [
        x for x in BAD["data"]()
        if not (isinstance(x, Tensor) and not x.is_nested and x.ndim and len(x) == 0) and x != []
    ],
    "mask": lambda: [
        "nonsense", 3, Odd(), None, torch.zeros(3), [1, 2], fm.FisherMask.head(nn.Linear(4, 3)),
        fm.FisherMask.head(nn.Linear(3, 4)),
    ],
    "mask or method": lambda: [
        "nonsense", 3, Odd(), None, torch.zeros(3), fm.FisherMask.head(nn.Linear(4, 3)),
    ],
    "device": lambda: [
        "nonsense", "cuda:77", "meta", Odd(), 1.5, ["cpu"], "", "cpu:99", "cuda:-1", b"cpu", -1, 77,
        2**70, HUGE, torch.device("meta"), torch.device, torch.tensor(0), True, "cpu\0",
        "x" * 10**6,
        OddIndex(RuntimeError("odd")), "xla", "mps", "vulkan", "privateuseone",
    ],
    "device or meta": lambda: [
        x for x in BAD["device"]() if x != "meta" and x != torch.device("meta")
    ],
    "indices": lambda: [
        [], [N], [-1], [0.5], ["a"], 3, Odd(), [True], [None], torch.tensor([0.0]), "ab",
        torch.zeros(2, 2, dtype=torch.int64), [2**70],
    ],
    "places": lambda: [
        "ab", Odd(), torch.tensor([0.5]), [0, 1], torch.arange(N),
    ],
    "group": lambda: ["nccl", 3, Odd(), [0, 1]],
    "likelihood": lambda: ["nonsense", 3, Odd(), None, ["categorical"], ""],
    "optional likelihood": lambda: ["nonsense", 3, Odd(), ["categorical"], ""],
    "embeddings": lambda: [
        *_NO_TENSOR, torch.zeros(0, 3), torch.zeros(3), torch.zeros(N, 3, dtype=torch.int64),
        torch.zeros(N + 1, 3), spoiled(data(), NAN), spoiled(data(), INF),
        data().to(torch.complex64), np.array(["a"]), torch.zeros(N, 3, device="meta"),
    ],
    "probabilities": lambda: [
        *_NO_TENSOR, torch.zeros(0, 3), torch.ones(N), torch.ones(N, 3, dtype=torch.int64),
        torch.full((N + 1, 3), 1 / 3), torch.full((N, 3), 0.5), -torch.full((N, 3), 1 / 3),
        spoiled(torch.full((N, 3), 1 / 3), NAN), torch.full((N, 3), INF), np.array(["a"]),
    ],
    "head mask": lambda: [
        "x", 1.5, 0, -1, 10**6, 2**70, Odd(), [], torch.tensor([0.5]), torch.tensor([10**6]),
        torch.tensor([-1]), torch.tensor([1, 1]), torch.tensor([2, 1]), NAN, True,
    ],
    "scores": lambda: [
        "x", 3, Odd(), None, {}, [1.0], {"w": 3}, {"w": "a"}, {3: torch.ones(2)},
        {"w": torch.tensor([NAN, 1.0])},
        {"w": torch.ones(2, dtype=torch.int64)}, {"w": torch.ones(2, dtype=torch.complex64)},
    ],
    "inputs": lambda: [  # numbers that are not finite have a graph too
        x for x in BAD["data"]() if not (isinstance(x, Tensor) and str(x).find("nan") > 0)
    ],
    "many factors": lambda: [
        "x", 3, Odd(), None, [], [3], [None], gradients(), [gradients()],
        [factors(), factors(n_rows=R + 1)], [factors(), gradients()],
        [factors(), factors(headed=True)],
        {"a": factors()}, [[factors()]], iter([3]), factors(),
    ],
    "mapping": lambda: [
        "x", 3, Odd(), None, [len], lambda part: None, lambda part: 3,
        lambda part: part[0, 0], lambda part: part.long(), lambda part: part.numpy(),
        lambda part: part[:1].to_sparse(),
    ],
    "layer": lambda: ["nowhere", 3, Odd(), ["2"]],
    "factor part": lambda: [
        "x", 3, int, Odd(), [[1.0]], torch.zeros(()), torch.zeros(N, R, K, 1),
        torch.zeros(N, R, K, dtype=torch.int64), torch.zeros(N + 1, R, K), torch.zeros(N + 1, 3),
        gradients().to_sparse(), torch.zeros(N, R, K, dtype=torch.complex64), np.zeros((N, R, K)),
    ],
    "head index": lambda: [
        "x", 3, Odd(), [0], torch.tensor([0.5]), torch.tensor([[0]]), torch.tensor([10**6]),
        torch.tensor([-1]), torch.tensor([1, 1]), torch.tensor([2, 1]), torch.tensor([True]),
    ],
    "shapes": lambda: [3, "x", Odd(), None, {"w": 3}, {"w": (1.5,)}, {3: (2,)}, {"w": (-2,)}, [1]],
    "positions": lambda: [
        3, "x", Odd(), None, {}, {"w": [0]}, {"w": torch.tensor([9])}, {"w": torch.tensor([0.5])},
        {"w": torch.tensor([1, 0])}, {"v": torch.tensor([0])}, {"w": torch.tensor([[0]])}, [1],
    ],
    "names": lambda: [3, Odd(), ("nowhere",), (3,), "w"],
    "text": lambda: [3, Odd(), None, ["a"]],
    "factors": lambda: ["x", 3, Odd(), None, gradients(), [gradients()]],
    "other mask": lambda: ["x", 3, Odd(), None, {"w": torch.tensor([0])}],
    "stored": lambda: [3, Odd(), b"x", ["a"], "", "no/such/file", ".", __file__],
    "predictions": lambda: [
        3, "x", Odd(), None, [], [np.zeros((N, 3))], [np.zeros(N), np.zeros(N)],
        [np.zeros((0, 3)), np.zeros((0, 3))], [np.zeros((N, 3)), np.zeros((N + 1, 3))],
        [np.full((N, 3), NAN), np.zeros((N, 3))], [np.zeros((N, 3)), np.full((N, 3), INF)],
        [np.array([["a"]]), np.array([["b"]])], iter([3]),
    ],
    "items": lambda: [3, "x", Odd(), [], {"x": 1}, [3] * N, [{"y": 1.0}] * N, [{}] * N, [None] * N],
    "labeled items": lambda: [x for x in BAD["items"]() if x != []],
    "tokenizer": lambda: ["bert", 3, Odd()],
    "function": lambda: ["x", 3, Odd(), [len]],
    "module": lambda: ["x", 3, Odd(), None],
    "dtype": lambda: ["float32", 3, Odd(), torch.int64, torch.complex64, float, np.float32],
    "sample index": lambda: ["x", 1.5, N, -N - 1, Odd(), None, torch.tensor([0.5]),
                             torch.tensor([N]), [0.5]],
    "anything": lambda: [],
}  # fmt: skip
# Kinds that take a tensor.
for _kind in (
    "factors above 0", "sum weights", "samples", "clusters", "eval data", "eval weights",
    "gradients", "matrix", "data", "mask", "indices", "places", "embeddings",
    "probabilities", "head mask", "factor part", "head index", "predictions", "choice",
):  # fmt: skip
    BAD[_kind] = lambda values=BAD[_kind]: [*values(), *_NO_NUMBERS]  # type: ignore[misc]
