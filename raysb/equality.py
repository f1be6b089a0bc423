"""Whether two trees of arrays, tensors and numbers are the same to the bit."""

from collections.abc import Mapping
from typing import Any

import torch


def difference(saved: Any, restored: Any, path: str = "") -> str | None:
    """The first place where two trees differ, in words; `None` where they are equal.

    Args:
        saved: Nested mappings, lists and tuples of tensors, arrays, numbers and text.
        restored: What should be the same; NaN is the same as NaN.
        path: Where the two lie in larger ones.
    """
    if isinstance(saved, Mapping):
        if not isinstance(restored, Mapping) or saved.keys() != restored.keys():
            return _told(path, saved, restored)
        inside = [(f"{path}/{name}", saved[name], restored[name]) for name in saved]
    elif isinstance(saved, list | tuple):
        if not isinstance(restored, list | tuple) or len(saved) != len(restored):
            return _told(path, saved, restored)
        pairs = zip(saved, restored, strict=True)
        inside = [(f"{path}/{i}", one, other) for i, (one, other) in enumerate(pairs)]
    else:
        return None if _same(saved, restored) else _told(path, saved, restored)
    found = (difference(one, other, where) for where, one, other in inside)
    return next(filter(None, found), None)


def _same(one: Any, other: Any) -> bool:
    if not (hasattr(one, "dtype") and hasattr(other, "dtype")):
        return type(one) is type(other) and (one == other or (one != one and other != other))
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    return _bytes(one) == _bytes(other)


def _bytes(array: Any) -> bytes:
    if isinstance(array, torch.Tensor):
        flat = array.detach().cpu().contiguous().reshape(-1)
        array = flat.view(torch.uint8).numpy() if flat.numel() else flat.numpy()
    return bytes(array.tobytes())


def _told(path: str, saved: Any, restored: Any) -> str:
    return f"{path.removeprefix('/')}: {str(saved)[:200]} became {str(restored)[:200]}"
