"""`raysb train --dry-run`: every stage once, and nothing left behind."""

import copy
import os
import re
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch

from raysb import cli
from raysb.config import load
from raysb.dry_run import HEADER, DryRun
from raysb.equality import difference
from raysb.prepare import prepare

FAST = [
    *("--engine", "local", "--data.train", "digits", "--model.name", "mlp"),
    *("--model.args.hidden", "[16]", "--train.use_gpu", "false"),
]
STAGES = ["read", "score", "history", "select", "train", "evaluate", "checkpoint", "restore"]

CODE = """
import torch
class Forgetful(torch.optim.SGD):
    def load_state_dict(self, state):
        pass
"""


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """An empty folder to run in, and an empty one for temporary files."""
    for name in ("here", "tmp", "code"):
        (tmp_path / name).mkdir()
    (tmp_path / "code" / "users_optimizer.py").write_text(CODE)
    monkeypatch.syspath_prepend(tmp_path / "code")
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr(os, "environ", os.environ.copy())
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    yield
    assert list((tmp_path / "here").iterdir()) == []
    left = [path.name for path in (tmp_path / "tmp").iterdir()]
    assert [name for name in left if not name.startswith("torchinductor")] == []  # torch's own


def stages(*flags):
    found = DryRun(prepare(load(None, [*FAST, *flags])).job).stages()
    return {stage.name: stage for stage in found}


def test_every_stage_is_tried_in_order_and_no_file_is_left(capsys) -> None:
    assert cli.main(["train", "--dry-run", *FAST]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == HEADER
    rows = [line for line in lines[1:-2] if line[0] != " "]
    assert [row.split()[0] for row in rows] == STAGES
    assert all(re.match(r"\w+ +\d+\.\d{4} +[\d.]+ [KM]?B  \w", row) for row in rows)
    assert lines[-2].startswith("not tried: ")
    assert lines[-1] == "nothing was left behind"
    assert max(map(len, lines)) <= 100


def test_shapes_and_bytes_are_those_of_the_data() -> None:
    found = stages("--scoring.batch_size", "100", "--train.batch_size", "24")
    assert "image uint8 [100, 8, 8, 1], label int64 [100]" in found["read"].said
    assert found["read"].num_bytes == 100 * (64 + 3 * 8)  # image, label, id, pool
    assert found["score"].said.startswith("loss float32 [100], correct uint8 [100]")
    assert found["score"].num_bytes == 100 * (4 + 1)
    assert found["history"].said.startswith("100 of 1,442 ids, the last 100 of 1,024 losses")
    assert found["train"].said.startswith("24 rows: image uint8 [24, 8, 8, 1]; loss ")
    weights = (64 + 1) * 16 + 2 * 16 + (16 + 1) * 10  # a layer, its group norm, the head
    assert f"{weights:,} parameters on cpu" in found["train"].said
    assert found["evaluate"].said.startswith("355 of 355 rows: ")


def test_the_rows_of_all_workers_make_one_step() -> None:
    assert (
        "64 rows (2 workers)"
        in stages("--train.num_workers=2", "--train.batch_size=32")["train"].said
    )


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ([], "32 rows (each of 2 workers, ddp)"),
        (["--train.strategy=fsdp"], "32 rows (each of 2 workers, fsdp)"),
        (["--train.num_workers=1,4"], "32 rows (each of 1 to 4 workers, ddp)"),
        (["--train.strategy=pipeline", "--train.accumulate=4"], "64 rows (2 workers, pipeline)"),
        (["--train.strategy=single", "--train.num_workers=1"], "32 rows:"),
    ],
)
def test_beside_others_a_step_is_what_one_worker_makes_of_it(flags, told) -> None:
    words = ["--train.num_workers=2", "--train.batch_size=32", *flags]
    job = prepare(load(None, [*FAST, "--engine=ray", *words])).job
    found = {stage.name: stage for stage in DryRun(job, together=False).stages()}
    assert told in found["train"].said
    assert "6 of 6 got a gradient" in found["train"].said


def test_what_does_not_happen_says_so() -> None:
    found = stages("--selector.kind=uniform")
    assert [found[n].num_bytes for n in ("score", "history", "select")] == [None] * 3
    assert "selector.kind=uniform" in found["score"].said
    assert found["restore"].said.startswith("equal to what was saved: ")


def test_the_model_is_scored_at_the_weights_of_the_seed() -> None:
    """The table's loss is that of plain torch on the same rows."""
    job = prepare(load(None, [*FAST, "--selector.kind=uniform", "--train.batch_size=64"])).job
    found = {stage.name: stage for stage in DryRun(job).stages()}
    batch = job.spec.read(job.spec.plan(64, job.training.epochs), 0)
    tensors = job.spec.task.tensors({k: v[:64] for k, v in batch.items()})
    outputs = job.spec.task.outputs(job.spec.task.build(0), tensors)
    loss = torch.nn.functional.cross_entropy(outputs, tensors["label"])
    assert f"loss {loss.item():.4g}," in found["train"].said


@pytest.mark.parametrize("optimizer", ["adam", "users_optimizer:Forgetful"])
def test_what_does_not_restore_is_an_error(capsys, optimizer) -> None:
    momentum = [] if optimizer == "adam" else ["--train.optimizer_args.momentum", "0.9"]
    code = cli.main(["train", "--dry-run", *FAST, "--train.optimizer", optimizer, *momentum])
    out, err = capsys.readouterr()
    if optimizer == "adam":
        assert (code, err) == (0, "")
        return
    assert code == 1
    assert "what the checkpoint restores is not what it saved: learner/optimizer/state" in err
    assert "nothing was left behind" not in out


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--data.train", "gone.parquet"], "gone.parquet"),
        (["--train.optimizer", "sgdd"], "did you mean 'sgd'"),
    ],
)
def test_what_a_run_would_refuse_is_refused(capsys, flags, told) -> None:
    assert cli.main(["train", "--dry-run", *FAST, *flags]) != 0
    out, err = capsys.readouterr()
    assert out == ""
    assert told in err


@pytest.mark.ray
def test_on_ray_the_resources_are_asked_for_and_what_is_not_tried_is_named(
    ray_cluster, capsys
) -> None:
    flags = [*FAST, "--engine", "ray", "--train.num_workers", "2"]
    assert cli.main(["train", "--dry-run", *flags]) == 0
    out = capsys.readouterr().out
    row = re.search(r"^resources +[\d.]+ +-  (.*)$", out, re.MULTILINE)
    assert row is not None
    assert row[1] == "3.2 of 12 CPUs, 0 of 0 GPUs on Ray"
    assert "not tried: actors and the way of rows and weights" in out
    assert "how 2 workers share a step (ddp)" in out
    pair = ("--scoring.num_actors", "1,4", "--train.num_workers", "1,3")
    assert cli.main(["train", "--dry-run", *flags, *pair]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "2.2 of 12 CPUs, 0 of 0 GPUs on Ray at least; 1 to 4 scorers and 1 to 3 workers" in said
    assert cli.main(["train", "--dry-run", *flags, "--train.num_workers", "12"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert "13.2 CPUs are asked for and the cluster has 12" in err
    assert not ray_cluster.util.list_named_actors(all_namespaces=True)


# --- equality of trees --------------------------------------------------------------------------

TREE = {
    "tensor": torch.tensor([1.0, float("nan")]),
    "array": np.array([1, 2], np.int64),
    "list": [1, 2.5, "x", None, float("nan")],
    "empty": torch.zeros(0, 3),
}


def test_a_tree_equals_its_copy_with_nan_and_all() -> None:
    copy = {**TREE, "tensor": TREE["tensor"].clone(), "list": tuple(TREE["list"])}
    assert difference(TREE, copy) is None


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"tensor": torch.tensor([1.0, 2.0])}, "tensor"),
        ({"tensor": torch.tensor([1.0, float("nan")], dtype=torch.float64)}, "tensor"),
        ({"array": np.array([1, 2], np.int32)}, "array"),
        ({"array": np.array([[1, 2]], np.int64)}, "array"),
        ({"list": [1, 2.5, "y", None, float("nan")]}, "list/2"),
        ({"list": [1, 2.5]}, "list"),
        ({"empty": None}, "empty"),
        ({"more": 1}, ""),
    ],
)
def test_the_first_difference_is_told_with_its_place(change, where) -> None:
    told = difference(TREE, {**TREE, **change})
    assert told is not None
    assert told.startswith(f"{where}: ")


def test_zero_and_minus_zero_are_not_the_same_bits() -> None:
    assert difference({"x": torch.zeros(1)}, {"x": -torch.zeros(1)}) is not None


def test_restoring_is_compared_with_what_was_saved_not_with_itself(monkeypatch) -> None:
    """A weight that changes between saving and restoring is seen."""
    from raysb import dry_run

    real = dry_run.load

    def tampering(folder, *, model):
        found = real(folder, model=model)
        with torch.no_grad():
            next(model.parameters()).view(-1)[0].add_(1e-3)
        return found

    monkeypatch.setattr(dry_run, "load", tampering)
    with pytest.raises(dry_run.RaysbError, match="not what it saved: model/"):
        stages()


def test_a_frozen_part_is_restored_too(tmp_path) -> None:
    assert "equal" in stages("--model.freeze", "layers.0")["restore"].said
    assert Path().exists()


def test_weights_that_are_not_restored_are_seen_where_a_step_left_them(
    monkeypatch,
) -> None:
    """With a rate of 0 the weights saved are those of the seed, and so are those built anew."""
    from raysb import dry_run

    real = dry_run.load
    monkeypatch.setattr(
        dry_run, "load", lambda folder, *, model: real(folder, model=copy.deepcopy(model))
    )
    with pytest.raises(dry_run.RaysbError, match="not what it saved: model/"):
        stages("--train.lr", "0")
