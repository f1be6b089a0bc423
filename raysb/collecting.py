"""Fewer looks for garbage while modules are imported: what they make stays."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock

RARELY = (50_000, 20, 20)  # objects between two looks, and looks between two of the next kind
_changing = Lock()
_found: list[tuple[int, ...]] = []  # by each block that is open; the first is what the user has set


@contextmanager
def collecting_rarely() -> Iterator[None]:
    """Let the interpreter look for garbage rarely in the block.

    Torch and Ray are 300,000 objects, and to visit them over and over again takes 10 to 20 % of the
    time of their import. Not for a block that trains: garbage there may hold tensors. What the user
    has set to be rarer, or off, stays.
    """
    with _changing:
        _found.append(gc.get_threshold())
        if 0 < _found[0][0] < RARELY[0]:
            gc.set_threshold(*RARELY)
    try:
        yield
    finally:
        with _changing:
            first = _found[0]
            _found.pop()
            if not _found:
                gc.set_threshold(*first)
