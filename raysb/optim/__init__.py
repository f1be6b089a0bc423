"""Optimizers: Ranger, its parts for other optimizers, and torch's by name."""

from raysb.optim.centralize import centralize_gradient, centralize_gradients, gc_param_groups
from raysb.optim.flat_cosine import FlatCosineLR
from raysb.optim.ranger import Ranger
from raysb.optim.registry import build_optimizer

__all__ = [
    "FlatCosineLR",
    "Ranger",
    "build_optimizer",
    "centralize_gradient",
    "centralize_gradients",
    "gc_param_groups",
]
