"""Fewer looks for garbage while modules are imported: what they make stays."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager

RARELY = (50_000, 20, 20)  # objects between two looks, 70 times as many as by default


@contextmanager
def collecting_rarely() -> Iterator[None]:
    """Let the interpreter look for garbage rarely in the block.

    Torch and Ray are a million objects, and to visit them over and over again takes a fifth of the
    time of their import. Not for a block that trains: garbage there may hold tensors.
    """
    before = gc.get_threshold()
    gc.set_threshold(*RARELY)
    try:
        yield
    finally:
        gc.set_threshold(*before)
