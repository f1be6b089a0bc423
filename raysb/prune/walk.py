"""What is known while a traced graph is walked through, node by node.

A value is a `Flow` where a dimension of the tensor may get smaller, `None` where none can. A rule
returns the value of its node, ties or fixes channels, or demands that those it does not understand
are fixed; demands are settled at the end, when everything that is fixed is known.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, TypeAlias, cast

import torch
from torch import fx, nn

from raysb.prune.channels import ChannelIds, Flow

Shape: TypeAlias = tuple[int, ...]
Value: TypeAlias = Flow | list[Flow | None] | None

UNKNOWN = "it is no operation that pruning knows"


@dataclass(frozen=True)
class Equal:
    """As many channels must stay in each of consecutive groups.

    Args:
        ids: The channels, group after group. int64 [groups * channels of a group]
        num_groups: How many groups.
    """

    ids: torch.Tensor
    num_groups: int


@dataclass(frozen=True)
class Demand:
    """Channels that must be fixed, since something is not understood."""

    ids: torch.Tensor
    where: str
    why: str


@dataclass
class Walk:
    """What is known while a graph is walked through.

    Args:
        modules: Of the model by name.
        shapes: Of every node's result, by its name.
        protect: Layers whose outputs stay.
        ids: All channels so far.
    """

    modules: dict[str, nn.Module]
    shapes: dict[str, Any]
    protect: set[str]
    ids: ChannelIds
    inputs: dict[str, torch.Tensor] = field(default_factory=dict)
    outputs: dict[str, torch.Tensor] = field(default_factory=dict)
    norms: dict[str, torch.Tensor] = field(default_factory=dict)
    calls: dict[str, list[tuple[Shape, Shape]]] = field(default_factory=dict)
    constraints: list[Equal] = field(default_factory=list)
    demands: list[Demand] = field(default_factory=list)
    raw: set[fx.Node] = field(default_factory=set)  # parameters that the forward itself handles
    numbers: dict[fx.Node, list[Flow]] = field(default_factory=dict)  # see `raysb.prune.sizes`

    def demand(self, step: "Step", why: str, flows: Iterable[Flow | None] | None = None) -> None:
        """Demand that channels are fixed: by default all that reach a node. Returns None."""
        for flow in step.flows if flows is None else flows:
            if flow is not None:
                self.demands.append(Demand(flow.ids, step.where, why))

    def demand_module(self, name: str, why: str) -> None:
        """Demand that the channels of a module are fixed."""
        for found in (self.inputs, self.outputs, self.norms):
            if name in found:
                self.demands.append(Demand(found[name], f"module {name!r}", why))

    def register(self, table: dict[str, torch.Tensor], name: str, ids: torch.Tensor) -> None:
        """Note the channels of a module; those of a second call are those of the first."""
        if name in table:
            self.ids.tie(table[name], ids)
        table.setdefault(name, ids)


@dataclass
class Step:
    """A node with what reaches it.

    Args:
        node: Of the graph.
        args: Its tensors: the node, its value and its shape.
        shape: Of its result, a list of shapes where it gives several.
    """

    node: fx.Node
    args: list[tuple[fx.Node, Value, Any]]
    shape: Any

    @property
    def flows(self) -> list[Flow | None]:
        """The values of its tensors, those of tuples one by one."""
        found: list[Flow | None] = []
        for _, value, _ in self.args:
            found += value if isinstance(value, list) else [value]
        return found

    @property
    def flow(self) -> Flow | None:
        """The value of its first tensor."""
        return cast("Flow | None", self.args[0][1])

    @property
    def before(self) -> Shape:
        """Shape of its first tensor."""
        return cast(Shape, self.args[0][2])

    @property
    def where(self) -> str:
        """The node in words."""
        inside = list(self.node.meta.get("nn_module_stack", {}).values())
        place = f" in module {inside[-1][0]!r}" if inside and inside[-1][0] else ""
        return f"node {self.node.name!r} ({self.node.op} {self.called}){place}"

    @property
    def called(self) -> str:
        """Name of the function or method, of a module that of its class where it is known."""
        target = self.node.target
        return target if isinstance(target, str) else getattr(target, "__name__", str(target))

    def argument(self, index: int, name: str, default: Any = None) -> Any:
        """An argument of the call, by place or by name."""
        args, named = self.node.args, self.node.kwargs
        if len(args) > index:
            return args[index]
        # torch takes numpy's word for it too
        return named.get(name, named.get("axis", default) if name == "dim" else default)


Rule: TypeAlias = Callable[[Walk, Step], Value]
