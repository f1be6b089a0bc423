"""Models by name, in CIFAR style, with the norm layer chosen, and norms of models of one's own.

`raysb.nn.registry` builds them. Names are imported when they are first used, so that reading
settings stays free of torch.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from raysb.nn.convert import convert_norm as convert_norm
    from raysb.nn.norm import has_batch_statistics as has_batch_statistics
    from raysb.nn.running_statistics import recompute_batch_statistics as recompute_batch_statistics

_HOMES = {
    "convert_norm": "raysb.nn.convert",
    "has_batch_statistics": "raysb.nn.norm",
    "recompute_batch_statistics": "raysb.nn.running_statistics",
}

__all__ = ["convert_norm", "has_batch_statistics", "recompute_batch_statistics"]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
