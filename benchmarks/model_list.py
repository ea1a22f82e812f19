"""Forty networks of the libraries that people take theirs from, and a batch for each.

Real classes with random weights, small images or small configurations: what matters is which
operations they are made of.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

N_CLASSES = 5

TORCHVISION = (
    "alexnet", "convnext_tiny", "densenet121", "efficientnet_b0", "efficientnet_v2_s", "googlenet",
    "inception_v3", "maxvit_t", "mnasnet0_5", "mobilenet_v2", "mobilenet_v3_small",
    "regnet_y_400mf", "resnet18", "resnet50", "resnext50_32x4d", "shufflenet_v2_x0_5",
    "squeezenet1_1", "swin_t", "swin_v2_t", "vit_b_16",
)  # fmt: skip
TIMM = (
    "convnextv2_atto", "deit_tiny_patch16_224", "efficientformer_l1", "eva02_tiny_patch14_224",
    "mixer_s32_224", "mobilevit_xxs", "poolformer_s12", "resnetv2_50",
    "swin_tiny_patch4_window7_224", "xcit_nano_12_p16_224",
)  # fmt: skip
TEXT = ("Albert", "Bert", "DistilBert", "Electra", "GPT2", "Llama", "MPNet", "Roberta", "T5", "ViT")


@dataclass(frozen=True)
class Entry:
    """A network's name, library, and how it and a batch for it are made."""

    name: str
    library: str
    build: Callable[[], nn.Module]
    inputs: Callable[[int], Tensor | dict[str, Tensor]]  # number of samples -> batch


def _images(size: int) -> Callable[[int], Tensor]:
    return lambda n: torch.randn(n, 3, size, size)


def _torchvision(name: str) -> Entry:
    from torchvision import models

    size = {"inception_v3": 75, "alexnet": 64, "maxvit_t": 224}.get(name, 64)
    extra: dict[str, object] = {"num_classes": N_CLASSES}
    if name.startswith("vit"):
        extra["image_size"] = size
    if name in ("googlenet", "inception_v3"):
        extra["init_weights"] = False
    return Entry(
        name, "torchvision", lambda: models.get_model(name, weights=None, **extra), _images(size)
    )


def _timm(name: str) -> Entry:
    import timm

    return Entry(name, "timm", lambda: timm.create_model(name, num_classes=N_CLASSES), _images(224))


def _transformers(kind: str) -> Entry:
    import transformers as hf

    small = {"num_labels": N_CLASSES, "num_hidden_layers": 3, "num_attention_heads": 4}
    sizes = {"hidden_size": 128, "intermediate_size": 256, "vocab_size": 500}
    configs: dict[str, Callable[[], object]] = {
        "Albert": lambda: hf.AlbertConfig(**small, **sizes, embedding_size=64),
        "Bert": lambda: hf.BertConfig(**small, **sizes),
        "DistilBert": lambda: hf.DistilBertConfig(
            num_labels=N_CLASSES, dim=128, hidden_dim=256, n_layers=3, n_heads=4, vocab_size=500
        ),
        "Electra": lambda: hf.ElectraConfig(**small, **sizes, embedding_size=64),
        "GPT2": lambda: hf.GPT2Config(
            num_labels=N_CLASSES, n_embd=128, n_layer=3, n_head=4, vocab_size=500, pad_token_id=0
        ),
        "Llama": lambda: hf.LlamaConfig(
            **small, **sizes, num_key_value_heads=2, pad_token_id=0
        ),
        "MPNet": lambda: hf.MPNetConfig(**small, **sizes),
        "Roberta": lambda: hf.RobertaConfig(**small, **sizes),
        "T5": lambda: hf.T5Config(
            num_labels=N_CLASSES, d_model=128, d_kv=32, d_ff=256, num_layers=3, num_heads=4,
            vocab_size=500, decoder_start_token_id=0,
        ),
        "ViT": lambda: hf.ViTConfig(**small, hidden_size=128, intermediate_size=256, image_size=64),
    }  # fmt: skip

    def build() -> nn.Module:
        whole = kind + ("ForImageClassification" if kind == "ViT" else "ForSequenceClassification")
        model: nn.Module = getattr(hf, whole)(configs[kind]())
        return model

    def tokens(n: int) -> dict[str, Tensor]:
        ids = torch.randint(3, 500, (n, 32))
        ids[:, -1] = 1  # where T5 looks for the end of its text
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}

    def images(n: int) -> dict[str, Tensor]:
        return {"pixel_values": torch.randn(n, 3, 64, 64)}

    return Entry(kind, "transformers", build, images if kind == "ViT" else tokens)


def entries(names: list[str] | None = None) -> list[Entry]:
    """The networks named, or all of them."""
    makers = [(_torchvision, TORCHVISION), (_timm, TIMM), (_transformers, TEXT)]
    return [
        make(name) for make, group in makers for name in group if names is None or name in names
    ]
