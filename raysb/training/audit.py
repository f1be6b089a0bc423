"""What was trained, row by row, for those who have to prove it: `train.audit=true`."""

import os
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from raysb.schema import ID, LOSS, POOL, PROBABILITY, WEIGHT, WEIGHTS_STEP, Batch

COLUMNS = (ID, POOL, PROBABILITY, WEIGHT, WEIGHTS_STEP, LOSS)


@dataclass(frozen=True)
class Audit:
    """Writes one parquet file a step and worker; a step that is done again replaces its file.

    Args:
        folder: Where to, on a file system that every worker reaches.
    """

    folder: str

    def __call__(self, step: int, rank: int, batch: Batch) -> None:
        """Note the rows that one worker trained in one step."""
        folder = Path(self.folder)
        folder.mkdir(parents=True, exist_ok=True)
        columns = {name: batch[name] for name in COLUMNS if name in batch}
        rows = len(batch[ID])
        table = pa.table({"step": pa.array([step] * rows, pa.int64()), **columns})
        target = folder / f"step-{step:08d}-rank-{rank:04d}.parquet"
        draft = target.with_suffix(".draft")
        pq.write_table(table, draft)
        os.replace(draft, target)

    def forget_after(self, step: int) -> None:
        """Remove what was noted of later steps: a run goes on from this one, or begins at 0."""
        for file in Path(self.folder).glob("step-*"):
            if int(file.name.split("-")[1]) > step:
                file.unlink(missing_ok=True)


def read_audit(folder: str | os.PathLike[str]) -> pa.Table:
    """All rows trained, in the order of steps and workers."""
    files = sorted(Path(folder).glob("step-*.parquet"))
    if not files:
        return pa.table({name: pa.array([], pa.int64()) for name in ("step", ID)})
    return pa.concat_tables([pq.read_table(file) for file in files])
