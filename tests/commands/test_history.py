"""`raysb history`: its words, its lines, its exit codes."""

import json
import os
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raysb import cli
from raysb.commands.history import HELP, ORDERS, SETTINGS
from raysb.config import load, settings
from raysb.inspect_history import order
from raysb.run import train


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "environ", os.environ.copy())


@pytest.fixture
def run(capsys):
    flags = [
        *("--engine", "local", "--data.train", "digits", "--model.name", "mlp"),
        *("--train.epochs", "2", "--run.dir", "run", "--train.use_gpu", "false"),
    ]
    train(load(None, flags))
    capsys.readouterr()
    return "run"


def say(capsys, *words):
    code = cli.main(["history", *words])
    said = capsys.readouterr()
    return code, said.out, said.err


def test_the_list_has_a_line_for_each_sample_and_the_numbers_of_the_run(run, capsys) -> None:
    code, text, err = say(capsys, run)
    assert (code, err) == (0, "")
    first, second, blank, heading, names, *rows, last = text.splitlines()
    assert re.fullmatch(r"run: 1,442 samples, 2 epochs, \d+ steps \(checkpoint_\d+\)", first)
    assert re.fullmatch(
        r"samples: [\d,]+ never predicted rightly, [\d,]+ forgotten at least once, "
        r"[\d,]+ never selected, 0 not finite",
        second,
    )
    assert (blank, heading, last) == ("", "by suspicion:", "")
    assert re.split(r"  +", names.strip()) == [
        *("id", "row", "label", "suspicion", "loss", "mean loss", "selected", "forgotten"),
        *("first right", "last right"),
    ]
    assert len(rows) == 20
    row = r" *\d+ +\d+ +\d +0\.\d{4} +[\d.]+ +[\d.]+ +[012] of 2 +\d +(never|epoch [01])  (yes|no)"
    assert all(re.fullmatch(row, line) for line in rows)
    assert max(map(len, text.splitlines())) <= 100


def test_the_export_alone_shows_no_list_and_json_has_everything(run, capsys) -> None:
    code, text, _ = say(capsys, run, "--export", "all.parquet")
    assert code == 0
    *_, last = lines = text.splitlines()
    assert len(lines) == 3
    columns = pq.read_table("all.parquet").column_names
    assert re.fullmatch(rf"written: all\.parquet, [\d.]+ KB: {', '.join(columns)}", last)
    assert say(capsys, run, "--export", "all.parquet")[0] == 2
    words = ["--export", "all.parquet", "--overwrite", "--json", "--by", "selected", "--top", "3"]
    code, text, _ = say(capsys, run, *words, "--images", "sheet.png")
    found = json.loads(text)
    assert (code, found["by"], len(found["top"]), found["num_samples"]) == (0, "selected", 3, 1442)
    assert found["export"]["columns"] == columns
    assert {*columns, "prediction"} == set(found["top"][0])
    assert found["images"]["num_bytes"] == Path("sheet.png").stat().st_size
    assert sorted(os.listdir()) == ["all.parquet", "run", "sheet.png"]


def test_pictures_come_with_what_the_net_says_and_never_with_fewer_rows_is_fine(
    run, capsys
) -> None:
    words = ["--by", "never", "--top", "400", "--images", "sheet.png"]
    code, text, _ = say(capsys, run, *words)
    assert code == 0
    assert "  label  net  suspicion  " in text
    assert "never predicted rightly, by mean_loss:" in text
    never = int(re.search(r"samples: ([\d,]+) never", text)[1])
    assert 0 < never < 400
    assert sum(" never " in line for line in text.splitlines()[5:]) == never


def test_several_files_are_named_in_the_list_and_one_is_not(capsys, run) -> None:
    assert " file " not in say(capsys, run, "--top", "1")[1]
    assert " label " not in say(capsys, run, "--no-origin", "--top", "1")[1]
    rng = np.random.default_rng(0)
    for name in "ab":
        x = pa.FixedSizeListArray.from_arrays(pa.array(rng.normal(size=60).astype("f4")), 2)
        table = pa.table({"x": x, "label": rng.integers(0, 2, 30)})
        pq.write_table(table, f"{name}.parquet")
    words = ["--data.train", "*.parquet", "--data.inputs", "x", "--model.name", "mlp"]
    train(load(None, ["--engine", "local", *words, "--train.epochs", "1", "--run.dir", "two"]))
    capsys.readouterr()
    text = say(capsys, "two", "--top", "60")[1]
    for name in "ab":
        lines = [line for line in text.splitlines() if f"  {os.getcwd()}/{name}.parquet  " in line]
        assert len(lines) == 30


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ([], 2, "RUN_DIR must come first"),
        (["nosuch"], 1, "nosuch: no such folder"),
        (["empty"], 1, "holds no checkpoint"),
        (["nosuch", "--top", "0"], 2, "--top 0: a whole number of at least 1"),
        (["nosuch", "--top", "x"], 2, "--top x: a whole number"),
        (["nosuch", "--by", "size"], 2, "--by size: must be one of suspicion, loss"),
        (["nosuch", "--export", "a.txt"], 2, r"export=a\.txt: .* \.parquet or \.csv.*a\.parquet"),
        (["nosuch", "--images", "a.jpg"], 2, r"images=a\.jpg: .* \.png"),
        (["nosuch", "--images", "a.png", "--no-origin"], 2, "leave out one of the two"),
        (["nosuch", "--no-origin", "--data.train", "x"], 2, "has no effect with --no-origin"),
        (["nosuch", "--train.lr", "1"], 2, "train.lr has no effect on the history of a run"),
        (["nosuch", "--exprot", "a.csv"], 2, "unknown option --exprot; there are: --top, "),
    ],
)
def test_what_is_wrong_is_said_in_one_message(words, code, message, capsys) -> None:
    Path("empty").mkdir()
    got, out, error = say(capsys, *words)
    assert (got, out) == (code, "")
    assert error.startswith("raysb: error: ")
    assert re.search(message, error), error
    assert os.listdir() == ["empty"]


def test_a_uniform_run_is_told_what_gives_a_history(capsys) -> None:
    words = ["--engine", "local", "--data.train", "digits", "--model.name", "mlp"]
    more = ["--train.epochs", "1", "--selector.kind", "uniform", "--run.dir", "plain"]
    assert cli.main(["train", *words, *more]) == 0
    code, _, error = say(capsys, "plain")
    assert code == 1
    assert "selector.kind=uniform trains on every row and scores none" in error
    [advice] = re.findall(r"`(raysb score .*?)`", error)
    assert cli.main([*advice.split()[1:], "--engine", "local"]) == 0


def test_the_help_names_the_orders_and_the_settings_that_have_an_effect(capsys) -> None:
    assert set(order.ORDERS) == set(ORDERS)
    assert set(re.findall(r"^      (\w+)  +\w", HELP, re.MULTILINE)) == set(ORDERS)
    assert set(SETTINGS) <= set(settings())
    assert set(re.findall(r"--(\w+\.\w+)", HELP)) - {"selector.kind"} == set(SETTINGS)
    assert say(capsys, "--help")[1] == HELP
    assert max(map(len, HELP.splitlines())) <= 100
