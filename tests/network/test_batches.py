"""Samples in the order and the form in which users' loaders and tensors hold them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import some_of_each
from torch import Tensor, nn
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    SequentialSampler,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    default_collate,
)
from transformers import BatchEncoding

from fishermask_fast import FisherMaskSelector
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
    with pytest.raises(TypeError, match="must be a dense Tensor of numbers; got layout torch"):
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


class Broken(Dataset[Any]):
    """Samples (x_i, label), x_i = i, of which some are None."""

    def __init__(self, n: int, missing: set[int]) -> None:
        self.n, self.missing = n, missing

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, i: int) -> Any:
        return None if i in self.missing else (torch.full((3,), float(i)), i % 2)


# A batch of inputs (n, 3) as each kind of batch that a model can be given.
KINDS: dict[str, Callable[[Tensor], Any]] = {
    "tensor": lambda x: x,
    "tuple": lambda x: (x, torch.zeros(len(x))),
    "list": lambda x: [x, {"label": torch.zeros(len(x))}],
    "dict": lambda x: {"input": x, "labels": torch.zeros(99)},
    "nested": lambda x: ({"input": x, "other": {"deep": x}}, torch.zeros(len(x))),
    "BatchEncoding": lambda x: BatchEncoding({"input": x}),
}


def inputs_of(items: list[Any]) -> Tensor:
    return torch.stack([item[0] for item in items])


def skip(items: list[Any]) -> list[Any]:
    return [item for item in items if item is not None]


# What a collate function may do to a batch's samples; none of it can be told from the batch alone.
WRONG: dict[str, Callable[[list[Any]], list[Any]]] = {
    "left out": lambda items: items[1:] if any(item[1] == 0 for item in items) else items,
    "added": lambda items: [*items, items[0]],
    "all but one left out": lambda items: items[:1],
    "sorted": lambda items: sorted(items, key=lambda item: -float(item[0][0])),
    "sorted in place": lambda items: items.sort(key=lambda item: -float(item[0][0])) or items,
    "replaced": lambda items: [items[1 % len(items)] if i == 0 else x for i, x in enumerate(items)],
    "rotated": lambda items: items[1:] + items[:1],
}


@pytest.mark.parametrize(
    ("kind", "wrong", "workers"),
    [
        *((kind, wrong, 0) for kind in KINDS for wrong in WRONG),
        ("dict", "left out", 1),
        ("tuple", "sorted", 1),
    ],
)
def test_batches_of_other_samples_are_refused(kind: str, wrong: str, workers: int) -> None:
    loader = DataLoader(
        Broken(11, set()),
        batch_size=4,
        collate_fn=lambda items: KINDS[kind](inputs_of(WRONG[wrong](items))),
        num_workers=workers,
    )
    pool = Pool.of(loader)
    with pytest.raises(ValueError, match=r"the batch of samples 0 to 3 \(of 11\) must hold"):
        list(pool.batches(4))
    with pytest.raises(ValueError, match=r"the batch of samples 0 to 2 \(of 11\) must hold"):
        pool.first(3)


@pytest.mark.parametrize("kind", KINDS)
def test_batches_in_order_are_read(kind: str) -> None:
    calls = []

    def collate(items: list[Any]) -> Any:
        calls.append(len(items))
        return KINDS[kind](inputs_of(items))

    pool = Pool.of(DataLoader(Broken(11, set()), batch_size=4, collate_fn=collate))
    read = [b if isinstance(b, Tensor) else b["input"] for b in pool.batches(4, start=4)]
    assert torch.equal(torch.cat(read)[:, 0], torch.arange(4.0, 11.0))


def test_collate_functions_that_cannot_be_asked_twice() -> None:
    def draws(items: list[Any]) -> Tensor:
        return inputs_of(items) + torch.rand(len(items), 3)

    def pops(items: list[Any]) -> dict[str, Tensor]:
        return {"input": torch.stack([item.pop("x") for item in items])}

    dicts: Any = [{"x": torch.full((3,), float(i))} for i in range(8)]
    assert len(list(Pool.of(DataLoader(Broken(8, set()), 4, collate_fn=draws)).batches(4))) == 2
    read: Any = list(Pool.of(DataLoader(dicts, 4, collate_fn=pops)).batches(4))
    assert torch.equal(torch.cat([b["input"] for b in read])[:, 0], torch.arange(8.0))


def shuffled(items: list[Any]) -> list[Any]:
    return [items[i] for i in torch.randperm(len(items)).tolist()]


def rearranging(places: Sequence[int]) -> Callable[[list[Any]], list[Any]]:
    """Of a batch of as many; others keep their order."""
    return lambda items: [items[i] for i in places] if len(items) == len(places) else items


@pytest.mark.parametrize("n", [2, 3, 4])
def test_no_order_but_the_right_one_is_taken(n: int) -> None:
    """All maps of n places, permutations that commute with a reversal among them."""
    for places in itertools.product(range(n), repeat=n):
        order = rearranging(places)
        loader = DataLoader(
            Broken(8, set()), n, collate_fn=lambda b, order=order: inputs_of(order(b))
        )
        if places == (*range(n),):
            assert len(list(Pool.of(loader).batches(n))) == -(-8 // n)
            continue
        with pytest.raises(ValueError, match="must hold its samples in the order asked for"):
            list(Pool.of(loader).batches(n))


@settings(max_examples=50)
@given(st.integers(5, 12).flatmap(lambda n: st.permutations(range(n))), st.sampled_from([*KINDS]))
def test_permutations_are_refused(places: list[int], kind: str) -> None:
    loader = DataLoader(
        Broken(24, set()),
        len(places),
        collate_fn=lambda b: KINDS[kind](inputs_of(rearranging(places)(b))),
    )
    batches = Pool.of(loader).batches(len(places))
    if list(places) == sorted(places):
        assert len(list(batches)) == -(-24 // len(places))
    else:
        with pytest.raises(ValueError, match="in the order asked for"):
            list(batches)


def sequences(items: list[Any], side: str = "right") -> dict[str, Tensor]:
    """As tokenizers pad them, each key by itself; sample i has i % 3 + 1 and 3 - i % 3 numbers."""

    def padded(values: list[Tensor]) -> Tensor:
        return nn.utils.rnn.pad_sequence(values, batch_first=True, padding_side=side)

    numbers = [int(item[0][0]) for item in items]
    return {
        "ids": padded([torch.full((i % 3 + 1,), i + 1) for i in numbers]),
        "others": padded([torch.full((3 - i % 3,), i + 1) for i in numbers]),
    }


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("size", [1, 2, 3, 5])
@pytest.mark.parametrize("start", [0, 1, 2])
def test_padding_tells_no_lie(size: int, start: int, side: str) -> None:
    torch.manual_seed(0)
    data = Subset(Broken(20, set()), range(start, 20))
    pool = Pool.of(DataLoader(data, size, collate_fn=lambda b: sequences(b, side)))
    assert sum(len(b["ids"]) for b in pool.batches(size)) == len(data)  # type: ignore[call-overload]
    for wrong in (shuffled, lambda b: b[::-1], lambda b: sorted(b, key=lambda x: x[0][0] % 3)):
        loader = DataLoader(data, size, collate_fn=lambda b, w=wrong: sequences(w(b), side))
        if size > 1:
            with pytest.raises(ValueError, match="in the order asked for"):
                list(Pool.of(loader).batches(size))


@pytest.mark.parametrize("wrong", [*WRONG, "reversed", "shuffled", "by label"])
@pytest.mark.parametrize("size", [2, 3, 7])
def test_noise_beside_the_samples_hides_no_order(wrong: str, size: int) -> None:
    """As a random mask beside tokens."""
    torch.manual_seed(0)
    ways = {**WRONG, "reversed": lambda b: b[::-1], "shuffled": shuffled}
    ways["by label"] = lambda b: sorted(b, key=lambda item: item[1])

    def noisy(items: list[Any]) -> dict[str, Tensor]:
        x = inputs_of(items)
        return {"noise": torch.rand(len(x), 2), "input": x}

    data = Subset(Broken(25, set()), range(1, 25))
    assert len(list(Pool.of(DataLoader(data, size, collate_fn=noisy)).batches(size)))
    loader = DataLoader(data, size, collate_fn=lambda items: noisy(ways[wrong](items)))
    with pytest.raises(ValueError, match="must hold"):
        list(Pool.of(loader).batches(size))


def test_equal_samples_may_stand_in_each_others_places() -> None:
    data = TensorDataset(torch.ones(9, 3))
    loader = DataLoader(data, 4, collate_fn=lambda items: inputs_of(items[::-1]))
    assert len(list(Pool.of(loader).batches(4))) == 3


def test_a_reversed_batch_gives_no_picks() -> None:
    x = torch.randn(12, 5, generator=torch.Generator().manual_seed(0))
    loader = DataLoader(TensorDataset(x), 4, collate_fn=lambda b: default_collate(b[::-1]))
    with pytest.raises(ValueError, match="in the order asked for"):
        FisherMaskSelector(nn.Linear(5, 3), mask="head").query(loader, 3, progress=False)


@pytest.mark.parametrize("collate", [None, lambda items: inputs_of(skip(items))])
def test_samples_without_data_are_named_by_their_index_in_the_data(collate: Any) -> None:
    model = nn.Linear(3, 2)
    loader = DataLoader(Broken(20, {9, 13}), batch_size=4, collate_fn=collate)
    with pytest.raises(ValueError, match=r"8 to 11 \(of 20\) has 1 .* None at 9\. .*Subset"):
        masked_gradients(model, loader, some_of_each(model))
    with pytest.raises(ValueError, match=r"0 to 2 \(of 3\) has 2 .* None at 13, 9\."):
        masked_gradients(model, loader, some_of_each(model), indices=[13, 2, 9])


def test_broken_samples_left_out_beforehand() -> None:
    model, data = nn.Linear(3, 2), Broken(20, {0, 9, 13})
    good = [i for i in range(20) if i not in data.missing]
    selection = FisherMaskSelector(model, mask="head").query(Subset(data, good), 4, progress=False)
    picked = [good[i] for i in selection.indices.tolist()]
    alone = FisherMaskSelector(model, mask="head").query(
        torch.stack([data[i][0] for i in good]), 4, progress=False
    )
    assert picked == [good[i] for i in alone.indices.tolist()]


def test_a_dataset_that_fetches_fewer_items_than_asked_for() -> None:
    class Fetching(Broken):
        def __getitems__(self, indices: list[int]) -> list[Any]:
            return [self[i] for i in indices if i != 5]

    with pytest.raises(ValueError, match=r"samples 4 to 7 .* 4 samples; the dataset gave 3"):
        list(Pool.of(Fetching(11, set())).batches(4))


def test_logits_of_more_rows_than_samples() -> None:
    class Twice(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).repeat(2, 1)

    model = Twice(3, 2)
    with pytest.raises(ValueError, match=r"one row a sample; got \(4, 2\) for 2 samples"):
        masked_gradients(model, torch.randn(5, 3), some_of_each(model))


def padded(items: list[Tensor]) -> Tensor:
    return nn.utils.rnn.pad_sequence(items, batch_first=True)


def keywords(items: list[Tensor]) -> dict[str, Tensor]:
    return {"x": padded(items), "adjacency": torch.eye(3)}


@pytest.mark.parametrize("varied", [False, True], ids=["equal items", "items of several lengths"])
@pytest.mark.parametrize("collate", [padded, keywords])
def test_a_collate_function_is_called_once_a_batch_and_a_few_times_more(
    collate: Callable[[list[Tensor]], Any], varied: bool
) -> None:
    calls = 0

    def counted(items: list[Tensor]) -> Any:
        nonlocal calls
        calls += 1
        return collate(items)

    n = 120
    items = [torch.randn(4 + (i % 3 if varied else 0)) for i in range(n)]
    pool = Pool.of(DataLoader(items, batch_size=4, collate_fn=counted))  # type: ignore[arg-type]
    assert len(list(pool.batches(4))) == 30
    assert 30 < calls <= 30 + 10
    before = calls
    list(pool.subset(range(60)).batches(4))  # nothing is asked that is known
    assert calls == before + 15


@pytest.mark.parametrize("first_unequal", [0, 3, 29])
def test_sorting_by_length_is_found_in_the_first_batch_of_unequal_items(first_unequal: int) -> None:
    def by_length(items: list[Tensor]) -> Tensor:
        return padded(sorted(items, key=len, reverse=True))

    items = [torch.randn(4) for _ in range(120)]
    items[4 * first_unequal + 2] = torch.randn(6)
    pool = Pool.of(DataLoader(items, batch_size=4, collate_fn=by_length))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=f"batch of samples {4 * first_unequal} .* order"):
        list(pool.batches(4))
