"""What a run of the configuration checks before it starts, and the memory that it takes."""

import warnings
from collections.abc import Iterator
from typing import Any

from raysb.config import Config
from raysb.doctor.findings import NOTE, OK, WRONG, Finding
from raysb.errors import RaysbError
from raysb.job import TrainingJob
from raysb.layout import size
from raysb.prepare import prepare
from raysb.schema import num_rows

BYTES_PER_ID = 48  # of history/table.py


def check_run(config: Config, store: float | None) -> Iterator[Finding]:
    """Data, model, loss, optimizer, bounds, run directory: what a run checks before it starts.

    Args:
        config: The run's.
        store: Bytes of Ray's object store, `None` where there is none.
    """
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always", UserWarning)
        try:
            prepared = prepare(config)
        except (RaysbError, ValueError, TypeError, OSError, ImportError) as error:
            yield _finding("run", WRONG, str(error))
            return
    job = prepared.job
    tested = 0 if job.held_out is None else job.held_out.num_rows
    rows = f"{job.spec.source.num_rows:,} rows, {tested:,} held out"
    said = (
        f"{config.model.name} takes {config.data.train}: {rows}; goes to {prepared.directory.path}"
    )
    yield _finding("run", OK, said)
    yield check_memory(job, store)
    for each in warned:
        if issubclass(each.category, UserWarning):
            yield _finding("run", NOTE, str(each.message))


def check_memory(job: TrainingJob, store: float | None) -> Finding:
    """Bytes of the rows in flight, of the loss history and of the model.

    Rows wait in Ray's object store: at most K selected ones and those of the S pools that the
    ledger lets ahead (scoring/limits.py).

    Args:
        job: The run.
        store: Bytes of the object store, `None` where there is none.
    """
    spec, training = job.spec, job.training
    plan = spec.plan(training.batch_size, 1)
    batch = spec.read(plan, 0)
    row = sum(column.nbytes for column in batch.values()) / num_rows(batch)
    limits = spec.limits_as_grown(training.batch_size, training.max_workers)[-1]
    rows = None
    if limits.max_rows is not None and limits.window is not None:
        rows = limits.max_rows + limits.window * plan.pool_rows
    model = sum(each.nbytes for each in spec.task.build(spec.seed).state_dict().values())
    history = BYTES_PER_ID * spec.source.num_rows if spec.scored else 0
    data = {"row": row, "rows_in_flight": rows, "history": history, "model": model}
    flying = size(row * rows) if rows is not None else "without a bound"
    said = f"rows in flight {flying}, loss history {size(history)}, model {size(model)} a process"
    if store is None or rows is None or rows * row <= store:
        return _finding("memory", OK, said, data=data)
    fewer = max(int(plan.pool_rows * store / (rows * row) / 2), 1)
    said += f"; Ray's object store of {size(store)} would spill rows to disk"
    return _finding("memory", NOTE, said, f"--scoring.batch_size {fewer}", data)


def _finding(
    name: str, status: str, said: str, mend: str = "", data: dict[str, Any] | None = None
) -> Finding:
    return Finding(
        topic="configuration", name=name, status=status, said=said, mend=mend, data=data or {}
    )
