"""Classifiers of torchvision, timm and transformers, small inputs that they take, and their heads.

Weights are random and the same each time. What is listed is what `check_models.py` goes through.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

N_CLASSES = 5
Head = str | tuple[str, ...]


@dataclass(frozen=True)
class Listed:
    """One classifier.

    Attributes:
        library: torchvision, timm or transformers.
        name: of the architecture.
        head: the layer that gives the logits.
        make: the model, in train mode, with random weights.
        inputs: n samples for it.
    """

    library: str
    name: str
    head: Head
    make: Callable[[], nn.Module]
    inputs: Callable[[int], Tensor | dict[str, Tensor]]

    def model(self) -> nn.Module:
        """The model, with the same weights each time."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return self.make()


def images(side: int) -> Callable[[int], Tensor]:
    """Samples (n, 3, side, side)."""

    def draw(n: int) -> Tensor:
        return torch.randn(n, 3, side, side, generator=torch.Generator().manual_seed(1))

    return draw


# The smallest side that each takes where it is not 32, by the start of the name.
_SIDES = {"alexnet": 64, "inception": 80, "maxvit": 224, "vit_h_14": 28}
_TORCHVISION_HEADS = {
    "alexnet": "classifier.6",
    "convnext": "classifier.2",
    "densenet": "classifier",
    "efficientnet": "classifier.1",
    "maxvit": "classifier.5",
    "mnasnet": "classifier.1",
    "mobilenet_v2": "classifier.1",
    "mobilenet_v3": "classifier.3",
    "squeezenet": "classifier.1",
    "swin": "head",
    "vgg": "classifier.6",
    "vit": "heads.head",
}


def torchvision_models() -> list[Listed]:
    """All classifiers of torchvision."""
    from torchvision import models

    def listed(name: str) -> Listed:
        side = next((s for start, s in _SIDES.items() if name.startswith(start)), 32)
        options: dict[str, Any] = {"image_size": side} if name.startswith("vit_") else {}
        if name in ("googlenet", "inception_v3"):
            options = {"init_weights": False}
        heads = (head for start, head in _TORCHVISION_HEADS.items() if name.startswith(start))
        return Listed(
            "torchvision",
            name,
            next(heads, "fc"),
            lambda: models.get_model(name, weights=None, num_classes=N_CLASSES, **options),
            images(side),
        )

    return [listed(name) for name in models.list_models(module=models)]


_TIMM: dict[str, tuple[int, Head, dict[str, Any]]] = {
    "resnet10t": (32, "fc", {}),
    "resnetv2_50": (32, "head.fc", {}),
    "efficientnet_lite0": (32, "classifier", {}),
    "mobilenetv4_conv_small": (32, "classifier", {}),
    "mobileone_s0": (32, "head.fc", {}),
    "repvgg_a0": (32, "head.fc", {}),
    "ghostnet_100": (32, "classifier", {}),
    "hardcorenas_a": (32, "classifier", {}),
    "convnext_atto": (32, "head.fc", {}),
    "convmixer_768_32": (32, "head", {}),
    "regnety_002": (32, "head.fc", {}),
    "vit_tiny_patch16_224": (32, "head", {"img_size": 32}),
    "deit_tiny_distilled_patch16_224": (32, ("head", "head_dist"), {"img_size": 32}),
    "levit_128s": (64, ("head.linear", "head_dist.linear"), {"img_size": 64}),
    "cait_xxs24_224": (32, "head", {"img_size": 32, "depth": 4}),
    "beit_base_patch16_224": (32, "head", {"img_size": 32, "depth": 2}),
    "mixer_s32_224": (64, "head", {"img_size": 64}),
    "poolformer_s12": (32, "head.fc", {}),
    "xcit_nano_12_p16_224": (32, "head", {"img_size": 32}),
    "edgenext_xx_small": (64, "head.fc", {}),
}  # fmt: skip


def timm_models() -> list[Listed]:
    """Twenty of timm's kinds, in small."""
    import timm

    def listed(name: str) -> Listed:
        side, head, options = _TIMM[name]
        return Listed(
            "timm",
            name,
            head,
            lambda: timm.create_model(name, pretrained=False, num_classes=N_CLASSES, **options),
            images(side),
        )

    return [listed(name) for name in _TIMM]


_WORDS, _LENGTH = 60, 7
_SMALL = {
    "vocab_size": _WORDS,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 32,
    "pad_token_id": 0,
}
_DISTIL = {
    "vocab_size": _WORDS,
    "dim": 32,
    "n_layers": 2,
    "n_heads": 4,
    "hidden_dim": 48,
    "max_position_embeddings": 32,
}
_GPT2 = {"vocab_size": _WORDS, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 32}
_KEYED = {"num_key_value_heads": 2, "head_dim": 8}
_VIT = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "image_size": 16,
    "patch_size": 4,
}
# Configuration, whether it reads images, head, and numbers that make it small.
_TRANSFORMERS: dict[str, tuple[str, bool, str, dict[str, Any]]] = {
    "bert": ("BertConfig", False, "classifier", _SMALL),
    "roberta": ("RobertaConfig", False, "classifier.out_proj", _SMALL),
    "distilbert": ("DistilBertConfig", False, "classifier", _DISTIL),
    "albert": ("AlbertConfig", False, "classifier", {**_SMALL, "embedding_size": 16}),
    "electra": ("ElectraConfig", False, "classifier.out_proj", {**_SMALL, "embedding_size": 16}),
    "deberta-v2": ("DebertaV2Config", False, "classifier", _SMALL),
    "xlm-roberta": ("XLMRobertaConfig", False, "classifier.out_proj", _SMALL),
    "mpnet": ("MPNetConfig", False, "classifier.out_proj", _SMALL),
    "convbert": ("ConvBertConfig", False, "classifier.out_proj", {**_SMALL, "embedding_size": 32}),
    "modernbert": ("ModernBertConfig", False, "classifier", _SMALL),
    "gpt2": ("GPT2Config", False, "score", {**_GPT2, "pad_token_id": 0}),
    "gpt_neox": ("GPTNeoXConfig", False, "score", _SMALL),
    "opt": (
        "OPTConfig",
        False,
        "score",
        {**_SMALL, "ffn_dim": 48, "word_embed_proj_dim": 32},
    ),
    "llama": ("LlamaConfig", False, "score", {**_SMALL, **_KEYED}),
    "mistral": ("MistralConfig", False, "score", {**_SMALL, **_KEYED}),
    "qwen2": ("Qwen2Config", False, "score", {**_SMALL, "num_key_value_heads": 2}),
    "gemma": ("GemmaConfig", False, "score", {**_SMALL, **_KEYED}),
    "vit": ("ViTConfig", True, "classifier", _VIT),
    "regnet": (
        "RegNetConfig",
        True,
        "classifier.1",
        {"embedding_size": 16, "hidden_sizes": [16, 32], "depths": [1, 1], "groups_width": 8},
    ),
    "dinov2": ("Dinov2Config", True, "classifier", {**_VIT, "mlp_ratio": 2}),
}


def transformers_models() -> list[Listed]:
    """Twenty configurations of transformers, tiny."""
    import transformers

    def words(n: int) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(1)
        ids = torch.randint(3, _WORDS, (n, _LENGTH), generator=generator)
        attention = torch.ones_like(ids)
        for row in range(0, n, 2):
            attention[row, _LENGTH - 2 :] = 0
            ids[row, _LENGTH - 2 :] = 0
        return {"input_ids": ids, "attention_mask": attention}

    def pixels(n: int) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(1)
        return {"pixel_values": torch.randn(n, 3, 16, 16, generator=generator)}

    def listed(name: str) -> Listed:
        kind, sees, head, options = _TRANSFORMERS[name]
        task = "Image" if sees else "Sequence"
        auto = getattr(transformers, f"AutoModelFor{task}Classification")

        def make() -> nn.Module:
            config = getattr(transformers, kind)(num_labels=N_CLASSES, **options)
            model: nn.Module = auto.from_config(config)
            return model

        return Listed("transformers", name, head, make, pixels if sees else words)

    return [listed(name) for name in _TRANSFORMERS]


LIBRARIES = {
    "torchvision": torchvision_models,
    "timm": timm_models,
    "transformers": transformers_models,
}


def listed(library: str, name: str) -> Listed:
    """One of them."""
    return next(each for each in LIBRARIES[library]() if each.name == name)
