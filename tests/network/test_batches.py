"""Samples in the order and the form in which users' loaders and tensors hold them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from networks import some_of_each
from torch import Tensor, nn
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    SequentialSampler,
    SubsetRandomSampler,
    TensorDataset,
)

from fishermask_fast.gradients.masked import masked_gradients
from fishermask_fast.network.batches import Pool


def test_a_batch_sampler_keeps_the_loaders_collate_function() -> None:
    data = TensorDataset(torch.arange(7.0)[:, None])

    def collate(items: list[Any]) -> dict[str, Tensor]:
        return {"x": torch.stack([item[0] for item in items]) + 100, "labels": torch.zeros(1)}

    batches = BatchSampler(SequentialSampler(data), 3, drop_last=True)
    pool = Pool.of(DataLoader(data, batch_sampler=batches, collate_fn=collate))
    assert pool.batch_size == 3
    read = [batch["x"] for batch in pool.batches(3) if isinstance(batch, dict)]
    assert torch.equal(torch.cat(read), torch.arange(7.0)[:, None] + 100)


def test_a_batch_sampler_of_a_subset_is_refused() -> None:
    data: Dataset[Any] = TensorDataset(torch.arange(7.0)[:, None])
    batches = BatchSampler(SubsetRandomSampler([1, 2]), 3, drop_last=False)
    with pytest.raises(ValueError, match=r"SubsetRandomSampler.*torch.utils.data.Subset"):
        Pool.of(DataLoader(data, batch_sampler=batches))


def test_sparse_tensors_are_refused() -> None:
    with pytest.raises(TypeError, match="must be a dense Tensor; got torch.sparse_coo"):
        Pool.of(torch.eye(3).to_sparse())


@pytest.mark.parametrize(
    "indices", [[1.5], [True, False], torch.tensor([1.0]), np.array([True]), [None], "ab", 5]
)
def test_indices_that_are_no_integers(indices: Any) -> None:
    model = nn.Linear(3, 2)
    with pytest.raises(TypeError, match="indices must be"):
        masked_gradients(model, torch.randn(4, 3), some_of_each(model), indices=indices)


@pytest.mark.parametrize("indices", [range(1, 3), torch.tensor([1, 2]), np.array([1, 2])])
def test_indices_of_every_integer_kind(indices: Any) -> None:
    model, inputs = nn.Linear(3, 2), torch.randn(4, 3)
    mask = some_of_each(model)
    found = masked_gradients(model, inputs, mask, indices=indices).dense()
    assert torch.equal(found, masked_gradients(model, inputs[1:3], mask).dense())


class HeadFirst(nn.Module):
    """Registers its head before the embedding, as the order of use is the user's affair."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.embedding = nn.Linear(6, 3), nn.Embedding(12, 6)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.fc(self.embedding(tokens).mean(1))


class Positions(nn.Module):
    """Registers an embedding of positions before the layer that takes the image."""

    def __init__(self) -> None:
        super().__init__()
        self.positions, self.conv, self.fc = nn.Embedding(9, 2), nn.Conv2d(1, 2, 3), nn.Linear(2, 3)

    def forward(self, image: Tensor) -> Tensor:
        patches = self.conv(image).flatten(2).mT + self.positions.weight
        return self.fc(patches.tanh().mean(1))


def test_tokens_and_pixels_whatever_is_registered_first() -> None:
    model: nn.Module = HeadFirst()
    tokens, mask = torch.randint(0, 12, (5, 4)), some_of_each(model)
    found = masked_gradients(model, tokens, mask).dense()
    assert torch.equal(found, masked_gradients(model, tokens.int(), mask).dense())
    model = Positions()
    image, mask = torch.randint(0, 9, (5, 1, 5, 5), dtype=torch.uint8), some_of_each(model)
    found = masked_gradients(model, image, mask).dense()
    assert torch.equal(found, masked_gradients(model, image.float(), mask).dense())
