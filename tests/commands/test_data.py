"""`raysb data`: what is said, the exit codes, and that the command it suggests works."""

import io
import json
import os
import shlex

import numpy as np
import pytest
from PIL import Image

from raysb.cli import main


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "environ", os.environ.copy())
    rng = np.random.default_rng(0)
    for number in range(200):
        stream = io.BytesIO()
        name = ("cat", "dog")[number % 2]
        pixels = rng.integers(0, 100, (16, 16, 3), np.uint8) + np.uint8(100 * (number % 2))
        Image.fromarray(pixels).save(stream, "PNG")
        path = tmp_path / "pets" / name / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(stream.getvalue())
    return tmp_path


def say(capsys, *words):
    code = main(["data", *words])
    out = capsys.readouterr()
    return code, out.out, out.err


def test_pictures_are_converted_inspected_and_trained_by_the_command_suggested(capsys):
    code, text, _ = say(capsys, "convert", "pets", "out")
    assert code == 0
    assert text.splitlines() == [
        text.splitlines()[0],
        "columns: id int64, image binary, label int64, path string",
        "classes: 0 cat, 1 dog",
        "next:    raysb data inspect out",
    ]
    assert text.startswith("written: out: 200 rows in 1 file, ")
    code, text, _ = say(capsys, "inspect", "out")
    assert code == 0
    assert "0 cat        100   50.0%" in text
    assert "problems" not in text
    [command] = [line for line in text.splitlines() if line.startswith("  raysb train ")]
    words = shlex.split(command)[1:]
    words += ["--engine", "local", "--train.epochs", "4", "--train.batch_size", "16"]
    assert main([*words, "--run.dir", "run"]) == 0
    assert "reached: error 0.00%" in capsys.readouterr().out


def test_json_has_everything_and_nothing_else_is_written(capsys):
    _, text, err = say(capsys, "convert", "pets", "out", "--json", "--seed", "3")
    done = json.loads(text)
    assert (done["num_rows"], done["classes"], err) == (200, ["cat", "dog"], "")
    found = json.loads(say(capsys, "inspect", "out", "--json")[1])
    assert found["class_counts"] == {"0": 100, "1": 100}
    assert found["problems"] == []


def test_what_was_left_out_is_listed(capsys, here):
    (here / "pets/cat/broken.png").write_bytes(b"x")
    (here / "pets/notes.txt").write_text("x")
    code, _, err = say(capsys, "convert", "pets", "out")
    assert code == 1
    assert err.startswith("raysb: error: cat/broken.png: 1 bytes that are neither PNG nor JPEG. ")
    code, text, _ = say(capsys, "convert", "pets", "out", "--on-error", "skip")
    assert code == 0
    assert "skipped: 1 row, all listed in _skipped.json:\n  cat/broken.png: " in text
    assert "passed over, being no pictures: 1 .txt" in text


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ([], 2, "no command given; there are: convert, inspect"),
        (["shuffle"], 2, "unknown command 'shuffle'"),
        (["convert", "pets"], 2, "SOURCE OUT must be given"),
        (["convert", "pets", "out", "--sede", "3"], 2, "unknown option --sede"),
        (["convert", "pets", "out", "--seed", "x"], 2, "--seed x: a whole number"),
        (["convert", "pets", "out", "--on-error", "stop"], 2, "--on-error stop"),
        (["convert", "pets", "pets"], 2, "already exists"),
        (["convert", "none", "out"], 1, "none: no such file or folder"),
        (["convert", "pets", "out", "--classes", "none"], 1, "there is no file none"),
        (["inspect", "pets"], 1, "no .parquet file"),
        (["inspect"], 2, "PATH must be given"),
    ],
)
def test_what_is_wrong_on_the_line_is_said_and_nothing_is_written(
    capsys, here, words, code, message
):
    got, out, err = say(capsys, *words)
    assert (got, out) == (code, "")
    assert message in err
    assert not (here / "out").exists()


def test_the_advice_on_columns_of_numbers_leads_to_a_command_that_trains(capsys, here):
    rng = np.random.default_rng(0)
    rows = [f"{a:.3f},{b:.3f},{int(a > b)}" for a, b in rng.normal(size=(200, 2))]
    (here / "in.csv").write_text("\n".join(["a,b,target", *rows]) + "\n")
    say(capsys, "convert", "in.csv", "plain")
    text = say(capsys, "inspect", "plain")[1]
    [advice] = [part for part in text.split("`") if part.startswith("raysb data convert FILE")]
    words = shlex.split(advice.replace("FILE.csv", "in.csv").replace("OUT", "joined"))
    assert main(words[1:]) == 0
    capsys.readouterr()
    text = say(capsys, "inspect", "joined")[1]
    assert "rows of features [2], target []" in text
    [command] = [line for line in text.splitlines() if line.startswith("  raysb train ")]
    assert "--data.inputs features --data.target target" in command


def test_a_demo_set_is_inspected_like_files(capsys):
    code, text, _ = say(capsys, "inspect", "digits")
    assert code == 0
    assert text.startswith("digits: 1,797 rows of a demo set, ")
    assert "  raysb train --data.train digits\n" in text
    assert json.loads(say(capsys, "inspect", "digits", "--json")[1])["num_rows"] == 1797


def test_what_was_most_likely_not_meant_is_a_warning_that_names_the_option(capsys, here):
    (here / "pets/in.csv").write_text("file,label\ncat/0.png,cat\ndog/1.png,dog\n")
    code, text, err = say(capsys, "convert", "pets/in.csv", "out")
    assert code == 0
    assert "file string" in text
    assert err == (
        "warning: the column 'file' holds names of pictures and stays text; --image-column file "
        "reads the pictures\n"
    )
    done = json.loads(say(capsys, "convert", "pets/in.csv", "more", "--json")[1])
    assert [f"warning: {each}\n" for each in done["warnings"]] == [err]
