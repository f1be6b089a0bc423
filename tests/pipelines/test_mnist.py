"""The classic net under each strategy of one process is the same net."""

import importlib
import sys
from pathlib import Path

import pytest

PIPELINES = Path(__file__).parents[2] / "pipelines"
sys.path.insert(0, str(PIPELINES))
ONE_PROCESS = ("mnist_classic", "mnist_data_parallel", "mnist_model_parallel")


def test_each_script_is_short() -> None:
    for script in PIPELINES.glob("mnist_*.py"):
        assert len(script.read_text().splitlines()) <= 80, script.name


@pytest.mark.filterwarnings("ignore:train.strategy=data_parallel")
def test_stages_and_replicas_train_as_the_plain_net_and_show_loss_and_accuracy(
    tmp_path, capsys
) -> None:
    errors = set()
    for name in ONE_PROCESS:
        words = ["--epochs", "1", "--out", str(tmp_path / name), "data.train=digits"]
        words += ["model.args.side=8", "train.max_steps=4"]
        errors.add(importlib.import_module(name).main(words))
        assert "test loss" in capsys.readouterr().out
    assert len(errors) == 1


@pytest.mark.ray
@pytest.mark.slow
def test_two_workers_train_the_classic_net(ray_cluster, tmp_path, capsys) -> None:
    words = ["--epochs", "1", "--out", str(tmp_path / "ddp"), "data.train=digits"]
    words += ["model.args.side=8", "train.max_steps=4"]
    importlib.import_module("mnist_ddp").main(words)
    assert "test loss" in capsys.readouterr().out
