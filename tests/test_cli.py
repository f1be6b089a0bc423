"""The command: what it prints, and its exit codes."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from raysb import cli
from raysb.commands import COMMANDS
from raysb.config import Config
from raysb.errors import NonFiniteError

Run = Callable[..., None]


@pytest.fixture
def running(monkeypatch: pytest.MonkeyPatch) -> Callable[[Run], None]:
    """Put a function in the place of the run behind the command."""

    def put(train: Run) -> None:
        monkeypatch.setitem(sys.modules, "raysb.run", SimpleNamespace(train=train))

    return put


def fail_with(error: BaseException) -> Run:
    def train(config: Config, verbose: bool, resumed: object) -> None:
        raise error

    return train


def test_train_passes_the_configuration_on(running: Any, tmp_path: Path) -> None:
    seen = []
    running(lambda config, verbose, resumed: seen.append((config, verbose)))
    file = tmp_path / "a.toml"
    file.write_text("[train]\nlr = 0.5\nepochs = 4\n")
    code = cli.main(["train", "--train.lr", "0.25", "--config", str(file), "engine=local"])
    [(config, verbose)] = seen
    assert (code, verbose) == (0, False)
    assert (config.train.lr, config.train.epochs, config.engine) == (0.25, 4, "local")


@pytest.mark.parametrize("word", ["-v", "--verbose"])
def test_verbose_is_passed_on(running: Any, word: str) -> None:
    seen = []
    running(lambda config, verbose, resumed: seen.append(verbose))
    assert cli.main(["train", word, "--run.seed=1"]) == 0
    assert seen == [True]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (NonFiniteError("too many losses are NaN"), 1),
        (ValueError("train.optimizer='sgdd': did you mean 'sgd'?"), 2),
        (FileNotFoundError("no such file: data.parquet"), 1),
        (ImportError("pip install 'raysb[images]'"), 1),
    ],
)
def test_a_failed_run_is_one_message_and_an_exit_code(
    running: Any, capsys: Any, error: Any, code: int
) -> None:
    running(fail_with(error))
    assert cli.main(["train"]) == code
    out, err = capsys.readouterr()
    assert (out, err) == ("", f"raysb: error: {error}\n")


def test_verbose_shows_the_traceback_too(running: Any, capsys: Any) -> None:
    running(fail_with(NonFiniteError("too many")))
    assert cli.main(["train", "-v"]) == 1
    err = capsys.readouterr().err
    assert err.startswith("Traceback")
    assert err.endswith("raysb: error: too many\n")


def test_an_interrupted_run_ends_as_shells_expect(running: Any, capsys: Any) -> None:
    running(fail_with(KeyboardInterrupt()))
    assert cli.main(["train"]) == 130
    assert capsys.readouterr().err == "raysb: error: interrupted\n"


def test_an_error_that_nobody_foresaw_keeps_its_traceback(running: Any) -> None:
    running(fail_with(ZeroDivisionError()))
    with pytest.raises(ZeroDivisionError):
        cli.main(["train"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "no command given; commands: train"),
        (["fly"], "unknown command 'fly'; commands: train"),
        (["train", "--train.lrr", "1"], "Did you mean 'train.lr'?"),
        (["train", "--train.epochs", "0"], "train.epochs=0 (command line): must be"),
        (["train", "--config", "nowhere.toml"], "no configuration file nowhere.toml"),
        (["train", "--config"], "--config needs the name of a file"),
        (["train", "--config=a", "--config=b"], "--config was given twice; the first was a"),
        (["train", "mnist"], "unexpected argument 'mnist'"),
    ],
)
def test_wrong_usage_is_exit_code_2_and_starts_nothing(
    running: Any, capsys: Any, words: list[str], message: str
) -> None:
    running(fail_with(AssertionError("must not start")))
    assert cli.main(words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err
    assert "Traceback" not in err


HELPS = [[name, "--help"] for name in COMMANDS]


@pytest.mark.parametrize("words", [["--help"], ["-h"], ["train", "x", "-h"], *HELPS])
def test_help_goes_to_standard_output(capsys: Any, words: list[str]) -> None:
    assert cli.main(words) == 0
    out, err = capsys.readouterr()
    assert out.startswith("usage: raysb")
    assert err == ""


@pytest.mark.parametrize("name", ["train", "config", "doctor"])
def test_help_lists_the_settings(capsys: Any, name: str) -> None:
    cli.main([name, "--help"])
    out = capsys.readouterr().out
    assert "--config FILE" in out
    assert "--selector.beta" in out


def test_help_lists_every_command(capsys: Any) -> None:
    cli.main(["--help"])
    shown = [line.split()[0] for line in capsys.readouterr().out.splitlines() if line[:2] == "  "]
    assert shown == list(COMMANDS)


@pytest.mark.parametrize("words", [["--help"], ["--version"], *HELPS])
def test_help_loads_no_large_library(words: list[str]) -> None:
    """numpy comes with the selectors, whose settings only the help of a command lists."""
    forbidden = ["torch", "ray", "pyarrow", "pandas", *(["numpy"] if len(words) == 1 else [])]
    code = (
        f"import sys; from raysb.cli import main; code = main({words!r});"
        f"sys.exit(f'loaded' if set({forbidden!r}) & sys.modules.keys() else code)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_module_is_the_command() -> None:
    command = [sys.executable, "-m", "raysb", "fly"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("raysb: error: unknown command 'fly'")


def test_version_is_that_of_the_package(capsys: Any) -> None:
    import raysb

    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"raysb {raysb.__version__}\n"


@pytest.mark.parametrize("words", [["train", "--help"], ["config"]])
def test_a_reader_that_leaves_is_no_traceback(words: list[str]) -> None:
    command = [sys.executable, "-m", "raysb", *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()  # as `| true` does
        told = process.stderr.read()
        code = process.wait(60)
    assert (code, told) == (141, b"")
