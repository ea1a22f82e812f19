"""End to end on a tiny transformer of random weights and a tokenizer made here."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from fishermask_fast import FisherMaskSelector
from fishermask_fast.integrations.huggingface import query

transformers = pytest.importorskip("transformers")
tokenizers = pytest.importorskip("tokenizers")

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *"abcdefgh"]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    vocabulary = {word: at for at, word in enumerate(WORDS)}
    inner = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="[UNK]"))
    inner.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="[PAD]", unk_token="[UNK]"
    )


@pytest.fixture
def model() -> Any:
    config = transformers.BertConfig(
        vocab_size=len(WORDS), hidden_size=8, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=16, max_position_embeddings=16, num_labels=3,
    )  # fmt: skip
    return transformers.BertForSequenceClassification(config)


@pytest.fixture
def texts(generator: torch.Generator) -> list[str]:
    lengths = torch.randint(2, 9, (24,), generator=generator).tolist()
    return [
        " ".join(WORDS[4 + i] for i in torch.randint(8, (n,), generator=generator).tolist())
        for n in lengths
    ]


def tokenised(tokenizer: Any, texts: list[str]) -> list[dict[str, Any]]:
    columns = tokenizer(texts)
    return [
        {name: columns[name][i] for name in columns} | {"text": text, "label": i % 3, "idx": i}
        for i, text in enumerate(texts)
    ]


@pytest.mark.parametrize(
    "options",
    [{"fraction": 0.1}, {"mask": "head", "backward_steps": 1}],
    ids=["fishermask", "bait"],
)
def test_end_to_end(options: dict[str, Any], tokenizer: Any, model: Any, texts: Any) -> None:
    model.train()
    items = tokenised(tokenizer, texts)
    before = [dict(item) for item in items]
    found = query(model, items[8:], 5, items[:8], tokenizer=tokenizer, batch_size=7, **options)
    padded = tokenizer(texts, padding="max_length", max_length=16)
    columns = [
        {name: torch.tensor(padded[name][i]) for name in ("input_ids", "attention_mask")}
        for i in range(len(texts))
    ]
    expected = FisherMaskSelector(model, **options).query(
        columns[8:],
        5,
        columns[:8],
        progress=False,  # type: ignore[arg-type]
    )
    assert found.indices.tolist() == expected.indices.tolist()
    assert model.training and items == before


def test_datasets(tokenizer: Any, model: Any, texts: Any) -> None:
    datasets = pytest.importorskip("datasets")
    items = tokenised(tokenizer, texts)
    table = datasets.Dataset.from_list(items)
    expected = query(model, items, 5, tokenizer=tokenizer, mask="head").indices.tolist()
    assert query(model, table, 5, tokenizer=tokenizer, mask="head").indices.tolist() == expected
    formatted = table.with_format("torch")
    found = query(model, formatted, 5, table.select([]), tokenizer=tokenizer, mask="head")
    assert found.indices.tolist() == expected


def test_equally_long_samples_need_no_tokenizer(tokenizer: Any, model: Any) -> None:
    items = tokenised(tokenizer, ["a b c", "c d e", "f g h", "a a a"])
    assert len(query(model, items, 2, mask="head")) == 2


def test_own_collate(model: Any) -> None:
    rows = [{"input_ids": torch.tensor([4 + i, 5])} for i in range(6)]

    def collate(items: list[Any]) -> Any:
        return {"input_ids": torch.stack([item["input_ids"] for item in items])}

    assert len(query(model, rows, 2, collate=collate, mask="head")) == 2


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"unlabeled": [(1, 2)] * 4}, TypeError, "items must be dicts of columns.*got tuple"),
        ({"unlabeled": iter([])}, TypeError, "unlabeled must have a length and an index"),
        ({"unlabeled": [{"words": [1]}] * 4}, ValueError, r"none of the columns \['words'\]"),
        ({"unlabeled": []}, ValueError, "unlabeled is empty"),
        ({"unlabeled": {"input_ids": [[4, 5]] * 4}}, TypeError, r"got dict.*dataset.select\(range"),
        (
            {"unlabeled": [{"input_ids": [4] * n} for n in (2, 3, 2, 3)]},
            ValueError,
            "without a tokenizer or a collate all samples must hold equally long lists",
        ),
        (
            {"unlabeled": [{"input_ids": [4], "attention_mask": [1]}, {"input_ids": [4]}]},
            ValueError,
            r"one has no 'attention_mask' but \['input_ids'\]",
        ),
        ({"tokenizer": "bert"}, TypeError, "tokenizer must have a pad method; got str"),
        ({"labeled": [(1, 2)] * 4}, TypeError, "items must be dicts"),
        ({"batch_size": 0}, ValueError, "batch_size must be at least 1"),
        ({"n_select": 5}, ValueError, "at most the 4 unlabeled samples; got 5"),
        ({"tokenizer": object(), "collate": list}, TypeError, "tokenizer or collate, not both"),
        ({"no_such": 1}, TypeError, "no_such"),
        ({"model": None}, TypeError, "model must be an nn.Module; got NoneType"),
    ],
)
def test_bad_input(
    change: dict[str, Any], error: type[Exception], message: str, model: Any
) -> None:
    given: dict[str, Any] = {
        "model": model,
        "unlabeled": [{"input_ids": [4, 5]}] * 4,
        "n_select": 2,
        "mask": "head",
    }
    with pytest.raises(error, match=message):
        query(**(given | change))
