"""Encoded pictures, checked by decoding each once, and kept byte for byte."""

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from typing import NamedTuple

from raysb.errors import DataError
from raysb.source.convert.settings import Problems
from raysb.source.images import COLOUR, open_picture

SUFFIXES = (".jpg", ".jpeg", ".png")
FOREIGN = (".webp", ".gif", ".bmp", ".tif", ".tiff", ".heic", ".avif", ".jp2", ".ppm")
MAX_BYTES = 256_000_000  # of one encoded picture
AT_ONCE = 256  # pictures in memory while they are checked


class Picture(NamedTuple):
    """A picture before it is read."""

    name: str
    read: Callable[[], bytes]
    row: int  # position in whatever it comes from


class Checked(NamedTuple):
    """A picture that can be decoded."""

    name: str
    data: bytes
    row: int


@dataclass
class Seen:
    """Sizes of all pictures, and whether one is in colour."""

    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)  # (height, width)
    colour: bool = False

    @property
    def shape(self) -> list[int] | None:
        """[H, W, C] where all pictures have one size."""
        if len(self.sizes) != 1:
            return None
        [(height, width)] = self.sizes
        return [height, width, 3 if self.colour else 1]


def suffix_of(name: str) -> str:
    """Ending of a file name in small letters, `.jpg`."""
    return os.path.splitext(name)[1].lower()


def check_pictures(
    pictures: Iterable[Picture], problems: Problems, seen: Seen
) -> Iterator[list[Checked]]:
    """Read and decode pictures, `AT_ONCE` at a time, in order.

    Args:
        pictures: What to read; `read` may be called in other threads.
        problems: Is told of those that cannot be decoded.
        seen: Notes sizes and colours.
    """
    pictures = iter(pictures)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        while some := list(islice(pictures, AT_ONCE)):
            usable = []
            for picture, result in zip(some, pool.map(_check, some), strict=True):
                if isinstance(result, str):
                    problems.add(picture.name, result)
                    continue
                data, size, mode = result
                seen.sizes[size] += 1
                seen.colour |= mode in COLOUR
                usable.append(Checked(picture.name, data, picture.row))
            if usable:
                yield usable


def _check(picture: Picture) -> tuple[bytes, tuple[int, int], str] | str:
    """Bytes, (height, width) and mode; or why it cannot be used."""
    if suffix_of(picture.name) in FOREIGN:
        return f"{suffix_of(picture.name)} is not read, only PNG and JPEG are"
    try:
        data = picture.read()
        opened = open_picture(data, lambda row: "", 0)
        opened.load()
    except DataError as error:
        return str(error).lstrip(": ").split(". ")[0]
    except Exception as error:  # decoders raise OSError, SyntaxError, struct.error and others
        return f"cannot be decoded ({error})"
    return data, (opened.height, opened.width), opened.mode
