"""Every public function with valid arguments, and the kind of each argument.

Bad values are generated from the signatures (see bad_values.py): a public function without an entry
in `calls`, or an argument without a kind, fails the tests.
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
from bad_values import BAD, N, R, data, gradients, mask, matrix, model
from torch import Tensor, nn

import fishermask_fast as fm
from fishermask_fast import compat
from fishermask_fast.integrations import baal, huggingface, lightning


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
    "prior_precision": "optional positive", "gain_weights": "factors above 0",
    "pending": "samples", "exclude": "samples", "cluster_ids": "clusters",
    "max_per_cluster": "count", "criterion": "choice",
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
    "keep_head": "flag", "likelihood": "likelihood", "weighting": "choice",
    "preset": "choice", "lamb": "optional positive", "backward_steps": "size",
    "fisher_samples": "count", "rank": "count", "batch_size": "count",
    "device": "device", "seed": "seed", "group": "group",
    "prior_precision": "optional positive", "criterion": "choice", "eval_weights": "eval weights",
    "class_weight": "optional choice", "rows": "choice", "max_per_cluster": "count",
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
             "labeled": "labeled data", "progress": "flag", "out": "path",
             "eval_data": "eval data", "gain_weights": "factors above 0", "pending": "samples",
             "exclude": "samples", "cluster_ids": "clusters", "labels": "anything"},
            dict.fromkeys(("unlabeled", "labeled", "eval_data"), ("batch", "logits", "outputs")),
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
            {"data": ("batch", "logits", "outputs", "samples"),
             "model": ("BatchNorm", "Linear does not take")},
        ),
        "masked_gradients": Call(
            fm.masked_gradients, lambda: {"model": model(), "data": data(), "mask": head},
            {"model": "model of data", "data": "data", "mask": "mask", "likelihood": "likelihood",
             "weighting": "choice", "rank": "count", "batch_size": "count", "device": "device",
             "progress": "flag", "indices": "indices", "out": "path", "rows": "choice"},
            {"data": ("batch", "logits", "outputs", "samples"),
             "model": ("mask", "Linear does not take")},
        ),
        "factors_from_embeddings": Call(
            fm.factors_from_embeddings,
            lambda: {"embeddings": data(), "probabilities": torch.full((N, 3), 1 / 3)},
            {"embeddings": "embeddings", "probabilities": "probabilities",
             "likelihood": "likelihood", "mask": "head mask", "rank": "count", "bias": "flag",
             "weighting": "choice", "rows": "choice"},
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
            {"self": "anything", "chunk_size": "count", "weights": "sum weights"},
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
            {"self": "anything", "chunk_size": "count", "weights": "sum weights"},
        ),
        "GradientFactors.cat": Call(
            fm.GradientFactors.cat, lambda: {"parts": [factors, factors]},
            {"parts": "many factors"},
        ),
        "GradientFactors.to": Call(
            fm.GradientFactors.to, lambda: {"self": factors, "dtype": torch.float64},
            {"self": "anything", "device": "device or meta", "dtype": "dtype",
             "non_blocking": "flag"},
        ),
        "GradientFactors.map": Call(
            fm.GradientFactors.map, lambda: {"self": factors, "change": lambda part: part + 1},
            {"self": "anything", "change": "mapping", "head_index": "head index"},
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
             "n_parameters": "count", "model": "anything", "inputs": "inputs",
             "keep_head": "flag"},
        ),
        "FisherMask.random": Call(
            fm.FisherMask.random, lambda: {"model": model(), "fraction": 0.5},
            {"model": "model", "fraction": "fraction", "seed": "seed", "head": "layer",
             "n_parameters": "count", "inputs": "inputs",
             "keep_head": "flag"},
        ),
        "FisherMask.head": Call(
            fm.FisherMask.head,
            lambda: {"model": model()},
            {"model": "model", "inputs": "inputs", "head": "layer"},
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
             "mask": "head mask", "lamb": "optional positive", "backward_steps": "size",
             "rank": "count",
             "prior_precision": "optional positive", "criterion": "choice", "rows": "choice",
             "eval_data": "pair", "eval_weights": "eval weights", "labeled_embeddings": "anything",
             "class_weight": "optional choice", "labels": "anything",
             "gain_weights": "factors above 0", "pending": "samples", "exclude": "samples",
             "cluster_ids": "clusters", "max_per_cluster": "count", "preset": "choice"},
        ),
        "baal.labeled_fisher": Call(
            baal.labeled_fisher, lambda: {"predictions": [np.full((N, 3), 1 / 3), data().numpy()]},
            {"predictions": "predictions", "mask": "head mask", "rank": "count", "rows": "choice"},
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
