"""``select`` with any network by name, on images, tables, texts and embeddings; and from Python."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from test_select import rows, write_image
from torch import Tensor

from fishermask_fast import FisherMaskSelector
from fishermask_fast.cli import main
from fishermask_fast.labeling import (
    load_trained,
    read_folder,
    read_table,
    write_picks,
)
from fishermask_fast.models import build_model

OWN = """
import torch
from torch import nn

def table(n_classes):
    return nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, n_classes))

def ready():
    torch.manual_seed(3)
    return nn.Sequential(nn.Flatten(), nn.Linear(432, 3)), lambda images: torch.stack(
        [image[:, :12, :12] / 255 for image in images])

def words():
    torch.manual_seed(3)
    ids = lambda text: [1 + len(word) for word in text.split()]
    def prepare(texts):
        longest = max(len(ids(text)) for text in texts)
        return torch.tensor([ids(t) + [0] * (longest - len(ids(t))) for t in texts])
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.words, self.head = nn.Embedding(20, 5, padding_idx=0), nn.Linear(5, 2)
        def forward(self, x):
            return self.head(self.words(x).sum(1))
    return Net(), prepare

def rows_(n_classes=2):
    torch.manual_seed(3)
    return nn.Linear(3, n_classes), lambda cells: torch.tensor(
        [[float(c["a"]), c["colour"] == "red", c["colour"] == "blue"] for c in cells])

def two(a, b):
    return None

nothing = 3
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for number in range(9):
        write_image(Path("new") / f"{number}.png", number)
    for number in range(4):
        write_image(Path("old") / "ab"[number % 2] / f"{number}.png", 100 + number)
    # Modules are imported once a process: each test has one of its own.
    Path(f"own_{tmp_path.name}.py").write_text(OWN)
    return tmp_path


def own(here: Path, function: str) -> str:
    return f"own_{here.name}:{function}"


def select(*flags: str) -> int:
    return main(["select", "--fisher-samples", "8", *flags])


def test_a_function_of_ones_own_with_what_prepares_images(here: Path) -> None:
    flags = ["--unlabeled", "new", "--labeled", "old", "--classes", "a", "b", "c"]
    assert select(*flags, "--model", own(here, "ready"), "-n", "3") == 0
    trained = load_trained(own(here, "ready"))
    pool = read_folder("new", "old", prepare=trained.prepare)
    expected = FisherMaskSelector(trained.model, fisher_samples=8).query(
        pool.unlabeled, 3, pool.labeled, progress=False
    )
    paths = [str(pool.names[i]) for i in expected.indices]
    assert [row["path"] for row in rows(Path("picks/picks.csv"))] == paths
    write_picks(
        "again", pool, expected.indices, scores=expected.scores, model=trained.model,
        classes=["a", "b", "c"],
    )  # fmt: skip
    for name in ("picks.csv", "pool.csv", "label_studio.xml", "picks.png"):
        first, second = (Path(folder, name).read_bytes() for folder in ("picks", "again"))
        assert first.replace(b"picks/", b"again/") == second, name


@pytest.mark.parametrize("name", ["timm:resnet10t", "timm:vit_tiny_patch16_224", "googlenet"])
def test_networks_by_name(here: Path, name: str) -> None:
    if name.startswith("timm:"):
        pytest.importorskip("timm")
    size = 48
    torch.save(build_model(name, 2, (3, size, size), seed=1).state_dict(), "net.pt")
    flags = ["--unlabeled", "new", "--labeled", "old", "--model", name, "--checkpoint", "net.pt"]
    assert select(*flags, "-n", "3", "--image-size", str(size), "--strategy", "margin") == 0
    assert len(rows(Path("picks/picks.csv"))) == 3


def test_a_network_without_auxiliary_heads(here: Path) -> None:
    """As torchvision's own training script saves it with --aux-logits off."""
    from torchvision import models

    net = models.get_model("googlenet", num_classes=2, aux_logits=False, init_weights=False)
    torch.save(net.state_dict(), "net.pt")
    trained = load_trained("googlenet", Path("net.pt"), "images", (3, 48, 48))
    assert trained.model(torch.zeros(1, 3, 48, 48)).shape == (1, 2)


def test_timm_says_what_its_images_are(here: Path) -> None:
    pytest.importorskip("timm")
    from fishermask_fast.labeling.trained import Look

    assert Look.of("timm:vit_tiny_patch16_224").mean == (0.5, 0.5, 0.5)
    assert Look.of("timm:resnet10t").size == 176
    assert Look.of("timm:resnet10t", 64, (0, 0, 0)) == Look(64, (0, 0, 0), Look.of("resnet18").std)


def tables(suffix: str, records: list[dict[str, Any]]) -> Path:
    path = Path(f"data{suffix}")
    if suffix == ".csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(records[0]))
            writer.writeheader()
            writer.writerows(records)
    elif suffix == ".jsonl":
        path.write_text("".join(json.dumps(record) + "\n" for record in records))
    else:
        pandas = pytest.importorskip("pandas")
        pytest.importorskip("pyarrow")
        pandas.DataFrame(records).to_parquet(path)
    return path


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_a_table(here: Path, suffix: str) -> None:
    values = torch.randn(12, 2, generator=torch.Generator().manual_seed(0))
    records = [
        {"x": x, "y": y, "kind": ("cat", "dog")[i % 2] if i < 4 else ""}
        for i, (x, y) in enumerate(values.tolist())
    ]
    path = tables(suffix, records)
    net = build_model(own(here, "table"), 2, (2,), seed=1)
    torch.save(net.state_dict(), "net.pt")
    flags = ["--csv", str(path), "--label-column", "kind", "--checkpoint", "net.pt"]
    assert select(*flags, "--model", own(here, "table"), "-n", "3") == 0
    expected = FisherMaskSelector(net, fisher_samples=8).query(
        values[4:], 3, values[:4], progress=False
    )
    found = rows(Path("picks/picks.csv"))
    assert [int(row["row"]) for row in found] == [5 + i for i in expected.indices.tolist()]
    assert [float(row["x"]) for row in found] == values[4:][expected.indices, 0].tolist()
    tasks = json.loads(Path("picks/label_studio.json").read_text())
    assert [set(task["data"]["cells"]) for task in tasks] == 3 * [{"x", "y"}]
    assert '<Table name="cells" value="$cells"/>' in Path("picks/label_studio.xml").read_text()
    pool = read_table(path, label_column="kind")
    assert (pool.kind, len(pool), pool.labels) == ("table", 8, ("cat", "dog", "cat", "dog"))


def test_rows_that_ones_own_function_prepares(here: Path) -> None:
    records = [{"a": i, "colour": ("red", "blue", "")[i % 3]} for i in range(9)]
    path = tables(".csv", records)
    assert select("--csv", str(path), "--model", own(here, "rows_"), "-n", "2") == 0
    found = rows(Path("picks/picks.csv"))
    assert {row["colour"] for row in found} <= {"red", "blue", ""} and len(found) == 2


TEXTS = ["a fine day", "a dull day of rain", "rain", "sun and more sun for all", "fog", "a b c d e"]


def test_texts_of_ones_own_function_and_back(here: Path) -> None:
    """Of unequal lengths, which a batch pads to its longest; labels come back by row."""
    records = [{"text": text, "label": ""} for text in TEXTS] + [{"text": "hail", "label": "bad"}]
    path = tables(".csv", records)
    flags = ["--csv", str(path), "--model", own(here, "words"), "--classes", "bad", "good"]
    assert select(*flags, "-n", "3") == 0
    found = rows(Path("picks/picks.csv"))
    assert [TEXTS[int(row["row"]) - 1] for row in found] == [row["text"] for row in found]
    tasks = json.loads(Path("picks/label_studio.json").read_text())
    assert [task["data"]["text"] for task in tasks] == [row["text"] for row in found]
    for task in tasks:
        result = {"type": "choices", "value": {"choices": ["good"]}}
        task["annotations"] = [{"result": [result]}]
    Path("export.json").write_text(json.dumps(tasks))
    assert main(["import-labels", "export.json"]) == 0
    back = rows(Path("labels.csv"))
    assert [row["text"] for row in back] == [*TEXTS, "hail"]
    picked = {row["text"] for row in found}
    assert [row["label"] for row in back] == [
        "good" if text in picked else "" for text in TEXTS
    ] + ["bad"]
    flags[1] = "labels.csv"
    assert select(*flags, "-n", "3", "--out", "next") == 0
    assert picked.isdisjoint(row["text"] for row in rows(Path("next/picks.csv")))


def save_text_model(folder: Path, n_labels: int = 2, **more: Any) -> None:
    transformers = pytest.importorskip("transformers")
    from transformers import BertConfig, BertTokenizerFast

    words = sorted({word for text in TEXTS for word in text.split()})
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]
    folder.mkdir()
    (folder / "vocab.txt").write_text("\n".join(vocabulary))
    BertTokenizerFast(str(folder / "vocab.txt"), model_max_length=16).save_pretrained(folder)
    config = BertConfig(
        vocab_size=len(vocabulary), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=16, max_position_embeddings=16, num_labels=n_labels, **more,
    )  # fmt: skip
    torch.manual_seed(0)
    transformers.AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)


def test_a_hugging_face_folder_of_texts(here: Path, caplog: pytest.LogCaptureFixture) -> None:
    save_text_model(here / "bert", id2label={0: "bad", 1: "good"}, label2id={"bad": 0, "good": 1})
    long = " ".join(["rain"] * 40)
    path = tables(".jsonl", [{"text": text} for text in [*TEXTS, long]])
    assert select("--csv", str(path), "--model", "hf:bert", "-n", "3", "--image-size", "9") == 0
    assert "--csv without path does not read image_size" in caplog.text
    found = rows(Path("picks/picks.csv"))
    assert {row["predicted"] for row in found} <= {"bad", "good"} and len(found) == 3
    assert "texts of more than 16 tokens are read to their 16th" in caplog.text
    trained = load_trained("hf:bert", kind="texts")
    assert trained.prepare is not None
    pool = read_table(path, prepare=trained.prepare)
    expected = FisherMaskSelector(trained.model, fisher_samples=8).query(
        pool.unlabeled, 3, progress=False
    )
    assert [int(row["row"]) - 1 for row in found] == expected.indices.tolist()


def test_a_hugging_face_folder_of_images(here: Path, caplog: pytest.LogCaptureFixture) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        image_size=16, patch_size=8, num_labels=2,
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.AutoModelForImageClassification.from_config(config)
    model.save_pretrained("vit")
    transformers.ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained("vit")
    flags = ["--unlabeled", "new", "--labeled", "old", "--model", "hf:vit", "-n", "3"]
    assert select(*flags, "--image-size", "8", "--mean", "0", "0", "0") == 0
    said = "what prepares images for hf:vit does not read image_size, mean"
    assert said in caplog.text
    processor = transformers.AutoImageProcessor.from_pretrained("vit")
    from PIL import Image

    def pixels(folder: str) -> Tensor:
        images = [Image.open(path).convert("RGB") for path in sorted(Path(folder).rglob("*.png"))]
        return torch.as_tensor(processor(images, return_tensors="pt")["pixel_values"])

    expected = FisherMaskSelector(model, fisher_samples=8).query(
        pixels("new"), 3, pixels("old"), progress=False
    )
    paths = sorted(Path("new").rglob("*.png"))
    assert [row["path"] for row in rows(Path("picks/picks.csv"))] == [
        str(paths[i]) for i in expected.indices
    ]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--model OWN:two", "must take the number of classes, or nothing; it needs a, b"),
        ("--model OWN:nothing", "must be a function; it is a int"),
        ("--model OWN:redy", "has no redy; did you mean ready?"),
        ("--model script_of_ones_own:net", "cannot be imported: SystemExit: 2"),
        ("--model no_such_module:f", "no_such_module cannot be imported"),
        ("--model resnet18", "--checkpoint is needed, the trained weights of --model resnet18"),
        ("--model resnet81 --checkpoint x.pt", "did you mean resnet18?"),
        ("--model timm:resnet10 --checkpoint x.pt", "timm has no network 'resnet10'; did you mean"),
        ("--model hf:new", "new must be a folder of save_pretrained; it has no config.json"),
        ("--model hf:new --checkpoint x.pt", "holds its own weights; leave --checkpoint out"),
        ("--embeddings x.npz --model resnet18", "one of the three"),
        ("--model OWN:words", "what prepares samples failed: TypeError: Tensor.split() missing"),
    ],
)
def test_networks_that_are_none(
    here: Path, flags: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if "timm" in flags:
        pytest.importorskip("timm")
    Path("script_of_ones_own.py").write_text("import sys\nsys.exit(2)\n")
    for name in ("x.pt", "x.npz"):
        Path(name).touch()
    given = flags.replace("OWN", f"own_{here.name}").split()
    assert select("--unlabeled", "new", "-n", "2", *given) == 2
    error = capsys.readouterr().err
    assert message in error, error
    assert not Path("picks").exists()


def test_a_folder_without_a_trained_head(here: Path) -> None:
    save_text_model(here / "bert")
    from safetensors.torch import load_file, save_file

    state = load_file("bert/model.safetensors")
    save_file({k: v for k, v in state.items() if "classifier" not in k}, "bert/model.safetensors",
              metadata={"format": "pt"})  # fmt: skip
    with pytest.raises(ValueError, match=r"lacks 2 trained tensors, such as classifier\.bias"):
        load_trained("hf:bert", kind="texts")
