"""Scoring without training, in one process: the scores of a plain forward pass, each row once."""

import io
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save_model
from torch import nn

from raysb import losses
from raysb.config import load
from raysb.errors import DataError, ModelError, ResourceError, RunDirectoryError
from raysb.run import train
from raysb.scan.run import score, score_configured
from raysb.scoring.settings import Scoring
from raysb.source.demo import digits
from raysb.source.settings import Data

LOCAL = ["--engine", "local"]
CODE = """
from torch import nn
def doubled(outputs, batch):
    return 2 * nn.functional.cross_entropy(outputs, batch["label"], reduction="none")
"""


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """An empty folder to run in; the environment as it was."""
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "own_code_for_scores.py").write_text(CODE)
    monkeypatch.syspath_prepend(tmp_path / "code")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr(os, "environ", os.environ.copy())


def net() -> nn.Module:
    """Dropout and batch statistics: only evaluation mode gives the same scores twice."""
    torch.manual_seed(5)
    return nn.Sequential(
        nn.Linear(4, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 3)
    )


def value() -> nn.Module:
    torch.manual_seed(5)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))


def rows(count, seed=0):
    rng = np.random.default_rng(seed)
    return {
        "x": rng.normal(size=(count, 4)).astype(np.float32),
        "label": rng.integers(0, 3, count),
        "price": rng.normal(size=count),
    }


def write(folder, files, *, group=7, ids=True):
    """Files of so many rows each; returns all rows in order, with file and row."""
    folder.mkdir(parents=True)
    parts = []
    for number, count in enumerate(files):
        part = rows(count, seed=number)
        name = str(folder / f"part-{number:02}.parquet")
        part["id"] = 1000 * number + np.arange(count)[::-1]
        stored = {k: v for k, v in part.items() if ids or k != "id"}
        stored["x"] = pa.FixedSizeListArray.from_arrays(pa.array(part["x"].ravel()), 4)
        pq.write_table(pa.table(stored), name, row_group_size=group)
        parts.append({**part, "file": np.full(count, name), "row": np.arange(count)})
    return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}


def call(**given):
    always = {
        "model": net,
        "loss": losses.cross_entropy("label"),
        "data": Data(inputs=("x",)),
        "out": "out.parquet",
        "engine": "local",
    }
    summary = score(**{**always, **given})
    table = pq.read_table(summary.path)
    assert tuple(table.column_names) == summary.columns
    assert table.num_rows == summary.num_rows
    return summary, table


def plain(data, model=None):
    """Logits and losses of a plain forward pass, and float64 probabilities."""
    model = (model or net()).eval()
    with torch.no_grad():
        logits = model(torch.from_numpy(data["x"]))
        lost = F.cross_entropy(logits, torch.from_numpy(data["label"]), reduction="none")
    return logits, lost.numpy(), logits.double().softmax(1).numpy()


@pytest.mark.parametrize("ids", [True, False])
@pytest.mark.parametrize(
    ("files", "group", "batch"),
    [
        ([100], 1000, 256),
        ([100], 1000, 33),
        ([50, 1, 33], 7, 8),
        ([5] * 9, 5, 64),
        ([300, 64], 100, 50),
    ],
)
def test_every_row_once_in_the_order_of_the_files_with_the_scores_of_a_plain_forward(
    tmp_path, files, group, batch, ids
) -> None:
    data = write(tmp_path / "data", files, group=group, ids=ids)
    summary, table = call(rows=str(tmp_path / "data"), scoring=Scoring(batch_size=batch))
    assert table["file"].to_pylist() == data["file"].tolist()
    assert table["row"].to_pylist() == data["row"].tolist()
    places = {name: n for n, name in enumerate(dict.fromkeys(data["file"].tolist()))}
    made = [(places[f] << 40) + r for f, r in zip(data["file"], data["row"].tolist(), strict=True)]
    assert table["id"].to_pylist() == (data["id"].tolist() if ids else made)
    logits, lost, p = plain(data)
    ranked = np.sort(p, axis=1)
    every = np.arange(len(p))
    own, rest = p[every, data["label"]], p.copy()
    rest[every, data["label"]] = 0
    close = {"rtol": 1e-5, "atol": 1e-6}
    np.testing.assert_allclose(table["loss"], lost, **close)
    np.testing.assert_allclose(table["margin"], ranked[:, -1] - ranked[:, -2], **close)
    np.testing.assert_allclose(table["label_margin"], own - rest.max(1), **close)
    np.testing.assert_allclose(table["entropy"], -(p * np.log(p)).sum(1), **close)
    assert table["prediction"].to_pylist() == logits.argmax(1).tolist()
    assert table["label"].to_pylist() == data["label"].tolist()
    right = logits.argmax(1).numpy() == data["label"]
    assert table["correct"].to_pylist() == right.tolist()
    assert summary.loss == pytest.approx(lost.mean(), rel=1e-5)
    assert summary.error == pytest.approx(1 - right.mean())
    assert (summary.num_rows, summary.num_nonfinite) == (sum(files), 0)
    assert summary.num_bytes == Path("out.parquet").stat().st_size


def test_rows_that_a_run_would_hold_out_are_scored_too(tmp_path) -> None:
    data = write(tmp_path / "data", [60])
    held = Data(inputs=("x",), test_fraction=0.5)
    _, table = call(rows=str(tmp_path / "data"), data=held)
    assert table["id"].to_pylist() == data["id"].tolist()


def test_rows_from_memory_have_no_file() -> None:
    data = rows(20)
    _, table = call(rows=data)
    assert table["file"].null_count == 20
    assert table["row"].to_pylist() == table["id"].to_pylist() == list(range(20))
    np.testing.assert_allclose(table["loss"], plain(data)[1], rtol=1e-5, atol=1e-6)


def test_without_a_loss_there_are_margin_entropy_and_prediction_only(tmp_path) -> None:
    summary, table = call(rows={"x": rows(20)["x"]}, loss=None)
    assert table.column_names == ["id", "file", "row", "margin", "entropy", "prediction"]
    assert (summary.loss, summary.error) == (None, None)
    _, labelled = call(rows=rows(20), out="b.parquet")
    for name in ("margin", "entropy", "prediction"):
        assert table[name].equals(labelled[name])


def test_a_regression_gets_its_loss_and_the_value() -> None:
    data = rows(30)
    settings = Data(inputs=("x",), target="price")
    _, table = call(rows=data, model=value, loss=losses.mse("price"), data=settings)
    assert table.column_names == ["id", "file", "row", "loss", "prediction", "label"]
    with torch.no_grad():
        found = value()(torch.from_numpy(data["x"])).squeeze(1).numpy()
    np.testing.assert_allclose(table["prediction"], found, rtol=1e-6)
    np.testing.assert_allclose(table["loss"], (found - data["price"]) ** 2, rtol=1e-4)
    assert table["label"].to_pylist() == data["price"].tolist()


def test_losses_that_are_not_finite_stand_in_the_file_and_are_counted() -> None:
    data = rows(30)
    data["x"][[3, 17]] = np.nan
    summary, table = call(rows=data)
    assert np.flatnonzero(~np.isfinite(table["loss"].to_numpy())).tolist() == [3, 17]
    assert summary.num_nonfinite == 2
    assert summary.loss == pytest.approx(np.nanmean(plain(data)[1]), rel=1e-5)


def test_weights_come_from_a_file_a_run_directory_or_a_state_dict(tmp_path) -> None:
    trained = net()
    with torch.no_grad():
        trained[0].weight.mul_(3)
    (tmp_path / "run").mkdir()
    save_model(trained, str(tmp_path / "run" / "model.safetensors"))
    data = rows(25)
    for number, weights in enumerate(
        (tmp_path / "run" / "model.safetensors", tmp_path / "run", trained.state_dict())
    ):
        _, table = call(rows=data, weights=weights, out=f"{number}.parquet")
        np.testing.assert_allclose(table["loss"], plain(data, trained)[1], rtol=1e-5, atol=1e-6)


class Unread:
    """Rows that nobody may look at."""

    @property
    def num_rows(self):
        raise AssertionError("the rows were looked at")

    def read(self, epoch, start, stop):
        raise AssertionError("a row was read")


def test_what_does_not_fit_is_refused_before_a_row_is_read(tmp_path) -> None:
    def refused(error, message, **given):
        with pytest.raises(error, match=message):
            call(rows=Unread(), **given)

    Path("there.parquet").touch()
    refused(ValueError, "exists already", out="there.parquet")
    refused(ValueError, "no folder", out="nowhere/a.parquet")
    refused(ValueError, "'ray' or 'local'", engine="spark")
    refused(ModelError, "do not fit", weights=nn.Linear(3, 3).state_dict())
    refused(FileNotFoundError, "no such file", weights="nosuch.safetensors")
    assert os.listdir() == ["there.parquet"]


def test_a_model_or_loss_that_does_not_fit_the_rows_leaves_no_file() -> None:
    with pytest.raises(ModelError, match="does not accept the batch"):
        call(rows=rows(9), model=lambda: nn.Linear(5, 3))
    with pytest.raises(ModelError, match="one loss per sample"):
        call(rows=rows(9), loss=lambda outputs, batch: outputs.mean())
    assert os.listdir() == []


def test_a_row_that_cannot_be_read_in_the_middle_leaves_no_file(tmp_path) -> None:
    pictures = []
    for _ in range(200):
        data = io.BytesIO()
        Image.fromarray(np.zeros((4, 4), np.uint8)).save(data, "PNG")
        pictures.append(data.getvalue())
    pictures[150] = b"no picture"
    table = pa.table({"image": pictures, "label": [0, 1] * 100})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=10)
    with pytest.raises(DataError, match=r"a\.parquet row 150"):
        call(
            rows=tmp_path / "a.parquet",
            data=Data(),
            model=lambda: nn.Sequential(nn.Flatten(), nn.Linear(16, 2)),
            scoring=Scoring(batch_size=8),
        )
    assert os.listdir() == []


def test_who_watches_is_told_of_every_block() -> None:
    seen = []
    call(
        rows=rows(100),
        scoring=Scoring(batch_size=10),
        watch=lambda progress: seen.append((progress.done, progress.total)),
    )
    assert [total for _, total in seen] == [100] * len(seen)
    done = [done for done, _ in seen]
    assert done == sorted(set(done))
    assert done[-1] == 100
    assert len(done) > 1


def test_the_rate_is_that_after_the_first_block() -> None:
    assert call(rows=rows(100), scoring=Scoring(batch_size=10))[0].rows_per_s > 0
    assert call(rows=rows(100), out="b.parquet")[0].rows_per_s is None


# --- from a configuration -----------------------------------------------------------------------


def trained_run(*flags, folder="run"):
    always = [
        *("--data.train", "digits", "--model.name", "mlp", "--model.args.hidden", "[32]"),
        *("--train.epochs", "2", "--train.use_gpu", "false", "--run.dir", folder),
    ]
    train(load(None, [*LOCAL, *always, *flags]))
    return folder


def test_a_run_directory_says_model_normalisation_and_loss(tmp_path) -> None:
    run = trained_run()
    data = digits()
    columns = {
        "image": [image.tobytes() for image in data["image"]],
        "label": data["label"],
        "id": data["id"],
    }
    pq.write_table(pa.table(columns), tmp_path / "digits.parquet", row_group_size=200)
    summary = score_configured(
        run, ["--data.train", str(tmp_path / "digits.parquet")], out="a.parquet"
    )
    config = load("run/config.toml")
    from raysb.models import load_model

    with torch.no_grad():
        logits = load_model(run)(torch.from_numpy(data["image"]))
    lost = F.cross_entropy(logits, torch.from_numpy(data["label"]), reduction="none")
    table = pq.read_table("a.parquet")
    np.testing.assert_allclose(table["loss"], lost.numpy(), rtol=1e-5, atol=1e-6)
    assert summary.num_rows == 1797
    assert 0 < summary.error < 0.3
    assert config.engine == "local"  # which the flags did not say again

    # the weights alone, with what the configuration knows
    given = [*LOCAL, "--model.name", "mlp", "--model.args.hidden", "[32]", "--data.train", "digits"]
    normal = [
        *("--data.mean", ",".join(map(str, config.data.mean))),
        *("--data.std", ",".join(map(str, config.data.std))),
    ]
    score_configured("run/model.safetensors", [*given, *normal], out="b.parquet")
    both = table.to_pandas().set_index("id"), pq.read_table("b.parquet").to_pandas()
    few = both[1].set_index("id")
    assert len(few) == 1442
    np.testing.assert_array_equal(few["loss"], both[0]["loss"][few.index])
    with pytest.warns(UserWarning, match=r"data\.mean and data\.std are not given"):
        score_configured("run/model.safetensors", given, out="c.parquet")


def test_rows_without_labels_are_scored_by_a_run_that_had_them(tmp_path) -> None:
    run = trained_run()
    pictures = {"image": [image.tobytes() for image in digits()["image"][:50]]}
    pq.write_table(pa.table(pictures), tmp_path / "new.parquet")
    given = ["--data.train", str(tmp_path / "new.parquet")]
    with pytest.raises(DataError, match="no column 'label'"):
        score_configured(run, given, out="a.parquet")
    score_configured(run, [*given, "--data.target", "none"], out="a.parquet")
    names = pq.read_table("a.parquet").column_names
    assert names == ["id", "file", "row", "margin", "entropy", "prediction"]


def test_code_of_ones_own_is_imported_only_where_the_command_line_names_it() -> None:
    run = trained_run("--train.loss", "own_code_for_scores:doubled")
    with pytest.raises(ModelError, match=r"add --train\.loss own_code_for_scores:doubled"):
        score_configured(run, [], out="a.parquet")
    score_configured(run, ["--train.loss", "own_code_for_scores:doubled"], out="a.parquet")
    score_configured(run, ["--train.loss", "cross_entropy"], out="b.parquet")
    twice, once = (pq.read_table(name)["loss"].to_numpy() for name in ("a.parquet", "b.parquet"))
    np.testing.assert_allclose(twice, 2 * once, rtol=1e-6)


def test_weights_of_another_model_are_refused_before_the_data_are_looked_for() -> None:
    run = trained_run()
    with pytest.raises(ModelError, match=r"missing stages\.0"):
        score_configured(
            run, ["--model.name=cnn", "--model.args={}", "--data.train=nosuch"], out="a.parquet"
        )
    with pytest.raises(FileNotFoundError, match="no such file or folder"):
        score_configured("nosuch", [], out="a.parquet")
    Path("empty").mkdir()
    with pytest.raises(RunDirectoryError, match="holds no model"):
        score_configured("empty", [], out="a.parquet")
    assert sorted(os.listdir()) == ["empty", "run"]


def test_more_than_the_cluster_has_is_refused_and_leaves_no_file(monkeypatch) -> None:
    from raysb.scan import ray as scan_ray
    from raysb.scan.job import ScoreJob

    monkeypatch.setattr(scan_ray, "cluster_nodes", lambda: [{"CPU": 2.0}])
    job = ScoreJob(
        source=Unread(),
        task=None,
        state={},
        columns={},
        target=None,
        scoring=Scoring(num_actors=4),
    )
    with pytest.raises(ResourceError, match=r"lower scoring\.num_actors"):
        scan_ray.check_score_job(job)


def test_a_run_with_frozen_parts_is_scored_whole_before_and_after_its_end(tmp_path) -> None:
    """Its checkpoints hold the trained part only; the rest comes from where the run took it."""
    first = trained_run(folder="first")
    tuned = ["--model.init", f"{first}/model.safetensors", 'model.freeze=["layers.*"]']
    run = trained_run(*tuned, "--train.lr", "0.5", folder="tuned")
    score_configured(run, [], out="whole.parquet")
    os.remove(f"{run}/model.safetensors")  # as of a run that was interrupted
    score_configured(run, [], out="partly.parquet")
    whole, partly = pq.read_table("whole.parquet"), pq.read_table("partly.parquet")
    assert partly.equals(whole)
    score_configured(first, [], out="first.parquet")
    assert not pq.read_table("first.parquet").equals(whole)
    [checkpoint] = Path(run).glob("checkpoint_*/model.safetensors")
    given = [*LOCAL, "--model.name", "mlp", "--data.train", "digits", "--model.args.hidden", "[32]"]
    with pytest.raises(ModelError, match="give the run directory"):
        score_configured(str(checkpoint), given, out="a.parquet")
