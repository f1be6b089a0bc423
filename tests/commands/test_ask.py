"""`raysb train --ask`: questions, wrong answers, and what comes of them."""

import io
import os
import re
import shlex
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import raysb
from raysb import cli
from raysb.ask import Interview
from raysb.config import load

DIGITS = ["--data.train", "digits", "--model.name", "mlp", "--engine", "local"]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "environ", os.environ.copy())


class Person:
    """Answers from a table by key, one after the other; Enter where there is none left."""

    def __init__(self, **answers) -> None:
        self.answers = {k.replace("__", "."): list(v) for k, v in answers.items()}
        self.screen = ""

    def write(self, text) -> None:
        self.screen += text

    def read(self, prompt) -> str:
        key = [line for line in self.screen.splitlines() if line.startswith("  --")][-1].split()[0]
        waiting = self.answers.get(key.removeprefix("--"))
        return waiting.pop(0) if waiting else ""

    def asked(self):
        lines = self.screen.splitlines()
        return [line.split()[0].removeprefix("--") for line in lines if line.startswith("  --")]


def interview(person, flags=DIGITS, file=None):
    asking = Interview(file, flags, read=person.read, write=person.write)
    return asking, asking.hold()


def test_enter_keeps_every_default() -> None:
    person = Person()
    asking, config = interview(person, ["--engine", "local", "--data.train", "digits"])
    assert config == load(None, ["--engine", "local", "--data.train", "digits"])
    assert asking.command() == "raysb train --engine local --data.train digits"


def test_each_question_shows_type_and_default() -> None:
    person = Person()
    interview(person)
    text = " ".join(person.screen.split())
    assert re.search(r"--train\.epochs Passes over the data[^(]+\(int; default 10\)", text)
    assert "(selective_backprop | uniform | " in text


@pytest.mark.parametrize(
    ("key", "wrong"),
    [
        ("train.epochs", "0"),
        ("train.epochs", "many"),
        ("train.batch_size", "-1"),
        ("selector.kind", "sb"),
        ("selector.beta", "0"),
        ("train.lr", "fast"),
        ("run.dir", "'"),
    ],
)
def test_a_wrong_answer_is_asked_again_with_the_error_of_the_command_line(
    capsys, key, wrong
) -> None:
    if key == "run.dir":  # a name that can be used, of a folder that cannot
        Path("'").mkdir()
        Path("'/metrics.jsonl").write_text("")
    right = {"selector.kind": "selective_backprop", "run.dir": "out"}.get(key, "2")
    person = Person(**{key.replace(".", "__"): [wrong, right]})
    _, config = interview(person)
    assert person.asked().count(key) == 2
    section, name = key.split(".")
    assert str(getattr(getattr(config, section), name, right)) in (right, f"{right}.0")
    assert cli.main(["train", *DIGITS, f"--{key}", wrong]) != 0
    message = capsys.readouterr().err.removeprefix("raysb: error: ").strip()
    assert f"  error: {message}\n" in person.screen


def test_what_only_a_try_shows_is_asked_again_and_enter_keeps_what_was_before() -> None:
    person = Person(model__name=["mlpp", ""], train__optimizer=["sgdd", "adam"])
    _, config = interview(person, ["--data.train", "digits", "--engine", "local"])
    assert "model.name='mlpp': unknown; did you mean 'mlp'?" in person.screen
    assert "train.optimizer='sgdd': unknown; did you mean 'sgd'?" in person.screen
    assert (config.model.name, config.train.optimizer) == ("cnn", "adam")
    assert person.asked().count("train.epochs") == 1


@pytest.mark.parametrize(
    ("key", "wrong", "right"), [("model.name", "mlpp", "mlp"), ("train.optimizer", "addam", "adam")]
)
def test_a_name_that_nobody_knows_is_asked_for_again_at_once(key, wrong, right) -> None:
    person = Person(**{key.replace(".", "__"): [wrong, right]})
    interview(person, ["--data.train", "digits", "--engine", "local"])
    asked = person.asked()
    assert asked.count(key) == 2
    assert asked[asked.index(key) + 1] == key
    assert f"did you mean '{right}'" in person.screen


def test_files_that_are_not_there_are_asked_for_again_at_once() -> None:
    person = Person(data__train=["gone.parquet", "digits"])
    _, config = interview(person, ["--engine", "local"])
    assert person.asked()[:2] == ["data.train", "data.train"]
    assert "data.train='gone.parquet': gone.parquet: no such file" in person.screen
    assert config.data.train == "digits"


def test_columns_are_asked_for_until_they_fit_the_files() -> None:
    table = pa.table(
        {"x": pa.array([[0.0, 1.0]] * 40, pa.list_(pa.float32(), 2)), "y": [0, 1] * 20}
    )
    pq.write_table(table, "t.parquet")
    person = Person(
        data__train=["t.parquet"],
        data__test_fraction=["0.5"],
        data__inputs=["picture", "x"],
        data__target=["y"],
        model__name=["mlp"],
    )
    asking, config = interview(person, ["--engine", "local"])
    assert "'picture'" in person.screen
    assert (config.data.inputs, config.data.target) == (("x",), "y")
    assert load(None, shlex.split(asking.command())[2:]) == config


def test_what_the_command_line_says_is_not_asked() -> None:
    person = Person()
    _, config = interview(person, [*DIGITS, "--train.epochs=3", "train.lr=0.5", "--train.audit"])
    assert not {"data.train", "model.name", "engine", "train.epochs", "train.lr"} & {
        *person.asked()
    }
    assert (config.train.epochs, config.train.lr, config.train.audit) == (3, 0.5, True)


def test_a_wrong_setting_of_the_command_line_is_no_question() -> None:
    with pytest.raises(ValueError, match=r"model\.name='mlpp': unknown"):
        interview(Person(), ["--data.train", "digits", "--model.name", "mlpp"])


def test_enter_on_what_was_refused_ends_with_the_error() -> None:
    """Answers without end, as of `yes ''`, would be asked for without end."""
    Path("a.toml").write_text("[data]\ntrain = 'gone.parquet'\n")
    with pytest.raises(FileNotFoundError, match=r"gone\.parquet"):
        interview(Person(), ["--engine", "local"], "a.toml")


def test_only_what_matters_is_asked() -> None:
    person = Person(selector__kind=["uniform"], engine=["ray"])
    interview(person, ["--data.train", "digits", "--model.name", "mlp"])
    asked = set(person.asked())
    assert {"train.num_workers", "engine"} <= asked
    assert not {"selector.beta", "scoring.num_actors", "data.test", "data.inputs"} & asked


def test_another_kind_of_selector_leaves_no_setting_of_the_first_behind() -> None:
    person = Person(selector__kind=["", "uniform"], selector__beta=["3"])
    asking, _ = interview(person)
    assert "--selector.beta 3" in asking.command()
    config = asking.hold()
    assert not config.selector.needs_scores
    assert asking.command().endswith("--selector.kind uniform")


def test_the_command_line_shown_gives_the_same_configuration() -> None:
    file = Path("a file.toml")
    file.write_text("[train]\nepochs = 7\n[selector]\nbeta = 2.0\n")
    person = Person(
        train__lr=["0.125"], run__dir=["two words"], train__batch_size=["32"], selector__beta=["3"]
    )
    asking, config = interview(person, DIGITS, str(file))
    words = shlex.split(asking.command())
    assert words[:4] == ["raysb", "train", "--config", "a file.toml"]
    assert asking.command() in person.screen
    assert load(words[3], words[4:]) == config
    assert (config.train.epochs, config.train.lr, config.run.dir) == (7, 0.125, "two words")


# --- the command ----------------------------------------------------------------------------


def test_it_shows_the_command_line_and_trains(capsys, monkeypatch) -> None:
    answers = ["", "", "0", "1", "", "", "", "out"]  # kind, beta, epochs twice, ..., run.dir
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n".join(answers) + "\n"))
    assert cli.main(["train", "--ask", *DIGITS, "--train.use_gpu", "false"]) == 0
    out = capsys.readouterr().out
    command = "raysb train " + " ".join(DIGITS)
    assert f"{command} --train.use_gpu false --train.epochs 1 --run.dir out\n" in out
    assert out.index("error: train.epochs=0") < out.index(command) < out.index("reached:")
    assert raysb.read_metrics("out")[-1]["kind"] == "end"
    assert "\n  > 0\n" in out  # no terminal shows the answers


def test_input_that_ends_early_is_a_clear_error_and_leaves_nothing(capsys, monkeypatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n3\n2\n"))
    assert cli.main(["train", "--ask", *DIGITS]) == 2
    err = capsys.readouterr().err
    assert "Traceback" not in err
    assert "standard input ended at the question for train.batch_size" in err
    assert "settled so far: raysb train --data.train digits" in err
    assert err.strip().endswith("--selector.beta 3 --train.epochs 2")
    assert list(Path().iterdir()) == []


def test_ctrl_c_at_a_question_ends_without_a_trace(capsys, monkeypatch) -> None:
    def interrupted(prompt):
        raise KeyboardInterrupt

    monkeypatch.setattr("builtins.input", interrupted)
    assert cli.main(["train", "--ask", *DIGITS]) == 130
    assert capsys.readouterr().err == "raysb: error: interrupted\n"
    assert list(Path().iterdir()) == []
