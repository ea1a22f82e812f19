"""A trained network by the name that ``--model`` takes, and how samples become its inputs.

resnet18, timm:NAME         with the weights of --checkpoint
hf:FOLDER                   a folder that save_pretrained wrote: network, weights, preprocessing
package.module:function     with the weights of --checkpoint, or as the function returns it
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

from torch import nn

from fishermask_fast.labeling.checkpoints import Prepare, load_weights
from fishermask_fast.models import HF, TIMM, is_own, own_result, timm_input
from fishermask_fast.options import PHOTO_MEAN, PHOTO_STD

logger = logging.getLogger(__name__)

Kind = Literal["images", "table", "texts"]
IMAGE_SIZE = 224
_PROBLEMS = {"multi_label_classification": "bernoulli", "regression": "gaussian"}


@dataclass(frozen=True)
class Trained:
    """A network and what it says of itself.

    Attributes:
        name: As it was asked for.
        model: In eval mode.
        prepare: From a list of samples to a batch: of uint8 images (3, height, width) as their
            files hold them, of texts, or of a table's rows as dictionaries; None for a network that
            takes plain tensors.
        classes: Names in the order of the outputs; None where it names none.
        likelihood: That its configuration asks for; None where it asks for none.
    """

    name: str
    model: nn.Module
    prepare: Prepare | None = None
    classes: tuple[str, ...] | None = None
    likelihood: Literal["categorical", "bernoulli", "gaussian"] | None = None


@dataclass(frozen=True)
class Look:
    """How images become tensors.

    Attributes:
        size: Side that they are resized and cropped to.
        mean: Of the channels.
        std: Of the channels.
    """

    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def of(
        cls,
        name: str | None,
        size: int | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> Look:
        """What is given, else what timm says of the network, else ImageNet's."""
        usual = cls(IMAGE_SIZE, PHOTO_MEAN, PHOTO_STD)
        if name is not None and name.startswith(TIMM):
            said = timm_input(name.removeprefix(TIMM))
            if said:
                usual = cls(said["input_size"][-1], tuple(said["mean"]), tuple(said["std"]))
        return cls(
            usual.size if size is None else size,
            usual.mean if mean is None else tuple(mean),
            usual.std if std is None else tuple(std),
        )


def load_trained(
    name: str,
    checkpoint: str | os.PathLike[str] | None = None,
    kind: Kind = "images",
    shape: Sequence[int] = (),
) -> Trained:
    """A trained network by name.

    Args:
        name: A torchvision classifier, ``timm:NAME``, ``hf:FOLDER``, or
            ``package.module:function``, which is called with the number of classes, or with nothing
            where it takes nothing, and returns a network, or a network and what prepares a list of
            samples for it.
        checkpoint: Its weights; not for ``hf:FOLDER``, and not needed where a function returns a
            network that has them.
        kind: Of the samples.
        shape: Of a sample: (3, side, side), for images 224 pixels or timm's own side unless given;
            or (columns,) of a table.

    Raises:
        ValueError: There is no such network, its weights are missing or another's, or it is not
            for samples of this kind.
        ModuleNotFoundError: The package that it is from is not installed.
    """
    if name.startswith(HF):
        if checkpoint is not None:
            raise ValueError(f"{name} holds its own weights; leave --checkpoint out")
        return _hugging_face(name, Path(name.removeprefix(HF)), kind)
    if is_own(name) and checkpoint is None:
        model, prepare = own_result(name, None)
        return Trained(name, model.eval(), prepare)
    if checkpoint is None:
        raise ValueError(f"--checkpoint is needed, the trained weights of --model {name}")
    if kind == "texts" and not is_own(name):
        raise ValueError(
            f"model must be hf:FOLDER or package.module:function for texts; got {name!r}"
        )
    if not shape and not is_own(name):
        if kind == "table":
            raise ValueError(f"shape must be (columns,) for {name} on a table; got ()")
        shape = (3, *2 * (Look.of(name).size,))
    model, prepare = load_weights(name, Path(checkpoint), tuple(shape))
    return Trained(name, model, prepare)


def _hugging_face(name: str, folder: Path, kind: Kind) -> Trained:
    if not (folder / "config.json").is_file():
        raise ValueError(f"{folder} must be a folder of save_pretrained; it has no config.json")
    transformers: Any = import_module("transformers")
    local: dict[str, Any] = {"local_files_only": True}
    task = {"images": "Image", "texts": "Sequence"}.get(kind)
    if task is None:
        raise ValueError(f"model hf:FOLDER is for images and texts; got {name!r} for a {kind}")
    try:
        config = transformers.AutoConfig.from_pretrained(folder, **local)
        built = [str(each) for each in config.architectures or ()]
        wanted = f"For{task}Classification"
        if built and not any(each.endswith(wanted) for each in built):
            raise ValueError(f"it holds a {built[0]}, no network {wanted}")
        auto = getattr(transformers, f"AutoModelFor{task}Classification")
        model, said = auto.from_pretrained(folder, output_loading_info=True, **local)
        if missing := sorted(said["missing_keys"]):
            raise ValueError(
                f"it lacks {len(missing)} trained tensors, such as {missing[0]}: it holds no "
                "trained classifier"
            )
        prepare = (
            _of_images(transformers, folder)
            if kind == "images"
            else _of_texts(transformers, folder, config)
        )
    # Files that somebody else wrote can fail anywhere in their reader.
    except (ValueError, OSError, KeyError, TypeError, RuntimeError, AttributeError) as error:
        raise ValueError(f"cannot read {folder}: {' '.join(str(error).split())}") from error
    names = [str(config.id2label[i]) for i in range(config.num_labels)]
    plain = [f"LABEL_{i}" for i in range(config.num_labels)]
    likelihood = _PROBLEMS.get(str(config.problem_type))
    return Trained(
        name,
        model.eval(),
        prepare,
        None if names == plain else tuple(names),
        likelihood,  # type: ignore[arg-type]
    )


def _of_images(transformers: Any, folder: Path) -> Prepare:
    processor = transformers.AutoImageProcessor.from_pretrained(folder, local_files_only=True)

    def prepare(images: list[Any]) -> Any:
        return dict(processor(images=images, return_tensors="pt"))

    return prepare


def _of_texts(transformers: Any, folder: Path, config: Any) -> Prepare:
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    longest = min(
        int(tokenizer.model_max_length), int(getattr(config, "max_position_embeddings", 10**9))
    )
    if longest >= 10**9:
        longest = 512
    cut = [0]

    def prepare(texts: list[str]) -> Any:
        batch = tokenizer(
            texts, padding=True, truncation=True, max_length=longest, return_tensors="pt"
        )
        if not cut[0] and batch["input_ids"].shape[1] >= longest:
            cut[0] = 1
            logger.warning(
                "cut  texts of more than %d tokens are read to their %dth", longest, longest
            )
        return dict(batch)

    return prepare
