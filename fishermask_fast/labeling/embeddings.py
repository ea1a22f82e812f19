"""Picks from embeddings and probabilities alone, of a file that a vector store or a probe gave.

FisherMask and BAIT take the factors of the head, V_x = (R_x kron h_x)[mask], as
``factors_from_embeddings`` makes them; the other strategies read probabilities and embeddings
through a head without weights of its own: z = 0 h + log p.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from fishermask_fast.factors import (
    check_chances,
    check_distributions,
    factors_from_embeddings,
)
from fishermask_fast.files import open_file
from fishermask_fast.masks import mask_size
from fishermask_fast.options import QueryOptions
from fishermask_fast.selector import Aim, Labeled, Seen, Wishes, query_known
from fishermask_fast.strategies import ANY_LIKELIHOOD, Picks, pick, unread

EMBEDDINGS, PROBABILITIES, LABELED, NAMES = "embeddings", "probabilities", "labeled", "names"
_KNOWN = (EMBEDDINGS, PROBABILITIES, LABELED, NAMES)
_OF_NETWORKS = ("keep_head", "head", "fisher_samples", "batch_size")
SELECTORS = ("fishermask", "bait", "fishermask_entropy")  # those that take factors
_LEAST = 1e-30  # of a probability, whose logarithm must be finite


@dataclass(frozen=True)
class OwnEmbeddings:
    """What a file holds.

    Attributes:
        embeddings: (N, d) of all samples.
        probabilities: (N, C) of the same samples.
        unlabeled: (N_U,) int64, rows to pick from.
        labeled: (N_L,) int64, rows that have a label.
        names: Of all rows; None where the file names none.
        arrays: What else the file holds, by name.
    """

    embeddings: Tensor
    probabilities: Tensor
    unlabeled: Tensor
    labeled: Tensor
    names: tuple[str, ...] | None
    arrays: Mapping[str, Any] = field(default_factory=dict)


def read_embeddings(file: str | os.PathLike[str]) -> OwnEmbeddings:
    """Embeddings and probabilities of samples, from ``.npz`` or safetensors.

    Args:
        file: Holds ``embeddings`` (N, d) and ``probabilities`` (N, C), floating point; where some
            samples have labels ``labeled`` (N,), 1 or true for those and 0 for others; and, in
            ``.npz``, ``names`` (N,) of the samples, texts.

    Raises:
        ValueError: The file cannot be read, or does not hold these.
        ModuleNotFoundError: It is of safetensors, which is not installed.

    Example:
        >>> numpy.savez("pool.npz", embeddings=h, probabilities=p, labeled=known)
        >>> found = read_embeddings("pool.npz")
    """
    path = Path(file)
    arrays = _arrays(path)
    h, p = _both(path, arrays)
    known = _labeled(path, arrays.get(LABELED), len(h))
    names = arrays.get(NAMES)
    if names is not None and (isinstance(names, Tensor) or len(names) != len(h)):
        raise ValueError(f"{path}: names must be {len(h):,} texts; got {_shown(names)}")
    if known.all():
        raise ValueError(f"{path} must hold samples that are not labeled; all are")
    free, has = (~known).nonzero().flatten(), known.nonzero().flatten()
    others = {name: value for name, value in arrays.items() if name not in _KNOWN}
    return OwnEmbeddings(h, p, free, has, names, others)


def read_eval_embeddings(file: Path, pool: OwnEmbeddings) -> OwnEmbeddings:
    """Samples whose uncertainty is to fall, of which no labels are read.

    Raises:
        ValueError: As read_embeddings, or of other widths than the pool's.
    """
    h, p = _both(file, _arrays(file))
    for name, found, wanted in (
        (EMBEDDINGS, h, pool.embeddings),
        (PROBABILITIES, p, pool.probabilities),
    ):
        if found.shape[1] != wanted.shape[1] or not len(found):
            raise ValueError(
                f"{file}: {name} must be (N, {wanted.shape[1]}), as the pool's are; got "
                f"{tuple(found.shape)}"
            )
    return OwnEmbeddings(h, p, torch.arange(len(h)), torch.arange(0), None)


def unread_of_embeddings(strategy: str, options: QueryOptions) -> list[str]:
    """Options that were given and that nobody reads where there is no network."""
    others = [
        name for name in _OF_NETWORKS if getattr(options, name) != getattr(QueryOptions(), name)
    ]
    return sorted({*unread(strategy, options), *others})


def _both(path: Path, arrays: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
    """Embeddings and probabilities of a file's arrays."""
    for name in (EMBEDDINGS, PROBABILITIES):
        if name not in arrays:
            raise ValueError(f"{path} must hold {name}; it holds {', '.join(arrays) or 'nothing'}")
    h, p = arrays[EMBEDDINGS], arrays[PROBABILITIES]
    for name, value in ((EMBEDDINGS, h), (PROBABILITIES, p)):
        if not isinstance(value, Tensor) or not value.is_floating_point() or value.ndim != 2:
            raise ValueError(
                f"{path}: {name} must be (N, ...) of floating point; got {_shown(value)}"
            )
    if len(h) != len(p):
        raise ValueError(f"{path}: {len(h):,} embeddings, but {len(p):,} rows of probabilities")
    for name, value in ((EMBEDDINGS, h), (PROBABILITIES, p)):
        bad = (~value.isfinite()).any(1).nonzero().flatten()
        if len(bad):
            raise ValueError(
                f"{path}: {name} must be finite; {len(bad):,} of {len(value):,} rows hold NaN or "
                f"Inf, the first is row {int(bad[0])}"
            )
    return h, p


def pick_embeddings(
    found: OwnEmbeddings, n: int, strategy: str, seed: int, options: QueryOptions
) -> Picks:
    """Picks among the unlabeled samples, as indices into ``found.unlabeled``.

    Args:
        found: Embeddings and probabilities.
        n: How many to pick.
        strategy: Who picks.
        seed: Of all that is drawn.
        options: Of them ``n_parameters``, ``fraction``, ``mask`` (``"global"`` or ``"head"``),
            ``preset``, ``lamb``, ``prior_precision``, ``criterion``, ``rows``, ``eval_weights``,
            ``rank``, ``weighting`` and ``likelihood``.

    Raises:
        ValueError: An option that embeddings alone cannot serve, or rows that are no probabilities.
    """
    check_embeddings(found, strategy, options)
    if strategy in ("fishermask", "bait"):
        return _by_factors(found, n, strategy, options)
    if strategy == "fishermask_entropy":
        return _hybrid(found, n, seed, options)
    model = _GivenHead(found.embeddings.shape[1], found.probabilities.shape[1])
    parts = [_Rows(found, rows) for rows in (found.unlabeled, found.labeled)]
    return pick(strategy, model, parts[0], parts[1], n, seed, options)


def check_embeddings(found: OwnEmbeddings, strategy: str, options: QueryOptions) -> None:
    """Everything that ``pick_embeddings`` refuses, without picking.

    Raises:
        ValueError: An option that embeddings alone cannot serve, or rows that are no probabilities.
    """
    likelihood = options.likelihood or "categorical"
    if likelihood not in ("categorical", "bernoulli"):
        raise ValueError(f"likelihood must be categorical or bernoulli; got {likelihood}")
    if likelihood != "categorical" and strategy not in ANY_LIKELIHOOD:
        raise ValueError(
            f"strategy {strategy} is for one class a sample; with likelihood {likelihood} take one "
            f"of {', '.join(ANY_LIKELIHOOD)}"
        )
    _check(found.probabilities, likelihood)
    if strategy not in SELECTORS:
        return
    if options.samples.eval_data is not None:
        _check(options.samples.eval_data.probabilities, likelihood)
    _aim_of(strategy, options).check()
    mask = _mask_of(found, "fishermask" if strategy == "fishermask_entropy" else strategy, options)
    one = found.unlabeled[:1]
    factors_from_embeddings(
        found.embeddings[one], found.probabilities[one], mask=mask, **_chosen(options)
    )


def _check(probabilities: Tensor, likelihood: str) -> None:
    check = check_distributions if likelihood == "categorical" else check_chances
    check(probabilities)


def _chosen(options: QueryOptions) -> dict[str, Any]:
    """What factors are made by."""
    return {
        "likelihood": options.likelihood or "categorical",
        "rank": options.rank,
        "weighting": options.weighting,
        "rows": options.rows,
    }


def _aim_of(strategy: str, options: QueryOptions) -> Aim:
    return Aim.filled(
        **_chosen(options),
        preset=options.preset,
        lamb=options.lamb,
        prior_precision=options.prior_precision,
        criterion=options.criterion,
        eval_weights=options.eval_weights,
        max_per_cluster=options.samples.max_per_cluster,
        backward_steps=int(strategy == "bait"),
    )


def _mask_of(found: OwnEmbeddings, strategy: str, options: QueryOptions) -> int | None:
    """How many entries of the head are kept; None for all.

    Raises:
        ValueError: The options ask for what embeddings cannot give.
    """
    if options.class_weight is not None:
        raise ValueError("class_weight needs labels; embeddings come without any")
    if strategy != "fishermask":
        return None
    if options.mask not in ("global", "head"):
        raise ValueError(
            f"mask must be global or head: embeddings have one layer; got {options.mask}"
        )
    if options.mask == "head":
        return None
    size = found.embeddings.shape[1]
    if options.rows == "all":
        size *= found.probabilities.shape[1]
    return mask_size(size, size, options.fraction, options.n_parameters, False).k


def _by_factors(found: OwnEmbeddings, n: int, strategy: str, options: QueryOptions) -> Picks:
    mask, chosen = _mask_of(found, strategy, options), _chosen(options)

    def seen(of: OwnEmbeddings, rows: Tensor, mask: Any) -> Seen:
        h, p = of.embeddings[rows], of.probabilities[rows]
        factors = factors_from_embeddings(h, p, mask=mask, **chosen)
        return Seen(factors, lambda: p, lambda: h)

    asked = options.samples
    pool = seen(found, found.unlabeled, mask)
    own = None if mask is None else pool.factors.head_index
    known, aimed = Labeled(), None
    if len(found.labeled):
        labeled = seen(found, found.labeled, own)
        known = Labeled(len(found.labeled), labeled.factors.fisher(), labeled.features)
    if asked.eval_data is not None:
        aimed = seen(asked.eval_data, asked.eval_data.unlabeled, own)
    aim = _aim_of(strategy, options)
    wishes = Wishes(asked.gain_weights, list(asked.pending), list(asked.exclude), asked.cluster_ids)
    answer = query_known(aim, wishes, n, pool, known, eval_data=aimed, progress=options.progress)
    selection = answer.selection
    return Picks(selection.indices.cpu(), {"scores": selection.scores.tolist()})


def _hybrid(found: OwnEmbeddings, n: int, seed: int, options: QueryOptions) -> Picks:
    """n // 2 by entropy, the others by FisherMask from the rest."""
    first = pick_embeddings(found, n // 2, "entropy", seed, options)
    free = torch.ones(len(found.unlabeled), dtype=torch.bool)
    free[first.indices] = False
    rest = free.nonzero().flatten()
    left = replace(found, unlabeled=found.unlabeled[rest])
    place, asked = free.cumsum(0) - 1, options.samples
    pending, exclude = (
        tuple(place[list(some)].tolist()) for some in (asked.pending, asked.exclude)
    )
    samples = replace(asked, pending=pending, exclude=exclude)
    then = _by_factors(left, n - n // 2, "fishermask", replace(options, samples=samples))
    scores = [*first.info["scores"], *then.info["scores"]]
    return Picks(torch.cat([first.indices, rest[then.indices]]), {"scores": scores})


class _GivenHead(nn.Module):
    """Logits that are given, with the embedding as the input of a head: z = 0 h + log p."""

    def __init__(self, n_features: int, n_classes: int) -> None:
        super().__init__()
        self.head = nn.Linear(n_features, n_classes, bias=False, dtype=torch.float64)
        nn.init.zeros_(self.head.weight)

    def forward(self, embeddings: Tensor, log_probabilities: Tensor) -> Tensor:
        logits: Tensor = self.head(embeddings) + log_probabilities
        return logits


class _Rows(Dataset[dict[str, Tensor]]):
    def __init__(self, found: OwnEmbeddings, rows: Tensor) -> None:
        self.found, self.rows = found, rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        row = self.rows[index]
        p = self.found.probabilities[row].double().clamp_min(_LEAST)
        return {"embeddings": self.found.embeddings[row].double(), "log_probabilities": p.log()}


def _arrays(path: Path) -> dict[str, Any]:
    """Arrays by name: numbers as tensors, texts as tuples."""
    try:
        with os.fdopen(open_file(path, os.O_RDONLY), "rb") as file:
            start, size = file.read(9), os.fstat(file.fileno()).st_size
    except (OSError, ValueError) as error:
        raise ValueError(f"cannot read {path}: {error}") from error
    try:
        if start[:4] == b"PK\x03\x04":
            import numpy as np

            with np.load(path, allow_pickle=False) as content:
                return {name: _value(content[name]) for name in content.files}
        if start[8:9] == b"{" and int.from_bytes(start[:8], "little") < size:
            from safetensors.torch import load_file

            return dict(load_file(path))
    except ModuleNotFoundError:
        raise
    # A damaged file can fail anywhere in its reader.
    except (zipfile.BadZipFile, Exception) as error:
        raise ValueError(f"cannot read {path}: {' '.join(str(error).split())}") from error
    raise ValueError(f"cannot read {path}: it is neither .npz nor safetensors")


def _value(array: Any) -> Any:
    if array.dtype.kind in "US":
        return tuple(str(each) for each in array.tolist())
    return torch.as_tensor(array)


def _labeled(path: Path, value: Any, n: int) -> Tensor:
    if value is None:
        return torch.zeros(n, dtype=torch.bool)
    if not isinstance(value, Tensor) or value.shape != (n,) or value.is_floating_point():
        raise ValueError(f"{path}: labeled must be {n:,} of 0 or 1; got {_shown(value)}")
    if not bool(((value == 0) | (value == 1)).all()):
        raise ValueError(f"{path}: labeled must be 0 or 1, no class; got {value.unique().tolist()}")
    return value.bool()


def _shown(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"{tuple(value.shape)} of {str(value.dtype).removeprefix('torch.')}"
    return f"{len(value):,} texts"
