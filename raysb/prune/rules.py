"""What each function and method does to channels; `raysb.prune.modules` has the modules."""

import re
from collections.abc import Sequence
from typing import cast

import torch
from torch import fx

from raysb.prune.channels import Flow
from raysb.prune.operations import ELEMENTWISE, REDUCTIONS, SHAPE_ONLY, SPATIAL
from raysb.prune.reshape import as_sizes, is_dynamic, regroup
from raysb.prune.walk import UNKNOWN, Equal, Rule, Shape, Step, Value, Walk


def elementwise(walk: Walk, step: Step) -> Value:
    """Tie the channels of all tensors that are broadcast against each other."""
    if isinstance(step.shape, list) or step.shape is None:
        walk.demand(step, UNKNOWN)
        return None
    rank = len(step.shape)
    dims = {f.dim - len(s) + rank for _, f, s in step.args if isinstance(f, Flow)}
    if len(dims) > 1:
        walk.demand(step, "its tensors have their channels in different dimensions")
        return None
    dim = dims.pop()
    result: Flow | None = None
    for _, flow, shape in step.args:
        place = dim - rank + len(shape)
        size = shape[place] if place >= 0 else 1
        if isinstance(flow, Flow) and size == step.shape[dim]:
            if result is not None:
                walk.ids.tie(result.ids, flow.ids)
            result = flow.moved(dim)
        elif isinstance(flow, Flow):
            walk.ids.fix(flow.ids)  # one channel for all: it stays
    for node, flow, shape in step.args:
        place = dim - rank + len(shape)
        if result is not None and flow is None and place >= 0 and shape[place] > 1:
            if node in walk.raw:
                walk.demand(step, "a parameter or buffer of the net has a number per channel")
            else:
                walk.ids.fix(result.ids)
    return result


def spatial(walk: Walk, step: Step, called: str | None = None) -> Value:
    """Pooling, padding, resizing over the last dimensions; the channels come before them."""
    flow = step.flow
    given = re.search(r"(\d)d$", called or step.called)
    last = len(step.before) - (int(given[1]) if given else len(step.before) - 2)
    if flow is not None and (flow.dim >= last or isinstance(step.shape, list)):
        walk.demand(step, "its windows run over the channels")
        return None
    return flow


def pad(walk: Walk, step: Step) -> Value:
    """Padding that leaves the channels alone."""
    flow, padding = step.flow, step.argument(1, "pad", ())
    if flow is not None and (
        not isinstance(padding, list | tuple) or len(padding) // 2 > len(step.before) - 1 - flow.dim
    ):
        walk.demand(step, "it pads the channels")
        return None
    return flow


def reduce(walk: Walk, step: Step) -> Value:
    """Sum, mean or maximum over other dimensions."""
    flow = step.flow
    if flow is None:
        return None
    given = step.argument(1, "dim")
    dims = [given] if isinstance(given, int) else given
    rank = len(step.before)
    if not isinstance(dims, list | tuple) or isinstance(step.shape, list):
        walk.demand(step, "it reduces all dimensions, channels too")
        return None
    gone = {dim % rank for dim in dims}
    if flow.dim in gone:
        walk.demand(step, "it reduces the channels, and fewer of them give another value")
        return None
    keepdim = len(step.shape) == rank
    return flow if keepdim else flow.moved(flow.dim - sum(dim < flow.dim for dim in gone))


def softmax(walk: Walk, step: Step) -> Value:
    """Over other dimensions than the channels."""
    flow, dim = step.flow, step.argument(1, "dim")
    if flow is not None and (not isinstance(dim, int) or dim % len(step.before) == flow.dim):
        walk.demand(step, "it normalises over the channels")
        return None
    return flow


def reshape(walk: Walk, step: Step) -> Value:
    """A change of shape that says itself what becomes of the channels."""
    found = None if step.flow is None else regroup(step.flow, step.before, step.shape)
    if found is None:
        walk.demand(step, "it splits the channels, or merges them with rows")
    return found


def view(walk: Walk, step: Step) -> Value:
    """`view` and `reshape`, whose sizes may be numbers."""
    return _sized(walk, step, _listed(step, "shape", "size"))


def unflatten(walk: Walk, step: Step) -> Value:
    """`unflatten(dim, sizes)`: a view that keeps the other dimensions."""
    dim, sizes = step.argument(1, "dim"), step.argument(2, "sizes")
    if not isinstance(dim, int) or not isinstance(sizes, list | tuple):
        walk.demand(step, UNKNOWN)
        return None
    dim, rank = dim % len(step.before), len(step.before)
    return _sized(walk, step, [-1] * dim + list(sizes) + [-1] * (rank - dim - 1))


def _sized(walk: Walk, step: Step, sizes: Sequence[object]) -> Value:
    """A reshape whose sizes follow the channels; a number stays what it is."""
    found = reshape(walk, step)

    def changes(size: object) -> bool:
        return isinstance(size, fx.Node) and bool(walk.numbers.get(size))

    if isinstance(found, Flow) and not is_dynamic(sizes, found.dim, changes):
        walk.demand(
            step,
            f"its size {list(sizes)} is a number where there will be fewer; use -1, x.size() or "
            "flatten",
        )
        return None
    return found


def permute(walk: Walk, step: Step) -> Value:
    """`permute(dims)`."""
    flow = step.flow
    order = _listed(step, "dims")
    rank = len(step.before)
    if flow is None or not all(isinstance(dim, int) for dim in order):
        walk.demand(step, UNKNOWN)
        return None
    return flow.moved([cast(int, dim) % rank for dim in order].index(flow.dim))


def _listed(step: Step, *names: str) -> Sequence[object]:
    """Numbers one by one, in a list, or by one of some names."""
    named = tuple(step.node.kwargs[name] for name in names if name in step.node.kwargs)
    return as_sizes(step.node.args[1:] or named)


def transpose(walk: Walk, step: Step) -> Value:
    """`transpose(dim0, dim1)`."""
    flow = step.flow
    pair = [step.argument(1, "dim0"), step.argument(2, "dim1")]
    if flow is None or not all(isinstance(dim, int) for dim in pair):
        walk.demand(step, UNKNOWN)
        return None
    one, other = (dim % len(step.before) for dim in pair)
    return flow.moved({one: other, other: one}.get(flow.dim, flow.dim))


def concatenate(walk: Walk, step: Step) -> Value:
    """Channels one after another; along another dimension they are tied."""
    parts, dim = _parts(step), step.argument(1, "dim", 0)
    if not parts:
        walk.demand(step, UNKNOWN)
        return None
    dim %= len(step.shape)
    flows = [flow for flow, _ in parts if flow is not None]
    if any(flow.dim != flows[0].dim for flow in flows):
        walk.demand(step, "its tensors have their channels in different dimensions")
        return None
    if flows[0].dim == dim:
        ids = [walk.ids.new(s[dim], fixed=True) if f is None else f.ids for f, s in parts]
        return Flow(dim, torch.cat(ids))
    for flow in flows[1:]:
        walk.ids.tie(flows[0].ids, flow.ids)
    if len(flows) < len(parts):
        walk.ids.fix(flows[0].ids)
    return flows[0]


def _parts(step: Step) -> list[tuple[Flow | None, Shape]]:
    """Value and shape of each tensor of a list, or of what `chunk` gave."""
    first = step.argument(0, "tensors")
    by_node = {node: (value, shape) for node, value, shape in step.args}
    if isinstance(first, fx.Node):
        value, shapes = by_node[first]
        return list(zip(value, shapes, strict=True)) if isinstance(value, list) else []
    listed = first if isinstance(first, list | tuple) else ()
    found = [by_node[each] for each in listed if isinstance(each, fx.Node) and each in by_node]
    return [(cast("Flow | None", v), s) for v, s in found] if len(found) == len(listed) else []


def chunk(walk: Walk, step: Step) -> Value:
    """Equal pieces; of the channels, equally many stay in each."""
    flow, number, dim = step.flow, step.argument(1, "chunks"), step.argument(2, "dim", 0)
    if flow is None or not isinstance(number, int) or not isinstance(step.shape, list):
        walk.demand(step, UNKNOWN)
        return None
    if dim % len(step.before) != flow.dim:
        return [flow for _ in step.shape]
    if len(flow.ids) % number:
        walk.demand(step, f"{len(flow.ids)} channels do not make {number} equal chunks")
        return [None for _ in step.shape]
    walk.constraints.append(Equal(flow.ids, number))
    return [Flow(flow.dim, ids) for ids in flow.ids.chunk(number)]


def split(walk: Walk, step: Step) -> Value:
    """Pieces of given sizes, along other dimensions than the channels."""
    flow, dim = step.flow, step.argument(2, "dim", 0)
    if flow is None or not isinstance(step.shape, list) or dim % len(step.before) == flow.dim:
        walk.demand(step, "it cuts the channels at places that are numbers; use chunk")
        return None if not isinstance(step.shape, list) else [None for _ in step.shape]
    return [flow for _ in step.shape]


def getitem(walk: Walk, step: Step) -> Value:
    """A piece of a tuple, or `x[:, :, 0]` that takes all channels."""
    value, index = step.args[0][1], step.node.args[1]
    if isinstance(value, list):
        if isinstance(index, int | slice) and len(step.node.all_input_nodes) == 1:
            return value[index]
        walk.demand(step, UNKNOWN)
        return None
    if value is None:
        return None
    parts = list(index) if isinstance(index, tuple) else [index]
    rank = len(step.before)
    if not all(isinstance(p, int | slice) or p in (None, Ellipsis) for p in parts):
        walk.demand(step, UNKNOWN)
        return None
    used = sum(isinstance(p, int | slice) for p in parts)
    if Ellipsis not in parts:
        parts.append(Ellipsis)
    at = parts.index(Ellipsis)
    parts[at : at + 1] = [slice(None)] * (rank - used)
    before, after = 0, 0
    for part in parts:
        if part is not None and before == value.dim:
            if part == slice(None):
                return value.moved(after)
            walk.demand(step, "it cuts the channels at places that are numbers; use chunk")
            return None
        before += part is not None
        after += not isinstance(part, int)
    walk.demand(step, UNKNOWN)
    return None


def ignored(walk: Walk, step: Step) -> Value:
    """What gives no tensor: sizes, devices."""
    return None


def attribute(walk: Walk, step: Step) -> Value:
    """`x.shape`, `x.device`: no tensor; `x.T` is."""
    if step.shape is not None:
        walk.demand(step, UNKNOWN)
    return None


RULES: dict[str, Rule] = {
    **dict.fromkeys(ELEMENTWISE, elementwise),
    **dict.fromkeys(SPATIAL, spatial),
    **dict.fromkeys(REDUCTIONS, reduce),
    **dict.fromkeys(("flatten", "squeeze", "unsqueeze"), reshape),
    **dict.fromkeys(("view", "reshape"), view),
    **dict.fromkeys(("softmax", "log_softmax"), softmax),
    **dict.fromkeys(("cat", "concat", "concatenate"), concatenate),
    **dict.fromkeys(("transpose", "swapaxes"), transpose),
    **dict.fromkeys(SHAPE_ONLY, ignored),
    "unflatten": unflatten,
    "permute": permute,
    "pad": pad,
    "chunk": chunk,
    "split": split,
    "getitem": getitem,
    "getattr": attribute,
}


def function_rule(node: fx.Node) -> Rule | None:
    """The rule for a function of torch or a method, by its name; `None` where there is none."""
    target = node.target
    if isinstance(target, str):
        return RULES.get(target)
    home = getattr(target, "__module__", None) or "torch"
    known = home.split(".")[0] in ("torch", "_operator", "builtins")
    return RULES.get(getattr(target, "__name__", "")) if known else None
