"""`raysb train` in one process: what a run leaves, and that what is refused leaves nothing."""

import io
import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from sklearn.datasets import load_diabetes

import raysb
from raysb.config import load
from raysb.errors import DataError, ModelError, RaysbError, ResourceError, RunDirectoryError
from raysb.run import train
from raysb.source.open import open_sources
from raysb.training.audit import read_audit

FAST = [
    *("--engine", "local", "--data.train", "digits", "--model.name", "mlp"),
    *("--model.args.hidden", "[16]", "--train.epochs", "1", "--train.use_gpu", "false"),
]

CODE = """
import torch
from torch import nn
def scalar(outputs, batch):
    return nn.functional.cross_entropy(outputs, batch["label"])
def narrow():
    return nn.Sequential(nn.Flatten(), nn.Linear(63, 10))
def fits():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
def nothing():
    return 3
"""


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """An empty folder to run in; environment and warnings as they were."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "users_own_code.py").write_text(CODE)
    monkeypatch.syspath_prepend(tmp_path / "code")
    monkeypatch.setattr(os, "environ", os.environ.copy())


def run(*flags):
    return train(load(None, [*FAST, *map(str, flags)]))


def everything(folder=Path()):
    return sorted(str(path) for path in folder.rglob("*"))


def table(tmp_path, columns, name="train.parquet"):
    """A parquet file; arrays of two dimensions become lists of one fixed length."""
    path, arrays = tmp_path / name, {}
    for key, column in columns.items():
        if getattr(column, "ndim", 1) == 2:
            flat = pa.array(column.ravel())
            column = pa.FixedSizeListArray.from_arrays(flat, column.shape[1])
        arrays[key] = column
    pq.write_table(pa.table(arrays), path)
    return path


def numbers(rows=40, **more):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(rows, 3)).astype(np.float32)
    return {"x": x, "label": rng.integers(0, 3, rows), **more}


def picture(size):
    """A PNG file."""
    file = io.BytesIO()
    Image.new("L", (size, size)).save(file, "PNG")
    return file.getvalue()


# --- what a run leaves ------------------------------------------------------------------------


def test_a_run_leaves_its_configuration_metrics_log_weights_and_checkpoint() -> None:
    metrics = run("--run.dir", "out", "--train.epochs", 4, "--train.audit", "true")
    left = {path.name for path in Path("out").iterdir()}
    assert {"config.toml", "metrics.jsonl", "run.log", "model.safetensors", "audit"} <= left
    (checkpoint,) = Path("out").glob("checkpoint_*")
    assert (checkpoint / "model.safetensors").read_bytes() == Path(
        "out/model.safetensors"
    ).read_bytes()
    lines = raysb.read_metrics("out")
    assert [line["epoch"] for line in lines if line["kind"] == "epoch"] == [0, 1, 2, 3]
    assert metrics["eval/error"] < 0.3
    assert metrics["step"] == lines[-1]["step"]
    assert read_audit("out/audit").num_rows == metrics["num_backpropped"]
    assert everything() == [path for path in everything() if path.startswith("out")]


def test_the_resolved_configuration_repeats_the_run_exactly() -> None:
    run("--run.dir", "first", "--data.augment", "shift", "--run.seed", 7, "--train.audit", "true")
    config = load("first/config.toml", ["--run.dir", "second"])
    assert config.data.mean is not None
    assert config.data.image_size == (8, 8, 1)
    assert config.model.num_classes == 10
    train(config)
    assert (
        Path("first/model.safetensors").read_bytes()
        == Path("second/model.safetensors").read_bytes()
    )
    assert read_audit("first/audit").equals(read_audit("second/audit"))
    run("--run.dir", "third", "--data.augment", "shift", "--run.seed", 8)
    assert (
        Path("first/model.safetensors").read_bytes() != Path("third/model.safetensors").read_bytes()
    )


def test_without_a_name_runs_are_counted() -> None:
    run("--train.max_steps", 1)
    run("--train.max_steps", 1)
    assert sorted(path.name for path in Path("runs").iterdir()) == ["mlp-1", "mlp-2"]


def test_the_regression_of_a_parquet_file_trains_and_loads_again(tmp_path) -> None:
    x, y = load_diabetes(return_X_y=True)
    columns = {"x": (x / x.std(0)).astype(np.float32), "y": (y / 100).astype(np.float32)}
    path = table(tmp_path, columns)
    flags = [
        *("--data.train", path, "--data.inputs", "x", "--data.target", "y", "--run.dir", "out"),
        *("--train.loss", "mse", "--model.num_classes", 1, "--data.test_fraction", 0.2),
        *("--train.epochs", 15, "--train.lr", 0.01, "--scoring.batch_size", 64),
    ]
    metrics = run(*flags)
    losses = [li["eval/loss"] for li in raysb.read_metrics("out") if li["kind"] == "epoch"]
    assert losses[-1] < 0.7 * losses[0]
    assert "eval/error" not in metrics
    sources = open_sources(load("out/config.toml").data, seed=0)
    held = sources.eval.read(None, 0, sources.eval.num_rows)
    with torch.no_grad():
        predicted = raysb.load_model("out")(torch.from_numpy(held["x"])).squeeze(1).numpy()
    assert np.mean((predicted - held["y"]) ** 2) == pytest.approx(metrics["eval/loss"], rel=1e-5)


def test_initial_weights_are_those_of_the_file() -> None:
    run("--run.dir", "first")
    run("--run.dir", "second", "--model.init", "first/model.safetensors", "--train.lr", 0)
    first, second = load_file("first/model.safetensors"), load_file("second/model.safetensors")
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_all_selectors_start_from_the_same_weights() -> None:
    for kind in ("uniform", "selective_backprop"):
        run("--run.dir", kind, "--selector.kind", kind, "--train.lr", 0)
    uniform, selective = (
        load_file(f"{k}/model.safetensors") for k in ("uniform", "selective_backprop")
    )
    assert all(torch.equal(uniform[name], selective[name]) for name in uniform)


def test_a_schedule_of_cost_ends_at_the_cost() -> None:
    metrics = run(
        *("--train.schedule_axis", "cost", "--train.max_cost", 0.5, "--train.epochs", 50),
        *("--run.dir", "out"),
    )
    assert metrics["cost"] == pytest.approx(0.5, abs=(64 + 256 / 3) / 1437)


def test_a_thousand_epochs_show_fewer_than_forty_lines_and_keep_all(tmp_path, capsys) -> None:
    path = table(tmp_path, numbers())
    rows = ("--data.train", path, "--data.inputs", "x", "--data.test_fraction", 0.2)
    run(*rows, "--run.dir", "out", "--train.epochs", 1000)
    shown = capsys.readouterr().out.splitlines()
    assert len(shown) < 40
    assert all(line.isprintable() for line in shown)
    logged = Path("out/run.log").read_text().splitlines()
    assert sum(line.startswith("eval:") for line in logged) == 1000
    assert set(shown) <= set(logged)
    epochs = [line["epoch"] for line in raysb.read_metrics("out") if line["kind"] == "epoch"]
    assert epochs == list(range(1000))


def test_batch_statistics_under_a_selector_are_warned_about_and_then_trained(capsys) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        run("--model.norm", "batch", "--run.dir", "out")
    assert "model.convert_norm=true" in capsys.readouterr().err


# --- what is refused, with nothing written ------------------------------------------------------


def write_text(tmp_path):
    (tmp_path / "words.parquet").write_text("hello")
    return ["--data.train", tmp_path / "words.parquet"]


def folder_of_nothing(tmp_path):
    (tmp_path / "nothing").mkdir()
    return ["--data.train", tmp_path / "nothing"]


def of_table(columns, *flags, inputs="x"):
    def make(tmp_path):
        return ["--data.train", table(tmp_path, columns), "--data.inputs", inputs, *flags]

    return make


def taken(tmp_path):
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "metrics.jsonl").write_text("{}\n")
    return ["--run.dir", tmp_path / "taken"]


def below_a_file(tmp_path):
    (tmp_path / "file").write_text("")
    return ["--run.dir", tmp_path / "file" / "run"]


def flags(*given):
    return lambda tmp_path: given


def images(*cells):
    return {"image": list(cells), "label": [0] * len(cells)}


REFUSED = {
    "missing file": (flags("--data.train", "gone.parquet"), FileNotFoundError, "gone.parquet"),
    "no file in the folder": (folder_of_nothing, (FileNotFoundError, DataError), "nothing"),
    "not parquet": (write_text, DataError, "words.parquet"),
    "missing input": (of_table(numbers(), inputs="y"), DataError, "'y'"),
    "missing target": (of_table(numbers(), "--data.target", "z"), DataError, "'z'"),
    "empty": (of_table({k: v[:0] for k, v in numbers().items()}), DataError, "no rows"),
    "label outside the classes": (
        of_table(numbers(), "--model.num_classes", 2),
        DataError,
        "label 2 .* classes 0 to 1",
    ),
    "negative label": (of_table(numbers() | {"label": [-1] * 40}), DataError, "label -1"),
    "undecodable image": (
        of_table(images(b"\x89PNG\r\n\x1a\n1234", b"\x89PNG\r\n\x1a\n1234"), inputs="image"),
        DataError,
        r"train\.parquet.*row 0",
    ),
    "pictures of different sizes": (
        of_table(images(picture(8), picture(9)), inputs="image"),
        DataError,
        r"(?s)row 1.*data\.image_size",
    ),
    "rows of different lengths": (
        of_table(numbers() | {"x": [[1.0, 2.0]] * 20 + [[1.0]] * 20}),
        ModelError,
        "(?s)no column 'x' of numbers in one shape.*collate",
    ),
    "duplicate ids": (of_table(numbers(id=[5] * 40)), DataError, "5"),
    "scalar loss": (
        flags("--train.loss", "users_own_code:scalar"),
        ModelError,
        "one loss per sample",
    ),
    "model of another width": (
        flags("--model.name", "users_own_code:narrow", "--model.args", "{}"),
        ModelError,
        "does not accept the batch",
    ),
    "model that is none": (
        flags("--model.name", "users_own_code:nothing", "--model.args", "{}"),
        ModelError,
        "not a torch.nn.Module",
    ),
    "unknown model": (flags("--model.name", "mlpp"), ValueError, "mlp"),
    "no such weights": (flags("--model.init", "gone.safetensors"), FileNotFoundError, "gone"),
    "pictures for numbers": (
        of_table(numbers(), "--model.name", "cnn"),
        (ValueError, ModelError),
        "cnn",
    ),
    "unknown argument": (flags("--train.optimizer_args.moment", 0.9), ValueError, "momentum"),
    "age below the smallest": (
        flags("--scoring.max_staleness_steps", 1),
        ValueError,
        "smallest bound",
    ),
    "taken run directory": (taken, RunDirectoryError, "already holds a run"),
    "run directory below a file": (below_a_file, RunDirectoryError, "not a folder"),
    "unwritable run directory": (flags("--run.dir", "/proc/run"), RunDirectoryError, "cannot"),
    "run directory elsewhere": (flags("--run.dir", "s3://bucket/run"), RunDirectoryError, "local"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_can_be_known_before_is_refused_and_nothing_is_written(tmp_path, case) -> None:
    make, error, told = REFUSED[case]
    given = make(tmp_path)
    before = everything(tmp_path)
    with pytest.raises(error, match=told) as caught:
        run(*given)
    assert isinstance(caught.value, RaysbError | ValueError | FileNotFoundError | ImportError)
    assert [path for path in everything(tmp_path) if "__pycache__" not in path] == before


@pytest.mark.parametrize(
    "given",
    [
        ("--train.batch_size", 0),
        ("--train.batch_sise", 8),
        ("--scoring.batch_size", 0),
        ("--run.seed", -1),
        ("--engine", "locale"),
        ("--selector.beta", 0),
    ],
)
def test_settings_out_of_range_are_refused_where_they_are_read(given) -> None:
    with pytest.raises(ValueError, match=given[0].removeprefix("--")):
        load(None, [*FAST, *map(str, given)])
    assert everything() == []


def test_a_model_that_does_not_accept_the_batch_is_told_with_columns_shapes_and_call() -> None:
    with pytest.raises(ModelError) as caught:
        run("--model.name", "users_own_code:narrow", "--model.args", "{}")
    for part in ("image uint8 [8, 8, 8, 1]", "label int64 [8]", "call tried", "data.inputs"):
        assert part in str(caught.value)


def test_a_file_of_weights_that_does_not_fit_is_refused() -> None:
    save_file({"head.weight": torch.zeros(2, 2)}, "other.safetensors")
    before = everything()
    with pytest.raises(ModelError, match="does not fit"):
        run("--model.init", "other.safetensors")
    assert everything() == before


def test_a_run_in_one_process_on_parquet_never_loads_ray(tmp_path) -> None:
    """It takes seconds and memory, and people without Ray use this engine."""
    rows = {"x": np.arange(64, dtype=np.float32), "label": np.arange(64) % 2}
    pq.write_table(pa.table({**rows, "tokens": [[1, 2]] * 64}), tmp_path / "rows.parquet")
    flags = [
        *("train", "--engine", "local", "--data.train", str(tmp_path / "*.parquet")),
        *("--data.inputs", "x", "--data.test_fraction", "0.3", "--model.name", "package:build"),
        *("--train.epochs", "1", "--train.audit", "true", "--run.dir", str(tmp_path / "run")),
    ]
    (tmp_path / "code" / "package.py").write_text(
        "from torch import nn\n"
        "def build(): return nn.Sequential(nn.Unflatten(0, (-1, 1)), nn.Linear(1, 2))\n"
    )
    code = (
        "import sys\nfrom raysb.cli import main\n"
        f"assert main({flags!r}) == 0\n"
        "found = sorted(name for name in sys.modules if name.split('.')[0] == 'ray')\n"
        "sys.exit(f'loaded: {found[:9]}' if found else 0)"
    )
    env = os.environ | {"PYTHONPATH": str(tmp_path / "code")}
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "model.safetensors").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_refused_and_nothing_is_written() -> None:
    flags = ["--engine=local", "--data.train=digits", "--train.use_gpu=true"]
    with pytest.raises(ResourceError, match=r"train\.use_gpu=true: torch finds no GPU"):
        train(load(None, flags))
    assert not list(Path().iterdir())
