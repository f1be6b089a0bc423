"""The irreducible loss of each sample: what a model that is done with learning still gets wrong."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from raysb.errors import DataError
from raysb.schema import ID, LOSS, Batch, Floats, Ids
from raysb.source.footer import open_parquet, told

IRREDUCIBLE_LOSS = "irreducible_loss"
_SHOWN = 5  # ids in a message


@dataclass(frozen=True, eq=False)
class IrreducibleLosses:
    """One loss per id, found by id: never by position. 12 bytes an id; pickles as its arrays.

    Args:
        ids: int64 [m], ascending, each once.
        losses: float32 [m], of the ids.
        origin: Where they come from, for messages.

    Raises:
        DataError: An id occurs twice: which of its losses holds?
    """

    ids: Ids
    losses: Floats
    origin: str = "memory"

    def __post_init__(self) -> None:
        twice = self.ids[1:][np.diff(self.ids) == 0]
        if len(twice):
            raise DataError(
                f"irreducible losses of {self.origin}: {len(twice)} ids occur more than once, e.g. "
                f"{_some(twice)}; which of their losses holds is not known. Write one row per id"
            )

    @classmethod
    def of(cls, ids: Ids, losses: npt.NDArray[np.floating], origin: str = "memory") -> Self:
        """From ids in any order. `ids` int64 [m], `losses` [m]."""
        order = np.argsort(ids, kind="stable")
        return cls(ids[order].astype(np.int64), losses[order].astype(np.float32), origin)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read the columns `id` and `loss` of a parquet file, as `raysb score` writes them.

        Raises:
            FileNotFoundError: There is no such file.
            DataError: It is not parquet, lacks a column, holds none that fits, or two rows of one
                id, or rows without a loss.
        """
        origin = os.fspath(path)
        if not Path(origin).is_file():
            raise FileNotFoundError(
                f"irreducible losses: there is no file {origin!r}; `raysb score MODEL --out FILE` "
                "writes one"
            )
        table = _read(origin)
        losses = table.column(LOSS)
        if losses.null_count:
            rows = np.flatnonzero(losses.is_null().to_numpy())
            without = table.column(ID).to_numpy()[rows]
            raise DataError(
                f"irreducible losses of {origin}: {len(rows)} of {len(table)} rows have no loss, "
                f"ids {_some(without)}; score rows with right answers"
            )
        return cls.of(table.column(ID).to_numpy(), losses.to_numpy(), origin)

    def __len__(self) -> int:
        return len(self.ids)

    def lookup(self, ids: Ids) -> Floats:
        """The loss of each id. float32 [n]

        Args:
            ids: int64 [n], in any order.

        Raises:
            DataError: Ids have no loss: their number, and some of them, are named.
        """
        place = np.minimum(np.searchsorted(self.ids, ids), max(len(self.ids) - 1, 0))
        known = self.ids[place] == ids if len(self.ids) else np.zeros(len(ids), np.bool_)
        if not known.all():
            unknown = ids[~known]
            raise DataError(
                f"irreducible losses of {self.origin}: {len(unknown)} of {len(ids)} ids have none, "
                f"e.g. {_some(unknown)} (it holds {len(self)} ids). Score every row of these data, "
                "with the same files in the same order, or name an id column (data.id)"
            )
        return self.losses[place]

    def add_to(self, batch: Batch) -> Batch:
        """The batch with a column `irreducible_loss` float32 [n], looked up by `id`.

        A batch that has the column already is returned as it is, and nothing is looked up.
        """
        if IRREDUCIBLE_LOSS in batch:
            return batch
        ids = batch[ID].astype(np.int64, copy=False)
        return batch | {IRREDUCIBLE_LOSS: self.lookup(ids)}


def _read(path: str) -> pa.Table:
    what = f"irreducible losses of {path}: is not a parquet file, or a damaged one"
    with told(what, "Let `raysb score` write it again."), open_parquet(path) as file:
        _check_schema(file.schema_arrow, path)
        table = file.read(columns=[ID, LOSS], use_threads=False)
    if table.column(ID).null_count:
        raise DataError(
            f"irreducible losses of {path}: {table.column(ID).null_count} rows have no {ID!r}"
        )
    return table


def _check_schema(schema: pa.Schema, path: str) -> None:
    if missing := [name for name in (ID, LOSS) if name not in schema.names]:
        raise DataError(
            f"irreducible losses of {path}: no column {missing[0]!r} among "
            f"{', '.join(schema.names) or 'none'}; needed are {ID!r} (integers) and {LOSS!r} "
            "(numbers), as `raysb score` writes them of rows with right answers"
        )
    id_type, loss_type = schema.field(ID).type, schema.field(LOSS).type
    if not pa.types.is_integer(id_type) or not pa.types.is_floating(loss_type):
        raise DataError(
            f"irreducible losses of {path}: {ID!r} is {id_type} and {LOSS!r} is {loss_type}; must "
            "be integers and floating numbers"
        )


def _some(ids: Ids) -> str:
    return ", ".join(map(str, ids[:_SHOWN].tolist())) + (", ..." if len(ids) > _SHOWN else "")
