"""Numbers of a graph that change with the channels: `x.size(1)`, and what is reckoned with it.

As the size of a reshape such a number follows the channels. Anywhere else (`x / x.size(1)`) the net
with fewer channels computes something else, so the channels must stay.
"""

import operator
from collections.abc import Mapping

from torch import fx

from raysb.prune.channels import Flow
from raysb.prune.walk import Value, Walk

COUNTED = "a number of channels enters its values, and with fewer they are others"

_ALL = slice(None)


def changing(walk: Walk, node: fx.Node, values: Mapping[fx.Node, Value]) -> list[Flow]:
    """The channels whose number enters a node that gives no tensor."""
    tensor, index = _asked(node)
    if tensor is None:
        return [flow for each in node.all_input_nodes for flow in walk.numbers.get(each, ())]
    flow = values[tensor]
    if not isinstance(flow, Flow):
        return []
    places = range(len(walk.shapes[tensor.name]))[index]
    return [flow] if flow.dim in (places if isinstance(places, range) else (places,)) else []


def _asked(node: fx.Node) -> tuple[fx.Node | None, int | slice]:
    """The tensor whose sizes a node gives, and which of them; `None` where it gives something else.

    `x.size(1)`, `x.size()`, `x.numel()`, `x.shape`, `x.shape[1]`, `x.shape[2:]`.
    """
    of, *rest = node.args or (node.kwargs.get("input"),)
    called = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    if not isinstance(of, fx.Node):
        return None, _ALL
    if called in ("size", "numel"):
        dim = rest[0] if rest else node.kwargs.get("dim")
        return of, dim if isinstance(dim, int) else _ALL
    if called == "getattr" and rest == ["shape"]:
        return of, _ALL
    if node.target is operator.getitem and len(node.all_input_nodes) == 1:
        tensor, index = _asked(of)
        if index == _ALL and isinstance(rest[0], int | slice):
            return tensor, rest[0]
    return None, _ALL
