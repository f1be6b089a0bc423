"""Numbers of a graph that change with the channels."""

import pytest
import torch
from torch import fx, nn

from raysb.prune.channels import ChannelIds, Flow
from raysb.prune.sizes import changing
from raysb.prune.walk import Walk


@pytest.mark.parametrize(
    ("number", "changes"),
    [
        (lambda x: x.size(1), True),
        (lambda x: x.size(-3), True),
        (lambda x: x.size(dim=1), True),
        (lambda x: x.size(), True),
        (lambda x: x.shape, True),
        (lambda x: x.shape[1], True),
        (lambda x: x.size()[1], True),
        (lambda x: x.shape[:2], True),
        (lambda x: x.shape[1:][0], True),
        (lambda x: x.numel(), True),
        (lambda x: torch.numel(x) // 2, True),
        (lambda x: 2 * x.shape[1] ** -0.5 + x.size(0), True),
        (lambda x: x.shape[:1] + (x.shape[1], 4), True),  # noqa: RUF005
        (lambda x: x.size(0), False),
        (lambda x: x.shape[2:], False),
        (lambda x: x.shape[-1] * x.size(2), False),
        (lambda x: x.shape[:1] + (288,), False),  # noqa: RUF005
        (lambda x: x.dim(), False),
        (lambda x: x.dtype, False),
    ],
)
def test_a_number_changes_if_the_number_of_channels_enters_it(number, changes) -> None:
    class Net(nn.Module):
        def forward(self, x):
            return number(x)

    graph = fx.Tracer().trace(Net())
    nodes = [node for node in graph.nodes if node.op != "output"]
    flow = Flow(1, torch.arange(8))
    values = dict.fromkeys(nodes) | {nodes[0]: flow}
    walk = Walk(modules={}, shapes={"x": (2, 8, 6, 6)}, protect=set(), ids=ChannelIds())
    for node in nodes[1:]:
        walk.numbers[node] = changing(walk, node, values)
    assert bool(walk.numbers[nodes[-1]]) == changes
