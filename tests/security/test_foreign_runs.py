"""A run directory from anywhere can be judged, and decides neither what code runs nor who is told.

Code is imported by the names that the command line or the caller gives; a cluster is joined by its
address there. What `raysb train --config FILE` is given is the user's own word for a new run.
"""

import sys
import tomllib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from kinds import KINDS
from safetensors.torch import save_model

from raysb.cli import main
from raysb.config import load, to_toml
from raysb.errors import ModelError, RaysbError, ResourceError
from raysb.models import build_from, load_model
from raysb.scan.foreign import refuse_foreign_cluster
from raysb.scan.run import score_configured

FLAGS = [
    *("engine=local", "data.train=rows.parquet", "data.inputs=x", "data.test_fraction=0.5"),
    *("data.num_readers=0", "model.name=mlp", "model.args.hidden=[3]", "model.num_classes=2"),
    *("scoring.batch_size=8", "train.num_threads=1"),
]
KEYS = [
    *("selector.kind", "model.name", "train.loss", "train.optimizer", "scoring.score"),
    "run.loggers",
]
MODULE = """\
from pathlib import Path
Path("imported").touch()
from raysb.losses import LOSSES
from raysb.nn.mlp import MLP
def build(*args, **settings):
    return MLP(4, 2, hidden=(3,))
"""


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A finished run, with a history; the working folder has a module that leaves a mark."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "foreign", raising=False)  # of another test
    Path("foreign.py").write_text(MODULE)
    x = pa.FixedSizeListArray.from_arrays(pa.array(np.arange(80, dtype=np.float32)), 4)
    pq.write_table(pa.table({"x": x, "label": np.arange(20) % 2}), "rows.parquet")
    folder = Path("run")
    folder.mkdir()
    KINDS["history"].make(folder)
    config = load(None, FLAGS)
    (folder / "config.toml").write_text(to_toml(config))
    save_model(build_from(config, (4,))(), str(folder / "model.safetensors"))
    return folder


def write_setting(run: Path, key: str, value: str) -> None:
    """Have the run's own file say something else."""
    text, (section, _, name) = (run / "config.toml").read_text(), key.rpartition(".")
    head, mark, rest = text.partition(f"[{section}]\n") if (section := section) else ("", "", text)
    lines = [line for line in rest.split("\n")]
    at = next(i for i, line in enumerate(lines) if line.lstrip("# ").startswith(f"{name} = "))
    lines[at] = f"{name} = {value}"
    (run / "config.toml").write_text(head + mark + "\n".join(lines))
    tomllib.loads((run / "config.toml").read_text())


def judged(run: Path) -> dict[str, Callable[[], Any]]:
    """Everything that opens a finished run."""
    return {
        "eval": lambda: main(["eval", str(run)]),
        "score": lambda: main(["score", str(run), "--out", "scores.parquet", "--overwrite"]),
        "history": lambda: main(["history", str(run), "--no-origin"]),
        "load_model": lambda: load_model(run),
    }


def test_a_run_of_raysb_s_own_parts_can_be_judged(run: Path) -> None:
    for name, judge in judged(run).items():
        assert judge() == 0 or name == "load_model"


@pytest.mark.parametrize("key", KEYS)
def test_no_setting_of_a_run_directory_has_code_imported(
    run: Path, key: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write_setting(run, key, '["foreign:build"]' if key == "run.loggers" else '"foreign:build"')
    for judge in judged(run).values():
        with suppress(RaysbError):
            judge()
    assert not Path("imported").exists()
    said = capsys.readouterr().err
    if key in ("model.name", "train.loss"):
        assert f"add --{key} foreign:build" in said


def test_a_selector_of_one_s_own_keeps_nobody_from_judging_the_run(run: Path) -> None:
    write_setting(run, "selector.kind", '"foreign:Mine"')
    for name, judge in judged(run).items():
        assert judge() == 0 or name == "load_model"
    assert not Path("imported").exists()
    main(["config", "--config", str(run / "config.toml")])  # for a new run it is the user's word
    assert Path("imported").exists()


def test_the_same_code_is_imported_where_the_caller_names_it(run: Path) -> None:
    write_setting(run, "model.name", '"foreign:build"')
    with pytest.raises(ModelError, match=r"foreign:build.*pass model="):
        load_model(run)
    assert not Path("imported").exists()
    assert main(["eval", str(run), "--model.name", "foreign:build"]) == 0
    assert Path("imported").exists()


@pytest.mark.parametrize("address", ["ray://203.0.113.9:10001", "203.0.113.9:6379"])
def test_a_run_directory_cannot_have_a_cluster_joined(run: Path, address: str) -> None:
    """Objects of whoever runs a cluster are unpickled in the processes that join it."""
    write_setting(run, "engine", '"ray"')
    write_setting(run, "address", f'"{address}"')
    with pytest.raises(ResourceError, match=rf"address={address} .*add --address {address}"):
        score_configured(str(run), [], out="scores.parquet")
    assert not Path("scores.parquet").exists()


@pytest.mark.parametrize(
    ("address", "engine", "flags"),
    [
        ("local", "ray", []),
        ("auto", "ray", []),
        ("10.0.0.1:6379", "local", []),
        ("10.0.0.1:6379", "ray", ["--address", "10.0.0.1:6379"]),
    ],
)
def test_an_address_that_is_here_or_named_is_no_matter(
    address: str, engine: str, flags: list[str]
) -> None:
    config = load(None, [f"address={address}", f"engine={engine}"])
    refuse_foreign_cluster(config, flags)


def test_a_flag_that_names_another_address_takes_the_place_of_the_run_s() -> None:
    config = load(None, ["address=10.0.0.1:6379", "engine=ray"])
    with pytest.raises(ResourceError, match=r"address=10\.0\.0\.1:6379"):
        refuse_foreign_cluster(config, [])
