"""The table of cheap scorers has a row for every way to score; the live one agrees with itself."""

import importlib
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

PIPELINES = Path(__file__).parents[2] / "pipelines"


def test_every_way_to_score_has_its_row(tmp_path, monkeypatch) -> None:
    monkeypatch.syspath_prepend(str(PIPELINES))
    monkeypatch.syspath_prepend(str(PIPELINES / "benchmarks"))
    pipeline = importlib.import_module("cheap_scorers")
    monkeypatch.setattr(pipeline, "STEPS", 20)
    monkeypatch.setattr(pipeline, "STALE", (5,))
    rng = np.random.default_rng(0)
    label = rng.integers(10, size=1500)
    image = rng.integers(256, size=(1500, 28, 28)).astype(np.uint8)
    image[np.arange(1500), label] = 255  # a row of the picture tells its class
    columns = {"image": [i.tobytes() for i in image], "label": label}
    image_column = pa.field("image", pa.binary(), metadata={"shape": "[28, 28]"})
    table = pa.table(columns, schema=pa.schema([image_column, ("label", pa.int64())]))
    pq.write_table(table, tmp_path / "train.parquet")
    found = pipeline.compared(1, 28 * 28, str(tmp_path / "train.parquet"), 0, rows=128)
    assert {"float32", "bfloat16", "stale by 5 steps", "the same, distilled"} <= found.keys()
    assert found["float32"][:2] == pytest.approx((1.0, 1.0))
    assert all(-1 <= rho <= 1 and 0 <= overlap <= 1 for rho, overlap, _ in found.values())
    assert sys.modules["cheap_scorers"] is pipeline
