"""A checkpoint's manifest: version, step, score, and size and SHA-256 of each file.

It is written last and read first: what it does not vouch for is not read.
"""

import hashlib
import json
from pathlib import Path
from typing import NamedTuple

from raysb.errors import RunDirectoryError
from raysb.training.checkpoint import AVERAGED, HISTORY, LEARNER, MODEL, STREAM
from raysb.training.forms import count, keys, leaf, maybe, number, row

MANIFEST = "manifest.json"
VERSION = 1
REQUIRED = (MODEL, LEARNER, STREAM, HISTORY)
OPTIONAL = (AVERAGED,)
MOST_BYTES = 100_000  # a manifest has about 700

_sha256 = leaf("a SHA-256 in 64 hexadecimal digits", lambda v: len(v) == 64 and int(v, 16) >= 0)
_file = row(count, _sha256)
_form = keys(
    {
        "version": count,
        "step": count,
        "score": maybe(number),
        "files": keys(dict.fromkeys(REQUIRED, _file), dict.fromkeys(OPTIONAL, _file), only=True),
    }
)


class Manifest(NamedTuple):
    """What a checkpoint says of itself."""

    version: int
    step: int
    score: float | None
    files: dict[str, tuple[int, str]]  # size and SHA-256 by name


def parse(content: bytes) -> Manifest:
    """Read a manifest.

    Of another version only that and the step are read: whoever loads says which release can.

    Raises:
        ValueError: It is none; the message says what is wrong.
    """
    try:
        said = json.loads(content[:MOST_BYTES])
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{MANIFEST} is no JSON ({type(error).__name__})") from error
    keys({"version": count, "step": count})(MANIFEST, said)
    if said["version"] != VERSION:
        return Manifest(said["version"], said["step"], None, {})
    _form(MANIFEST, said)
    files = {name: (size, digest) for name, (size, digest) in said["files"].items()}
    return Manifest(VERSION, said["step"], said["score"], files)


def digest(file: Path) -> str:
    """SHA-256 of a file."""
    with open(file, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def differs(folder: Path, said: Manifest) -> str | None:
    """Which file of a local folder is not the one that a manifest names; `None`: all are."""
    for name, (size, sha256) in said.files.items():
        file = folder / name
        if not file.is_file():
            return f"{name} is not there"
        if file.stat().st_size != size:
            return f"{name} has {file.stat().st_size} bytes of {size}"
        if digest(file) != sha256:
            return f"{name} has other content"
    strays = [name for name in OPTIONAL if name not in said.files and (folder / name).exists()]
    return f"{strays[0]} is there, which {MANIFEST} does not name" if strays else None


def verify(folder: Path) -> None:
    """See that a local folder has the files of its manifest.

    Raises:
        RunDirectoryError: It has not, or the manifest is none that this release reads.
    """
    try:
        said = parse((folder / MANIFEST).read_bytes())
        wrong = differs(folder, said)
    except (OSError, ValueError) as error:
        wrong = str(error)
    else:
        if said.version != VERSION:
            raise RunDirectoryError(
                f"{folder} has version {said.version}, this raysb reads {VERSION}: resume with "
                "the release that wrote it"
            )
    if wrong is not None:
        raise RunDirectoryError(
            f"{folder} is not as it was written ({wrong}): nothing is loaded from a damaged "
            "checkpoint. Remove its folder to use the one before"
        )
