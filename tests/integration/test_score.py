"""Scoring on Ray: the file of one process to the bit, also where a scorer dies."""

import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray

sys.path.insert(0, str(Path(__file__).parent))
import runs
from runs import FEATURES, build_net, rows

from raysb.errors import DataError
from raysb.losses import cross_entropy
from raysb.scan.run import score
from raysb.scoring.settings import Scoring
from raysb.source.settings import Data

ray.cloudpickle.register_pickle_by_value(runs)
ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
pytestmark = pytest.mark.ray


def write(folder: Path, files: list[int], group: int) -> int:
    folder.mkdir()
    for number, count in enumerate(files):
        part = rows(count, seed=number)
        x = pa.FixedSizeListArray.from_arrays(pa.array(part["x"].ravel()), FEATURES)
        table = pa.table({"x": x, "label": part["label"]})
        pq.write_table(table, folder / f"{number}.parquet", row_group_size=group)
    return sum(files)


def scores(folder: Path, name: str, *, engine: str = "ray", readers: int = 1, **given: Any) -> Any:
    settings = {"num_actors": 1, "batch_size": 16, "num_cpus": 0.1} | given.pop("scoring", {})
    summary = score(
        **{
            "model": build_net,
            "rows": str(folder / "data"),
            "out": folder / f"{name}.parquet",
            "loss": cross_entropy("label"),
            "data": Data(inputs=("x",), num_readers=readers),
            "scoring": Scoring(**settings),
            "engine": engine,
            **given,
        }
    )
    return pq.read_table(summary.path)


@pytest.mark.parametrize(("actors", "readers"), [(1, 1), (3, 0), (2, 3)])
def test_ray_writes_the_file_of_one_process(ray_cluster, tmp_path, actors, readers) -> None:
    total = write(tmp_path / "data", [130, 1, 77, 64], group=29)
    here = scores(tmp_path, "local", engine="local")
    there = scores(
        tmp_path, "ray", scoring={"num_actors": actors, "batch_size": 16}, readers=readers
    )
    assert there.num_rows == total
    places = set(zip(there["file"].to_pylist(), there["row"].to_pylist(), strict=True))
    assert len(places) == total
    assert there.equals(here)


def test_arrays_are_scored_where_they_lie(ray_cluster, tmp_path) -> None:
    data = rows(100)
    there = scores(tmp_path, "ray", rows=data)
    assert there.equals(scores(tmp_path, "local", rows=data, engine="local"))


@dataclass
class Killer:
    """A forward pass that kills its scorer once, and fails in the driver's trial of it never."""

    folder: str
    driver: int
    calls: int = 0

    def __call__(self, model: Any, batch: dict[str, Any]) -> Any:
        self.calls += 1
        if os.getpid() != self.driver and self.calls == 5:
            try:
                os.close(os.open(f"{self.folder}/killed", os.O_CREAT | os.O_EXCL))
            except FileExistsError:
                pass
            else:
                os.kill(os.getpid(), signal.SIGKILL)
        return model(batch["x"])


def test_a_killed_scorer_costs_no_row_and_doubles_none(ray_cluster, tmp_path) -> None:
    total = write(tmp_path / "data", [300, 200], group=50)
    found = scores(
        tmp_path,
        "ray",
        forward=Killer(str(tmp_path), os.getpid()),
        scoring={"num_actors": 2, "batch_size": 10},
    )
    assert (tmp_path / "killed").exists()
    assert found.num_rows == total
    assert found.equals(scores(tmp_path, "local", engine="local", scoring={"batch_size": 10}))


def test_a_row_that_cannot_be_used_ends_it_with_its_name_and_no_file(ray_cluster, tmp_path) -> None:
    images = [np.zeros(16, np.uint8).tobytes()] * 200
    images[150] = b"too short"
    table = pa.table({"image": images, "label": [0, 1] * 100})
    (tmp_path / "data").mkdir()
    pq.write_table(table, tmp_path / "data" / "a.parquet", row_group_size=20)
    with pytest.raises(DataError, match=r"a\.parquet row 150"):
        scores(
            tmp_path,
            "ray",
            data=Data(image_size=(4, 4, 1), mean=(0.0,), std=(1.0,), num_readers=1),
            forward=flat,
            model=flat_net,
        )
    assert os.listdir(tmp_path) == ["data"]


def flat(model: Any, batch: dict[str, Any]) -> Any:
    return model(batch["image"].flatten(1).float())


def flat_net() -> Any:
    return runs.nn.Linear(16, 2)
