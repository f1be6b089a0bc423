"""A parquet file cannot run code through the types that its metadata name (CVE-2026-41486)."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from ray import cloudpickle

from raysb.errors import DataError
from raysb.source.convert import convert
from raysb.source.dataset import DatasetSource  # it registers Ray's types with Arrow, as readers do
from raysb.source.footer import UNPICKLES
from raysb.source.inspection import inspect
from raysb.source.parquet import ParquetSource
from raysb.source.settings import Data

assert DatasetSource
DATA = Data(inputs=("x",), num_readers=0)
TENSORS = [
    "ray.data.arrow_tensor",
    "ray.data.arrow_tensor_v2",
    "ray.data.arrow_variable_shaped_tensor",
]


class Payload:
    """Makes a folder when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.target),)


def storage(name: str) -> pa.Array:
    """What lies under each of Ray's types."""
    rows = [[float(i)] * 4 for i in range(12)]
    if name == TENSORS[2]:
        kind = pa.struct([("data", pa.list_(pa.float64())), ("shape", pa.list_(pa.int64()))])
        return pa.array([{"data": row, "shape": [2, 2]} for row in rows], kind)
    large = name == TENSORS[1]
    return pa.array(rows, pa.large_list(pa.float64()) if large else pa.list_(pa.float64()))


def write(path: Path, name: str, metadata: bytes, column: str = "x") -> str:
    """A file with a column of a named extension type, made without that type."""
    values = storage(name)
    field = pa.field(
        column,
        values.type,
        metadata={"ARROW:extension:name": name, "ARROW:extension:metadata": metadata},
    )
    label, x = pa.array(np.arange(12) % 2), pa.array(np.arange(12.0))
    fields, columns = [field, pa.field("label", label.type)], [values, label]
    if column != "x":
        fields, columns = [*fields, pa.field("x", x.type)], [*columns, x]
    pq.write_table(pa.table(columns, schema=pa.schema(fields)), path)
    return str(path)


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """The folder that no payload may make."""
    return tmp_path / "the payload has run"


def test_the_payload_is_real(target: Path) -> None:
    cloudpickle.loads(cloudpickle.dumps(Payload(target)))
    assert target.is_dir()


@pytest.mark.parametrize("column", ["x", "not read by the run"])
@pytest.mark.parametrize("name", TENSORS)
def test_a_pickle_in_the_metadata_of_a_type_is_refused_by_name(
    tmp_path: Path, target: Path, name: str, column: str
) -> None:
    path = write(tmp_path / "evil.parquet", name, cloudpickle.dumps(Payload(target)), column)
    for read in (
        lambda: ParquetSource(path, data=DATA),
        lambda: inspect(path),
        lambda: convert(path, tmp_path / "out"),
    ):
        with pytest.raises(DataError, match=r"evil\.parquet"):
            read()
    assert not target.exists()
    assert [each.name for each in tmp_path.iterdir()] == ["evil.parquet"]


@pytest.mark.parametrize("name", TENSORS)
def test_ray_s_own_types_are_refused_also_where_they_are_sound(tmp_path: Path, name: str) -> None:
    sound = json.dumps(2 if name == TENSORS[2] else [2, 2]).encode()
    path = write(tmp_path / "tensors.parquet", name, sound)
    message = rf"tensors\.parquet: the column 'x' is of Ray's own type {name}, .*pa\.list_"
    with pytest.raises(DataError, match=message):
        ParquetSource(path, data=DATA)
    with pytest.raises(DataError, match=message):
        convert(path, tmp_path / "out")


WITHOUT_RAY = """
import sys
from raysb.source.parquet import ParquetSource
from raysb.source.settings import Data
try:
    ParquetSource(sys.argv[1], data=Data(inputs=("x",)))
except ValueError as error:
    sys.stdout.write(f"{type(error).__name__}: {error}")
assert "ray" not in sys.modules
"""


def test_without_ray_the_same_file_is_refused_with_the_same_words(
    tmp_path: Path, target: Path
) -> None:
    path = write(tmp_path / "evil.parquet", TENSORS[1], cloudpickle.dumps(Payload(target)))
    command = [sys.executable, "-c", WITHOUT_RAY, path]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "DataError" in said
    assert "the column 'x' is of Ray's own type ray.data.arrow_tensor_v2" in said
    assert not target.exists()


READER = """
import sys
from ray import cloudpickle
import ray.data
source = cloudpickle.loads(open(sys.argv[1], "rb").read())
try:
    source.read(None, 0, 4)
except ValueError as error:
    sys.stdout.write(f"{type(error).__name__}: {error}")
"""


def test_a_reader_s_process_refuses_a_file_that_was_exchanged_after_the_start(
    tmp_path: Path, target: Path
) -> None:
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"x": np.arange(12.0), "label": np.arange(12) % 2}), path)
    sent = tmp_path / "source"  # what Ray sends to a reader: it has Ray's types registered
    sent.write_bytes(cloudpickle.dumps(ParquetSource(str(path), data=DATA)))
    write(path, TENSORS[1], cloudpickle.dumps(Payload(target)))
    command = [sys.executable, "-c", READER, str(sent)]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "DataError" in said
    assert f"{path}: row group 0 cannot be read" in said
    assert not target.exists()


@pytest.mark.parametrize("value", ["1", "true", "yes"])
def test_the_variable_that_lets_ray_unpickle_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"x": np.arange(12.0), "label": np.arange(12) % 2}), path)
    monkeypatch.setenv(UNPICKLES, value)
    with pytest.raises(ValueError, match=rf"{UNPICKLES}={value}: .*Unset it"):
        ParquetSource(str(path), data=DATA)
    monkeypatch.setenv(UNPICKLES, "0")
    assert ParquetSource(str(path), data=DATA).num_rows == 12


def test_a_type_that_nobody_knows_is_read_as_what_lies_under_it(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", "nobody.knows", b"\x80\x04whatever")
    rows = ParquetSource(path, data=DATA).read(None, 0, 12)["x"]
    assert [row.tolist() for row in rows] == [[float(i)] * 4 for i in range(12)]


def test_arrow_s_own_tensors_stay_readable(tmp_path: Path) -> None:
    kind = pa.fixed_shape_tensor(pa.float32(), [2, 2])
    flat = pa.FixedSizeListArray.from_arrays(pa.array(np.arange(48, dtype=np.float32)), 4)
    x = pa.ExtensionArray.from_storage(kind, flat)
    pq.write_table(pa.table({"x": x, "label": np.arange(12)}), tmp_path / "a.parquet")
    rows = ParquetSource(str(tmp_path / "a.parquet"), data=DATA).read(None, 0, 12)
    np.testing.assert_array_equal(rows["x"].ravel(), np.arange(48))
