"""Every kind of file that raysb reads from outside: sound ones, and the code that opens them.

Run as a program this is the victim of the mutation tests: a process of its own with a limit of
memory, so that a crash, a hang or an allocation beyond reason is seen and harms nobody. It reads
`KIND FOLDER` from standard input, a line each, and answers with a line of JSON.
"""

import json
import os
import resource
import signal
import sys
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

MEMORY = 1_500_000_000  # bytes that a reader may take beyond what it has at its start
ROWS = 12


@dataclass(frozen=True)
class Kind:
    """A kind of file.

    Args:
        make: Writes sound files into an empty folder.
        read: Reads them as raysb does.
        files: Those that are mutated.
        clear: Whether an error names the file.
    """

    make: Callable[[Path], None]
    read: Callable[[Path], Any]
    files: tuple[str, ...]
    clear: bool = True


def picture(form: str, colour: bool = True, side: int = 9) -> bytes:
    """A picture of random pixels."""
    import numpy as np
    from PIL import Image

    shape = (side, side, 3) if colour else (side, side)
    pixels = np.random.default_rng(1).integers(256, size=shape, dtype=np.uint8)
    stream = BytesIO()
    Image.fromarray(pixels).save(stream, form)
    return stream.getvalue()


def net() -> Any:
    """A small network."""
    from torch import nn

    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


def make_numbers(folder: Path) -> None:
    """Rows of numbers in two row groups, with strings and lists."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    values = pa.array(np.arange(3.0 * ROWS, dtype=np.float32))
    table = pa.table(
        {
            "x": pa.FixedSizeListArray.from_arrays(values, 3),
            "label": pa.array(np.arange(ROWS) % 4),
            "id": pa.array(np.arange(ROWS)),
            "name": pa.array([f"n{i % 3}" for i in range(ROWS)]),
            "tokens": pa.array([[i] * (i % 5) for i in range(ROWS)], pa.list_(pa.int32())),
        }
    )
    pq.write_table(table, folder / "rows.parquet", row_group_size=ROWS // 2)


def read_numbers(folder: Path) -> None:
    """As a run reads them."""
    from raysb.source.parquet import ParquetSource
    from raysb.source.settings import Data

    data = Data(inputs=("x",), also=("name", "tokens"))
    source = ParquetSource(str(folder / "rows.parquet"), data=data)
    for epoch in (None, 0):
        batch = source.read(epoch, 0, source.num_rows)
        assert all(len(column) == source.num_rows for column in batch.values())
        source.index(epoch, 0, source.num_rows)
    source.label_bounds("label")


def make_pictures(folder: Path) -> None:
    """Pictures in a struct, as others write them."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    images = [picture("PNG"), picture("JPEG")] * (ROWS // 2)
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    column = pa.array([{"bytes": each, "path": "a"} for each in images], kind)
    table = pa.table({"image": column, "label": pa.array([0, 1] * (ROWS // 2))})
    pq.write_table(table, folder / "rows.parquet")


def read_pictures(folder: Path) -> None:
    """As a run opens and normalises them."""
    from raysb.source.open import open_sources
    from raysb.source.settings import Data

    sources = open_sources(Data(train=str(folder / "rows.parquet"), num_readers=0), seed=0)
    batch = sources.train.read(None, 0, sources.train.num_rows)
    assert len(batch["image"]) == sources.train.num_rows


def read_inspected(folder: Path) -> None:
    """`raysb data inspect`."""
    from dataclasses import asdict

    from raysb.report.data_lines import inspection_lines
    from raysb.source.inspection import inspect

    inspection_lines(asdict(inspect(str(folder / "rows.parquet"))))


def converted(name: str) -> Callable[[Path], None]:
    """`raysb data convert`: all or nothing."""

    def read(folder: Path) -> None:
        from raysb.source.convert import convert

        before = sorted(folder.iterdir())
        try:
            convert(folder / name, folder / "out")
        except BaseException:
            assert sorted(folder.iterdir()) == before, "a partial write"
            raise
        assert list((folder / "out").glob("*.parquet"))

    return read


def make_tar(folder: Path) -> None:
    """Pictures with labels, as WebDataset has them."""
    with tarfile.open(folder / "a.tar", "w") as archive:
        for i in range(4):
            for suffix, content in (
                ("png", picture("PNG", colour=i > 1)),
                ("cls", b"%d" % (i % 2)),
            ):
                member = tarfile.TarInfo(f"d/{i}.{suffix}")
                member.size = len(content)
                archive.addfile(member, BytesIO(content))


def make_tgz(folder: Path) -> None:
    """The same, compressed."""
    import gzip

    make_tar(folder)
    (folder / "a.tar.gz").write_bytes(gzip.compress((folder / "a.tar").read_bytes(), mtime=0))
    (folder / "a.tar").unlink()


def make_csv(folder: Path) -> None:
    """Numbers, text and labels."""
    lines = [f"{i},{i / 7},text {i},{'cat' if i % 2 else 'dog'}" for i in range(ROWS)]
    (folder / "a.csv").write_text("\n".join(["id,x,t,label", *lines]) + "\n")


def make_folder(folder: Path) -> None:
    """A picture in a folder of its class."""
    for name, form in (("a/1.png", "PNG"), ("b/2.jpg", "JPEG")):
        path = folder / "pictures" / name
        path.parent.mkdir(parents=True)
        path.write_bytes(picture(form))


def make_irreducible(folder: Path) -> None:
    """Losses by id."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    losses = pa.array(np.linspace(0, 1, ROWS, dtype=np.float32))
    pq.write_table(pa.table({"id": pa.array(range(ROWS)), "loss": losses}), folder / "rho.parquet")


def read_irreducible(folder: Path) -> None:
    """`data.irreducible`."""
    from raysb.source.irreducible import IrreducibleLosses

    IrreducibleLosses.load(folder / "rho.parquet")


def make_weights(folder: Path) -> None:
    """Weights of a network."""
    from safetensors.torch import save_model

    save_model(net(), str(folder / "w.safetensors"))


def read_weights(folder: Path) -> None:
    """`model.init`."""
    from raysb.nn.pretrained import load_weights

    load_weights(net(), folder / "w.safetensors")


def make_run(folder: Path) -> None:
    """A run directory as `raysb train` leaves it: settings, metrics, weights."""
    import dataclasses

    import torch
    from safetensors.torch import save_model

    from raysb.config import load, to_toml
    from raysb.models import build_from
    from raysb.report.records import MetricsWriter

    config = load(
        None, ["data.mean=0.1", "data.std=0.3", "data.image_size=2,2,1", "model.args.hidden=[3]"]
    )
    config = dataclasses.replace(
        config, model=dataclasses.replace(config.model, num_classes=3, name="mlp")
    )
    (folder / "config.toml").write_text(to_toml(config))
    torch.manual_seed(0)
    save_model(build_from(config, (2, 2, 1))(), str(folder / "model.safetensors"))
    with MetricsWriter(folder / "metrics.jsonl") as metrics:
        for step in range(6):
            kind = "epoch" if step % 3 == 2 else "train"
            metrics.write({"kind": kind, "step": step, "eval/loss": 0.5, "eval/error": 0.1})


def read_run(folder: Path) -> None:
    """`raysb.load_model`."""
    from raysb.models import load_model

    load_model(folder)


def read_scored(folder: Path) -> None:
    """The weights of `raysb score`."""
    import torch

    from raysb.config import load
    from raysb.models import build_from
    from raysb.scan.weights import build_with, check_names

    config = load(folder / "config.toml")
    check_names(config.model, folder / "model.safetensors")
    build = build_from(config, (2, 2, 1))
    assert isinstance(build_with(build, folder / "model.safetensors"), torch.nn.Module)


def read_config(folder: Path) -> None:
    """`--config FILE`."""
    from raysb.config import load

    load(folder / "config.toml")


def read_records(folder: Path) -> None:
    """`metrics.jsonl`, and what `raysb eval` says of it."""
    from raysb.evaluate import _recorded
    from raysb.report.records import read_metrics

    assert all(isinstance(record, dict) for record in read_metrics(folder))
    _recorded(folder)


def make_history(folder: Path) -> None:
    """A run directory with a checkpoint that holds a history."""
    import numpy as np

    from raysb.history.table import LossTable
    from raysb.training.checkpoint import save

    table, ids = LossTable(), np.arange(20)
    for epoch in range(2):
        right = (ids % 2).astype(np.uint8)
        table.record(ids, ids / 9, correct=right, selected=ids > 4, weights_step=epoch, epoch=epoch)
    save(
        folder / "checkpoint_000000007",
        model=net(),
        learner={"note": [1.0, None]},
        stream={"num_steps": 7, "counters": {"num_steps": 7}, "cursor": [3, [5]]},
        history=table.state_dict(),
    )


def read_history(folder: Path) -> None:
    """`raysb history` without the data."""
    from raysb.inspect_history.run import inspect_history
    from raysb.inspect_history.settings import Wanted

    before = sorted(folder.iterdir())
    try:
        inspect_history(folder, Wanted(origin=False, export=str(folder / "all.parquet")))
    except BaseException:
        assert sorted(folder.iterdir()) == before, "a partial write"
        raise


def read_checkpoint(folder: Path) -> None:
    """What a run that goes on reads."""
    from raysb.training.checkpoint import load

    load(folder / "checkpoint_000000007", model=net())


def make_classes(folder: Path) -> None:
    """Names of classes."""
    (folder / "_classes.json").write_text(json.dumps(["cat", "dog", "é"], indent=0))


def read_class_names(folder: Path) -> None:
    """`--classes FILE`."""
    from raysb.source.convert import read_classes

    read_classes(folder / "_classes.json")


_IN = "checkpoint_000000007/"
KINDS = {
    "parquet": Kind(make_numbers, read_numbers, ("rows.parquet",)),
    "parquet of pictures": Kind(make_pictures, read_pictures, ("rows.parquet",)),
    "parquet inspected": Kind(make_pictures, read_inspected, ("rows.parquet",)),
    "parquet converted": Kind(make_numbers, converted("rows.parquet"), ("rows.parquet",)),
    "pictures": Kind(make_folder, converted("pictures"), ("pictures/a/1.png", "pictures/b/2.jpg")),
    "tar": Kind(make_tar, converted("a.tar"), ("a.tar",)),
    "tar.gz": Kind(make_tgz, converted("a.tar.gz"), ("a.tar.gz",)),
    "csv": Kind(make_csv, converted("a.csv"), ("a.csv",)),
    "irreducible": Kind(make_irreducible, read_irreducible, ("rho.parquet",)),
    "weights": Kind(make_weights, read_weights, ("w.safetensors",)),
    "weights of a run": Kind(make_run, read_run, ("model.safetensors",)),
    "weights to score": Kind(make_run, read_scored, ("model.safetensors",)),
    "settings": Kind(make_run, read_config, ("config.toml",)),
    "metrics": Kind(make_run, read_records, ("metrics.jsonl",)),
    "history": Kind(make_history, read_history, (f"{_IN}stream.json", f"{_IN}history.npz")),
    "checkpoint": Kind(
        make_history,
        read_checkpoint,
        tuple(_IN + n for n in ("train.pt", "stream.json", "history.npz", "model.safetensors")),
    ),
    "classes": Kind(make_classes, read_class_names, ("_classes.json",)),
}


def attempt(kind: str, folder: Path) -> dict[str, Any]:
    """What becomes of files: read, or refused with an error and its message."""
    if kind == "death":  # what a parser in C does when it fails
        os.kill(os.getpid(), signal.SIGSEGV)
    try:
        KINDS[kind].read(folder)
    except BaseException as error:
        import traceback

        return {
            "error": type(error).__name__,
            "bases": [base.__name__ for base in type(error).__mro__],
            "message": str(error),
            "trace": "".join(traceback.format_exception(error)[-12:]),
        }
    return {"error": None}


def main() -> None:
    """Answer requests until there are none."""
    import raysb.inspect_history.run
    import raysb.models
    import raysb.scan.weights
    import raysb.source.open  # noqa: F401

    with open("/proc/self/statm") as file:
        held = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (held + MEMORY, held + MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    answers = sys.stdout
    sys.stdout = sys.stderr
    answers.write("ready\n")
    answers.flush()
    for line in sys.stdin:
        kind, folder = line.rstrip("\n").split("\t")
        answers.write(json.dumps(attempt(kind, Path(folder))) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
