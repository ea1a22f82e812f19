"""A table to pick from, with what each option of picking takes for it, and its definition."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import TensorDataset

from fishermask_fast import FisherMaskSelector, factors_from_embeddings, reference

OWN = """
import torch
from torch import nn

def table():
    torch.manual_seed(0)
    net = nn.Linear(5, 3)
    with torch.no_grad():
        net.bias.copy_(torch.tensor([2.0, 0.0, 0.0]))
    return net

def images():
    torch.manual_seed(3)
    return nn.Sequential(nn.Flatten(), nn.Linear(432, 3))
"""
N, N_LABELED, K = 60, 12, 8
CLASSES = ("ant", "bee", "cow")


class Data:
    """A table of N rows to pick from and N_LABELED labeled ones, between them."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        size = torch.logspace(0.7, -0.5, 5)
        values = torch.randn(N + N_LABELED, 5, generator=generator) * size
        self.values = values.mul(1000).round().div(1000)
        self.deployed = torch.randn(20, 5, generator=generator).mul(1000).round() / 1000 * size
        self.deployed = self.deployed.flip(1).mul(1000).round() / 1000
        self.labels = [CLASSES[i] for i in [0] * 9 + [1, 1, 2]]
        # Every sixth row has a label.
        self.known = list(range(2, N + N_LABELED, 6))
        self.free = [i for i in range(N + N_LABELED) if i not in self.known]
        torch.manual_seed(0)
        self.model = nn.Linear(5, 3)
        with torch.no_grad():
            self.model.bias.copy_(torch.tensor([2.0, 0.0, 0.0]))

    def query(self, parameters: dict[str, Any], arguments: dict[str, Any]) -> list[int]:
        """Places among the unlabeled rows."""
        selector = FisherMaskSelector(self.model, mask="head", backward_steps=1, **parameters)
        labels = torch.tensor([CLASSES.index(label) for label in self.labels])
        labeled = TensorDataset(self.values[self.known], labels)
        pool = self.values[self.free]
        return selector.query(pool, K, labeled, progress=False, **arguments).indices.tolist()

    def top_class(self) -> list[int]:
        with torch.no_grad():
            p = self.model(self.values).softmax(1)
        h = torch.cat([self.values, torch.ones(len(p), 1)], 1)
        v = factors_from_embeddings(h, p, rows="top_class").dense().double()
        known = v[self.known]
        fisher, labeled = (
            reference.target_fisher(each, torch.ones(len(each))) for each in (v, known)
        )
        options = {"n_labeled": N_LABELED, "backward_steps": 1}
        return reference.select(v[self.free], K, fisher, labeled, **options)[0]

    def write(self, columns: dict[str, list[Any]]) -> None:
        """data.csv and pool.npz of the same samples, with columns beside."""
        label = dict(zip(self.known, self.labels, strict=True))
        extra = {
            name: dict(zip(self.free, values, strict=True)) for name, values in columns.items()
        }
        with Path("data.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow([*"abcde", "label", *columns])
            for i, row in enumerate(self.values.tolist()):
                more = [values.get(i, "1") for values in extra.values()]
                writer.writerow([*row, label.get(i, ""), *more])
        with torch.no_grad():
            p = self.model(self.values).softmax(1)
        ones = torch.ones(len(self.values), 1)
        arrays = {
            "embeddings": torch.cat([self.values, ones], 1).numpy(),
            "probabilities": p.numpy(),
            "labeled": np.isin(np.arange(len(p)), self.known),
            "names": np.array([f"s{i}" for i in range(len(p))]),
        }
        for name, values in extra.items():
            arrays[name] = np.array([values.get(i, 1) for i in range(len(p))])
        np.savez("pool.npz", **arrays)
        save(Path("deployed.csv"), [*"abcde"], self.deployed.tolist())
        with torch.no_grad():
            p = self.model(self.deployed).softmax(1)
        h = torch.cat([self.deployed, torch.ones(len(p), 1)], 1)
        np.savez("deployed.npz", embeddings=h.numpy(), probabilities=p.numpy())


def save(path: Path, header: list[str], lines: list[list[Any]]) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *lines])
    return path


def cases(data: Data, name: str) -> dict[str, tuple[list[str], dict[str, Any], dict[str, Any]]]:
    """Flags, and what the selector takes for them."""
    usual = data.query({}, {})
    order = torch.Generator().manual_seed(1)
    cost = torch.rand(N, generator=order, dtype=torch.float64).mul(100).round() + 1
    video = torch.arange(N) // 2
    video[usual] = 99
    columns = {"clusters": {"video": [f"v{i}" for i in video.tolist()]}}
    data.write(columns.get(name, {"cost": cost.tolist()} if name == "costs" else {}))
    names = [[data.free[i] + 1] for i in usual]
    save(Path("usual.csv"), ["row"], names)
    save(Path("rows.csv"), ["row"], [[data.free[i]] for i in usual])
    return {
        "pending": (["--pending", "usual.csv"], {}, {"pending": usual}),
        "exclude": (["--exclude", "usual.csv"], {}, {"exclude": usual}),
        "clusters": (
            ["--cluster-column", "video", "--max-per-cluster", "1"],
            {"max_per_cluster": 1},
            {"cluster_ids": video},
        ),
        "costs": (["--cost-column", "cost"], {}, {"gain_weights": 1 / cost}),
        "eval data": (["--eval-data", "deployed.csv"], {}, {"eval_data": data.deployed}),
        "lamb auto": (["--lamb", "auto"], {"lamb": "auto"}, {}),
        "prior": (["--prior-precision", "1e-4"], {"prior_precision": 1e-4}, {}),
        "class weight": (["--class-weight", "balanced"], {"class_weight": "balanced"}, {}),
        "balanced": (["--eval-weights", "balanced"], {"eval_weights": "balanced"}, {}),
        "uncovered": (["--eval-weights", "uncovered"], {"eval_weights": "uncovered"}, {}),
        "recommended": (["--preset", "recommended"], {"preset": "recommended"}, {}),
        "logdet": (["--criterion", "logdet"], {"criterion": "logdet"}, {}),
        "top class": (["--rows", "top_class"], {"rows": "top_class"}, {}),
    }
