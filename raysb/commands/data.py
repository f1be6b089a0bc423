"""`raysb data`: convert data to parquet, and look into parquet."""

import json
import sys
from dataclasses import asdict
from typing import Any

from raysb.commands.options import JSON, OK, Option, UsageError, take_options
from raysb.printable import printable

HELP = """\
usage: raysb data convert SOURCE OUT [--on-error fail|skip] [--classes FILE] [--seed N]
                                     [--file-mb N] [--rows-per-group N] [--json]
                                     of a CSV: [--label-column NAME] [--image-column NAME]
                                               [--features all|NAME,NAME,...]
       raysb data inspect PATH [--json]

convert writes parquet that `raysb train --data.train OUT` reads. SOURCE is one of

  a folder      PNG and JPEG, the class of each its first folder: SOURCE/cat/1.png
  an archive    .tar, .tar.gz, .tgz, .tar.bz2, .tar.xz: the same, or as WebDataset (a.jpg, a.cls)
  a CSV         .csv, .tsv with a line of names; a column `label` (text or numbers) is the target,
                an integer column `id` the ids
  parquet       a file or folder, written again in random order and in row groups that stream well

Pictures are decoded once to see whether they can be, and kept byte for byte. Rows lie in random
order, whatever that of the source. Names of classes are in OUT/_classes.json and in the files.

  --on-error fail|skip     stop at a row that cannot be used (default), or leave it out and list it
  --classes FILE           _classes.json of the training set, for its test set: the same numbers
  --label-column NAME      column with the right answer (default: label)
  --image-column NAME      column with paths of pictures, relative to the CSV (else it stays text)
  --features all|NAMES     join columns of numbers into one input, `features`
  --seed N                 of the order (default: 0)
  --file-mb N              size of a file, about (default: 128)
  --rows-per-group N       rows of a row group, at most (default: 512)

inspect says what PATH (a file, folder, glob, URI or demo set) holds, what `raysb train` would make
of it with which command line, and what should be mended first.

  --json                   everything as JSON
"""

_CONVERT = {
    "on-error": Option(value="fail|skip", needs="`fail` or `skip`"),
    "classes": Option(value="FILE", needs="the name of a file"),
    "label-column": Option(value="NAME", needs="the name of a column"),
    "image-column": Option(value="NAME", needs="the name of a column"),
    "features": Option(value="NAMES", needs="`all`, or names of columns"),
    "seed": Option(value="N", needs="a whole number"),
    "file-mb": Option(value="N", needs="a whole number"),
    "rows-per-group": Option(value="N", needs="a whole number"),
    "json": JSON,
}
_NUMBERS = ("seed", "file-mb", "rows-per-group")


def run(words: list[str]) -> int:
    """Convert or inspect; returns the exit code."""
    what, *rest = words or [""]
    if what not in _COMMANDS:
        given = f"unknown command {what!r}" if what else "no command given"
        raise UsageError(f"raysb data: {given}; there are: {', '.join(_COMMANDS)}\n\n{HELP}")
    lines = _COMMANDS[what](rest)
    sys.stdout.write("\n".join(lines) + "\n")
    return OK


def _convert(words: list[str]) -> list[str]:
    given = take_options(words, _CONVERT)
    [source, out] = _places(given.rest, "SOURCE", "OUT")
    from raysb.report.data_lines import converted_lines
    from raysb.source.convert import Convert, convert, read_classes

    chosen: dict[str, Any] = {
        name.replace("-", "_"): _number(name, value) if name in _NUMBERS else value
        for name, value in given.options.items()
        if name != "json"
    }
    if "classes" in chosen:
        chosen["classes"] = read_classes(chosen["classes"])
    if "features" in chosen:
        chosen["features"] = tuple(name.strip() for name in chosen["features"].split(","))
    done = asdict(convert(source, out, Convert(**chosen)))
    sys.stderr.writelines(f"warning: {printable(warning)}\n" for warning in done["warnings"])
    if given.has("json"):
        return [json.dumps(done, indent=2)]
    return [*map(printable, converted_lines(done)), f"next:    raysb data inspect {out}"]


def _inspect(words: list[str]) -> list[str]:
    given = take_options(words, {"json": JSON})
    [path] = _places(given.rest, "PATH")
    from raysb.report.data_lines import inspection_lines
    from raysb.source.inspection import inspect

    found = asdict(inspect(path))
    if given.has("json"):
        return [json.dumps(found, indent=2)]
    return [*map(printable, inspection_lines(found))]


def _places(words: tuple[str, ...], *names: str) -> list[str]:
    """The words that are no options; as many as there are names."""
    wrong = [word for word in words if word.startswith("-")]
    if wrong or len(words) != len(names):
        what = f"unknown option {wrong[0]}" if wrong else f"{' '.join(names)} must be given"
        raise UsageError(f"{what}, and nothing else beside the options; see raysb data --help")
    return list(words)


def _number(name: str, text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise UsageError(f"--{name} {text}: a whole number is needed") from None


_COMMANDS = {"convert": _convert, "inspect": _inspect}
