"""On Ray every strategy trains the rows and the weights of the local engine."""

import sys
from pathlib import Path

import numpy as np
import pytest
import ray
import torch

from raysb import load_model, read_metrics
from raysb.config import load
from raysb.run import train
from raysb.source.demo import digits, held_out

sys.path.insert(0, str(Path(__file__).parent))
import runs
from runs import Case, run, run_locally

ray.cloudpickle.register_pickle_by_value(runs)
pytestmark = [pytest.mark.ray, pytest.mark.slow]

STRATEGIES = {
    "ddp": {"strategy": "ddp", "accumulate": 4},
    "fsdp": {"strategy": "fsdp", "accumulate": 2},
    "pipeline": {"strategy": "pipeline", "accumulate": 4},
}


def test_in_lockstep_two_workers_select_and_train_as_one_process_does(ray_cluster, tmp_path):
    """Scores come from published weights: a copy gathered too late or in part would select others.

    173 rows: the last steps are padded, and at their end a worker has no rows.
    """
    cases = [
        Case(name=name, count=173, pool=19, epochs=2, training=training)
        for name, training in STRATEGIES.items()
    ]
    outcomes = run(cases, tmp_path, workers=2)
    for case in cases:
        local = run_locally(case, tmp_path / "local", workers=2)
        remote = outcomes[case.name]
        keys = [(name, "ascending") for name in ("step", "pool", "id")]
        both = [o.audit.sort_by(keys).drop_columns(["loss"]).to_pylist() for o in (remote, local)]
        assert both[0] == both[1], case.name
        np.testing.assert_allclose(
            remote.numbers["parameters"], local.numbers["parameters"], rtol=0, atol=1e-10
        )
        assert remote.numbers["steps"] == local.numbers["steps"] > 5


FLAGS = (
    *("--data.train", "digits", "--model.name", "classic", "--model.norm", "none"),
    *("--model.args.side", "8", "--model.args.dropout", "[0,0]", "--selector.kind", "uniform"),
    *("--train.epochs", "1", "--train.max_steps", "12", "--train.optimizer", "adam"),
    *("--train.lr", "0.001", "--data.num_readers", "1", "--train.num_cpus", "0.5"),
)


@pytest.mark.slow
def test_a_run_under_each_strategy_trains_saves_and_evaluates_like_one_process(
    ray_cluster, tmp_path
):
    """Images through convolutions; what is equal to the last digit is above, and in lockstep."""
    together = ("--train.num_workers", "2", "--train.batch_size", "16")
    runs_of = {
        "one": ("--engine", "local", *together),
        "fsdp": (*together, "--train.strategy", "fsdp"),
        "pipeline": (*together, "--train.strategy", "pipeline", "--train.accumulate", "4"),
    }
    losses = {}
    for name, flags in runs_of.items():
        where = ("--run.dir", str(tmp_path / name))
        losses[name] = train(load(None, [*where, *FLAGS, *flags]))["eval/loss"]
        assert read_metrics(tmp_path / name)[-1]["step"] == 12
        columns = digits()
        test = held_out(columns["id"], columns["label"].astype(np.int64))
        with torch.no_grad():
            logits = load_model(tmp_path / name)(torch.from_numpy(columns["image"][test]))
        labels = torch.from_numpy(columns["label"][test].astype(np.int64))
        loss = float(torch.nn.functional.cross_entropy(logits, labels))
        assert loss == pytest.approx(losses[name], rel=1e-4), "the weights are those evaluated"
    for name in ("fsdp", "pipeline"):
        assert losses[name] == pytest.approx(losses["one"], rel=0.05)
