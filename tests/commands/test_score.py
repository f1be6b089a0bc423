"""`raysb score`: its words, its lines, its exit codes."""

import json
import os
import re
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from raysb import cli
from raysb.commands.score import HELP, SETTINGS, Lines, lines
from raysb.config import load, settings
from raysb.run import train
from raysb.scan.summary import Progress, ScoreSummary


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "environ", os.environ.copy())


@pytest.fixture
def run():
    flags = [
        *("--engine", "local", "--data.train", "digits", "--model.name", "mlp"),
        *("--train.epochs", "1", "--run.dir", "run", "--train.use_gpu", "false"),
    ]
    train(load(None, flags))
    return "run"


def test_the_command_writes_the_file_and_says_what_was_scored(run, capsys) -> None:
    capsys.readouterr()
    assert cli.main(["score", run, "--out", "scores.parquet"]) == 0
    said = capsys.readouterr()
    first, second, third = said.out.splitlines()
    assert re.fullmatch(r"scored:  1,442 rows, error \d+\.\d\d%, loss [\d.]+", first)
    assert re.fullmatch(
        r"speed:   [\d,]+ rows/s after the first block, .* s in all, .* s until .*", second
    )
    assert third.startswith("written: scores.parquet, ")
    table = pq.read_table("scores.parquet")
    assert third.endswith(f": {', '.join(table.column_names)}")
    assert table.num_rows == 1442
    assert said.err == ""

    assert cli.main(["score", run, "--out", "scores.parquet"]) == 2
    assert "exists already" in capsys.readouterr().err
    assert cli.main(["score", run, "--out", "scores.parquet", "--overwrite", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["num_rows"] == 1442
    assert found["columns"] == table.column_names
    assert found["error"] == pytest.approx(1 - table["correct"].to_numpy().mean())
    assert sorted(os.listdir()) == ["run", "scores.parquet"]


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ([], 2, r"RUN_DIR\|WEIGHTS must come first"),
        (["--out", "a.parquet"], 2, "must come first"),
        (["nosuch"], 2, "--out FILE is needed"),
        (["nosuch", "--out"], 2, "--out needs the name of a file"),
        (["nosuch", "--out", "a.parquet"], 1, "no such file or folder"),
        (["nosuch", "--out", "a.parquet", "--train.lr", "1"], 2, "train.lr has no effect"),
        (["nosuch", "--out", "a.parquet", "scoring.publish_every=2"], 2, "has no effect"),
        (["nosuch", "--out", "a.parquet", "train.optimizer_args.momentum=0"], 2, "has no effect"),
        (["nosuch", "--out", "a.parquet", "--data.train", "train.lr"], 1, "no such file or folder"),
        (["empty", "--out", "a.parquet"], 1, "holds no model"),
        (["empty", "--out", "empty"], 2, "is a folder"),
    ],
)
def test_what_is_wrong_is_said_in_one_message(words, code, message, capsys) -> None:
    Path("empty").mkdir()
    assert cli.main(["score", *words]) == code
    error = capsys.readouterr().err
    assert error.startswith("raysb: error: ")
    assert re.search(message, error)
    assert os.listdir() == ["empty"]


def test_the_help_names_the_settings_that_have_an_effect_and_no_others(capsys) -> None:
    assert set(SETTINGS) <= set(settings())
    named = set(re.findall(r"--(\w+\.\w+)", HELP)) - {"section.key"}
    assert named == {key for key in SETTINGS if "." in key}
    assert cli.main(["score", "--help"]) == 0
    assert capsys.readouterr().out == HELP
    assert max(map(len, HELP.splitlines())) <= 100


def test_lines_of_progress_come_less_and_less_often(capsys) -> None:
    show, progress = Lines(), Progress(total=10_000, began=0.0)
    progress.first_rows, progress.first_s = 10, 0.5
    for second in range(1, 1000):
        progress.done, progress.seconds = 10 * second, float(second)
        show(progress)
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "scored 50 of 10,000 rows, 9/s, 18:39 left"
    assert 10 < len(said) < 40
    progress.done, progress.seconds = 10_000, 5000.0
    show(progress)
    assert capsys.readouterr().err == ""  # the summary says it


def test_rows_that_have_no_loss_and_losses_that_are_no_number_are_said_so() -> None:
    summary = ScoreSummary(
        path="a.parquet",
        columns=("id", "margin"),
        num_rows=1234567,
        num_bytes=2_300_000,
        loss=None,
        error=None,
        num_nonfinite=0,
        start_s=6.04,
        wall_time_s=31.2,
        rows_per_s=51234.5,
    )
    assert lines(summary) == [
        "scored:  1,234,567 rows",
        "speed:   51,234 rows/s after the first block, 31.2 s in all, 6.0 s until the first rows",
        "written: a.parquet, 2.3 MB: id, margin",
    ]
    assert lines(replace(summary, rows_per_s=None))[1] == (
        "speed:   no rate, since all rows are one block, 31.2 s in all, 6.0 s until the first rows"
    )
