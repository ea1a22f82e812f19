"""Which layer is the head: what turns the last features h into logits, z = W h + b.

It is read from the graph of the logits: going back from them, the first products with parameters.
Which operand of a product is the weight shows in shapes, since of two and of three samples only the
features' differ. What scales, shifts or normalises logits after the product is no head unless the
same module owns it, and a low-rank product added to another, an adapter, is none either.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn
from torch.autograd.graph import Node

from fishermask_fast.network.batches import to_model
from fishermask_fast.network.collating import Inputs, check_samples, count_samples, model_inputs
from fishermask_fast.network.evaluation import (
    call,
    device_of,
    evaluating,
    input_dtype,
    outputs_of_samples,
    unwrap,
)
from fishermask_fast.network.graph import VIEWS, asking, result_shapes, trial_samples

Head = str | tuple[str, ...]
"""A head's name: of a module or of a parameter, or of several that make the logits together."""

_PRODUCTS = frozenset(
    (
        *("Addmm", "Mm", "Bmm", "Baddbmm", "Addbmm", "Mv", "Addmv", "Linear", "MkldnnLinear"),
        *("Convolution", "ConvolutionOverrideable", "MkldnnConvolution", "CudnnConvolution"),
        *("SlowConv2D", "SlowConv3D", "Cdist", "EuclideanDist", "Embedding", "EmbeddingBag"),
    )
)
# What lets a product of two weights be seen as one: nothing between them bends.
_LINEAR = VIEWS | {"MulBackward0", "DivBackward0", "ExpandBackward0"}
_OPAQUE = "CheckpointFunction"

_Pair = tuple[Node, Node, int]  # a node of two samples and of three, and which output of it


def find_head(model: nn.Module, inputs: object = None) -> Head | None:
    """Name of the layer whose product with its input gives the logits.

    Args:
        model: any classifier; run in eval mode, and left as it was.
        inputs: a batch for it, from which the head is read for certain, whatever the order of
            registration, and frozen or not. Without it modules alone have to tell.

    Returns:
        The module's name ("" for the model itself) or the parameter's where no module owns just it;
        a tuple of names where several make the logits together; None where there is none.

    Raises:
        ValueError: without inputs, several layers may be the head.
    """
    if inputs is not None:
        return _read_head(model, model_inputs(inputs))
    found = head_candidates(unwrap(model))
    if len(found) > 1:
        raise ValueError(
            f"{len(found)} layers of the model may be its head: {last_layers(found)}; give inputs= "
            "(a batch), so that it is read from the logits' graph, or name it with head=..."
        )
    return found[0] if found else None


def checked_inputs(model: nn.Module, inputs: object) -> Inputs:
    """A batch that the model takes, of which the head can be read.

    Raises:
        TypeError, ValueError: it is none; says why.
    """
    try:
        batch = model_inputs(inputs)
        named = {"inputs": batch} if isinstance(batch, Tensor) else batch
        for name, value in named.items():
            if isinstance(value, Tensor):
                alone = value is batch
                check_samples(name if alone else f"inputs[{name!r}]", value, alone)
        n = count_samples(batch)
    except TypeError as error:
        raise TypeError(f"inputs must be a batch for the model: {error}") from None
    if n == 0:
        raise ValueError("inputs are empty; expected at least one sample")
    with evaluating(model) as net:
        some = to_model(trial_samples(batch)[0], device_of(net), input_dtype(net, batch))
        outputs_of_samples(net, some, "inputs")
    return batch


def last_layers(names: Sequence[str]) -> str:
    """The last of some layers, among which the head is likeliest."""
    more = ["..."] if len(names) > 8 else []
    return ", ".join([*more, *(name or "the model itself" for name in names[-8:])])


def one_head(model: nn.Module) -> Head | None:
    """The head where only one layer can be it, None where there are none or several."""
    found = head_candidates(unwrap(model))
    return found[0] if len(found) == 1 else None


def head_candidates(model: nn.Module, name: str = "") -> list[str]:
    """Names of the nn.Linear modules that may be the head, as far as modules can tell.

    Of an nn.Sequential it is the last child with parameters, since its forward calls them in order.
    """
    if isinstance(model, nn.Sequential) and type(model).forward is nn.Sequential.forward:
        children = [
            (child_name, child)
            for child_name, child in model.named_children()
            if next(child.parameters(), None) is not None
        ]
        if not children:
            return []
        child_name, child = children[-1]
        return head_candidates(child, f"{name}.{child_name}" if name else child_name)
    found = []
    for path, module in model.named_modules(prefix=name):
        weight = module._parameters.get("weight") if isinstance(module, nn.Linear) else None
        if weight is not None and weight.requires_grad:
            found.append(path)
    return found


def head_parameters(model: nn.Module, head: Head, *, trainable: bool = True) -> tuple[str, ...]:
    """First names of a head's parameters, of tied ones too, in the model's order.

    Args:
        model: whose head.
        head: its name.
        trainable: whether to leave frozen parameters out.

    Raises:
        TypeError: the head is no name and no tuple of names.
        ValueError: the model has no module or parameter of that name.
    """
    model = unwrap(model)
    every = dict(model.named_parameters(remove_duplicate=False))
    wanted: set[int] = set()
    for part in head_names(head):
        under = [p for name, p in every.items() if is_under(name, part)]
        if not under:
            raise ValueError(
                f"head {part!r} has no parameters; the model's are those of "
                f"{', '.join(dict.fromkeys(name.rpartition('.')[0] for name in every))}"
            )
        wanted |= {id(p) for p in under}
    return tuple(
        name
        for name, p in model.named_parameters()
        if id(p) in wanted and (p.requires_grad or not trainable)
    )


def head_names(head: Head) -> tuple[str, ...]:
    """The names of which a head's name is made.

    Raises:
        TypeError: it is no name and no tuple of names.
    """
    names = (head,) if isinstance(head, str) else head
    if not isinstance(names, tuple) or not all(isinstance(name, str) for name in names):
        raise TypeError(f"head must be a layer's name, or a tuple of names; got {head!r}")
    return names


def is_under(name: str, part: str) -> bool:
    """Whether a parameter belongs to the module `part`, or is it."""
    return not part or name == part or name.startswith(f"{part}.")


@dataclass(frozen=True)
class _Product:
    """A product with parameters that the logits are made of."""

    leaves: tuple[int, ...]  # ids of its weight's (and bias') parameters
    makes_classes: bool  # whether a weight has a dimension of C
    low_rank: bool  # whether its input is another product, with nothing between that bends


def _read_head(model: nn.Module, inputs: Inputs) -> Head | None:
    with evaluating(model) as net:
        inputs = to_model(inputs, device_of(net), input_dtype(net, inputs))
        with asking([p for p in net.parameters() if p.is_floating_point()]):
            two, three = (call(net, some) for some in trial_samples(inputs))
            found, beside = _Walk(two, three).run()
        leaves = {leaf for product in _heads(found) for leaf in product.leaves}
        return _named(net, leaves, beside)


def _heads(products: list[_Product]) -> list[_Product]:
    """Those of the last products that are the head."""
    for condition in (lambda p: p.makes_classes, lambda p: not p.low_rank):
        products = [p for p in products if condition(p)] or products
    return products


class _Walk:
    """The way back from the logits of two and of three samples to the first products."""

    def __init__(self, two: Tensor, three: Tensor) -> None:
        self.n_classes = two.shape[1]
        start = (two.grad_fn, three.grad_fn, 0)
        self.open: list[_Pair] = [] if start[0] is None or start[1] is None else [start]  # type: ignore[list-item]

    def run(self) -> tuple[list[_Product], set[int]]:
        """The products, and the ids of parameters that only scale, shift or normalise after."""
        products: list[_Product] = []
        beside: set[int] = set()
        seen: set[Node] = set()
        while self.open:
            pair = self.open.pop()
            if pair[0] in seen:
                continue
            seen.add(pair[0])
            if _kind(pair[0]) == _OPAQUE:
                return [], set()
            features, weights = _operands(pair)
            leaves = _leaves(weights)
            if leaves and self._is_product(pair[0], leaves):
                classes = any(self.n_classes in leaf.shape for leaf in leaves)
                low_rank = any(_is_low_rank(feature) for feature in features)
                ids = tuple(id(leaf) for leaf in leaves)
                products.append(_Product(ids, classes, low_rank))
            else:
                beside |= {id(leaf) for leaf in leaves}
                self.open.extend(features)
        return products, beside

    def _is_product(self, node: Node, leaves: list[Tensor]) -> bool:
        if _kind(node) in _PRODUCTS:
            return True
        # Written out, as a sum over a class's products or distances.
        return any(
            self.n_classes in leaf.shape and sum(size > 1 for size in leaf.shape) > 1
            for leaf in leaves
        )


def _operands(pair: _Pair) -> tuple[list[_Pair], list[Node]]:
    """What leads into a node: what grows with the samples, and what does not."""
    features, weights = [], []
    if len(pair[0].next_functions) == len(pair[1].next_functions):
        for (a, at), (b, _) in zip(pair[0].next_functions, pair[1].next_functions, strict=True):
            if a is None or b is None:
                continue
            if _shape(a, at) == _shape(b, at):
                weights.append(a)
            else:
                features.append((a, b, at))
    return features, weights


def _shape(node: Node, at: int) -> tuple[int, ...]:
    variable = getattr(node, "variable", None)
    return result_shapes(node)[at] if variable is None else tuple(variable.shape)


def _kind(node: Node) -> str:
    return node.name().rpartition("::")[2].rstrip("0123456789").removesuffix("Backward")


def _leaves(nodes: list[Node]) -> list[Tensor]:
    """The parameters that weights are made of, without what is only added to one by a product."""
    direct: dict[int, Tensor] = {}
    multiplied: dict[int, Tensor] = {}
    seen: set[tuple[Node, bool]] = set()
    stack = [(node, False) for node in nodes]
    while stack:
        node, inside = stack.pop()
        if (node, inside) in seen:
            continue
        seen.add((node, inside))
        variable = getattr(node, "variable", None)
        if variable is not None:
            (multiplied if inside else direct)[id(variable)] = variable
        inside = inside or _kind(node) in _PRODUCTS
        stack.extend((following, inside) for following, _ in node.next_functions if following)
    whole = any(leaf.ndim > 1 for leaf in direct.values())
    return list((direct if whole else multiplied | direct).values())


def _is_low_rank(feature: _Pair) -> bool:
    """Whether features come from a product with parameters, unbent on the way."""
    pair = feature
    while True:
        features, weights = _operands(pair)
        if _kind(pair[0]) in _PRODUCTS and weights:
            return True
        if len(features) != 1 or pair[0].name() not in _LINEAR:
            return False
        pair = features[0]


def _named(model: nn.Module, leaves: set[int], beside: set[int]) -> Head | None:
    """The modules that own just these parameters, or else the parameters' names."""
    owners = {
        name.rpartition(".")[0]
        for name, p in model.named_parameters(remove_duplicate=False)
        if id(p) in leaves
    }
    # A scale or shift of the logits belongs to the head where its module owns both.
    leaves = leaves | {
        id(p)
        for name, p in model.named_parameters(remove_duplicate=False)
        if id(p) in beside and name.rpartition(".")[0] in owners
    }
    left, names = set(leaves), []
    for name, owned in _modules(model):
        if owned <= left:
            left -= owned
            names.append(name)
    for name, p in model.named_parameters():
        if id(p) in left:
            names.append(name)
    order = [name for name, _ in model.named_modules(remove_duplicate=False)]
    order += [name for name, _ in model.named_parameters()]
    names.sort(key=order.index)
    return None if not names else names[0] if len(names) == 1 else tuple(names)


def _modules(model: nn.Module) -> list[tuple[str, set[int]]]:
    """Modules and the ids of their parameters: the largest first, of equals a layer, the deepest.

    A weight that is tied to an embedding's belongs to the linear layer.
    """
    found = []
    for name, module in model.named_modules(remove_duplicate=False):
        owned = {id(p) for p in module.parameters()}
        if owned and "parametrizations" not in name.split("."):
            layer = bool(module._parameters) or hasattr(module, "parametrizations")
            embeds = isinstance(module, (nn.Embedding, nn.EmbeddingBag))
            depth = name.count(".") + bool(name)
            found.append(((-len(owned), not layer, embeds, -depth), name, owned))
    return [(name, owned) for _, name, owned in sorted(found, key=lambda item: item[0])]
