"""Rows of different lengths, of which some pools happen to have one length, through Ray."""

import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
import torch
from ray.train import RunConfig
from torch import nn

from raysb.losses import cross_entropy
from raysb.scoring.settings import Scoring
from raysb.selection import SelectiveBackprop
from raysb.source.settings import Data
from raysb.trainer import SelectiveTrainer
from raysb.training.settings import Training

ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
pytestmark = pytest.mark.ray

ROWS, POOL = 240, 20


class Bag(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(17, 8), nn.Linear(8, 3)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.head(self.embed(tokens).mean(1))


def pad(batch):
    assert batch["tokens"].dtype == object, "ragged in every pool and batch"
    length = max(len(row) for row in batch["tokens"])
    tokens = np.zeros((len(batch["tokens"]), length), np.int64)
    for i, row in enumerate(batch["tokens"]):
        tokens[i, : len(row)] = row
    return {"tokens": tokens, "label": batch["label"]}


class Texts(torch.utils.data.Dataset):
    """Of 240 texts six are longer than the others, so most pools of 20 have one length."""

    def __len__(self) -> int:
        return ROWS

    def __getitem__(self, i: int):
        return [i % 17] * (2 if i % 40 else 5), i % 3


def fit(rows, folder, readers: int):
    return SelectiveTrainer(
        model=Bag,
        loss=cross_entropy("label"),
        datasets={"train": rows},
        selector=SelectiveBackprop(min_probability=1.0),
        data=Data(inputs=("tokens",), num_readers=readers, shuffle_window=1),
        collate=pad,
        scoring=Scoring(batch_size=POOL, num_cpus=0.1),
        training=Training(epochs=1, batch_size=16, num_cpus=0.5),
        run_config=RunConfig(storage_path=str(folder), name="run"),
    ).fit()


@pytest.mark.parametrize("readers", [pytest.param(1, marks=pytest.mark.slow), 0])
def test_ragged_rows_stay_ragged_where_a_pool_has_one_length(ray_cluster, tmp_path, readers):
    """Ray made a tensor of such a pool, which could not be joined with the next."""
    rng = np.random.default_rng(0)
    lengths = np.where(np.arange(ROWS) < ROWS // 2, 2, 1 + np.arange(ROWS) % 4)
    tokens = pa.array([rng.integers(17, size=length) for length in lengths])
    table = pa.table({"tokens": tokens, "label": rng.integers(3, size=ROWS)})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=2 * POOL)
    result = fit(str(tmp_path / "a.parquet"), tmp_path, readers)
    assert result.metrics["num_backpropped"] == ROWS


def test_a_data_set_of_torch_goes_through_ray_and_its_lists_stay_ragged(ray_cluster, tmp_path):
    result = fit(Texts(), tmp_path, 1)
    assert result.metrics["num_backpropped"] == ROWS
