"""Ways to damage a file: cut it off, flip bits, write over it, insert, repeat, lie in text."""

import json
import struct
from collections.abc import Callable
from typing import Any, TypeAlias

from hypothesis import strategies as st

Mutation: TypeAlias = Callable[[bytes], bytes]

TOKENS = (
    *(b"\x00", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff\xff\xff\xff\xff", b"\x80" * 9 + b"\x01"),
    *(b"null", b"-1", b"1e999", b"NaN", b"[]", b"{}", b'"', b"\n", b"\x1b[2J", b"\xc2\x9b31m"),
    *(b"[" * 5_000, b'{"a":' * 5_000, b"9" * 5_000, b"\xed\xa0\x80", b"99999999999999999999"),
)
VALUES: tuple[Any, ...] = (
    *(None, True, -1, 0, 2**63, 2**70, 1e308, float("nan"), "", "\x1b]0;x\x07", [], {}, [[]]),
    *({"__array__": "nowhere"}, {"__array__": 3}, [None] * 50, {"__array__": "/history/loss"}),
)


def at(content: bytes, where: float, tail: bool) -> int:
    """A place in a file; headers and footers are short, so half of the places are near an end."""
    span = min(len(content), 1_500) if tail else len(content)
    return len(content) - span + int(where * span)


def cut(where: float, tail: bool) -> Mutation:
    """All up to a place."""
    return lambda content: content[: at(content, where, tail)]


def flip(where: float, tail: bool, bit: int) -> Mutation:
    """One bit turned over."""

    def mutate(content: bytes) -> bytes:
        if not content:
            return content
        place = min(at(content, where, tail), len(content) - 1)
        return content[:place] + bytes([content[place] ^ 1 << bit]) + content[place + 1 :]

    return mutate


def put(where: float, tail: bool, token: bytes, over: bool) -> Mutation:
    """Bytes written over what is there, or between it."""

    def mutate(content: bytes) -> bytes:
        place = at(content, where, tail)
        return content[:place] + token + content[place + len(token) * over :]

    return mutate


def move(where: float, whence: float, length: int) -> Mutation:
    """A piece of the file once more, elsewhere."""

    def mutate(content: bytes) -> bytes:
        place, start = at(content, where, False), at(content, whence, False)
        return content[:place] + content[start : start + length] + content[place:]

    return mutate


def lie(number: int, value: Any) -> Mutation:
    """Another value at some place of a JSON tree, also in the header of safetensors."""

    def mutate(content: bytes) -> bytes:
        head, text, tail = _json_in(content)
        try:
            tree = json.loads(text)
        except (ValueError, RecursionError):
            return content[: len(content) // 2]
        changed = json.dumps(_replaced(tree, [number], value)).encode()
        return (struct.pack("<Q", len(changed)) if head else b"") + changed + tail

    return mutate


def _json_in(content: bytes) -> tuple[bytes, bytes, bytes]:
    if len(content) > 8 and content[8:9] == b"{":  # safetensors: length, JSON, tensors
        size = struct.unpack("<Q", content[:8])[0]
        return content[:8], content[8 : 8 + size], content[8 + size :]
    return b"", content, b""


def _replaced(tree: Any, left: list[int], value: Any) -> Any:
    """The tree with the node replaced that is reached after so many others."""
    left[0] -= 1
    if left[0] == -1:
        return value
    if isinstance(tree, dict):
        return {key: _replaced(each, left, value) for key, each in tree.items()}
    if isinstance(tree, list):
        return [_replaced(each, left, value) for each in tree]
    return tree


_places = st.floats(0, 1, exclude_max=True)
_one = st.one_of(
    st.builds(cut, _places, st.booleans()),
    st.builds(flip, _places, st.booleans(), st.integers(0, 7)),
    st.builds(put, _places, st.booleans(), st.sampled_from(TOKENS), st.booleans()),
    st.builds(put, _places, st.booleans(), st.binary(min_size=1, max_size=8), st.just(True)),
    st.builds(move, _places, _places, st.integers(1, 400)),
    st.builds(lie, st.integers(0, 60), st.sampled_from(VALUES)),
)
mutations = st.lists(_one, min_size=1, max_size=4)
