"""A model made ready for per-sample gradients, and given back as it was.

Per-sample gradients exist where samples do not interact: outputs z_x = f(x; theta) of each sample
alone. So models run in eval mode, with running statistics, outside torch.compile, and with no
parameter asking for gradients unless a caller says so.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn

from fishermask_fast.arithmetic import full_float32
from fishermask_fast.checks import check_device
from fishermask_fast.network.attributes import KeptTensors
from fishermask_fast.network.collating import Inputs, count_samples
from fishermask_fast.network.threads import check_not_read_elsewhere, read_by_this_thread

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


def unwrap(model: nn.Module) -> nn.Module:
    """The user's own module inside DataParallel-style and torch.compile wrappers.

    Raises:
        TypeError: not an nn.Module, or a scripted one, whose layers cannot be watched.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be an nn.Module; got {type(model).__name__}")
    wrappers = (nn.DataParallel, nn.parallel.DistributedDataParallel)
    while True:
        inner = getattr(model, "_orig_mod", None)
        if isinstance(model, wrappers):
            model = model.module
        elif isinstance(inner, nn.Module):
            model = inner
        else:
            break
    if any(isinstance(module, torch.jit.ScriptModule) for module in model.modules()):
        raise TypeError("model must be an ordinary nn.Module; got a scripted or traced one")
    return model


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that a mask may hold: those not frozen, each under its first name.

    Raises:
        ValueError: there are none, or none that can have gradients.
        RuntimeError: another thread reads the model.
    """
    check_not_read_elsewhere(model)
    found = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if not found:
        total = sum(1 for _ in model.parameters())
        state = f"its {total} parameters are all frozen" if total else "it has no parameters"
        raise ValueError(f"model must have parameters that require gradients; {state}")
    lazy = [n for n, p in found.items() if isinstance(p, nn.parameter.UninitializedParameter)]
    if lazy:
        raise ValueError(f"model must be initialised; {lazy[0]} has no shape yet")
    if any(p.is_inference() for p in found.values()):
        raise ValueError(
            "model was made under torch.inference_mode(), so its parameters can have no "
            "gradients; make it outside"
        )
    return found


def device_of(model: nn.Module) -> torch.device:
    """The one device of a model's parameters and buffers.

    Raises:
        ValueError: they are on several.
    """
    devices = {t.device for t in (*model.parameters(), *model.buffers())}
    if len(devices) != 1:
        names = ", ".join(sorted(map(str, devices)))
        raise ValueError(f"model must be on one device; its tensors are on {names}")
    return devices.pop()


def compute_dtype(parameters: dict[str, nn.Parameter]) -> torch.dtype:
    """float64 for a float64 model, float32 for every other."""
    if any(p.dtype == torch.float64 for p in parameters.values()):
        return torch.float64
    return torch.float32


def input_dtype(model: nn.Module, inputs: Inputs) -> torch.dtype | None:
    """What a lone input tensor is converted to: the parameters' dtype, tokens to nothing at all.

    Tokens are int32 or int64, as embeddings want them, and the model has an embedding and does not
    begin with a convolution. Whatever else is an integer is an image.
    """
    if not isinstance(inputs, Tensor):
        return None
    embeddings = (nn.Embedding, nn.EmbeddingBag)
    leaves = [
        module
        for module in model.modules()
        if next(module.parameters(recurse=False), None) is not None
        and next(module.children(), None) is None
    ]
    first = leaves[0] if leaves else None
    if inputs.dtype in (torch.int32, torch.int64):
        embedded = any(isinstance(module, embeddings) for module in leaves)
        if embedded and not isinstance(first, CONVOLUTIONS):
            return None
    elif inputs.is_floating_point() and isinstance(first, embeddings):
        return None
    if isinstance(first, embeddings):
        first = next((leaf for leaf in leaves if not isinstance(leaf, embeddings)), None)
    own = next(model.parameters() if first is None else first.parameters(recurse=False), None)
    return own.dtype if own is not None and own.is_floating_point() else None


@contextmanager
def evaluating(model: nn.Module, device: torch.device | str | None = None) -> Iterator[nn.Module]:
    """The unwrapped model in eval mode on `device`, with every trace of it undone afterwards.

    float32 is taken for what it is, whatever TF32 or bfloat16 the process allows.

    Modes, requires_grad, hooks (the caller's affair), random state and device are restored.

    Raises:
        TypeError: see `unwrap`.
        ValueError: a BatchNorm that cannot use running statistics, tensors on several devices, or a
            device that is not there.
        RuntimeError: another thread reads the model.
    """
    model = unwrap(model)
    home = device_of(model)
    target = home if device is None else check_device(device)
    kept = None
    with ExitStack() as stack:
        stack.enter_context(read_by_this_thread(model))
        modes = [(module, module.training) for module in model.modules()]
        flags = [(p, p.requires_grad) for p in model.parameters()]
        cuda = [d.index or 0 for d in {home, target} if d.type == "cuda"]
        stack.enter_context(torch.random.fork_rng(devices=cuda))
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        stack.enter_context(full_float32())
        if "torch._dynamo" in sys.modules:
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        try:
            for p, _ in flags:
                p.requires_grad_(False)
            if target != home:
                model.to(target)
            drop_kept_tensors(model)
            model.eval()
            kept = KeptTensors(model)
            for name, module in model.named_modules():
                _check_batch_norm(name, module)
            yield model
        finally:
            if kept is not None:
                kept.restore()
            if target != home:
                model.to(home)
            for p, flag in flags:
                p.requires_grad_(flag)
            drop_kept_tensors(model)
            for module, mode in modes:
                if _switches(module):
                    module.train(mode)
            for module, mode in modes:
                module.training = mode


def drop_kept_tensors(model: nn.Module) -> None:
    """Puts modules with a `train` of their own into train mode.

    Some keep tensors made from their parameters while in eval mode, such as tables of attention
    biases or merged weights, and drop them here: they are of other values, or of a graph that is
    gone.
    """
    for module in model.modules():
        if _switches(module):
            module.train()


def _switches(module: nn.Module) -> bool:
    return type(module).train is not nn.Module.train


def _check_batch_norm(name: str, module: nn.Module) -> None:
    if not isinstance(module, nn.modules.batchnorm._BatchNorm):
        return
    if module.training:
        raise ValueError(
            f"{name or 'model'} is a {type(module).__name__} that stays in train mode after "
            "eval(), so samples of a batch would change each other's gradients"
        )
    if module.running_mean is None or module.running_var is None:
        raise ValueError(
            f"{name or 'model'} is a {type(module).__name__} without running statistics, so it "
            "cannot be evaluated sample by sample; use track_running_stats=True or GroupNorm"
        )


def call(model: nn.Module, inputs: Inputs) -> Tensor:
    """Outputs of a batch, flattened to (n, outputs).

    Raises:
        TypeError: an output in which none can be found.
        ValueError: other than one row a sample.
    """
    return _flat(raw_outputs(model, inputs))


def raw_outputs(model: nn.Module, inputs: Inputs) -> Tensor:
    """Outputs (n, ...) of a batch.

    Raises:
        TypeError, ValueError: as `call`.
    """
    # A copy, since models may overwrite their input; it is no inference tensor where that was one.
    if isinstance(inputs, Tensor):
        found = outputs_of(model(inputs.clone()))
    else:
        copies = {k: v.clone() if isinstance(v, Tensor) else v for k, v in inputs.items()}
        found = outputs_of(model(**copies))
    n = count_samples(inputs)
    if found.shape[0] != n:
        raise ValueError(
            f"the model's outputs must have shape (N, ...), one row a sample; got "
            f"{tuple(found.shape)} for {n} samples"
        )
    return found


def outputs_of_samples(model: nn.Module, inputs: Inputs, name: str) -> Tensor:
    """As `raw_outputs`, of the first samples of some data called `name`.

    Raises:
        TypeError: as `call`, or the model takes other arguments.
        ValueError: as `call`, or the model does not take such samples.
    """
    shape = tuple(inputs.shape) if isinstance(inputs, Tensor) else sorted(inputs)
    refusal = (
        f"{type(model).__name__} does not take {name} samples, here a batch of "
        f"{count_samples(inputs)}, {shape}"
    )
    try:
        return raw_outputs(model, inputs)
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, IndexError) as error:
        raise ValueError(f"{refusal}: {error}") from error
    except TypeError as error:
        if "argument" not in str(error):  # of forward's call, and not of what it returned
            raise
        raise TypeError(f"{refusal}: {error}") from error


def logits_of(output: object) -> Tensor:
    """The outputs in what a model returns, flattened to (n, outputs).

    Raises:
        TypeError: as `outputs_of`.
    """
    return _flat(outputs_of(output))


def outputs_of(output: object) -> Tensor:
    """The outputs (n, ...) in what a model returns: itself, its `.logits`, or its first item.

    Raises:
        TypeError: none of these is a floating-point tensor.
    """
    logits = output
    if not isinstance(output, Tensor):
        if getattr(output, "logits", None) is not None:
            logits = output.logits  # type: ignore[attr-defined]
        elif isinstance(output, (tuple, list)) and output:
            logits = output[0]
        elif isinstance(output, dict) and "logits" in output:
            logits = output["logits"]
    if not isinstance(logits, Tensor) or not logits.is_floating_point():
        raise TypeError(
            "the model must return logits: a floating-point Tensor, an object with .logits, or a "
            f"tuple whose first item is one; got {type(output).__name__}{_dense(output)}"
        )
    # Of a batch of one, .squeeze() leaves no dimension at all.
    return logits.reshape(1) if logits.ndim == 0 else logits


def _dense(output: object) -> str:
    """What kind of model gives such outputs, where that shows."""
    first = output[0] if isinstance(output, (tuple, list)) and output else output
    if isinstance(first, Mapping):
        if "boxes" in first or "pred_boxes" in first:
            return ", boxes and scores as detection has them: no classifier of samples"
        if "out" in first or "masks" in first:
            return ", outputs for each pixel as segmentation has them: no classifier of samples"
    return ""


def _flat(outputs: Tensor) -> Tensor:
    return outputs[:, None] if outputs.ndim == 1 else outputs.flatten(1)


@contextmanager
def unflattening(model: nn.Module) -> Iterator[Callable[[Tensor], Tensor]]:
    """A function that gives what `call` flattened the shape (n, ...) it had from the model."""
    last: list[torch.Size] = []

    def note(module: nn.Module, args: object, output: object) -> None:
        last[:] = [outputs_of(output).shape]

    handle = model.register_forward_hook(note)
    try:
        yield lambda flat: flat.reshape(last[0])
    finally:
        handle.remove()


def check_finite(what: str, values: Tensor, start: int, total: int) -> None:
    """Raises where samples of a batch hold NaN or Inf.

    Args:
        what: what to call the values.
        values: (n, ...) of samples start .. start + n - 1.
        start: index of the first sample.
        total: samples in all.

    Raises:
        ValueError: says how many samples of the batch, and the first index.
    """
    # A sum is finite unless a term is not (or the sum overflows): one read, and no mask of bools.
    if values.numel() == 0 or values.sum().isfinite():
        return
    bad = (~values.flatten(1).isfinite()).any(1).nonzero().flatten()
    if bad.numel():
        raise ValueError(
            f"{what} must be finite; {bad.numel()} of samples {start} to "
            f"{start + values.shape[0] - 1} (of {total}) hold NaN or Inf, "
            f"the first at index {start + int(bad[0])}"
        )
