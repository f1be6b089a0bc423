"""A pickle in place of any file is refused, and what it would do is not done."""

import io
import os
import pickle
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from kinds import KINDS, net
from safetensors import SafetensorError

from raysb.errors import DataError, ModelError, RunDirectoryError
from raysb.inspect_history.records import read_history
from raysb.models import load_model
from raysb.nn.pretrained import load_weights
from raysb.scan.weights import build_with
from raysb.source.convert import convert
from raysb.source.irreducible import IrreducibleLosses
from raysb.source.parquet import ParquetSource
from raysb.source.settings import Data
from raysb.training import checkpoint

REFUSED = (
    *(ValueError, OSError, RuntimeError, EOFError, KeyError, TypeError),
    *(pickle.UnpicklingError, SafetensorError, RunDirectoryError),
)
CHECKPOINT = Path("checkpoint_000000007")


class Payload:
    """Makes a folder when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.target),)


def plain(payload: Payload) -> bytes:
    return pickle.dumps({"model": payload})


def by_torch(payload: Payload) -> bytes:
    stream = io.BytesIO()
    torch.save({"version": 1, "model": payload}, stream)
    return stream.getvalue()


def by_old_torch(payload: Payload) -> bytes:
    stream = io.BytesIO()
    torch.save({"version": 1, "rng": payload}, stream, _use_new_zipfile_serialization=False)
    return stream.getvalue()


def by_numpy(payload: Payload) -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.array([payload], object), allow_pickle=True)
    return stream.getvalue()


def by_numpy_zipped(payload: Payload) -> bytes:
    stream = io.BytesIO()
    np.savez(stream, **{"/history/id": np.array([payload], object)})
    return stream.getvalue()


PICKLES = [plain, by_torch, by_old_torch, by_numpy, by_numpy_zipped]


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """The folder that no payload may make."""
    return tmp_path / "the payload has run"


@pytest.mark.parametrize("pickled", [plain, by_torch, by_old_torch])
def test_the_payloads_are_real(pickled: Callable[[Payload], bytes], target: Path) -> None:
    """What is refused below would have run, had anybody trusted it."""
    stream = io.BytesIO(pickled(Payload(target)))
    if pickled is plain:
        pickle.load(stream)
    else:
        torch.load(stream, weights_only=False)
    assert target.is_dir()


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("pickled", PICKLES)
@pytest.mark.parametrize("file", ["train.pt", "stream.json", "history.npz", "model.safetensors"])
def test_a_checkpoint_with_a_pickle_in_it_is_refused(
    tmp_path: Path, target: Path, file: str, pickled: Callable[[Payload], bytes]
) -> None:
    KINDS["checkpoint"].make(tmp_path)
    folder = tmp_path / CHECKPOINT
    checkpoint.load(folder, model=net())  # sound until now
    (folder / file).write_bytes(pickled(Payload(target)))
    with pytest.raises(REFUSED):
        checkpoint.load(folder, model=net())
    assert not target.exists()


@pytest.mark.parametrize("pickled", PICKLES)
@pytest.mark.parametrize("file", ["stream.json", "history.npz"])
def test_a_history_with_a_pickle_in_it_is_refused_by_name(
    tmp_path: Path, target: Path, file: str, pickled: Callable[[Payload], bytes]
) -> None:
    KINDS["history"].make(tmp_path)
    (tmp_path / CHECKPOINT / file).write_bytes(pickled(Payload(target)))
    with pytest.raises(RunDirectoryError, match=str(CHECKPOINT)):
        read_history(tmp_path)
    assert not target.exists()


def test_one_pickled_array_among_sound_ones_is_refused(tmp_path: Path, target: Path) -> None:
    KINDS["history"].make(tmp_path)
    file = tmp_path / CHECKPOINT / "history.npz"
    with zipfile.ZipFile(file, "a") as archive:
        name = archive.namelist()[0]
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr(name, by_numpy(Payload(target)))
    with pytest.raises(RunDirectoryError, match="cannot be read"):
        read_history(tmp_path)
    assert not target.exists()


@pytest.mark.parametrize("pickled", PICKLES)
def test_weights_that_are_a_pickle_are_refused_by_name(
    tmp_path: Path, target: Path, pickled: Callable[[Payload], bytes]
) -> None:
    KINDS["weights of a run"].make(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(pickled(Payload(target)))
    for read in (
        lambda: load_weights(net(), weights),  # model.init
        lambda: load_model(tmp_path),
        lambda: load_model(tmp_path, model=net),
        lambda: build_with(net, weights),  # raysb score
        lambda: build_with(net, tmp_path),
    ):
        with pytest.raises(ModelError, match=r"model\.safetensors"):
            read()
    assert not target.exists()


@pytest.mark.parametrize("pickled", PICKLES)
def test_data_that_are_a_pickle_are_refused_by_name(
    tmp_path: Path, target: Path, pickled: Callable[[Payload], bytes]
) -> None:
    file = tmp_path / "rows.parquet"
    file.write_bytes(pickled(Payload(target)))
    data = Data(inputs=("x",))
    for read in (
        lambda: ParquetSource(str(file), data=data),
        lambda: IrreducibleLosses.load(file),
        lambda: convert(file, tmp_path / "out"),
    ):
        with pytest.raises(DataError, match=r"rows\.parquet"):
            read()
    assert not target.exists()


def test_pickles_in_an_archive_are_not_rows(tmp_path: Path, target: Path) -> None:
    content = plain(Payload(target))
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for name in ("d/1.pkl", "d/2.png", "d/3.pth"):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    with pytest.raises(DataError, match=r"d/2\.png: .*neither PNG nor JPEG"):
        convert(tmp_path / "a.tar", tmp_path / "out")
    assert not target.exists()
    assert [path.name for path in tmp_path.iterdir()] == ["a.tar"]
