"""Optimizers by name."""

from raysb.optim.registry import build_optimizer as build_optimizer
