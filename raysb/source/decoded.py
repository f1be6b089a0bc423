"""What a source of encoded rows in groups does alike, be they in files or in a store."""

from abc import ABC, abstractmethod

import numpy as np
import numpy.typing as npt

from raysb.schema import Batch, Ids
from raysb.source.formats import Formats, Place, decode_columns
from raysb.source.grouped import GroupedSource
from raysb.source.table import PLACE


class DecodedSource(ABC):
    """Reads rows by their place in an epoch's order and decodes those that are asked for.

    A subclass sets `_rows`, whose batches have a column `PLACE`, and `_formats`, and puts places
    into words.
    """

    _rows: GroupedSource
    _formats: Formats

    @property
    def num_rows(self) -> int:
        """Rows in one epoch."""
        return self._rows.num_rows

    def read(self, epoch: int | None, start: int, stop: int) -> Batch:
        """Rows [start, stop) of the epoch's order, decoded; `None` is the order as they lie."""
        return self._decoded(self._rows.read(epoch, start, stop))

    def index(self, epoch: int | None, start: int, stop: int) -> Ids:
        """Ids of the rows [start, stop) of the epoch's order. int64 [stop - start]"""
        return self._rows.index(epoch, start, stop)

    def read_some(
        self, epoch: int | None, start: int, stop: int, rows: npt.NDArray[np.int64]
    ) -> Batch:
        """The rows at some positions of [start, stop); no other is decoded."""
        return self._decoded(self._rows.read_some(epoch, start, stop, rows))

    def arrangement(self) -> str:
        """What decides, beside the seed, which row is where in an epoch."""
        return self._rows.arrangement()

    def _decoded(self, batch: Batch) -> Batch:
        return decode_columns(batch, self._formats, self._placed(batch.pop(PLACE)))

    def _placed(self, places: npt.NDArray[np.generic]) -> Place:
        return lambda row: self._words(int(places[row]))

    @abstractmethod
    def _words(self, place: int) -> str:
        """Where a row comes from, by its number in `PLACE`."""
