"""Points of a map and what is known of their rows, as parquet.

column          type                 what
id              int64                the row
x, y            float32              its point
label           int64, or as given   the right answer, where it is one number a row
prediction      int64 or float32     a class, or the value of a regression
loss            float32              null where it is not finite
times_selected  int32                epochs in which the run selected it; null where it never saw it

What is not known of any row is a column of nulls.

Dimensions in comments: n rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from raysb.schema import Floats, Ids


@dataclass(frozen=True, kw_only=True)
class Points:
    """n rows on a map.

    Args:
        ids: int64 [n].
        xy: float32 [n, 2].
        labels: Numbers [n], or None where there is not one a row.
        predictions: [n], or None.
        losses: float32 [n], or None without right answers.
        times_selected: int32 [n], below 0 where the run never saw the row; or None.
        classes: Names of the classes by number, where they are known.
        are_classes: Whether label and prediction are numbers of classes.
    """

    ids: Ids
    xy: Floats
    labels: npt.NDArray[Any] | None = None
    predictions: npt.NDArray[Any] | None = None
    losses: Floats | None = None
    times_selected: npt.NDArray[np.int32] | None = None
    classes: Sequence[str] | None = None
    are_classes: bool = True

    @property
    def num_rows(self) -> int:
        """Rows on the map."""
        return len(self.ids)

    @property
    def wrong(self) -> npt.NDArray[np.bool_] | None:
        """Which rows are taken for another class; None where that cannot be told. bool [n]"""
        if not self.are_classes or self.labels is None or self.predictions is None:
            return None
        return np.asarray(self.labels != self.predictions)

    def to_table(self) -> pa.Table:
        """Every row with its point."""
        losses, selected = self.losses, self.times_selected
        known = {
            "label": None if self.labels is None else pa.array(self.labels),
            "prediction": None if self.predictions is None else pa.array(self.predictions),
            "loss": None if losses is None else pa.array(losses, mask=~np.isfinite(losses)),
            "times_selected": None if selected is None else pa.array(selected, mask=selected < 0),
        }
        types = {"label": pa.int64(), "prediction": pa.int64(), "loss": pa.float32()}
        columns = {"id": self.ids, "x": self.xy[:, 0], "y": self.xy[:, 1]}
        for name, column in known.items():
            absent = pa.nulls(self.num_rows, types.get(name, pa.int32()))
            columns[name] = absent if column is None else column
        return pa.table(columns)
