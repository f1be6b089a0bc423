"""`raysb plan`: its words, its lines, its exit codes."""

import json
import os
import re

import pytest

from raysb import cli
from raysb.commands.plan import HELP
from raysb.config import load
from raysb.planning import measure, run
from raysb.planning.text import WIDTH
from raysb.selection import SELECTORS

SMALL = ("--data.train", "digits", "--model.name", "mlp", "--train.use_gpu", "false")


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "environ", os.environ.copy())
    monkeypatch.setattr(measure.measure, "__kwdefaults__", {"seconds": 0.3})
    monkeypatch.setattr(run.plan, "__kwdefaults__", {"history": None, "seconds": 0.3})
    yield
    assert os.listdir() in ([], ["run"])  # nothing is written


def say(capsys, *words):
    code = cli.main(["plan", *words])
    said = capsys.readouterr()
    return code, said.out, said.err


@pytest.fixture
def history(capsys):
    words = ["train", *SMALL, "--engine", "local", "--run.dir", "run", "--train.epochs", "2"]
    assert cli.main(words) == 0
    capsys.readouterr()
    return "run"


def test_everything_that_decides_is_said_in_lines_that_fit(capsys) -> None:
    code, text, err = say(capsys, *SMALL)
    assert (code, err) == (0, "")
    lines = text.splitlines()
    assert max(map(len, (line for line in lines if not line.startswith("recom")))) <= WIDTH
    # rows of a step and of a pool: fewer than the run's where the machine is slow at them
    assert re.match(r"mlp, 1,442 rows, \d+ a step, \d+ a pool, cpu, 1 thread: CPU time, ", lines[0])
    assert re.search(r"^forward, float32 +[\d.]+ +[\d.]+$", text, re.MULTILINE)
    assert re.search(r"r = [\d.]+ of training", text)
    for kind in SELECTORS:
        assert re.search(rf"^(\* )?{kind}\b.* [\d.]+ s ", text, re.MULTILINE), kind
    assert text.count("\n* ") == 2  # what is configured, and what the mark means
    assert "verdict: In one process" in text
    assert "labels: not looked at." in text
    assert re.search(r"^recommended: --selector\.", text, re.MULTILINE)
    assert "not a gain in error" in text
    assert "frontier.py" in lines[-1]


def test_what_is_recommended_is_a_configuration(capsys) -> None:
    _, text, _ = say(capsys, *SMALL)
    flags = re.search(r"^recommended: (.*)$", text, re.MULTILINE)[1]
    assert load(None, [*SMALL, *flags.split()]).train.scoring_cost > 0


def test_json_has_the_figures_of_the_lines(capsys) -> None:
    code, text, err = say(capsys, *SMALL, "--selector.target_fraction", "0.9", "--json")
    assert (code, err) == (0, "")
    found = json.loads(text)
    assert found["break_even"] == pytest.approx(1 - found["ratio"])
    assert found["chosen"]["name"] == "selective_backprop target 0.9"
    assert found["chosen"]["gain"] < 1  # .9 and a forward pass: in no way less than 1
    assert "uniform training is the better choice" in found["verdict"][0]
    assert {"read", "forward", "train", "score"} <= found["measured"].keys()
    assert found["labels"] is None
    assert "not a gain in error" in found["not_in_it"]


def test_a_history_is_asked_about_the_labels(history, capsys) -> None:
    code, text, _ = say(capsys, *SMALL, "--history", history)
    assert code == 0
    assert re.search(r"^labels: (cannot be told|no sign|about)", text, re.MULTILINE)
    code, text, _ = say(capsys, *SMALL, "--history", history, "--json")
    assert json.loads(text)["labels"]["num_rows"] == 1442


def test_what_cannot_be_done_is_said_before_anything_is_measured(capsys) -> None:
    for words, code, named in (
        (["--history"], 2, "--history needs the directory of a run"),
        (["--history", "nowhere"], 1, "nowhere: no such folder"),
        (["--train.batchsize", "3"], 2, "train.batch_size"),
        (["--config", "none.toml"], 2, "none.toml"),
        (["--data.train", "nowhere.parquet"], 1, "nowhere.parquet"),
    ):
        found = say(capsys, *words)
        assert (found[0], found[1]) == (code, ""), words
        assert named in found[2]


def test_the_help_names_every_option(capsys) -> None:
    assert cli.main(["plan", "--help"]) == 0
    assert capsys.readouterr().out == HELP
    for option in ("--config", "--history", "--json", "--verbose"):
        assert option in HELP
    assert max(map(len, HELP.splitlines())) <= 100
