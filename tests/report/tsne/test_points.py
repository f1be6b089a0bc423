"""Points as a table."""

import numpy as np
import pyarrow as pa

from raysb.report.tsne.points import Points

COLUMNS = ["id", "x", "y", "label", "prediction", "loss", "times_selected"]


def points(**known):
    xy = np.arange(6, dtype=np.float32).reshape(3, 2)
    return Points(ids=np.array([7, 5, 9]), xy=xy, **known)


def test_what_is_known_is_a_column_and_what_is_not_is_null() -> None:
    known = points(
        labels=np.array([1, 2, 0]),
        predictions=np.array([1, 0, 0]),
        losses=np.array([0.5, np.nan, np.inf], np.float32),
        times_selected=np.array([2, -1, 0], np.int32),
    )
    assert known.to_table().to_pydict() == {
        "id": [7, 5, 9],
        "x": [0, 2, 4],
        "y": [1, 3, 5],
        "label": [1, 2, 0],
        "prediction": [1, 0, 0],
        "loss": [0.5, None, None],
        "times_selected": [2, None, 0],
    }
    assert known.wrong.tolist() == [False, True, False]


def test_the_columns_are_the_same_where_nothing_is_known() -> None:
    table = points().to_table()
    assert table.column_names == COLUMNS
    assert [table[name].null_count for name in COLUMNS] == [0, 0, 0, 3, 3, 3, 3]
    types = [pa.int64(), pa.float32(), pa.float32(), pa.int64(), pa.int64(), pa.float32()]
    assert table.schema.types == [*types, pa.int32()]


def test_values_of_a_regression_are_not_wrong_classes() -> None:
    values = np.array([0.5, 1.0, 2.0])
    assert points(labels=values, predictions=values + 1, are_classes=False).wrong is None
    assert points(labels=np.array([0, 1, 2])).wrong is None
