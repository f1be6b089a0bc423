"""Every setting that is out of range is refused when it is set, by the name of its key."""

import dataclasses
import math

import numpy as np
import pytest

from raysb.history.records import NEVER
from raysb.history.settings import History
from raysb.history.table import LossTable
from raysb.nn.settings import Model
from raysb.scoring.settings import Scoring
from raysb.settings_io import argument_docs
from raysb.training.settings import MOST_EPOCHS, Evaluation, Training

SECTIONS = {
    "train": Training,
    "eval": Evaluation,
    "scoring": Scoring,
    "history": History,
    "model": Model,
}

NO_COUNT = (0, -1, 1.5, "3", None, True)
NO_PAIR = ((2, 1), (0, 2), (1, 2, 3), (1,), (1, 1.5), (True, 2))
NO_COUNT_FROM_0 = (-1, 1.5, "3", None, True)
NO_LIMIT = (0, -1, 1.5, "3", True)
NO_AMOUNT = (-0.1, math.nan, math.inf, "3", None)
NO_BOUND = (0, -1.0, math.nan, math.inf, "3")

OUT_OF_RANGE = {
    "train.epochs": (*NO_COUNT, 65_536, 2**40),
    "train.batch_size": NO_COUNT,
    "train.num_workers": (*NO_COUNT, *NO_PAIR),
    "train.lr": NO_AMOUNT,
    "train.optimizer": ("", None, 3),
    "train.optimizer_args": (None, [1], "a=1"),
    "train.loss": ("", None, 3),
    "train.loss_args": (None, [1]),
    "train.schedule": ("cosin", "", None, 3),
    "train.schedule_axis": ("epoch", "", None),
    "train.schedule_args": (None, [1]),
    "train.strategy": ("dpp", "", None, 3),
    "train.strategy_args": (None, [1]),
    "train.find_unused_parameters": ("yes", None, 1),
    "train.accumulate": NO_COUNT,
    "train.normalize": ("row", "", None),
    "train.clip_norm": NO_BOUND,
    "train.dtype": ("float16", "bf16", "", None),
    "train.ema": (*NO_BOUND, 1, 1.5),
    "train.compile": ("yes", None, 1),
    "train.max_steps": NO_LIMIT,
    "train.max_backprops": NO_LIMIT,
    "train.max_time_s": NO_BOUND,
    "train.max_cost": NO_BOUND,
    "train.scoring_cost": NO_AMOUNT,
    "train.use_gpu": ("yes", None, 2),
    "train.num_cpus": NO_AMOUNT,
    "train.num_gpus": (*NO_AMOUNT, 0, 1.5),  # 0: Ray Train would take a whole one
    "train.checkpoint_every": NO_COUNT_FROM_0,
    "train.checkpoint_every_s": NO_BOUND,
    "train.keep_checkpoints": NO_COUNT,
    "train.save_best": ("yes", None, 1),
    "train.patience": NO_LIMIT,
    "train.stall_after_s": NO_BOUND,
    "train.on_stall": ("die", "", None),
    "train.max_failures": (-2, 1.5, "3", None, True),
    "train.audit": ("yes", None, 1),
    "train.num_threads": NO_COUNT_FROM_0,
    "train.statistics": (None, "gradient", ["gradients"], ["gradient", "gradient"], 3),
    "train.statistics_every": NO_COUNT,
    "eval.every": NO_COUNT_FROM_0,
    "eval.batch_size": NO_COUNT,
    "scoring.num_actors": (*NO_COUNT, *NO_PAIR),
    "scoring.batch_size": NO_COUNT,
    "scoring.score": ("", 3, True),
    "scoring.image_scale": (0, -0.5, 1.1, math.nan, "3", None),
    "scoring.proxy": ("", 3, True),
    "scoring.min_agreement": (-1.1, 1.1, math.nan, "3", None),
    "scoring.resources": (None, [1], {"a": -1}, {"a": "x"}, {"CPU": 1}),
    "train.resources": (None, [1], {"a": -1}, {"GPU": 1}),
    "scoring.dtype": ("float64", "bf16", None),
    "scoring.max_staleness_steps": (-1, 1.5, "none", True),
    "scoring.publish_every": NO_COUNT,
    "scoring.num_cpus": NO_AMOUNT,
    "scoring.num_gpus": (*NO_AMOUNT, 1.5),
    "scoring.max_nonfinite_fraction": (*NO_AMOUNT, 1.1),
    "history.num_shards": NO_COUNT,
    "model.name": ("", None, 3),
    "model.plan": (3,),
    "model.args": (None, [1]),
    "model.norm": ("layer", None),
    "model.convert_norm": ("yes", None, 1),
    "model.num_classes": NO_LIMIT,
    "model.init": (3, True),
    "model.init_exclude": ("head", None, ("",), (3,), ("head",)),
    "model.freeze": ("stem", None, ("",), (3,)),
    "model.adapter": ("prefix", "", 3),
    "model.adapter_args": (None, [1], {"rank": 2}),
}


def keys():
    return [f"{name}.{f.name}" for name, cls in SECTIONS.items() for f in dataclasses.fields(cls)]


def test_every_setting_has_values_that_are_refused():
    assert sorted(OUT_OF_RANGE) == sorted(keys())


@pytest.mark.parametrize(("key", "value"), [(k, v) for k, vs in OUT_OF_RANGE.items() for v in vs])
def test_a_value_out_of_range_is_refused_with_its_key_and_value(key, value):
    section, field = key.split(".")
    with pytest.raises((ValueError, TypeError)) as caught:
        SECTIONS[section](**{field: value})
    assert str(caught.value).startswith(f"{key}={value!r}: ")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("train.lr", 0),
        ("train.epochs", np.int64(3)),
        ("train.epochs", MOST_EPOCHS),
        ("train.max_steps", 1),
        ("train.max_failures", -1),
        ("train.use_gpu", True),
        ("train.clip_norm", 1),
        ("train.num_workers", (1, 4)),
        ("scoring.num_actors", (2, 2)),
        ("scoring.num_actors", (2, 8)),
        ("scoring.max_staleness_steps", 0),
        ("scoring.max_staleness_steps", None),
        ("scoring.max_staleness_steps", "auto"),
        ("scoring.num_gpus", 0.25),
        ("scoring.num_gpus", 2),
        ("scoring.max_nonfinite_fraction", 0),
        ("scoring.max_nonfinite_fraction", 1),
        ("model.num_classes", 1),
    ],
)
def test_values_at_the_edge_are_taken(key, value):
    section, field = key.split(".")
    assert getattr(SECTIONS[section](**{field: value}), field) == value


def test_the_history_counts_as_many_epochs_as_a_run_may_have():
    """It failed in the ledger's last epoch, after all the others."""
    assert MOST_EPOCHS == NEVER
    table, row = LossTable(1), np.zeros(1, np.int64)
    how = {"correct": None, "selected": np.ones(1, bool), "weights_step": 0}
    table.record(row, np.ones(1, np.float32), epoch=MOST_EPOCHS - 1, **how)
    with pytest.raises(ValueError, match="epoch=65535"):
        table.record(row, np.ones(1, np.float32), epoch=MOST_EPOCHS, **how)


def test_a_pair_the_wrong_way_round_is_shown_the_right_one():
    with pytest.raises(ValueError, match=r"scoring\.num_actors=\(8, 2\): the fewest .*: 2,8"):
        Scoring(num_actors=(8, 2))


@pytest.mark.parametrize("strategy", ["fsdp", "pipeline"])
def test_a_strategy_that_spreads_the_model_takes_no_changing_number_of_workers(strategy):
    with pytest.raises(ValueError, match=r"train\.num_workers=\(2, 4\): .*set train.strategy=ddp"):
        Training(num_workers=(2, 4), strategy=strategy, accumulate=4)


def test_lockstep_wants_weights_of_every_step():
    with pytest.raises(ValueError, match=r"scoring\.publish_every=2: lockstep"):
        Scoring(max_staleness_steps=0, publish_every=2)
    Scoring(max_staleness_steps=8, publish_every=2)


def test_the_defaults_are_those_of_the_documentation():
    training = Training()
    assert (training.epochs, training.batch_size, training.lr) == (10, 64, 0.05)
    assert (training.optimizer, training.schedule, training.schedule_axis) == (
        "sgd",
        "cosine",
        "epochs",
    )
    assert training.scoring_cost == pytest.approx(1 / 3)
    assert (Scoring().batch_size, Scoring().max_staleness_steps) == (256, "auto")
    assert (Model().name, Model().norm) == ("cnn", "group")
    assert (Evaluation().every, History().num_shards) == (0, 1)


@pytest.mark.parametrize("cls", SECTIONS.values(), ids=SECTIONS)
def test_every_setting_is_explained_and_none_else(cls):
    assert list(argument_docs(cls)) == [f.name for f in dataclasses.fields(cls)]


@pytest.mark.parametrize("cls", SECTIONS.values(), ids=SECTIONS)
def test_settings_cannot_be_changed_nor_given_by_position(cls):
    name = dataclasses.fields(cls)[0].name
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(cls(), name, 1)
    with pytest.raises(TypeError, match="positional"):
        cls(1)


def test_tables_of_two_settings_are_not_one():
    assert Training().optimizer_args is not Training().optimizer_args
    assert Model().args is not Model().args
