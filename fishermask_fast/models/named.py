"""Networks of others by name: torchvision's, timm's, and what a function of one's own returns.

resnet18                    torchvision's classifiers, all of them
timm:convnext_tiny          timm's, without pretrained weights
package.module:function     function(n_classes), or function() where it takes no number
"""

from __future__ import annotations

import importlib
import inspect
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import nn

from fishermask_fast.options import meant

TIMM, HF = "timm:", "hf:"
OURS = ("cnn_small", "mlp_small", "resnet18_small", "text_small", "vit_small")
COUNTS = ("n_classes", "num_classes", "num_labels")
"""Names by which functions take the number of classes."""


def is_own(name: str) -> bool:
    """Whether a name is of the form ``package.module:function``."""
    return ":" in name and not name.startswith((TIMM, HF))


def torchvision_model(name: str, n_classes: int, shape: Sequence[int], **more: Any) -> nn.Module:
    """One of torchvision's classifiers, without pretrained weights.

    Args:
        name: As ``torchvision.models.list_models`` has it.
        n_classes: Number of logits.
        shape: (3, height, width) of an image.
        **more: Arguments of torchvision's function.

    Raises:
        ValueError: It is none, or does not take such images.
    """
    from torchvision import models

    channels, height, width = shape
    known = models.list_models(module=models)
    if name not in known:
        raise ValueError(
            f"model must be one of cnn_small, mlp_small, resnet18_small, vit_small, a torchvision "
            f"classification model (resnet18, vit_b_16, ...), timm:NAME or package.module:function"
            f"; got {name!r}{meant(name, [*OURS, *known])}"
        )
    if channels != 3:
        raise ValueError(
            f"torchvision's {name} takes images of 3 channels; these have {channels}. "
            f"Use one of cnn_small, mlp_small, resnet18_small, vit_small"
        )
    options: dict[str, Any] = {"weights": None, "num_classes": n_classes, **more}
    if name.startswith("vit_"):
        if height != width:
            raise ValueError(f"torchvision's {name} takes square images; got {height} x {width}")
        options["image_size"] = height
    if name.startswith("maxvit"):
        options["input_size"] = (height, width)
    if name in ("googlenet", "inception_v3"):
        # Their own draw of initial weights takes scipy and minutes.
        options["init_weights"] = False
    try:
        model: nn.Module = models.get_model(name, **options)
    except (AssertionError, ValueError) as error:
        raise ValueError(
            f"torchvision's {name} does not take images of {height} x {width}: {error}"
        ) from error
    return model


def timm_model(name: str, n_classes: int, shape: Sequence[int]) -> nn.Module:
    """One of timm's classifiers, without pretrained weights.

    Args:
        name: As ``timm.list_models`` has it, with or without the tag of pretrained weights.
        n_classes: Number of logits.
        shape: (channels, height, width) of an image.

    Raises:
        ValueError: timm has no such network, or it does not take such images.
        ModuleNotFoundError: timm is not installed.
    """
    timm: Any = importlib.import_module("timm")
    bare = name.partition(".")[0]
    if not timm.is_model(bare):
        known = timm.list_models()
        raise ValueError(f"timm has no network {name!r}{meant(bare, known)}")
    options: dict[str, Any] = {"num_classes": n_classes, "in_chans": shape[0]}
    if timm_input(name).get("fixed_input_size"):
        options["img_size"] = tuple(shape[1:])
    try:
        model: nn.Module = timm.create_model(name, pretrained=False, **options)
    except (AssertionError, RuntimeError, TypeError, ValueError) as error:
        raise ValueError(
            f"timm's {name} cannot be made for images of {shape[1]} x {shape[2]}: {error}"
        ) from error
    return model


def timm_input(name: str) -> dict[str, Any]:
    """What timm says of a network's images: ``input_size``, ``mean``, ``std`` and more."""
    timm: Any = importlib.import_module("timm")
    # create_model warns of a name without weights; here none are asked for.
    found = timm.get_pretrained_cfg(name, allow_unregistered=True)
    return {} if found is None else dict(found.to_dict())


def own_function(name: str) -> Callable[..., Any]:
    """The function that ``package.module:function`` names, looked for in this folder as well.

    Raises:
        ValueError: There is none, or its module fails.
    """
    module_name, _, attribute = name.partition(":")
    with _this_folder():
        try:
            found: Any = importlib.import_module(module_name)
        # Somebody's module can fail with anything, and a script may end the program.
        except (Exception, SystemExit) as error:
            what = f"{type(error).__name__}: {error}"
            raise ValueError(f"model {name}: {module_name} cannot be imported: {what}") from error
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise ValueError(
                f"model {name}: {module_name} has no {attribute}{meant(attribute, dir(found))}"
            )
        found = getattr(found, part)
    if not callable(found):
        raise ValueError(f"model {name} must be a function; it is a {type(found).__name__}")
    function: Callable[..., Any] = found
    return function


def takes_count(function: Callable[..., Any]) -> str | None:
    """The name of the argument of a function that is the number of classes, or None.

    Raises:
        ValueError: It needs other arguments.
    """
    parameters = inspect.signature(function).parameters
    known = next((each for each in COUNTS if each in parameters), None)
    needed = [
        each.name
        for each in parameters.values()
        if each.default is each.empty and each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)
    ]
    if len(needed) > 1 or (known is not None and needed not in ([], [known])):
        raise ValueError(
            f"{function.__qualname__} must take the number of classes, or nothing; it needs "
            f"{', '.join(needed)}"
        )
    return known or (needed[0] if needed else None)


def own_result(name: str, n_classes: int | None) -> tuple[nn.Module, Callable[..., Any] | None]:
    """(network, what prepares a list of samples for it, or None) of a function of one's own.

    Args:
        name: ``package.module:function``.
        n_classes: Number of logits; None where nobody knows it.

    Raises:
        ValueError: There is no such function, it fails, or it returns something else.
    """
    function = own_function(name)
    argument = takes_count(function)
    if argument is not None and n_classes is None:
        default = inspect.signature(function).parameters[argument].default
        if default is inspect.Parameter.empty:
            raise ValueError(f"model {name} takes {argument}, which only a checkpoint tells")
    given = [] if argument is None or n_classes is None else [n_classes]
    positional = inspect.signature(function).parameters
    by_name = argument is not None and (
        positional[argument].kind is inspect.Parameter.KEYWORD_ONLY
        or next(iter(positional)) != argument
    )
    try:
        found = function(**{str(argument): given[0]}) if by_name and given else function(*given)
    except (Exception, SystemExit) as error:
        raise ValueError(f"model {name} failed: {type(error).__name__}: {error}") from error
    model, prepare = found if isinstance(found, tuple) and len(found) == 2 else (found, None)
    if not isinstance(model, nn.Module) or not (prepare is None or callable(prepare)):
        raise ValueError(
            f"model {name} must return an nn.Module, or one and a function that makes a batch of a "
            f"list of samples; got {type(found).__name__}"
        )
    return model, prepare


@contextmanager
def _this_folder() -> Iterator[None]:
    """Modules of the working folder can be imported, as ``python -m`` has it."""
    folder = os.getcwd()
    added = folder not in sys.path
    if added:
        sys.path.insert(0, folder)
    try:
        yield
    finally:
        if added and folder in sys.path:
            sys.path.remove(folder)
