"""Bad values for every argument of every public function, generated from the signatures.

An annotation says which kinds an argument is of (CHOICES, say, or a matrix); a kind has values that
no argument of it may have: of another type, shape, dtype, out of range, NaN, empty, huge. A public
function without an entry in CALLS, or an argument without a kind, fails the tests.
"""

from __future__ import annotations

import inspect
import pathlib
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import fishermask_fast as fm
from fishermask_fast import compat
from fishermask_fast.integrations import baal, huggingface, lightning

N, R, K = 6, 2, 4
NAN, INF = float("nan"), float("inf")


class Odd:
    """What no argument is."""

    def __repr__(self) -> str:
        return "Odd()"


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


class NoForward(nn.Linear):
    def __init__(self) -> None:
        super().__init__(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)[:, :1]


def frozen() -> nn.Module:
    return model().requires_grad_(False)


_NO_INT: list[Any] = [
    "3",
    1.5,
    NAN,
    [2],
    True,
    Odd(),
    torch.tensor([1, 2]),
    torch.tensor(1.5),
    b"1",
]
_NO_TENSOR: list[Any] = ["x", 3, Odd(), [[1.0]], {"a": 1}, b"1"]
_NO_FLOAT: list[Any] = ["1", [1.0], Odd(), True, torch.tensor([1.0, 2.0]), 1j]

# kind -> values that are bad for any argument of it.
BAD: dict[str, Callable[[], list[Any]]] = {
    "count": lambda: [*_NO_INT, 0, -1, -(2**70)],
    "size": lambda: [*_NO_INT, -1, -(2**70)],
    "pool count": lambda: [*_NO_INT, 0, -1, N + 1, 2**70, None],
    "seed": lambda: [*_NO_INT, -1, 2**70, None],
    "positive": lambda: [*_NO_FLOAT, 0.0, -1.0, NAN, INF, 10**400, None],
    "fraction": lambda: [*_NO_FLOAT, 0.0, -0.5, 1.5, NAN, INF, 10**400],
    "flag": lambda: ["yes", 2, Odd(), None, [], torch.tensor([True, False])],
    "choice": lambda: ["nonsense", "", 3, Odd(), None, ["a"]],
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
        if not (isinstance(x, (list, Tensor)) and getattr(x, "ndim", 1) and len(x) == 0)
    ],
    "mask": lambda: [
        "nonsense", 3, Odd(), None, torch.zeros(3), [1, 2], fm.FisherMask.head(nn.Linear(4, 3)),
        fm.FisherMask.head(nn.Linear(3, 4)),
    ],
    "mask or method": lambda: [
        "nonsense", 3, Odd(), None, torch.zeros(3), fm.FisherMask.head(nn.Linear(4, 3)),
    ],
    "device": lambda: ["nonsense", "cuda:77", "meta", Odd(), 1.5, ["cpu"], ""],
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
    "layer": lambda: ["nowhere", 3, Odd(), ["2"]],
    "factor part": lambda: [
        "x", 3, Odd(), [[1.0]], torch.zeros(()), torch.zeros(N, R, K, 1),
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
    "dtype": lambda: ["float32", 3, Odd(), torch.int64],
    "sample index": lambda: ["x", 1.5, N, -N - 1, Odd(), None, torch.tensor([0.5]),
                             torch.tensor([N]), [0.5]],
    "anything": lambda: [],
}  # fmt: skip


@dataclass(frozen=True)
class Call:
    """A public function, valid arguments, and the kind of each.

    Attributes:
        function: what is called, with keywords.
        valid: makes arguments that it takes.
        kinds: argument -> its kind, for every argument of the signature.
        also: argument -> other names that a message may have for it.
        optional: arguments of which None is no bad value.
    """

    function: Callable[..., Any]
    valid: Callable[[], dict[str, Any]]
    kinds: dict[str, str]
    also: dict[str, tuple[str, ...]] = field(default_factory=dict)


_OPTIONS = {"lamb": "positive", "n_labeled": "size", "backward_steps": "size"}
_SELECT = {
    "gradients": "gradients", "n_select": "pool count", "fisher": "matrix",
    "labeled_fisher": "matrix", **_OPTIONS, "chunk_size": "count", "progress": "flag",
}  # fmt: skip


def _selection() -> dict[str, Any]:
    return {
        "gradients": gradients(), "n_select": 2, "fisher": matrix(), "labeled_fisher": matrix(),
        "n_labeled": 3,
    }  # fmt: skip


def _published() -> dict[str, Any]:
    return {"X": gradients(), "K": 2, "fisher": matrix(), "iterates": matrix(), "nLabeled": 3}


_PUBLISHED = {
    "X": "gradients", "K": "pool count", "fisher": "matrix", "iterates": "matrix",
    "lamb": "positive", "backwardSteps": "size", "nLabeled": "size",
}  # fmt: skip
_ALSO = {
    "X": ("gradients",), "K": ("n_select",), "backwardSteps": ("backward_steps",),
    "nLabeled": ("n_labeled",), "iterates": ("labeled_fisher",), "chunkSize": ("chunk_size",),
}  # fmt: skip
_SELECTOR = {
    "model": "model of data", "fraction": "fraction", "n_parameters": "count",
    "mask": "mask or method", "head": "layer",
    "keep_head": "flag", "likelihood": "likelihood", "weighting": "choice", "lamb": "positive",
    "backward_steps": "size", "fisher_samples": "count", "rank": "count", "batch_size": "count",
    "device": "device", "seed": "seed", "group": "group",
}  # fmt: skip


def _query(**options: Any) -> Any:
    torch.manual_seed(0)
    return fm.FisherMaskSelector(**options).query(data(), 2, progress=False)


def _datamodule(pool: Any = None) -> Any:
    class Data:
        trainer = None

        def prepare_data(self) -> None: ...

        def setup(self, stage: str) -> None: ...

        def predict_dataloader(self) -> Any:
            return torch.utils.data.DataLoader(list(data()) if pool is None else pool, 2)

        def train_dataloader(self) -> Any:
            return None

    return Data()


class Named(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.fc(x)
        return found


def _parts() -> dict[str, Any]:
    return {
        "middle": gradients(), "coupling": torch.randn(N, R, 3), "hidden": torch.randn(N, 2),
        "head_index": torch.tensor([0, 3]),
    }  # fmt: skip


def calls(folder: pathlib.Path) -> dict[str, Call]:
    """Every public function by name; `folder` takes the files of those that write."""
    head = mask()
    stored = folder / "stored.safetensors"
    if not stored.exists():
        fm.save_factors(fm.GradientFactors(**_parts()), stored)
        head.save(folder / "mask.npz")
    new = str(folder / "new.safetensors")
    query = fm.FisherMaskSelector.query
    factors = fm.GradientFactors(**_parts())
    found: dict[str, Call] = {
        "fast_select": Call(fm.fast_select, _selection, _SELECT),
        "select_batch": Call(
            fm.select_batch, _selection,
            {**_SELECT, "block_size": "count", "precision": "choice", "device": "device",
             "group": "group", "sample_indices": "places"},
        ),
        "compat.select": Call(
            compat.select, _published,
            {**_PUBLISHED, "savefile": "anything", "alg": "anything", "chunkSize": "count"}, _ALSO,
        ),
        "compat.fresh_select": Call(compat.fresh_select, _published, _PUBLISHED, _ALSO),
        "compat.bait_select": Call(
            compat.bait_select, _published, {**_PUBLISHED, "positional": "anything"}, _ALSO
        ),
        "FisherMaskSelector": Call(
            _query, lambda: {"model": model(), "fraction": 0.9}, _SELECTOR,
            {"model": ("fraction", "BatchNorm")},
        ),
        "FisherMaskSelector.query": Call(
            query,
            lambda: {"self": fm.FisherMaskSelector(model(), mask="head"), "unlabeled": data(),
                     "n_select": 2, "labeled": data(), "progress": False},
            {"self": "anything", "unlabeled": "data", "n_select": "pool count",
             "labeled": "labeled data", "progress": "flag", "out": "path"},
            dict.fromkeys(("unlabeled", "labeled"), ("batch", "logits", "outputs")),
        ),
        "FisherMaskSelector.make_mask": Call(
            fm.FisherMaskSelector.make_mask,
            lambda: {"self": fm.FisherMaskSelector(model(), fraction=0.5), "data": data()},
            {"self": "anything", "data": "data", "progress": "flag"},
            {"data": ("batch", "logits", "outputs")},
        ),
        "fisher_diagonal": Call(
            fm.fisher_diagonal, lambda: {"model": model(), "data": data()},
            {"model": "model of data", "data": "data", "likelihood": "likelihood",
             "n_samples": "count", "expectation": "choice", "seed": "seed", "batch_size": "count",
             "device": "device", "progress": "flag", "indices": "indices"},
            {"data": ("batch", "logits", "outputs", "samples"), "model": ("BatchNorm",)},
        ),
        "masked_gradients": Call(
            fm.masked_gradients, lambda: {"model": model(), "data": data(), "mask": head},
            {"model": "model of data", "data": "data", "mask": "mask", "likelihood": "likelihood",
             "weighting": "choice", "rank": "count", "batch_size": "count", "device": "device",
             "progress": "flag", "indices": "indices", "out": "path"},
            {"data": ("batch", "logits", "outputs", "samples"), "model": ("mask",)},
        ),
        "factors_from_embeddings": Call(
            fm.factors_from_embeddings,
            lambda: {"embeddings": data(), "probabilities": torch.full((N, 3), 1 / 3)},
            {"embeddings": "embeddings", "probabilities": "probabilities",
             "likelihood": "likelihood", "mask": "head mask", "rank": "count", "bias": "flag",
             "weighting": "choice"},
        ),
        "save_factors": Call(
            fm.save_factors, lambda: {"factors": factors, "path": new},
            {"factors": "factors", "path": "path"},
        ),
        "StoredFactors": Call(fm.StoredFactors, lambda: {"path": stored}, {"path": "stored"}),
        "StoredFactors.chunks": Call(
            lambda **given: list(fm.StoredFactors.chunks(**given)),
            lambda: {"self": fm.StoredFactors(stored)},
            {"self": "anything", "chunk_size": "count", "start": "size", "stop": "size"},
        ),
        "StoredFactors.fisher": Call(
            fm.StoredFactors.fisher, lambda: {"self": fm.StoredFactors(stored)},
            {"self": "anything", "chunk_size": "count"},
        ),
        "GradientFactors": Call(
            fm.GradientFactors, _parts,
            {"middle": "factor part", "coupling": "factor part", "hidden": "factor part",
             "head_index": "head index"},
        ),
        "GradientFactors.chunks": Call(
            lambda **given: list(fm.GradientFactors.chunks(**given)), lambda: {"self": factors},
            {"self": "anything", "chunk_size": "count"},
        ),
        "GradientFactors.fisher": Call(
            fm.GradientFactors.fisher, lambda: {"self": factors},
            {"self": "anything", "chunk_size": "count"},
        ),
        "FisherMask": Call(
            fm.FisherMask,
            lambda: {"shapes": {"w": (3,)}, "indices": {"w": torch.tensor([0, 2])}, "method": "x"},
            {"shapes": "shapes", "indices": "positions", "method": "text", "head_names": "names",
             "reason": "text"},
            {"shapes": ("shape", "names"), "indices": ("mask",), "head_names": ("mask",)},
        ),
        "FisherMask.from_scores": Call(
            fm.FisherMask.from_scores, lambda: {"scores": {"w": torch.rand(8)}, "fraction": 0.5,
                                                "keep_head": False},
            {"scores": "scores", "fraction": "fraction", "method": "choice", "head": "layer",
             "n_parameters": "count", "model": "anything", "inputs": "anything",
             "keep_head": "flag"},
        ),
        "FisherMask.random": Call(
            fm.FisherMask.random, lambda: {"model": model(), "fraction": 0.5},
            {"model": "model", "fraction": "fraction", "seed": "seed", "head": "layer",
             "n_parameters": "count", "inputs": "anything",
             "keep_head": "flag"},
        ),
        "FisherMask.head": Call(
            fm.FisherMask.head,
            lambda: {"model": model()},
            {"model": "model", "inputs": "anything", "head": "layer"},
        ),
        "FisherMask.overlap": Call(
            fm.FisherMask.overlap, lambda: {"self": head, "other": head},
            {"self": "anything", "other": "other mask"},
        ),
        "FisherMask.check": Call(
            fm.FisherMask.check, lambda: {"self": head, "model": model()},
            {"self": "anything", "model": "model"}, {"model": ("mask",)},
        ),
        "FisherMask.save": Call(
            fm.FisherMask.save, lambda: {"self": head, "path": str(folder / "new.npz")},
            {"self": "anything", "path": "path"},
        ),
        "FisherMask.load": Call(
            fm.FisherMask.load, lambda: {"path": folder / "mask.npz"}, {"path": "stored"}
        ),
        "inspect_model": Call(
            fm.inspect_model, lambda: {"model": model(), "inputs": data()},
            {"model": "model of data", "inputs": "data", "likelihood": "likelihood",
             "head": "layer", "lamb": "positive"},
            {"inputs": ("batch", "logits", "outputs", "samples"), "model": ("BatchNorm", "batch")},
        ),
        "baal.FisherMaskHeuristic": Call(
            lambda **given: baal.FisherMaskHeuristic(**given).get_ranks(
                [np.full((N, 3), 1 / 3), data().numpy()]),
            lambda: {"query_size": 2, "labeled_fisher": np.eye(9), "n_labeled": 2},
            {"query_size": "count", "labeled_fisher": "matrix", "n_labeled": "size",
             "mask": "head mask", "lamb": "positive", "backward_steps": "size", "rank": "count"},
        ),
        "baal.labeled_fisher": Call(
            baal.labeled_fisher, lambda: {"predictions": [np.full((N, 3), 1 / 3), data().numpy()]},
            {"predictions": "predictions", "mask": "head mask", "rank": "count"},
            {"predictions": ("probabilities", "embeddings")},
        ),
        "baal.head_mask": Call(
            baal.head_mask,
            lambda: {"predictions": [np.full((N, 3), 1 / 3), data().numpy()], "n_entries": 4},
            {"predictions": "predictions", "n_entries": "count"},
            {"predictions": ("probabilities", "embeddings")},
        ),
        "huggingface.query": Call(
            huggingface.query,
            lambda: {"model": Named(), "unlabeled": [{"x": row} for row in data()], "n_select": 2,
                     "fraction": 0.5, "keep_head": False},
            {"model": "model", "unlabeled": "items", "n_select": "pool count",
             "labeled": "labeled items", "tokenizer": "tokenizer", "collate": "function",
             "batch_size": "count", "likelihood": "optional likelihood",
             "progress": "flag", "options": "anything"},
            {"unlabeled": ("items", "columns", "samples", "without data"),
             "labeled": ("items", "columns", "samples", "without data")},
        ),
        "lightning.query": Call(
            lightning.query,
            lambda: {"module": Named(), "datamodule": _datamodule(), "n_select": 2,
                     "fraction": 0.5, "keep_head": False},
            {"module": "module", "datamodule": "module", "n_select": "pool count",
             "setup": "flag", "progress": "flag", "options": "anything"},
            {"module": ("model",)},
        ),
    }  # fmt: skip
    return found


def _names() -> list[str]:
    with tempfile.TemporaryDirectory() as folder:
        return sorted(calls(pathlib.Path(folder)))


NAMES = _names()
# Public names that are read, and take nothing from users.
WITHOUT_INPUT = (
    "BuildInfo",
    "ModelReport",
    "PrecisionWarning",
    "Selection",
    "__version__",
    "build_info",
)


def signature_of(name: str) -> list[str]:
    """The arguments of the public function of this name."""
    wings = {"baal": baal, "compat": compat, "huggingface": huggingface, "lightning": lightning}
    first, _, rest = name.partition(".")
    function: Any = wings.get(first) or getattr(fm, first)
    for part in rest.split(".") if rest else ():
        function = getattr(function, part)
    return list(inspect.signature(function).parameters)


def bad_arguments(call: Call) -> Iterator[tuple[str, int, Any]]:
    """(argument, number of the value, value) for each kind's bad values."""
    for argument, kind in call.kinds.items():
        for number, value in enumerate(BAD[kind]()):
            yield argument, number, value
