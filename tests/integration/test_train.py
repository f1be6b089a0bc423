"""`raysb train` on Ray: what it leaves behind, and what it refuses."""

import io
import json
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from raysb import load_model, read_metrics
from raysb.config import load
from raysb.errors import DataError, NonFiniteError, ResourceError
from raysb.run import train
from raysb.source.demo import digits, held_out

pytestmark = pytest.mark.ray

SMALL = ("--scoring.num_cpus", "0.1", "--train.num_cpus", "0.5", "--data.num_readers", "1")


def config(folder: Path, *flags: str):
    return load(None, ["--run.dir", str(folder / "run"), *SMALL, *flags])


def test_a_run_leaves_what_its_directory_promises(ray_cluster, tmp_path, capsys):
    flags = ("--data.train", "digits", "--model.name", "mlp", "--train.epochs", "4")
    metrics = train(config(tmp_path, *flags, "--train.checkpoint_every", "20"))
    run = tmp_path / "run"
    lines = read_metrics(run)
    assert [line["epoch"] for line in lines if line["kind"] == "epoch"] == [0, 1, 2, 3]
    assert lines[-1]["kind"] == "end"
    assert lines[-1]["num_scored"] == 4 * 1442  # a fifth of each class is held out
    assert load(run / "config.toml").train.epochs == 4
    assert "reached:" in (run / "run.log").read_text()
    assert sorted(path.name for path in run.glob("checkpoint_*"))
    out = capsys.readouterr().out.splitlines()
    assert len(out) < 40
    assert out[0].startswith("start: checks")
    columns = digits()
    test = held_out(columns["id"], columns["label"].astype(np.int64))
    with torch.no_grad():
        outputs = load_model(run)(torch.from_numpy(columns["image"][test]))
    error = (outputs.argmax(1).numpy() != columns["label"][test]).mean()
    assert error == pytest.approx(metrics["eval/error"], abs=1e-9)


def test_losses_that_are_not_finite_stop_the_run_with_their_list(ray_cluster, tmp_path):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 3)).astype(np.float32)
    x[::7] = np.inf
    table = {"id": np.arange(400), "x": pa.FixedSizeListArray.from_arrays(x.ravel(), 3)}
    pq.write_table(
        pa.table({**table, "label": rng.integers(2, size=400)}), tmp_path / "bad.parquet"
    )
    flags = ("--data.train", str(tmp_path / "bad.parquet"), "--data.inputs", "x")
    with pytest.raises(NonFiniteError, match=r"scoring\.max_nonfinite_fraction"):
        train(config(tmp_path, *flags, "--model.name", "mlp", "--scoring.batch_size", "50"))
    listed = json.loads((tmp_path / "run" / "nonfinite.json").read_text())
    assert listed
    assert all(int(sample) % 7 == 0 for sample in listed)


def test_more_cpus_than_there_are_are_refused_at_once_and_nothing_is_written(ray_cluster, tmp_path):
    start = time.monotonic()
    with pytest.raises(ResourceError, match=r"scoring\.num_actors"):
        train(config(tmp_path, "--data.train", "digits", "--scoring.num_actors", "500"))
    assert time.monotonic() - start < 30  # it would otherwise wait for ever
    assert not (tmp_path / "run").exists()


def test_rows_that_break_in_the_middle_of_a_run_are_named(ray_cluster, tmp_path):
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(buffer, format="PNG")
    pictures = [buffer.getvalue()] * 400
    pictures[390] = b"no picture"
    table = pa.table({"image": pa.array(pictures, pa.binary()), "label": [0, 1] * 200})
    pq.write_table(table, tmp_path / "rows.parquet")
    flags = ("--data.train", str(tmp_path / "rows.parquet"), "--model.name", "mlp")
    with pytest.raises(DataError, match=r"rows\.parquet.*390"):
        train(config(tmp_path, *flags, "--scoring.batch_size", "50", "--train.max_failures", "1"))
