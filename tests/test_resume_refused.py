"""A resume that would train other rows is refused, and one that is refused changes nothing."""

import hashlib
from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raysb.config import load
from raysb.errors import ModelError
from raysb.resume import reopen
from raysb.run import train
from raysb.training.audit import read_audit

ROWS, GROUP = 900, 50


def write_rows(path, group_rows) -> None:
    rng = np.random.default_rng(0)
    pixels = pa.array(rng.integers(0, 256, ROWS * 64, dtype=np.uint8))
    columns = {
        "image": pa.FixedSizeListArray.from_arrays(pixels, 64),
        "label": rng.integers(3, size=ROWS),
        "id": np.arange(ROWS),
    }
    table = pa.table(columns).replace_schema_metadata({"shape": "[8, 8]"})
    pq.write_table(table, path, row_group_size=group_rows)


@pytest.fixture
def run(tmp_path):
    """A run that was stopped in the middle of its epoch."""
    write_rows(tmp_path / "rows.parquet", GROUP)
    words = {
        "engine": "local",
        "data.train": str(tmp_path / "rows.parquet"),
        "data.test_fraction": "0",
        "model.name": "mlp",
        "selector.kind": "selective_backprop",
        "selector.min_probability": "1",
        "selector.history": "128",
        "scoring.batch_size": "90",
        "scoring.max_staleness_steps": "0",
        "train.epochs": "1",
        "train.batch_size": "32",
        "train.max_steps": "9",
        "train.audit": "true",
        "train.use_gpu": "false",
        "run.loggers": "[]",
        "run.dir": str(tmp_path / "run"),
    }
    train(load(None, tuple(f"--{key}={value}" for key, value in words.items())))
    return tmp_path / "run"


def go_on(run, *words):
    resumed = reopen(run, words)
    return train(resumed.config, resumed=resumed)


def files_of(folder):
    """What lies in a run directory, but for the log that every command may write to."""
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(folder.rglob("*"))
        if file.is_file() and file.suffix != ".log"
    }


REST = "--train.max_steps=none"
REFUSED = [
    ("--data.shuffle_window=1", ValueError, "Leave data.shuffle_window"),
    ("--selector.history=64", ValueError, "selector.history"),
    ("--model.name=cnn", ModelError, "does not fit"),
    ("--selector.kind=uniform", ValueError, "Leave selector.kind"),
    ("--run.seed=1", ValueError, "Leave run.seed"),
]


@pytest.mark.parametrize(("change", "error", "said"), REFUSED, ids=lambda x: str(x)[:24])
def test_a_refused_resume_leaves_the_run_as_it_was(run, change, error, said) -> None:
    before = files_of(run)
    with pytest.raises(error, match=said):
        go_on(run, REST, change)
    assert files_of(run) == before
    go_on(run, REST)
    assert Counter(read_audit(run / "audit")["id"].to_pylist()) == Counter(range(ROWS))


def test_the_same_rows_in_other_row_groups_are_refused(run) -> None:
    """Their ids are the same; the order of an epoch is not."""
    write_rows(run.parent / "rows.parquet", GROUP // 2)
    before = files_of(run)
    with pytest.raises(ValueError, match=r"the row groups of data\.train"):
        go_on(run, REST)
    assert files_of(run) == before
