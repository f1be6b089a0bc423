"""Converting: every row once, bytes as they were, any order of the source gives mixed groups."""

import gzip
import io
import json
import os
import struct
import tarfile
import zlib
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from raysb.config import load
from raysb.errors import DataError
from raysb.run import train
from raysb.source.convert import Convert, convert, read_classes
from raysb.source.convert import shuffle as shuffling
from raysb.source.convert import tar as tarring

SKIP = Convert(on_error="skip")


def png(value=0, size=(8, 8), mode="L", form="PNG"):
    stream = io.BytesIO()
    Image.new(mode, size, value).save(stream, form)
    return stream.getvalue()


def noise(seed, size=(8, 8)):
    stream = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0]), np.uint8)
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def bomb(width, height):
    """A PNG that claims to be enormous: a header, no pixels."""

    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


def write(folder, files):
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return folder


def tar(path, files, mode="w"):
    with tarfile.open(path, mode) as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def classes_of_pictures(per_class=30, names=("cat", "dog", "emu")):
    return {
        f"{name}/{i:03d}.png": noise(i + 1000 * c)
        for c, name in enumerate(names)
        for i in range(per_class)
    }


def rows(out):
    return pq.read_table(out)


def left_behind(folder):
    return sorted(path.name for path in folder.iterdir())


def test_every_picture_of_a_folder_is_one_row_byte_for_byte_with_its_class(tmp_path):
    files = classes_of_pictures()
    done = convert(write(tmp_path / "in", files), tmp_path / "out")
    table = rows(tmp_path / "out").to_pydict()
    assert dict(zip(table["path"], table["image"], strict=True)) == files
    expected = {name: ("cat", "dog", "emu").index(name.split("/")[0]) for name in files}
    assert dict(zip(table["path"], table["label"], strict=True)) == expected
    assert json.loads((tmp_path / "out" / "_classes.json").read_text()) == ["cat", "dog", "emu"]
    assert done.classes == read_classes(tmp_path / "out") == ("cat", "dog", "emu")
    assert (done.num_rows, done.num_files, done.skipped) == (90, 1, [])


def test_what_was_converted_trains(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "environ", os.environ.copy())
    dark = {f"dark/{i}.png": png(20 + i % 60) for i in range(80)}
    light = {f"light/{i}.png": png(170 + i % 60) for i in range(80)}
    convert(write(tmp_path / "in", dark | light), "out")
    flags = ["--engine", "local", "--data.train", "out", "--data.test_fraction", ".2"]
    flags += ["--model.name", "mlp", "--train.batch_size", "16", "--train.epochs", "5"]
    metrics = train(load(None, [*flags, "--run.dir", "run", "--run.loggers", "[]"]))
    assert metrics["eval/error"] == 0
    assert metrics["num_scored"] > 500


def test_ids_stay_when_files_come_and_go(tmp_path):
    files = classes_of_pictures(5)
    convert(write(tmp_path / "in", files), tmp_path / "one")
    write(tmp_path / "in", {"ape/new.png": noise(7)})
    (tmp_path / "in/cat/000.png").unlink()
    convert(tmp_path / "in", tmp_path / "two")
    one, two = (rows(tmp_path / name).to_pydict() for name in ("one", "two"))
    before = dict(zip(one["path"], one["id"], strict=True))
    after = dict(zip(two["path"], two["id"], strict=True))
    both = before.keys() & after.keys()
    assert len(both) == 14
    assert all(before[name] == after[name] >= 0 for name in both)


def test_a_folder_sorted_by_class_gives_row_groups_with_all_classes(tmp_path):
    """Rows of one class in a group of 64 out of 4 equal ones: binomial, mean 16, deviation 3.5."""
    files = classes_of_pictures(160, ("a", "b", "c", "d"))
    convert(write(tmp_path / "in", files), tmp_path / "out", Convert(rows_per_group=64))
    [file] = (tmp_path / "out").glob("*.parquet")
    groups = pq.ParquetFile(file)
    assert groups.num_row_groups == 10
    for group in range(10):
        counts = Counter(groups.read_row_group(group)["label"].to_pylist())
        assert all(16 - 14 <= counts[label] <= 16 + 14 for label in range(4)), counts


def test_all_orders_are_equally_likely(tmp_path):
    """Each of 3 rows in 2 buckets: the 6 orders over 600 seeds, chi-squared with 5 degrees."""
    table = pa.table({"id": [0, 1, 2]})
    seen = Counter()
    for seed in range(600):
        mixed = shuffling.Shuffle(tmp_path / "spill", 2, seed)
        mixed.add(table)
        order = [i for bucket in mixed.buckets() for i in bucket["id"].to_pylist()]
        seen[tuple(order)] += 1
    assert len(seen) == 6
    assert sum((count - 100) ** 2 / 100 for count in seen.values()) < 20.5  # 0.1 %


def test_what_does_not_fit_in_memory_passes_through_the_disk_and_none_is_lost(
    tmp_path, monkeypatch
):
    files = classes_of_pictures(100)
    write(tmp_path / "in", files)
    monkeypatch.setattr(shuffling, "MEMORY", 3_000)
    monkeypatch.setattr("raysb.source.convert.pictures.AT_ONCE", 16)
    monkeypatch.setattr("raysb.source.convert.write._num_files", lambda *_: 5)
    done = convert(tmp_path / "in", tmp_path / "out")
    table = rows(tmp_path / "out").to_pydict()
    assert dict(zip(table["path"], table["image"], strict=True)) == files
    assert len(table["path"]) == 300
    names = [f"part-{i:05d}-of-00005.parquet" for i in range(5)]
    assert left_behind(tmp_path / "out") == ["_classes.json", *names]
    assert done.num_files == 5
    sizes = [pq.read_metadata(tmp_path / "out" / name).num_rows for name in names]
    assert all(30 <= size <= 90 for size in sizes), sizes


def test_files_are_as_large_as_asked(tmp_path):
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"a": rng.random(200_000), "b": rng.random(200_000)})
    frame.to_csv(tmp_path / "in.csv", index=False)
    megabytes = (tmp_path / "in.csv").stat().st_size / 1e6
    done = convert(tmp_path / "in.csv", tmp_path / "out", Convert(file_mb=2))
    assert done.num_files == -(-int(megabytes * 10) // 20)
    assert all(p.stat().st_size < 3e6 for p in (tmp_path / "out").glob("*.parquet"))


def test_the_same_source_and_seed_give_the_same_bytes_another_seed_another_order(tmp_path):
    write(tmp_path / "in", classes_of_pictures())
    for out, seed in (("a", 0), ("b", 0), ("c", 1)):
        convert(tmp_path / "in", tmp_path / out, Convert(seed=seed))
    [a, b, c] = [next((tmp_path / out).glob("*.parquet")) for out in "abc"]
    assert a.read_bytes() == b.read_bytes()
    assert rows(a)["path"].to_pylist() != rows(c)["path"].to_pylist()
    assert sorted(rows(a)["path"].to_pylist()) == sorted(rows(c)["path"].to_pylist())


def test_row_groups_are_smaller_where_pictures_are_large(tmp_path, monkeypatch):
    monkeypatch.setattr("raysb.source.convert.write.GROUP_BYTES", 20_000)
    convert(
        write(tmp_path / "in", {f"c{i % 2}/{i}.png": noise(i, (64, 64)) for i in range(40)}),
        tmp_path / "out",
    )
    [file] = (tmp_path / "out").glob("*.parquet")
    meta = pq.read_metadata(file)
    sizes = [meta.row_group(g).total_byte_size for g in range(meta.num_row_groups)]
    assert max(sizes) < 25_000
    assert len(sizes) >= 8


BROKEN = {
    "cat/cut.png": noise(1, (32, 32))[:200],
    "cat/text.jpg": b"no picture at all",
    "cat/empty.png": b"",
    "cat/bomb.png": bomb(30_000, 30_000),
    "cat/other.webp": b"RIFF",
}


@pytest.mark.parametrize("name", sorted(BROKEN))
def test_a_picture_that_cannot_be_decoded_stops_or_is_skipped_and_listed(tmp_path, name):
    files = {"cat/a.png": noise(1), "dog/b.png": noise(2), name: BROKEN[name]}
    write(tmp_path / "in", files)
    with pytest.raises(DataError, match=name):
        convert(tmp_path / "in", tmp_path / "out")
    assert left_behind(tmp_path) == ["in"]
    done = convert(tmp_path / "in", tmp_path / "out", SKIP)
    assert [each["name"] for each in done.skipped] == [name]
    assert json.loads((tmp_path / "out/_skipped.json").read_text()) == done.skipped
    assert sorted(rows(tmp_path / "out")["path"].to_pylist()) == ["cat/a.png", "dog/b.png"]


def test_an_existing_output_is_refused_and_left_alone(tmp_path):
    write(tmp_path / "in", classes_of_pictures(2))
    (tmp_path / "out").mkdir()
    with pytest.raises(ValueError, match="already exists"):
        convert(tmp_path / "in", tmp_path / "out")
    assert left_behind(tmp_path / "out") == []


def test_nothing_is_left_behind_when_it_fails_half_way(tmp_path, monkeypatch):
    write(tmp_path / "in", classes_of_pictures(2))

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("raysb.source.convert.write._write_notes", interrupted)
    with pytest.raises(KeyboardInterrupt):
        convert(tmp_path / "in", tmp_path / "deep/out")
    assert not list((tmp_path / "deep").iterdir())


def test_a_disk_that_is_too_small_is_refused_before_anything_is_read(tmp_path, monkeypatch):
    write(tmp_path / "in", classes_of_pictures(2))
    monkeypatch.setattr("shutil.disk_usage", lambda _: _Usage())
    with pytest.raises(DataError, match="on a larger disk"):
        convert(tmp_path / "in", tmp_path / "out")


class _Usage:
    free = 10


def test_classes_of_a_test_set_have_the_numbers_of_the_training_set(tmp_path):
    write(tmp_path / "train", classes_of_pictures(2))
    write(tmp_path / "test", {"emu/1.png": noise(1), "cat/2.png": noise(2)})
    convert(tmp_path / "train", tmp_path / "a")
    convert(tmp_path / "test", tmp_path / "b", Convert(classes=read_classes(tmp_path / "a")))
    table = rows(tmp_path / "b").to_pydict()
    assert dict(zip(table["path"], table["label"], strict=True)) == {"emu/1.png": 2, "cat/2.png": 0}
    write(tmp_path / "test", {"fox/1.png": noise(1)})
    with pytest.raises(DataError, match="'fox' is not among the 3"):
        convert(tmp_path / "test", tmp_path / "c", Convert(classes=("cat", "dog", "emu")))


def test_folders_named_by_numbers_are_numbered_as_numbers(tmp_path):
    files = {f"{n}/x.png": noise(n) for n in range(12)}
    convert(write(tmp_path / "in", files), tmp_path / "out")
    table = rows(tmp_path / "out").to_pydict()
    assert {p: int(p.split("/")[0]) for p in table["path"]} == dict(
        zip(table["path"], table["label"], strict=True)
    )


def test_parts_of_a_split_are_not_taken_for_classes(tmp_path):
    write(tmp_path / "in", {"train/cat/1.png": noise(1), "val/cat/1.png": noise(2)})
    with pytest.raises(DataError, match="parts of a split"):
        convert(tmp_path / "in", tmp_path / "out")


def test_pictures_without_folders_have_no_labels_and_a_mixture_is_refused(tmp_path):
    write(tmp_path / "in", {"1.png": noise(1), "2.jpeg": png(3, form="JPEG"), ".hidden.png": b""})
    assert list(convert(tmp_path / "in", tmp_path / "out").columns) == ["id", "image", "path"]
    assert not (tmp_path / "out/_classes.json").exists()
    write(tmp_path / "in", {"cat/3.png": noise(1)})
    with pytest.raises(DataError, match="2 of 3 pictures lie in no folder"):
        convert(tmp_path / "in", tmp_path / "more")


@pytest.mark.parametrize(
    ("name", "mode"), [("a.tar", "w"), ("a.tar.gz", "w:gz"), ("a.tgz", "w:gz")]
)
def test_an_archive_gives_the_rows_of_its_folder(tmp_path, name, mode):
    files = classes_of_pictures(10)
    convert(write(tmp_path / "in", files), tmp_path / "one")
    convert(
        tar(tmp_path / name, {f"./pets/{k}": v for k, v in files.items()}, mode), tmp_path / "two"
    )
    one, two = (rows(tmp_path / each).to_pandas() for each in ("one", "two"))
    two["path"] = two["path"].str.removeprefix("pets/")
    columns = ["path", "image", "label"]
    one, two = (each[columns].sort_values("path", ignore_index=True) for each in (one, two))
    pd.testing.assert_frame_equal(one, two)


def test_webdataset_labels_are_numbers_or_names(tmp_path):
    pictures = {f"s/{i}.png": noise(i) for i in range(4)}
    numbers = {f"s/{i}.cls": str(i * 3).encode() for i in range(4)}
    extra = {"s/0.json": b"{}"}
    done = convert(tar(tmp_path / "n.tar", pictures | numbers | extra), tmp_path / "n")
    table = rows(tmp_path / "n").to_pydict()
    labels = dict(zip(table["path"], table["label"], strict=True))
    assert labels == {f"s/{i}.png": i * 3 for i in range(4)}
    assert (done.classes, done.passed_over) == (None, {".json": 1})
    names = {f"s/{i}.cls": [b"emu\n", b"cat"][i % 2] for i in range(4)}
    assert convert(tar(tmp_path / "t.tar", pictures | names), tmp_path / "t").classes == (
        "cat",
        "emu",
    )
    table = rows(tmp_path / "t").to_pydict()
    labels = dict(zip(table["path"], table["label"], strict=True))
    assert labels == {f"s/{i}.png": 1 - i % 2 for i in range(4)}


def test_a_sample_without_its_label_is_a_problem(tmp_path):
    files = {"a.png": noise(1), "a.cls": b"0", "b.png": noise(2)}
    with pytest.raises(DataError, match=r"b\.png: has no \.cls"):
        convert(tar(tmp_path / "a.tar", files), tmp_path / "out")
    assert convert(tmp_path / "a.tar", tmp_path / "out", SKIP).num_rows == 1


def test_a_name_that_stands_in_an_archive_twice_is_a_problem(tmp_path):
    files = {"cat/a.png": noise(1), "./cat/a.png": noise(2), "dog/b.png": noise(3)}
    with pytest.raises(DataError, match=r"cat/a\.png: stands in the archive twice"):
        convert(tar(tmp_path / "a.tar", files), tmp_path / "out")
    done = convert(tmp_path / "a.tar", tmp_path / "out", SKIP)
    assert done.skipped == [{"name": "cat/a.png", "why": "stands in the archive twice"}]
    table = rows(tmp_path / "out").to_pydict()
    assert dict(zip(table["path"], table["image"], strict=True)) == {
        "cat/a.png": noise(1),
        "dog/b.png": noise(3),
    }


def test_names_and_links_in_an_archive_lead_nowhere(tmp_path):
    (tmp_path / "secret.png").write_bytes(noise(9))
    inside = tmp_path / "inside"
    inside.mkdir()
    with tarfile.open(inside / "a.tar", "w") as archive:
        for name in ("../../evil.png", "/etc/evil.png", "cat/a.png"):
            info = tarfile.TarInfo(name)
            info.size = len(noise(1))
            archive.addfile(info, io.BytesIO(noise(1)))
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE):
            link = tarfile.TarInfo(f"cat/link{kind.decode()}.png")
            link.type, link.linkname = kind, "../secret.png"
            archive.addfile(link)
    done = convert(inside / "a.tar", inside / "out", SKIP)
    assert [each["name"] for each in done.skipped] == ["../../evil.png"]
    assert sorted(rows(inside / "out")["path"].to_pylist()) == ["cat/a.png", "etc/evil.png"]
    assert left_behind(tmp_path) == ["inside", "secret.png"]
    assert left_behind(inside) == ["a.tar", "out"]


@pytest.mark.parametrize("cut", [600, 3_000])
def test_a_cut_off_archive_is_an_error_and_leaves_nothing(tmp_path, cut):
    whole = tar(tmp_path / "a.tar.gz", classes_of_pictures(30), "w:gz").read_bytes()
    (tmp_path / "a.tar.gz").write_bytes(whole[:cut])
    with pytest.raises(DataError, match="cannot be read to its end"):
        convert(tmp_path / "a.tar.gz", tmp_path / "out")
    assert left_behind(tmp_path) == ["a.tar.gz"]


def test_headers_of_an_archive_are_not_kept(tmp_path):
    tar(tmp_path / "a.tar", {f"cat/{i}.png": b"x" for i in range(50)})
    with tarring._reading(tmp_path / "a.tar") as members:
        assert max(len(archive.members) for archive, _ in members) == 1


CSV = """id,size,name,label,flag,note
7,1.5,a,dog,true,
9,2,"b,
c",cat,false,x
3,-1e3,d,dog,TRUE,y
"""


def test_columns_of_a_csv_have_the_types_that_pandas_gives_them(tmp_path):
    (tmp_path / "in.csv").write_text(CSV)
    done = convert(tmp_path / "in.csv", tmp_path / "out")
    assert done.columns == {
        "id": "int64",
        "size": "double",
        "name": "string",
        "label": "int64",
        "flag": "bool",
        "note": "string",
    }
    ours = rows(tmp_path / "out").to_pandas().set_index("id").sort_index()
    theirs = pd.read_csv(tmp_path / "in.csv").set_index("id").sort_index()
    assert done.classes == ("cat", "dog")
    theirs["label"] = theirs["label"].map({"cat": 0, "dog": 1})
    for name in theirs.columns:
        a, b = ours[name].tolist(), theirs[name].tolist()
        assert [x for x in a if x is not None and x == x] == [x for x in b if x == x], name


def test_a_number_among_words_of_truth_makes_a_column_text(tmp_path):
    """To arrow 0 and 1 are booleans too, and what was written would be lost."""
    (tmp_path / "in.csv").write_text("a,b\n1,true\ntrue,False\n0,\n")
    done = convert(tmp_path / "in.csv", tmp_path / "out")
    assert done.columns == {"id": "int64", "a": "string", "b": "bool"}
    assert sorted(rows(tmp_path / "out")["a"].to_pylist()) == ["0", "1", "true"]


def test_a_type_that_only_the_last_rows_show_is_found(tmp_path, monkeypatch):
    monkeypatch.setattr("raysb.source.convert.csv._BLOCK", 1 << 10)
    lines = [f"{i},{i},{i}" for i in range(5_000)] + ["1,2.5,x"]
    (tmp_path / "in.csv").write_text("a,b,c\n" + "\n".join(lines) + "\n")
    done = convert(tmp_path / "in.csv", tmp_path / "out")
    assert done.columns == {"id": "int64", "a": "int64", "b": "double", "c": "string"}
    table = rows(tmp_path / "out").to_pandas().sort_values("id")
    assert table["id"].tolist() == list(range(5_001))
    assert table["b"].tolist() == [*map(float, range(5_000)), 2.5]


def test_a_csv_of_numbers_trains_on_its_features(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "environ", os.environ.copy())
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 3))
    frame = pd.DataFrame(x, columns=["a", "b", "c"])
    frame["label"] = np.where(x[:, 0] > 0, "plus", "minus")
    with gzip.open("in.csv.gz", "wt") as stream:
        frame.to_csv(stream, index=False)
    done = convert("in.csv.gz", "out", Convert(features=("all",)))
    assert done.columns["features"].startswith("fixed_size_list<")
    table = rows("out").to_pandas().sort_values("id")
    np.testing.assert_array_equal(np.stack(table["features"]), x.astype(np.float32))
    flags = ["--engine", "local", "--data.train", "out", "--data.inputs", "features"]
    flags += ["--data.test_fraction", ".2", "--model.name", "mlp", "--train.epochs", "10"]
    metrics = train(load(None, [*flags, "--run.dir", "run", "--run.loggers", "[]"]))
    assert metrics["eval/error"] < 0.15


def test_paths_of_a_csv_become_pictures_and_none_leads_out_of_its_folder(tmp_path):
    write(tmp_path / "data", {f"pics/{i}.png": noise(i) for i in range(4)})
    write(tmp_path, {"secret.png": noise(9)})
    lines = [f"pics/{i}.png,{i}.5" for i in range(4)]
    bad = ["../secret.png,1", f"{tmp_path}/secret.png,1", "pics/none.png,1", ",2"]
    (tmp_path / "data/in.csv").write_text("file,price\n" + "\n".join(lines + bad) + "\n")
    chosen = {"image_column": "file", "label_column": "price"}
    with pytest.raises(DataError, match="--on-error skip"):
        convert(tmp_path / "data/in.csv", tmp_path / "out", Convert(**chosen))
    done = convert(tmp_path / "data/in.csv", tmp_path / "out", Convert(**chosen, on_error="skip"))
    assert len(done.skipped) == 4
    table = rows(tmp_path / "out").to_pydict()
    assert dict(zip(table["path"], table["image"], strict=True)) == {
        f"pics/{i}.png": noise(i) for i in range(4)
    }
    assert dict(zip(table["path"], table["price"], strict=True)) == {
        f"pics/{i}.png": i + 0.5 for i in range(4)
    }


def test_names_of_pictures_that_stay_text_are_warned_of(tmp_path, monkeypatch):
    monkeypatch.setattr("raysb.source.convert.csv._BLOCK", 1 << 10)
    write(tmp_path / "data", {f"{i}.png": noise(i) for i in range(200)})
    lines = [f"{i}.png,{i}.PNG,s.jpg,{i}.png,x.jpg" for i in range(199)]
    text = "\n".join(["file,scan of it,none,mixed,label", *lines, "199.png,,,no picture,x.jpg"])
    (tmp_path / "data/in.csv").write_text(text + "\n")
    told = convert(tmp_path / "data/in.csv", tmp_path / "out").warnings
    assert [(each.split(" holds")[0], each.split("; ")[1]) for each in told] == [
        ("the column 'file'", "--image-column file reads the pictures"),
        ("the column 'scan of it'", "--image-column 'scan of it' reads the pictures"),
        ("the column 'none'", "--image-column none reads the pictures"),
    ]
    done = convert(tmp_path / "data/in.csv", tmp_path / "more", Convert(image_column="file"))
    assert (done.warnings, done.columns["image"]) == ([], "binary")


def test_features_that_leave_no_target_are_warned_of(tmp_path):
    (tmp_path / "in.csv").write_text("a,b,price\n1,2,3\n4,5,6\n")
    [told] = convert(tmp_path / "in.csv", tmp_path / "one", Convert(features=("all",))).warnings
    assert "(a, b, price)" in told
    assert "--label-column NAME" in told
    chosen = Convert(features=("all",), label_column="price")
    assert convert(tmp_path / "in.csv", tmp_path / "two", chosen).warnings == []


def test_rows_of_a_csv_that_lack_a_label_or_cells_are_problems(tmp_path):
    (tmp_path / "in.csv").write_text("a,label\n1,x\n2,\n3\n4,y\n")
    with pytest.raises(DataError):
        convert(tmp_path / "in.csv", tmp_path / "out")
    done = convert(tmp_path / "in.csv", tmp_path / "out", SKIP)
    assert sorted(rows(tmp_path / "out")["a"].to_pylist()) == [1, 4]
    assert len(done.skipped) == 2


def test_text_ids_become_numbers_and_stay_beside_them(tmp_path):
    (tmp_path / "in.csv").write_text("id,a\nx1,1\nx2,2\n")
    convert(tmp_path / "in.csv", tmp_path / "out")
    table = rows(tmp_path / "out").to_pydict()
    assert sorted(table["id_text"]) == ["x1", "x2"]
    assert len(set(table["id"])) == 2
    assert min(table["id"]) >= 0


@pytest.mark.parametrize(
    ("text", "chosen", "message"),
    [
        ("a,a\n1,2\n", {}, "stands twice"),
        ("id,a\n1,2\n1,3\n", {}, "the id 1 names two rows"),
        ("a,b\n1,2\n", {"label_column": "c"}, "--label-column c"),
        ("a,b\n1,x\n", {"features": ("a", "b")}, "holds text"),
        ("a,b\n", {}, "no row could be used, it holds none"),
        ("a,b\n\xff\xfe,1\n", {}, "UTF-8"),
    ],
)
def test_a_csv_that_cannot_be_used_is_refused(tmp_path, text, chosen, message):
    (tmp_path / "in.csv").write_bytes(text.encode("latin-1"))
    with pytest.raises(DataError, match=message):
        convert(tmp_path / "in.csv", tmp_path / "out", Convert(**chosen))
    assert left_behind(tmp_path) == ["in.csv"]


def test_parquet_is_written_again_in_another_order_with_all_it_knew(tmp_path):
    convert(write(tmp_path / "in", classes_of_pictures()), tmp_path / "one")
    table = rows(tmp_path / "one").sort_by("label")
    pq.write_table(table.drop_columns(["id"]), tmp_path / "sorted.parquet", row_group_size=30)
    done = convert(tmp_path / "sorted.parquet", tmp_path / "two")
    again = rows(tmp_path / "two")
    assert sorted(again["id"].to_pylist()) == list(range(90))
    by_path = [each.sort_by("path").drop_columns(["id"]) for each in (table, again)]
    assert by_path[0].equals(by_path[1])
    assert done.classes == ("cat", "dog", "emu")
    assert again["label"].to_pylist() != sorted(again["label"].to_pylist())


def test_what_cannot_be_converted_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such file"):
        convert(tmp_path / "none", tmp_path / "out")
    write(tmp_path, {"a.xml": "x", "empty/readme.txt": "x"})
    with pytest.raises(ValueError, match="cannot be converted"):
        convert(tmp_path / "a.xml", tmp_path / "out")
    with pytest.raises(DataError, match="no picture"):
        convert(tmp_path / "empty", tmp_path / "out")
    write(tmp_path / "in", classes_of_pictures(1))
    with pytest.raises(ValueError, match="only a CSV has columns"):
        convert(tmp_path / "in", tmp_path / "out", Convert(features=("all",)))


@pytest.mark.parametrize(
    "wrong",
    [{"on_error": "ignore"}, {"file_mb": 0}, {"rows_per_group": 0}, {"seed": -1}],
)
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match=f"--{next(iter(wrong)).replace('_', '-')}"):
        Convert(**wrong)


def test_colour_and_size_of_all_pictures_are_noted_for_the_reader(tmp_path):
    files = {f"a/{i}.png": png(3) for i in range(70)} | {"b/z.png": png((1, 2, 3), mode="RGB")}
    convert(write(tmp_path / "in", files), tmp_path / "out")
    assert pq.read_schema(next(Path(tmp_path / "out").glob("*.parquet"))).field(
        "image"
    ).metadata == {b"shape": b"[8, 8, 3]"}
