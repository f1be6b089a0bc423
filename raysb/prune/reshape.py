"""Where a dimension goes when a tensor is reshaped, and what is at each place of it then."""

import math
from collections.abc import Callable, Sequence

import torch

from raysb.prune.channels import Flow


def regroup(flow: Flow, before: Sequence[int], after: Sequence[int]) -> Flow | None:
    """Follow a dimension through a reshape that keeps it, or merges it with its neighbours.

    A dimension that takes in [a, d) before it and (d, b) after it holds every channel
    prod(before[d+1:b]) times in a row, and the whole of this prod(before[a:d]) times:
    `flatten(1)` of [B, C, H, W] gives column c H W + h W + w to channel c.

    Args:
        flow: The dimension.
        before: Shape of the tensor that it belongs to.
        after: Shape that it is given.

    Returns:
        The dimension in the new shape; `None` where it is split, or merged with the rows.
    """
    for dim, size in enumerate(after):
        start = _boundary(before, math.prod(after[:dim]), flow.dim, last=True)
        stop = _boundary(before, math.prod(after[:dim]) * size, len(before), last=False)
        if start is None or stop is None or not start <= flow.dim < stop:
            continue
        if size == 1 and before[flow.dim] > 1:
            continue
        inner = math.prod(before[flow.dim + 1 : stop])
        outer = math.prod(before[start : flow.dim])
        if size != outer * len(flow.ids) * inner or (start == 0 < flow.dim and outer > 1):
            return None
        return Flow(dim, flow.ids.repeat_interleave(inner).repeat(outer))
    return None


def _boundary(shape: Sequence[int], product: int, most: int, *, last: bool) -> int | None:
    """How many leading dimensions multiply to `product`: the most, or the fewest, up to `most`."""
    found = [i for i in range(most + 1) if math.prod(shape[:i]) == product]
    return (found[-1] if last else found[0]) if found else None


def is_dynamic(sizes: Sequence[object], dim: int, changes: Callable[[object], bool]) -> bool:
    """Whether a reshape's own arguments leave the size of a dimension to the tensor.

    A number is what the net was written with: after pruning the tensor has fewer elements.

    Args:
        sizes: Arguments of `view` or `reshape`: numbers, or nodes of the graph.
        dim: The dimension after it.
        changes: Whether one of them changes with the channels.
    """
    if len(sizes) == 1 and not isinstance(sizes[0], int):  # `view(x.shape)`
        return changes(sizes[0])
    return dim < len(sizes) and (sizes[dim] == -1 or changes(sizes[dim]))


def as_sizes(args: Sequence[object]) -> Sequence[object]:
    """`view(2, 3)` and `view((2, 3))` alike."""
    first = args[0] if args else ()
    return first if isinstance(first, list | tuple | torch.Size) else args
