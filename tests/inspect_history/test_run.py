"""What a run left, looked into: its own counters, data and model are the oracle."""

import io
import json
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

import raysb
from raysb.config import load
from raysb.errors import DataError, ModelError, RunDirectoryError
from raysb.inspect_history.run import inspect_history
from raysb.inspect_history.settings import Wanted
from raysb.run import train
from raysb.scan.run import score_configured
from raysb.source.demo import digits

sys.path.insert(0, str(Path(__file__).parent))
from histories import losses_of, write_checkpoint

FAST = [
    *("--engine", "local", "--model.name", "mlp", "--model.args.hidden", "[8]"),
    *("--train.epochs", "3", "--train.use_gpu", "false", "--scoring.batch_size", "64"),
]


def run(*flags, into="run"):
    return train(load(None, [*FAST, "--run.dir", into, *map(str, flags)]))


def png(pixels):
    stream = io.BytesIO()
    Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels).save(stream, "PNG")
    return stream.getvalue()


def write_pictures(folder, files, *, channels=1, ids=True, classes=None, side=8):
    """Files of so many pictures in small row groups; returns what was written, row by row."""
    Path(folder).mkdir()
    rng = np.random.default_rng(0)
    total, rows, start = sum(files), [], 0
    given = rng.permutation(10 * total)[:total]
    field = pa.field("label", pa.int64(), metadata={"classes": json.dumps(classes)})
    for number, count in enumerate(files):
        pixels = rng.integers(0, 256, (count, side, side, channels), np.uint8)
        label, name = (
            rng.integers(0, 3, count),
            str(Path(folder).absolute() / f"part-{number}.parquet"),
        )
        columns = {"image": [png(each) for each in pixels], "label": label}
        made = (number << 40) + np.arange(count)
        if ids:
            columns["id"] = made = given[start : start + count]
        schema = pa.schema([("image", pa.binary()), field, *([("id", pa.int64())] if ids else [])])
        pq.write_table(pa.table(list(columns.values()), schema=schema), name, row_group_size=7)
        start += count
        for row in range(count):
            one = {"file": name, "row": row, "label": int(label[row]), "pixels": pixels[row]}
            rows.append({"id": int(made[row]), **one})
    return rows


def exported(name="all.parquet", flags=(), **wanted):
    found = inspect_history("run", Wanted(export=name, **wanted), flags)
    table = pq.read_table(name)
    assert tuple(table.column_names) == found.export.columns
    assert Path(name).stat().st_size == found.export.num_bytes
    return found, table


@pytest.mark.parametrize("ids", [True, False])
@pytest.mark.parametrize("held_out", [0.0, 0.4])
def test_every_id_has_the_file_row_and_label_that_were_written(ids, held_out) -> None:
    rows = write_pictures("data", [40, 1, 30], ids=ids)
    metrics = run("--data.train", "data", "--data.test_fraction", held_out)
    found, table = exported()
    by_id = {row["id"]: row for row in rows}
    assert table.column_names[:4] == ["id", "file", "row", "label"]
    for one in table.select(["id", "file", "row", "label"]).to_pylist():
        assert one == {name: by_id[one["id"]][name] for name in one}
    assert table["id"].to_pylist() == sorted(table["id"].to_pylist())
    assert len(set(table["id"].to_pylist())) == table.num_rows == metrics["num_scored"] // 3
    assert (table.num_rows == 71) == (held_out == 0)
    assert sum(table["times_scored"].to_pylist()) == metrics["num_scored"]
    chosen = sum(table["times_selected"].to_pylist())
    assert chosen == metrics["num_backpropped"]
    assert found.counts.num_steps == metrics["step"]
    right = table["correct"].to_numpy(zero_copy_only=False)
    assert found.counts.num_never_learned == table["first_learned_epoch"].null_count
    assert not right[table["first_learned_epoch"].is_null().to_numpy()].any()


def test_a_demo_set_has_the_places_that_scoring_gives_it() -> None:
    run("--data.train", "digits")
    score_configured("run", ["--engine", "local"], out="scores.parquet")
    scores = pq.read_table("scores.parquet")
    table = exported()[1]
    names = ["id", "file", "row", "label"]
    assert table.select(names).to_pylist() == sorted(
        scores.select(names).to_pylist(), key=lambda row: row["id"]
    )
    labels = digits()["label"][table["id"].to_numpy()]
    np.testing.assert_array_equal(table["label"].to_numpy(), labels)


def test_csv_holds_what_parquet_holds() -> None:
    run("--data.train", "digits")
    _, table = exported()
    inspect_history("run", Wanted(export="all.csv"))
    plain = pyarrow.csv.read_csv("all.csv")
    assert plain.column_names == table.column_names
    for name in table.column_names:
        kept, read = table[name].to_pylist(), plain[name].to_pylist()
        if isinstance(kept[0], float):
            kept, read = np.array(kept, float), np.array(read, float)
            np.testing.assert_allclose(read, kept, rtol=1e-6)
        else:
            assert kept == read, name


def test_the_list_is_the_head_of_the_export() -> None:
    run("--data.train", "digits")
    found, table = exported(by="mean_loss", top=7)
    order = np.argsort(-table["mean_loss"].to_numpy(), kind="stable")[:7]
    assert found.top == table.take(order).to_pylist()


def test_data_that_were_moved_are_found_where_a_flag_says() -> None:
    rows = write_pictures("data", [40])
    run("--data.train", "data")
    Path("data").rename("moved")
    for images in (None, "a.png"):
        with pytest.raises(FileNotFoundError, match=r"data\.train.*--data\.train PATH; --no-orig"):
            inspect_history("run", Wanted(export="all.parquet", images=images))
    assert not list(Path().glob("*.p*"))
    _, table = exported(flags=["--data.train", "moved"])
    assert table["file"].to_pylist() == [str(Path("moved/part-0.parquet").absolute())] * 40
    by_id = {row["id"]: row["row"] for row in rows}
    assert table["row"].to_pylist() == [by_id[each] for each in table["id"].to_pylist()]
    without = exported("without.parquet", origin=False)[1]
    assert without.equals(table.drop_columns(["file", "row", "label"]))


def test_other_data_than_the_run_saw_are_refused() -> None:
    write_pictures("data", [40])
    run("--data.train", "data")
    write_pictures("other", [40], ids=False)
    with pytest.raises(DataError, match=r"35 of the 40 ids .* not the rows that the run saw"):
        inspect_history("run", flags=["--data.train", "other"])


def test_a_regression_has_no_columns_of_learning() -> None:
    rng = np.random.default_rng(0)
    x = pa.FixedSizeListArray.from_arrays(pa.array(rng.normal(size=120).astype("f4")), 3)
    pq.write_table(pa.table({"x": x, "price": rng.normal(size=40)}), "prices.parquet")
    flags = ["--data.train", "prices.parquet", "--data.inputs", "x", "--data.target", "price"]
    run(*flags, "--train.loss", "mse")
    found, table = exported()
    assert not {"correct", "first_learned_epoch", "forgetting_events"} & set(table.column_names)
    assert table["label"].to_pylist() == pq.read_table("prices.parquet")["price"].to_pylist()
    assert (found.counts.num_never_learned, found.counts.num_forgotten) == (None, None)
    with pytest.raises(ValueError, match="by=never"):
        inspect_history("run", Wanted(by="never"))
    with pytest.raises(DataError, match=r"no pictures.*inputs are x float32 \[3\]"):
        inspect_history("run", Wanted(images="a.png", export="b.parquet"))
    assert not list(Path().glob("[ab].p*"))


@pytest.mark.parametrize("channels", [1, 3])
def test_the_sheet_shows_the_pictures_of_the_list_and_the_models_own_predictions(channels) -> None:
    rows = write_pictures("data", [40, 30], channels=channels, classes=["cat", "dog", "cow"])
    run("--data.train", "data")
    found = inspect_history("run", Wanted(images="sheet.png", top=12))
    by_id = {row["id"]: row for row in rows}
    pixels = np.stack([by_id[each["id"]]["pixels"] for each in found.top])
    with torch.no_grad():
        said = raysb.load_model("run")(torch.from_numpy(pixels)).argmax(1).tolist()
    assert [each["prediction"] for each in found.top] == said
    assert found.classes == ("cat", "dog", "cow")
    sheet = np.asarray(Image.open("sheet.png"))
    assert found.images.num_bytes == Path("sheet.png").stat().st_size
    for number, each in enumerate(pixels):
        x, y = 10 + number % 10 * 106, 35 + number // 10 * (106 + 4 * 15)
        large = np.kron(np.repeat(each, 3 // channels, axis=2), np.ones((12, 12, 1), np.uint8))
        np.testing.assert_array_equal(sheet[y : y + 96, x : x + 96], large)


def test_a_model_of_ones_own_is_imported_only_where_it_is_named(tmp_path, monkeypatch) -> None:
    (tmp_path / "own_code_for_history.py").write_text(
        "from torch import nn\n"
        "def net(num_classes, **_):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64, num_classes))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    own = "own_code_for_history:net"
    plain = ["--data.train", "digits", "--model.name", own, "--model.args", "{num_classes = 10}"]
    train(load(None, [*FAST[:2], *plain, "--train.epochs", "1", "--run.dir", "run"]))
    assert len(inspect_history("run").top) == 20
    with pytest.raises(ModelError, match=f"add --model.name {own}"):
        inspect_history("run", Wanted(images="a.png"))
    named = inspect_history("run", Wanted(images="a.png"), ["--model.name", own])
    assert all("prediction" in each for each in named.top)


def test_a_run_from_python_says_what_is_missing() -> None:
    from ray.train import RunConfig

    from raysb.nn.mlp import MLP

    rows = {name: column[:200] for name, column in digits().items()}
    raysb.SelectiveTrainer(
        model=lambda: MLP(64, 10),
        loss=raysb.losses.cross_entropy("label"),
        datasets={"train": rows},
        training=raysb.Training(epochs=1, batch_size=32),
        run_config=RunConfig(storage_path=str(Path.cwd()), name="run"),
        engine="local",
    ).fit()
    with pytest.raises(RunDirectoryError, match=r"holds no config\.toml.*--no-origin"):
        inspect_history("run")
    assert exported(origin=False)[1]["id"].to_pylist() == list(range(200))


def test_what_is_not_known_is_null_and_samples_are_counted() -> None:
    ids = np.arange(40)
    lost, right, chosen = losses_of(ids, 4)
    lost[:, 3], lost[2, 5], lost[:, 7] = np.nan, np.inf, [0, 3e38, 0, 3e38]
    right[:, 3], chosen[:, :6] = False, False
    write_checkpoint("run", 9, ids, (lost, right, chosen))
    found, table = exported(origin=False, top=40)
    finite = np.isfinite(lost)
    for name in ("loss", "mean_loss", "loss_variance"):
        assert np.flatnonzero(table[name].is_null()).tolist() == [3]
    assert table["first_learned_epoch"].is_null().to_pylist() == (~right.any(0)).tolist()
    assert table["scored_loss"].is_null().to_pylist() == (~finite[-1]).tolist()
    counts = found.counts
    assert counts.num_never_learned == (~right.any(0)).sum()
    assert counts.num_forgotten == (right[:-1] & ~right[1:]).any(0).sum()
    assert counts.num_never_selected == (~chosen.any(0)).sum()
    assert counts.num_nonfinite == (~finite).any(0).sum() == 2
    assert (counts.num_samples, counts.num_epochs, counts.num_steps) == (40, 4, 9)
    said = json.dumps(found.as_json(), allow_nan=False)  # JSON has neither NaN nor infinity
    assert json.loads(said)["top"][-1]["id"] == 3


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"top": 0}, "top=0: must be at least 1"),
        ({"top": 501, "images": "a.png"}, "at most 500"),
        ({"images": "a.png", "origin": False}, "leave out one"),
        ({"export": "a.txt"}, r"export=a\.txt: .* \.parquet or \.csv"),
        ({"images": "a.jpg"}, r"images=a\.jpg: .* \.png"),
        ({"export": "nowhere/a.csv"}, "no folder"),
        ({"export": "there.csv"}, "exists already"),
    ],
)
def test_what_cannot_be_written_is_refused_before_anything_is_read(wanted, message) -> None:
    Path("there.csv").write_text("kept")
    with pytest.raises(ValueError, match=message):
        Wanted(**wanted)
    assert Path("there.csv").read_text() == "kept"


@pytest.mark.ray
def test_a_run_on_ray_leaves_the_history_of_one_process(ray_cluster) -> None:
    write_pictures("data", [120, 80])
    lockstep = ["--data.train", "data", "--scoring.max_staleness_steps", "0"]
    run(*lockstep, into="run")
    here = exported("here.parquet")[1]
    small = ["--scoring.num_cpus", "0.1", "--train.num_cpus", "0.5", "--data.num_readers", "1"]
    run(*lockstep, *small, "--engine", "ray", "--history.num_shards", "2", into="on-ray")
    inspect_history("on-ray", Wanted(export="there.parquet", images="there.png"))
    there = pq.read_table("there.parquet")
    assert there.column_names == here.column_names
    for name in here.column_names:
        if pa.types.is_floating(here.schema.field(name).type):
            np.testing.assert_allclose(there[name], here[name], rtol=1e-4, err_msg=name)
        else:
            assert there[name].equals(here[name]), name
    assert Path("there.png").exists()
