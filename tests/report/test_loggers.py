"""Loggers: what they are told, what they leave behind, and that none of them can end a run."""

import importlib.util
import io
import struct
import threading
from functools import partial
from pathlib import Path

import pytest
from torch import nn

from raysb.config import Run, load
from raysb.job import Recorder, Silent
from raysb.report.loggers import LOGGERS, Loggers, group, make_loggers
from raysb.report.records import read_metrics
from raysb.run import train
from raysb.training.checkpoints import Checkpoints

BUILD = partial(nn.Linear, 2, 2)
LINES = [
    {"kind": "start", "step": 0, "num_scored": 0, "score/loss": float("nan")},
    {"kind": "train", "step": 3, "num_scored": 256, "score/loss": 2.25, "mean_age_steps": None},
    {"kind": "end", "step": 7, "num_scored": 512, "score/loss": 0.125},
]
CALLS: list[tuple] = []


class Notes:
    """Notes what it is told."""

    def start(self, config, directory):
        CALLS.append(("start", dict(config), directory, threading.current_thread().name))

    def log(self, metrics, step):
        CALLS.append(("log", dict(metrics), step))

    def finish(self, status):
        CALLS.append(("finish", status))


class Fails(Notes):
    """Works for one line and never again."""

    def log(self, metrics, step):
        if step:
            raise OSError("the server has gone away")
        super().log(metrics, step)


class Hangs(Notes):
    """Never returns from its first line."""

    def log(self, metrics, step):
        threading.Event().wait()


class HalfALogger:
    def start(self, config, directory): ...


@pytest.fixture(autouse=True)
def no_calls():
    CALLS.clear()


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def record(folder, loggers, lines=LINES, weights=None):
    recorder = Recorder(folder, Silent(), BUILD, loggers)
    for line in lines:
        recorder(line)
    recorder.finish({}, weights)


def weights(folder):
    store = Checkpoints(folder=str(folder))
    store.save(1, model=BUILD(), learner={}, stream={}, history=None)
    return store


def events(folder):
    """(tag, step, value or text) of every event, by the record format of TensorFlow.

    A record is its length (uint64), a checksum, that many bytes, a checksum; little-endian.
    """
    from tensorboardX.proto.event_pb2 import Event

    [path] = folder.glob("events.out.tfevents.*")
    stream, found = io.BytesIO(path.read_bytes()), []
    while header := stream.read(12):
        event = Event.FromString(stream.read(struct.unpack("<Q", header[:8])[0]))
        stream.read(4)
        for value in event.summary.value:
            is_text = value.HasField("tensor")
            shown = value.tensor.string_val[0] if is_text else value.simple_value
            found.append((value.tag, event.step, shown))
    return found


def expected(records):
    """What a run's lines are as scalars: every number, none of the nulls."""
    return [
        (key, record["step"], value)
        for record in records
        for key, value in record.items()
        if key not in ("step", "kind") and value is not None
    ]


def test_a_logger_is_told_of_the_start_every_finite_number_and_the_end(tmp_path):
    loggers = Loggers(make_loggers([Notes()]), {"train.lr": 0.05})
    record(tmp_path, loggers, weights=weights(tmp_path))
    assert CALLS == [
        ("start", {"train.lr": 0.05}, tmp_path, "logger Notes"),
        ("log", {"num_scored": 0.0}, 0),
        ("log", {"num_scored": 256.0, "score/loss": 2.25}, 3),
        ("log", {"num_scored": 512.0, "score/loss": 0.125}, 7),
        ("finish", "finished"),
    ]


def test_the_status_tells_how_a_run_ended(tmp_path):
    for error, status in ((RuntimeError, "failed"), (KeyboardInterrupt, "interrupted")):
        recorder = Recorder(tmp_path, Silent(), BUILD, Loggers(make_loggers([Notes()])))
        try:
            raise error
        except BaseException:
            recorder.finish({}, None)
        assert CALLS[-1] == ("finish", status)
    recorder = Recorder(tmp_path, Silent(), BUILD, Loggers(make_loggers([Notes()])))
    recorder({"kind": "end", "step": 9, "stopped_by": "interrupted"})  # Ctrl-C, once
    recorder.finish({}, weights(tmp_path))
    assert CALLS[-1] == ("finish", "interrupted")


def test_a_logger_that_fails_is_warned_of_once_and_the_others_go_on(tmp_path):
    lines = [{"step": step, "loss": 1.0} for step in range(50)]
    loggers = Loggers(make_loggers([Fails(), Notes()]))
    with pytest.warns(RuntimeWarning, match="'Fails' failed .*the server has gone away") as seen:
        record(tmp_path, loggers, lines)
    assert len(seen) == 1
    assert [call[2] for call in CALLS if call[0] == "log" and call[2]] == list(range(1, 50))
    assert read_metrics(tmp_path) == lines
    assert [call[0] for call in CALLS].count("finish") == 1  # what failed gets nothing more


def test_a_logger_that_hangs_neither_stops_a_run_nor_keeps_it_for_ever(tmp_path, monkeypatch):
    monkeypatch.setattr(group, "FINISH_S", 0.2)
    with pytest.warns(RuntimeWarning, match="'Hangs' failed .*did not finish within"):
        record(tmp_path, Loggers(make_loggers([Hangs()])))
    assert len(read_metrics(tmp_path)) == len(LINES)


def test_a_logger_that_lags_too_far_behind_is_dropped_instead_of_filling_the_memory(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(group, "FINISH_S", 0.2)
    monkeypatch.setattr(group, "MAX_WAITING", 20)
    lines = [{"step": step} for step in range(100)]
    with pytest.warns(RuntimeWarning, match="lags 20 lines behind"):
        record(tmp_path, Loggers(make_loggers([Hangs()])), lines)
    assert read_metrics(tmp_path) == lines


def test_events_of_tensorboard_are_the_lines_of_metrics(tmp_path):
    record(tmp_path, Loggers(make_loggers(["tensorboard"]), {"train.lr": 0.05}))
    scalars = [each for each in events(tmp_path) if not isinstance(each[2], bytes)]
    assert scalars == expected(read_metrics(tmp_path))
    texts = {tag.split("/")[0]: text for tag, _, text in events(tmp_path) if type(text) is bytes}
    assert texts == {"config": b"    train.lr = 0.05", "status": b"failed"}


def test_a_run_writes_events_for_tensorboard_that_equal_its_metrics(here):
    flags = ["--engine", "local", "--data.train", "digits", "--model.name", "mlp"]
    train(load(None, [*flags, "--train.epochs", "2", "--run.dir", "run"]))
    scalars = [each for each in events(here / "run") if not isinstance(each[2], bytes)]
    wanted = expected(read_metrics(here / "run"))
    assert [each[:2] for each in scalars] == [each[:2] for each in wanted]
    assert [each[2] for each in scalars] == pytest.approx([each[2] for each in wanted], rel=1e-6)


def test_a_run_without_loggers_writes_no_events_and_trains_the_same(here):
    flags = ["--engine", "local", "--data.train", "digits", "--model.name", "mlp"]
    flags += ["--train.epochs", "1"]
    train(load(None, [*flags, "--run.dir", "without", "--run.loggers", "[]"]))
    train(load(None, [*flags, "--run.dir", "with"]))
    assert not list(Path("without").glob("events*"))
    assert list(Path("with").glob("events*"))
    weights = [Path(run, "model.safetensors").read_bytes() for run in ("with", "without")]
    assert weights[0] == weights[1]


def test_tensorboard_itself_reads_the_events(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    record(tmp_path, Loggers(make_loggers(["tensorboard"])))
    seen = EventAccumulator(str(tmp_path)).Reload()
    assert [(e.step, e.value) for e in seen.Scalars("score/loss")] == [(3, 2.25), (7, 0.125)]
    assert [(e.step, e.value) for e in seen.Scalars("num_scored")] == [(0, 0), (3, 256), (7, 512)]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_mlflow_has_settings_metrics_and_status(here, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{here}/mlflow.db")
    record(here / "run", Loggers(make_loggers(["mlflow"]), {"train.lr": 0.05, "data.test": None}))
    client = mlflow.MlflowClient(f"sqlite:///{here}/mlflow.db")
    [run] = client.search_runs(["0"])
    assert run.data.params == {"train.lr": "0.05", "data.test": "None"}
    history = client.get_metric_history(run.info.run_id, "score/loss")
    assert [(each.step, each.value) for each in history] == [(3, 2.25), (7, 0.125)]
    assert (run.info.run_name, run.info.status) == ("run", "FAILED")


def wandb_records(path):
    """The records of a .wandb file: 7 bytes of header, then LevelDB's log format.

    A record is a checksum (uint32), its length (uint16), 1 for "whole", and that many bytes; none
    is split where all fit into one block of 32 KiB.
    """
    stream = io.BytesIO(path.read_bytes())
    assert stream.read(4) == b":W&B"
    stream.read(3)
    while header := stream.read(7):
        _, length, kind = struct.unpack("<IHB", header)
        assert kind == 1
        yield stream.read(length)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_wandb_without_a_key_writes_an_offline_run(here, monkeypatch):
    pytest.importorskip("wandb")
    from wandb.proto.wandb_internal_pb2 import Record

    monkeypatch.setenv("HOME", str(here))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    record(here / "run", Loggers(make_loggers(["wandb"]), {"train.lr": 0.05}))
    [path] = (here / "run").glob("wandb/offline-run-*/run-*.wandb")
    losses = []
    for data in wandb_records(path):
        items = Record.FromString(data).history.item
        line = {item.key or "/".join(item.nested_key): item.value_json for item in items}
        if "score/loss" in line:
            losses.append((line["step"], line["score/loss"]))
    assert losses == [("3", "2.25"), ("7", "0.125")]


@pytest.mark.parametrize("name", ["mlflow", "wandb"])
def test_a_package_that_is_not_installed_is_named_with_its_command_before_the_run(name, here):
    if importlib.util.find_spec(name) is not None:
        pytest.skip(f"{name} is installed")
    flags = ["--engine", "local", "--data.train", "digits", "--model.name", "mlp"]
    with pytest.raises(ImportError, match=f"run.loggers='{name}' .*pip install {name}"):
        train(load(None, [*flags, "--run.loggers", name, "--run.dir", "run"]))
    assert not Path("run").exists()


def test_own_loggers_are_found_by_import_path(here, monkeypatch):
    (here / "my_loggers.py").write_text(
        "class Prints:\n"
        "    def start(self, config, directory): ...\n"
        "    def log(self, metrics, step): ...\n"
        "    def finish(self, status): ...\n"
        "def build():\n    return Prints()\n"
        "ready = Prints()\n"
        "def needs(more): ...\n"
    )
    monkeypatch.syspath_prepend(here)
    made = make_loggers(["my_loggers:Prints", "my_loggers:build", "my_loggers:ready"])
    assert {type(each).__name__ for each in made.values()} == {"Prints"}
    assert len(made) == 3
    with pytest.raises(ValueError, match=r"run\.loggers"):
        make_loggers(["my_loggers:needs"])


def test_what_is_no_logger_is_refused():
    with pytest.raises(ValueError, match="did you mean 'tensorboard'"):
        make_loggers(["tensorbord"])
    with pytest.raises(ValueError, match=r"write \[\] for no loggers"):
        make_loggers(["none"])
    with pytest.raises(TypeError, match="HalfALogger has no log and no finish"):
        make_loggers([HalfALogger()])
    with pytest.raises(ValueError, match=r"run\.loggers=.*each may be named once"):
        Run(loggers=("tensorboard", "tensorboard"))


def test_settings_name_the_loggers():
    assert load().run.loggers == ("tensorboard",)
    assert load(None, ["--run.loggers", "mlflow,a.b:C"]).run.loggers == ("mlflow", "a.b:C")
    assert load(None, ["--run.loggers", "[]"]).run.loggers == ()
    assert set(LOGGERS) == {"tensorboard", "mlflow", "wandb"}


def test_passing_a_line_on_does_not_wait_for_a_slow_logger(tmp_path):
    """The lines are all taken while the logger is still busy with the first."""
    gate = threading.Event()

    class Slow(Notes):
        def log(self, metrics, step):
            gate.wait()
            super().log(metrics, step)

    recorder = Recorder(tmp_path, Silent(), BUILD, Loggers(make_loggers([Slow()])))
    for line in LINES:
        recorder(line)
    assert not [call for call in CALLS if call[0] == "log"]
    gate.set()
    recorder.finish({}, None)
    assert len([call for call in CALLS if call[0] == "log"]) == len(LINES)
