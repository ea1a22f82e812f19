"""Classifiers of torchvision, timm, transformers and peft, inputs that they take, and their heads.

Weights are random and the same each time. `check_models.py` goes through all of them in the
smallest form that each has, and `benchmarks/model_costs.py` through those that are `TIMED`, in a
form in which the operations count and not the calls.
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


# What is timed, of each library.
TIMED = {
    "torchvision": (
        "alexnet", "convnext_tiny", "densenet121", "efficientnet_b0", "efficientnet_v2_s",
        "googlenet", "inception_v3", "maxvit_t", "mnasnet0_5", "mobilenet_v2",
        "mobilenet_v3_small", "regnet_y_400mf", "resnet18", "resnet50", "resnext50_32x4d",
        "shufflenet_v2_x0_5", "squeezenet1_1", "swin_t", "swin_v2_t", "vit_b_16",
    ),
    "timm": (
        "beit_base_patch16_224", "convmixer_768_32", "convnext_atto",
        "deit_tiny_distilled_patch16_224", "edgenext_xx_small", "levit_128s", "mixer_s32_224",
        "poolformer_s12", "resnetv2_50", "xcit_nano_12_p16_224",
    ),
    "transformers": (
        "albert", "bert", "distilbert", "electra", "gpt2", "llama", "modernbert", "mpnet",
        "roberta", "vit",
    ),
}  # fmt: skip

# The smallest side that each takes where it is not 32, by the start of the name.
_SIDES = {"alexnet": 64, "inception": 80, "maxvit": 224, "vit_h_14": 28}
_TIMED_SIDE = 64
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


def torchvision_models(timed: bool = False) -> list[Listed]:
    """All classifiers of torchvision; or those that are timed, on images of 64 pixels."""
    from torchvision import models

    def listed(name: str) -> Listed:
        side = next((s for start, s in _SIDES.items() if name.startswith(start)), 32)
        side = max(side, _TIMED_SIDE) if timed else side
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

    names = TIMED["torchvision"] if timed else models.list_models(module=models)
    return [listed(name) for name in names]


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


def timm_models(timed: bool = False) -> list[Listed]:
    """Twenty of timm's kinds, in small; or those that are timed, on images of 64 pixels."""
    import timm

    def listed(name: str) -> Listed:
        side, head, options = _TIMM[name]
        if timed:
            side = _TIMED_SIDE
            options = {"img_size": side} if "img_size" in options else {}
        return Listed(
            "timm",
            name,
            head,
            lambda: timm.create_model(name, pretrained=False, num_classes=N_CLASSES, **options),
            images(side),
        )

    return [listed(name) for name in (TIMED["timm"] if timed else _TIMM)]


_WORDS, _LENGTH = 60, 7
# Sizes of those that are timed.
_LARGER: dict[str, Any] = {
    "hidden_size": 128, "intermediate_size": 256, "dim": 128, "hidden_dim": 256, "n_embd": 128,
    "embedding_size": 64, "max_position_embeddings": 128, "n_positions": 128, "head_dim": 32,
    "num_hidden_layers": 3, "n_layers": 3, "n_layer": 3, "image_size": _TIMED_SIDE, "patch_size": 8,
}  # fmt: skip
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


def words(length: int) -> Callable[[int], dict[str, Tensor]]:
    """Texts of `length` tokens, every second of which ends in two of padding."""

    def draw(n: int) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(1)
        ids = torch.randint(3, _WORDS, (n, length), generator=generator)
        attention = torch.ones_like(ids)
        for row in range(0, n, 2):
            attention[row, length - 2 :] = 0
            ids[row, length - 2 :] = 0
        return {"input_ids": ids, "attention_mask": attention}

    return draw


def pixels(side: int) -> Callable[[int], dict[str, Tensor]]:
    """Images by keyword."""
    return lambda n: {"pixel_values": images(side)(n)}


def transformers_models(timed: bool = False) -> list[Listed]:
    """Twenty configurations of transformers, tiny; or those that are timed, a size larger."""
    import transformers

    def listed(name: str) -> Listed:
        kind, sees, head, options = _TRANSFORMERS[name]
        if timed:
            options = {key: _LARGER.get(key, value) for key, value in options.items()}
        task = "Image" if sees else "Sequence"
        auto = getattr(transformers, f"AutoModelFor{task}Classification")

        def make() -> nn.Module:
            config = getattr(transformers, kind)(num_labels=N_CLASSES, **options)
            model: nn.Module = auto.from_config(config)
            return model

        size = ((_TIMED_SIDE if timed else 16), (32 if timed else _LENGTH))
        return Listed("transformers", name, head, make, pixels(size[0]) if sees else words(size[1]))

    return [listed(name) for name in (TIMED["transformers"] if timed else _TRANSFORMERS)]


# What is adapted, its head in there, the kind of adapter and its numbers. Without a task the head
# stays frozen; with one it is trained, in a module beside the original.
_QUERIES = {"target_modules": ["query", "value"]}
_PEFT: dict[str, tuple[str, str, str, dict[str, Any]]] = {
    "bert, LoRA": ("bert", "", "LoraConfig", {"task_type": "SEQ_CLS", **_QUERIES}),
    "bert, LoRA, head frozen": ("bert", "", "LoraConfig", _QUERIES),
    "bert, LoRA with DoRA": (
        "bert", "", "LoraConfig", {"task_type": "SEQ_CLS", "use_dora": True, **_QUERIES},
    ),
    "bert, IA3": (
        "bert", "", "IA3Config",
        {
            "task_type": "SEQ_CLS",
            "target_modules": ["key", "value", "output.dense"],
            "feedforward_modules": ["output.dense"],
        },
    ),
    "bert, prompt tuning": (
        "bert", "", "PromptTuningConfig", {"task_type": "SEQ_CLS", "num_virtual_tokens": 3},
    ),
    "roberta, LoRA": (
        "roberta", "classifier", "LoraConfig", {"task_type": "SEQ_CLS", **_QUERIES},
    ),
    "gpt2, LoRA": (
        "gpt2", "", "LoraConfig", {"task_type": "SEQ_CLS", "target_modules": ["c_attn"]},
    ),
    "llama, LoRA of every linear layer": (
        "llama", "", "LoraConfig", {"task_type": "SEQ_CLS", "target_modules": "all-linear"},
    ),
    "vit, LoRA": (
        "vit", "", "LoraConfig", {"modules_to_save": ["classifier"], "target_modules": "all-linear"}
    ),
}  # fmt: skip


def peft_models() -> list[Listed]:
    """Tiny transformers with adapters, which are no heads."""
    import peft

    tiny = {case.name: case for case in transformers_models()}

    def listed(name: str) -> Listed:
        adapted, saved, kind, options = _PEFT[name]
        base = tiny[adapted]
        saved = saved or str(base.head)
        head = f"base_model.model.{base.head}"
        if "task_type" in options or "modules_to_save" in options:
            rest = str(base.head).removeprefix(saved)
            head = f"base_model.model.{saved}.modules_to_save.default{rest}"
        if kind == "PromptTuningConfig":
            head = head.replace("base_model.model.", "base_model.")

        def make() -> nn.Module:
            rank = {"r": 4} if kind == "LoraConfig" else {}
            model = peft.get_peft_model(base.make(), getattr(peft, kind)(**rank, **options))
            with torch.no_grad():  # adapters begin at zero, where half of their gradients are
                for name, p in model.named_parameters():
                    if p.requires_grad and "lora_B" in name:
                        p.normal_(std=0.1)
            return model

        return Listed("peft", name, head, make, base.inputs)

    return [listed(name) for name in _PEFT]


LIBRARIES: dict[str, Callable[[], list[Listed]]] = {
    "torchvision": torchvision_models,
    "timm": timm_models,
    "transformers": transformers_models,
    "peft": peft_models,
}


def listed(library: str, name: str) -> Listed:
    """One of them."""
    return next(each for each in LIBRARIES[library]() if each.name == name)


def timed_models() -> list[Listed]:
    """Those that are timed."""
    return [*torchvision_models(True), *timm_models(True), *transformers_models(True)]
