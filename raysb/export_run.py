"""A run's model as one file that torch alone loads: `raysb export`."""

import itertools
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from raysb.errors import ModelError
from raysb.evaluate import OpenedRun, open_run
from raysb.models import TrainedModel
from raysb.task import Inputs, TensorBatch

FILE = "model.pt2"
ROWS = 4  # of the example; the program takes any number from 1
TOLERANCE = 1e-4  # of the outputs' largest value


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What was written.

    Args:
        run: The run directory.
        path: The file.
        num_bytes: Its size.
        columns: What the program is called with, in order: name, dtype, shape of one row.
        outputs: Shape of what it gives for one row.
        num_rows: Rows on which it was compared with the model, in batches of several sizes.
        difference: Largest difference there, as a share of the outputs' largest value.
    """

    run: str
    path: str
    num_bytes: int
    columns: list[tuple[str, str, list[int]]]
    outputs: list[int]
    num_rows: int
    difference: float


def export_run(
    run: str, out: str | None = None, flags: Sequence[str] = (), *, overwrite: bool = False
) -> Exported:
    """Write a run's model with torch.export, load it again, and compare it with the model.

    The program takes columns as they are in the data, of any number of rows, and normalises them as
    in training: `torch.export.load(path).module()(images)`.

    Args:
        run: Directory of a run of `raysb train`, or a pruned one.
        out: The file, `.pt2`; `None`: `model.pt2` in the run directory.
        flags: Settings that take the place of the run's.
        overwrite: Whether a file of this name may be replaced.

    Raises:
        ValueError: There is such a file, or its name does not end in .pt2.
        ModelError: torch.export cannot take the model, or the program gives other outputs.
        RaysbError: The run or its rows cannot be used.
    """
    path = Path(run) / FILE if out is None else Path(out)
    if path.suffix != ".pt2":
        raise ValueError(f"out={os.fspath(path)!r}: must end in .pt2, by which torch knows it")
    if path.exists() and not overwrite:
        raise ValueError(f"out={os.fspath(path)!r}: is there already; --overwrite replaces it")
    opened = open_run(run, flags)
    model, batch = _whole(opened)
    columns = [batch[name] for name in model.inputs.columns]
    program = _program(model, [column[:ROWS] for column in columns])
    path.parent.mkdir(parents=True, exist_ok=True)
    unchecked = path.with_name(f".{path.stem}.unchecked.pt2")
    try:
        with warnings.catch_warnings():  # of constants that are views; on the CPU all is well
            warnings.filterwarnings("ignore", "No complete tensor found", UserWarning)
            torch.export.save(program, unchecked)
        outputs, difference = _compare(model, torch.export.load(unchecked).module(), columns)
        unchecked.replace(path)
    finally:
        unchecked.unlink(missing_ok=True)
    described = [
        (name, str(column.dtype)[6:], list(column.shape[1:]))
        for name, column in zip(model.inputs.columns, columns, strict=True)
    ]
    return Exported(
        run=run,
        path=str(path),
        num_bytes=path.stat().st_size,
        columns=described,
        outputs=outputs,
        num_rows=len(columns[0]),
        difference=difference,
    )


def _whole(opened: OpenedRun) -> tuple[TrainedModel, TensorBatch]:
    """The model with its normalisation, on the CPU, and up to 256 test rows."""
    forward, rows = opened.task.forward, min(256, opened.source.num_rows)
    if not isinstance(forward, Inputs):
        raise ModelError(f"{forward!r}: only runs that call the model with columns are exported")
    batch = opened.task.tensors(opened.source.read(None, 0, rows))
    return TrainedModel(opened.module.cpu(), forward).eval(), batch


def _program(model: nn.Module, columns: Sequence[torch.Tensor]) -> torch.export.ExportedProgram:
    rows = torch.export.Dim("rows", min=1)
    shapes = {"columns": tuple({0: rows} for _ in columns)}
    try:
        with torch.no_grad():
            return torch.export.export(model, tuple(columns), dynamic_shapes=shapes)
    except Exception as error:  # anything that the model's own code makes of the tracer
        raise ModelError(
            f"torch.export cannot take the model ({type(error).__name__}): {error}\n"
            "  control flow must not depend on values, and sizes not on the number of rows"
        ) from error


def _compare(
    model: nn.Module, program: nn.Module, columns: Sequence[torch.Tensor]
) -> tuple[list[int], float]:
    """Shape of one row's output, and the largest relative difference over all rows."""
    total = len(columns[0])
    cuts = [0, 1, min(3, total), total] if total > 1 else [0, 1]
    worst, shape = 0.0, list[int]()
    for start, stop in itertools.pairwise(cuts):
        part = [column[start:stop] for column in columns]
        if not len(part[0]):
            continue
        with torch.no_grad():
            wanted, found = model(*part), program(*part)
        scale = float(wanted.abs().max().clamp(min=1e-12))
        worst = max(worst, float((wanted - found).abs().max()) / scale)
        shape = list(found.shape[1:])
    if not worst <= TOLERANCE:
        raise ModelError(
            f"the exported program differs from the model by {worst:.2g} of its largest output; "
            "nothing was written"
        )
    return shape, worst
