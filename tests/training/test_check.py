"""What is refused before a run, by one look at the first rows."""

import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from torch import nn

from raysb.errors import DataError
from raysb.losses import cross_entropy
from raysb.source.settings import Data
from raysb.trainer import SelectiveTrainer


def test_a_label_without_an_output_is_named_by_file_and_row_before_the_run(tmp_path) -> None:
    """It was found hours later, as row 17 of a shuffled pool; on a GPU it kills the process."""
    rows = np.random.default_rng(0).normal(size=(400, 3)).astype(np.float32)
    label = np.arange(400) % 3
    label[300] = 7
    x = pa.FixedSizeListArray.from_arrays(pa.array(rows.ravel()), 3)
    pq.write_table(pa.table({"x": x, "label": label}), tmp_path / "a.parquet", row_group_size=40)
    with pytest.raises(DataError, match=r"a\.parquet row 300: the label 7 .* classes 0 to 2"):
        SelectiveTrainer(
            model=lambda: nn.Linear(3, 3),
            loss=cross_entropy("label"),
            datasets={"train": str(tmp_path / "a.parquet")},
            data=Data(inputs=("x",)),
            engine="local",
        )


LOOKED_AT = """
import sys
import numpy as np
import torch
from raysb.losses import cross_entropy
from raysb.source.settings import Data
from raysb.trainer import SelectiveTrainer

SelectiveTrainer(
    model=lambda: torch.nn.Linear(3, 3),
    loss=cross_entropy("label"),
    datasets={"train": {"x": np.zeros((9, 3), np.float32), "label": np.arange(9) % 3}},
    data=Data(inputs=("x",)),
    engine="local",
)
assert "torch._dynamo.convert_frame" not in sys.modules
"""


def test_the_look_at_the_optimizer_loads_no_compiler() -> None:
    """Which takes a second of every start."""
    done = subprocess.run(
        [sys.executable, "-c", LOOKED_AT],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
