"""`raysb config`: what file and flags come to."""

import json
import subprocess
import sys

import pytest

from raysb import cli
from raysb.config import load

FLAGS = [
    *("--train.lr", "0.125", "--data.inputs", "a,b", "--train.optimizer_args.momentum", "0.9"),
    *("--scoring.max_staleness_steps", "none", "--run.dir", 'a "quoted" \\ name', "engine=local"),
]


@pytest.mark.parametrize("more", [[], FLAGS, ["--selector.kind", "uniform"]])
def test_what_it_prints_is_a_file_of_the_same_configuration(tmp_path, capsys, more) -> None:
    assert cli.main(["config", *more]) == 0
    file = tmp_path / "printed.toml"
    file.write_text(capsys.readouterr().out)
    assert load(file) == load(None, more)
    assert cli.main(["config", "--config", str(file)]) == 0
    assert capsys.readouterr().out == file.read_text()


def test_flags_override_the_file(tmp_path, capsys) -> None:
    file = tmp_path / "a.toml"
    file.write_text("[train]\nlr = 0.5\nepochs = 4\n")
    assert cli.main(["config", "--config", str(file), "--train.lr", "0.25", "--json"]) == 0
    train = json.loads(capsys.readouterr().out)["train"]
    assert (train["lr"], train["epochs"], train["batch_size"]) == (0.25, 4, 64)


def test_json_has_an_object_for_each_section_and_null_for_none(capsys) -> None:
    assert cli.main(["config", "--json", *FLAGS]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["engine"] == "local"
    assert found["address"] is None
    assert found["data"]["inputs"] == ["a", "b"]
    assert found["data"]["test"] is None
    assert found["scoring"]["max_staleness_steps"] is None
    assert found["selector"] == {"kind": "selective_backprop"} | {
        k: v for k, v in vars(load().selector).items()
    }
    assert found["train"]["optimizer_args"] == {"momentum": 0.9}


def test_a_wrong_setting_is_told_and_nothing_is_printed(capsys) -> None:
    assert cli.main(["config", "--train.lrr", "1"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "Did you mean 'train.lr'?" in err


def test_it_loads_neither_torch_nor_ray() -> None:
    code = (
        "import sys; from raysb.cli import main; code = main(['config']);"
        "sys.exit('loaded' if {'torch', 'ray', 'pyarrow'} & sys.modules.keys() else code)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
