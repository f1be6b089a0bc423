"""Which channels of a net hang together: traced with torch.fx, shapes by running an example.

One dimension of every tensor may get smaller. Its places are followed as channel ids from the
layer that makes them, by a rule for every operation, to those that read them. What no rule
understands is an error that names the node, unless only channels reach it that are fixed.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx, nn

from raysb.errors import ModelError
from raysb.nn.patterns import chosen
from raysb.prune.channels import ChannelIds
from raysb.prune.groups import ChannelGroup, Constraint, find_groups, with_least
from raysb.prune.modules import module_rule
from raysb.prune.operations import SIZED
from raysb.prune.rules import function_rule
from raysb.prune.sizes import COUNTED, changing
from raysb.prune.walk import UNKNOWN, Shape, Step, Value, Walk

_SHOWN = 6  # layers in a message


@dataclass(frozen=True)
class Layer:
    """A convolution or linear layer, as far as pruning and its budgets need it.

    Args:
        inputs: Channel id of each input channel, of each column of a linear layer. int64 [in]
        outputs: Channel id of each output channel. int64 [out]
        kernel: Weights of one pair of channels: 9 of a 3x3 convolution, 1 of a linear layer.
        groups: Groups of the convolution, else 1.
        bias: Whether it has one.
        calls: Shapes of input and output for the example, of every call.
        spatial: Dimensions that the kernel moves along, 0 of a linear layer.
        transposed: Whether it is a transposed convolution.
    """

    inputs: torch.Tensor
    outputs: torch.Tensor
    kernel: int
    groups: int
    bias: bool
    calls: tuple[tuple[Shape, Shape], ...]
    spatial: int = 0
    transposed: bool = False

    @property
    def depthwise(self) -> bool:
        """Whether every input channel has outputs of its own."""
        return 1 < self.groups == len(self.inputs)


@dataclass(frozen=True)
class ChannelGraph:
    """What of a net may be pruned, and what goes with it.

    Args:
        layers: Every convolution and linear layer, in the order of their first call.
        norms: Channel ids of every module with parameters or statistics per channel.
        groups: Channels that may be removed, sorted into groups that are ranked by themselves.
        num_ids: Channel ids are below it.
        num_rows: Rows of the example.
        num_other_parameters: Parameters in modules that no channel passes through.
        norm_parameters: Parameters per channel of each norm.
        norm_groups: Groups of each group norm.
    """

    layers: dict[str, Layer]
    norms: dict[str, torch.Tensor]
    groups: tuple[ChannelGroup, ...]
    num_ids: int
    num_rows: int
    num_other_parameters: int = 0
    norm_parameters: dict[str, int] = field(default_factory=dict)
    norm_groups: dict[str, int] = field(default_factory=dict)

    @property
    def prunable(self) -> list[str]:
        """Names of the layers that may lose output channels, in order."""
        free = self.free
        return [name for name, layer in self.layers.items() if free[layer.outputs].any()]

    @property
    def free(self) -> torch.Tensor:
        """Whether each channel id may be removed. bool [num_ids]"""
        found = torch.zeros(self.num_ids, dtype=torch.bool)
        for group in self.groups:
            for cell in group.cells:
                found[cell] = True
        return found


def trace_channels(
    model: nn.Module, example: Sequence[Any] | torch.Tensor, protect: Iterable[str] = ()
) -> ChannelGraph:
    """Find the channels of a model.

    Channels that reach the output stay: those of a classifier are its classes.

    Args:
        model: Is not changed, whatever its mode.
        example: Arguments of its forward method; rows come first in every tensor. More than one row
            tells rows from channels best.
        protect: Layers whose output channels stay, by glob patterns: `conv1`, `stages.0.*`.

    Raises:
        ModelError: torch.fx cannot trace the model, or an operation is not understood. Names the
            node, and what to protect.
        ValueError: A pattern of `protect` matches no layer.
    """
    given = (example,) if isinstance(example, torch.Tensor) else tuple(example)
    protect = tuple(protect)
    graph = _trace(model)
    shapes = _shapes(model, graph, given)
    kept = chosen(_layer_names(model), protect, "protect") if protect else set[str]()
    walk = Walk(modules=dict(model.named_modules()), shapes=shapes, protect=kept, ids=ChannelIds())
    values: dict[fx.Node, Value] = {}
    for node in graph.nodes:
        values[node] = _follow(walk, node, values)
    _refuse_tied(model, walk)
    return _finished(model, walk, _num_rows(given))


def _follow(walk: Walk, node: fx.Node, values: Mapping[fx.Node, Value]) -> Value:
    """The value of a node, all earlier ones being known."""
    tensors = [n for n in node.all_input_nodes if walk.shapes[n.name] is not None]
    step = Step(
        node, [(n, values[n], walk.shapes[n.name]) for n in tensors], walk.shapes[node.name]
    )
    if node.op == "get_attr" or (tensors and all(n in walk.raw for n in tensors)):
        walk.raw.add(node)
    if walk.shapes[node.name] is None:
        walk.numbers[node] = changing(walk, node, values)
    if node.op == "output":
        for flow in step.flows:
            if flow is not None:
                walk.ids.fix(flow.ids)
        return None
    counted = [flow for each in node.all_input_nodes for flow in walk.numbers.get(each, ())]
    if walk.shapes[node.name] is not None and step.called not in SIZED:
        walk.demand(step, COUNTED, counted)
    if node.op == "call_module":
        return module_rule(walk.modules[str(node.target)])(walk, step)
    if all(flow is None for flow in step.flows):
        return None
    rule = function_rule(node)
    if rule is None:
        walk.demand(step, UNKNOWN)
        return None
    return rule(walk, step)


def _trace(model: nn.Module) -> fx.Graph:
    try:
        return fx.Tracer().trace(model)
    except Exception as error:  # anything that the model's own code makes of a proxy
        raise ModelError(
            f"{type(model).__name__}: torch.fx cannot trace it ({type(error).__name__}: {error}); "
            "control flow that depends on values or shapes must move out of forward"
        ) from error


class _Shapes(fx.Interpreter):
    """Runs a graph and keeps the shape of everything in it."""

    def __init__(self, model: nn.Module, graph: fx.Graph) -> None:
        super().__init__(model, graph=graph)
        self.shapes: dict[str, Any] = {}

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        self.shapes[n.name] = _shape(result)
        return result


def _shape(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return tuple(value.shape)
    if isinstance(value, list | tuple) and any(isinstance(each, torch.Tensor) for each in value):
        return [_shape(each) for each in value]
    return None


def _shapes(model: nn.Module, graph: fx.Graph, example: tuple[Any, ...]) -> dict[str, Any]:
    """Shapes of every node, by running in evaluation mode; the modes are put back."""
    modes = [(module, module.training) for module in model.modules()]
    runner = _Shapes(model, graph)
    try:
        model.eval()
        with torch.no_grad():
            runner.run(*example)
    except (RuntimeError, TypeError, ValueError, IndexError) as error:
        shown = ", ".join(str(_shape(each)) for each in example)
        raise ModelError(
            f"{type(model).__name__}: does not run on the example of shape {shown} "
            f"({type(error).__name__}: {error}); give one as forward takes it"
        ) from error
    finally:
        for module, mode in modes:
            module.training = mode
    return runner.shapes


def _layer_names(model: nn.Module) -> list[str]:
    kinds = (nn.modules.conv._ConvNd, nn.Linear)
    return [name for name, module in model.named_modules() if isinstance(module, kinds)]


def _num_rows(example: tuple[Any, ...]) -> int:
    tensors = [each for each in example if isinstance(each, torch.Tensor) and each.dim()]
    return len(tensors[0]) if tensors else 1


def _refuse_tied(model: nn.Module, walk: Walk) -> None:
    """A parameter that two modules share would be cut apart."""
    owners: dict[int, list[str]] = {}
    for prefix, module in model.named_modules():
        for parameter in module.parameters(recurse=False):
            owners.setdefault(id(parameter), []).append(prefix)
    for names in owners.values():
        if len(names) > 1:
            for name in names:
                walk.demand_module(name, f"shares a parameter with {_other(names, name)}")
    for name, module in model.named_modules():
        if made := _computed(module):
            walk.demand_module(
                name,
                f"computes its {made} of other tensors (weight_norm, spectral_norm, masks of "
                "torch.nn.utils.prune, a parametrization; remove_weight_norm, prune.remove, "
                "remove_parametrizations and their like make it a parameter again)",
            )


def _computed(module: nn.Module) -> str:
    """What of a module is neither a parameter nor a buffer, but made of some; or nothing."""
    held = {*module._parameters, *module._buffers}
    found = (n for n in ("weight", "bias") if isinstance(getattr(module, n, None), torch.Tensor))
    return next((name for name in found if name not in held), "")


def _other(names: Sequence[str], name: str) -> str:
    return ", ".join(repr(each) for each in names if each != name) or "itself"


def _finished(model: nn.Module, walk: Walk, num_rows: int) -> ChannelGraph:
    roots = walk.ids.roots()
    outputs = {name: roots[ids] for name, ids in walk.outputs.items()}
    constraints = [
        Constraint(roots[each.ids].view(each.num_groups, -1)) for each in walk.constraints
    ]
    groups, fixed = find_groups(outputs, constraints, walk.ids.fixed())
    for demand in walk.demands:
        free = {int(i) for i in roots[demand.ids] if not fixed[i]}
        if free:
            raise ModelError(_not_understood(demand.where, demand.why, free, outputs))
    layers = {
        name: _layer(model.get_submodule(name), roots[walk.inputs[name]], outputs[name], calls)
        for name, calls in walk.calls.items()
    }
    norms = {name: roots[ids] for name, ids in walk.norms.items()}
    divided = {name: int(getattr(m, "num_groups", 1)) for name, m in _means(model, norms)}
    passed = [model.get_submodule(name) for name in (*layers, *norms)]
    own = {id(p) for module in passed for p in module.parameters(recurse=False)}
    return ChannelGraph(
        layers=layers,
        norms=norms,
        groups=tuple(with_least(each, norms, divided) for each in groups),
        num_ids=len(roots),
        num_rows=num_rows,
        num_other_parameters=sum(p.numel() for p in model.parameters() if id(p) not in own),
        norm_parameters={
            name: sum(1 for _ in model.get_submodule(name).parameters(recurse=False))
            for name in norms
        },
        norm_groups={
            name: parts
            for name, parts in divided.items()
            if isinstance(model.get_submodule(name), nn.GroupNorm)
        },
    )


def _means(model: nn.Module, norms: Iterable[str]) -> list[tuple[str, nn.Module]]:
    """The norms that take a mean over channels."""
    found = [(name, model.get_submodule(name)) for name in norms]
    return [(n, m) for n, m in found if isinstance(m, nn.GroupNorm | nn.LayerNorm)]


def _layer(
    module: Any,
    inputs: torch.Tensor,
    outputs: torch.Tensor,
    calls: list[tuple[Shape, Shape]],
) -> Layer:
    return Layer(
        inputs=inputs,
        outputs=outputs,
        kernel=int(module.weight[0, 0].numel()),
        groups=getattr(module, "groups", 1),
        bias=module.bias is not None,
        calls=tuple(calls),
        spatial=module.weight.dim() - 2,
        transposed=getattr(module, "transposed", False),
    )


def _not_understood(where: str, why: str, free: set[int], outputs: dict[str, torch.Tensor]) -> str:
    reached = [name for name, ids in outputs.items() if not free.isdisjoint(ids.tolist())]
    shown = ", ".join(repr(name) for name in reached[:_SHOWN])
    more = f" and {len(reached) - _SHOWN} more layers" if len(reached) > _SHOWN else ""
    return (
        f"{where}: {why}, so channels cannot be followed through it; the net would silently be "
        f"another one. Protect the layers whose channels reach it: {shown}{more}"
    )
