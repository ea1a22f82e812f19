"""End to end on a tiny transformer of random weights and a tokenizer made here."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from conftest import relative_error
from networks import expected_columns

from fishermask_fast import (
    FisherMask,
    FisherMaskSelector,
    fisher_diagonal,
    masked_gradients,
    reference,
)
from fishermask_fast.integrations.huggingface import query
from fishermask_fast.likelihoods.categorical import make_rows
from fishermask_fast.network import find_head

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


def bert(**options: Any) -> Any:
    config = transformers.BertConfig(
        vocab_size=len(WORDS), hidden_size=8, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=16, max_position_embeddings=16, **options,
    )  # fmt: skip
    return transformers.BertForSequenceClassification(config)


ASKED: dict[str, tuple[dict[str, Any], str]] = {
    "nothing": ({"num_labels": 3}, "categorical"),
    "one class": ({"num_labels": 3, "problem_type": "single_label_classification"}, "categorical"),
    "labels": ({"num_labels": 3, "problem_type": "multi_label_classification"}, "bernoulli"),
    "targets": ({"num_labels": 3, "problem_type": "regression"}, "gaussian"),
    "one target": ({"num_labels": 1}, "gaussian"),
    "one label": ({"num_labels": 1, "problem_type": "multi_label_classification"}, "bernoulli"),
}


def columns_of(tokenizer: Any, texts: list[str]) -> list[dict[str, torch.Tensor]]:
    padded = tokenizer(texts, padding="max_length", max_length=16)
    return [
        {name: torch.tensor(padded[name][i]) for name in ("input_ids", "attention_mask")}
        for i in range(len(texts))
    ]


@pytest.mark.parametrize(("options", "likelihood"), ASKED.values(), ids=ASKED.keys())
def test_the_configuration_says_what_the_outputs_are(
    options: dict[str, Any], likelihood: str, tokenizer: Any, texts: list[str]
) -> None:
    model = bert(**options)
    items, columns = tokenised(tokenizer, texts), columns_of(tokenizer, texts)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = query(model, items, 6, tokenizer=tokenizer, mask="head")
    selector = FisherMaskSelector(model, mask="head", likelihood=likelihood)
    expected = selector.query(columns, 6, progress=False)  # type: ignore[arg-type]
    assert found.indices.tolist() == expected.indices.tolist()
    torch.testing.assert_close(found.scores, expected.scores)


def test_disagreement_with_the_configuration_is_said(tokenizer: Any, texts: list[str]) -> None:
    model = bert(num_labels=3, problem_type="multi_label_classification")
    items = tokenised(tokenizer, texts)
    with pytest.warns(UserWarning, match="taken for categorical.*problem_type.*bernoulli"):
        query(model, items, 3, tokenizer=tokenizer, mask="head", likelihood="categorical")


def test_training_on_several_labels_is_seen(tokenizer: Any, texts: list[str]) -> None:
    """transformers notes in the configuration which loss it took for the first labels."""
    model = bert(num_labels=3)
    batch = tokenizer(texts[:4], padding=True, return_tensors="pt")
    model(**batch, labels=torch.ones(4, 3)).loss.backward()
    columns = columns_of(tokenizer, texts)
    with pytest.warns(UserWarning, match="multi_label_classification"):
        FisherMaskSelector(model, mask="head").query(columns, 3, progress=False)  # type: ignore[arg-type]


def with_adapters(model: Any) -> Any:
    peft = pytest.importorskip("peft")
    options = {"r": 2, "target_modules": ["query", "value"], "init_lora_weights": False}
    return peft.get_peft_model(model, peft.LoraConfig(task_type="SEQ_CLS", **options))


@pytest.mark.parametrize("options", [{"num_labels": 3}, ASKED["labels"][0], {"num_labels": 1}])
def test_adapters(options: dict[str, Any], tokenizer: Any, texts: list[str]) -> None:
    """Masks and gradients are of the adapters and the head alone, and are plain autograd's."""
    model = with_adapters(bert(**options)).double().eval()
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert all("lora_" in name or "classifier" in name for name in trained)
    likelihood = {None: "categorical", "multi_label_classification": "bernoulli"}[
        options.get("problem_type")
    ]
    if options["num_labels"] == 1:
        likelihood = "gaussian"
    everything = FisherMask.from_scores(
        fisher_diagonal(model, columns_of(tokenizer, texts), likelihood=likelihood),
        1.0,
        "global",
        head=find_head(model, {k: v[None] for k, v in columns_of(tokenizer, texts[:1])[0].items()}),
    )
    assert set(everything.indices) == trained
    found = masked_gradients(model, columns_of(tokenizer, texts), everything, likelihood=likelihood)
    rows_of = {
        "categorical": lambda z: make_rows(z, "fisher"),
        "bernoulli": reference.bernoulli_rows,
        "gaussian": reference.gaussian_rows,
    }[likelihood]
    padded = columns_of(tokenizer, texts)
    columns = {name: torch.stack([one[name] for one in padded]) for name in padded[0]}
    expected = reference.likelihood_gradients(model, columns, rows_of)
    head = everything.head_names[0].rpartition(".")[0] if found.coupling is not None else None
    columns_expected = expected_columns(expected, everything, head)
    assert relative_error(found.dense(), columns_expected) < 1e-10


def test_adapters_see_every_column(texts: list[str]) -> None:
    """The adapter's forward names fewer columns than its model takes (no token_type_ids)."""
    model = with_adapters(bert(num_labels=3))
    items = [
        {
            "input_ids": [2, 4 + i % 8, 4 + i % 5, 3],
            "attention_mask": [1, 1, 1, 1],
            "token_type_ids": [0, 0, i % 2, 1],
        }
        for i in range(30)
    ]
    with torch.no_grad():
        model.get_base_model().bert.embeddings.token_type_embeddings.weight.normal_(0, 3)
    found = query(model, items, 6, mask="head")
    tensors: Any = [{key: torch.tensor(value) for key, value in item.items()} for item in items]
    expected = FisherMaskSelector(model, mask="head").query(tensors, 6, progress=False)
    torch.testing.assert_close(found.scores, expected.scores)
