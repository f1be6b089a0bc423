"""A checkpoint comes back bit for bit, holds no code, and is whole or absent."""

import json
import os
import pickle
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from raysb.training import checkpoint


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Embedding(11, 6)
        self.norm = nn.BatchNorm1d(6)
        self.decoder = nn.Linear(6, 11, bias=False)
        self.decoder.weight = self.encoder.weight

    def forward(self, tokens):
        return self.decoder(self.norm(self.encoder(tokens)))


def trained(steps=3):
    torch.manual_seed(steps)
    model = Tied()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    for _ in range(steps):
        loss = model(torch.randint(11, (8,))).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model, optimizer


def parts(model, optimizer):
    return {
        "model": model,
        "learner": {"optimizer": optimizer.state_dict(), "base_lrs": [0.01]},
        "stream": {
            "cursor": [3, [5, 7]],
            "num_steps": np.int64(12),
            "ledger": {"ring": {"losses": np.arange(5, dtype=np.float32)}, "none": None},
        },
        "history": {"ids": np.arange(4), "empty": np.zeros((0, 2)), "nested": [np.ones(2), "x"]},
    }


def test_everything_comes_back_bit_for_bit_with_tied_weights_still_tied(tmp_path) -> None:
    model, optimizer = trained()
    checkpoint.save(tmp_path, **parts(model, optimizer))
    other, fresh = Tied(), torch.optim.AdamW
    loaded = checkpoint.load(tmp_path, model=other)
    assert other.encoder.weight is other.decoder.weight
    assert all(torch.equal(v, other.state_dict()[k]) for k, v in model.state_dict().items())
    again = fresh(other.parameters(), lr=0.5)
    again.load_state_dict(loaded["learner"]["optimizer"])
    for first, second in zip(
        optimizer.state_dict()["state"].values(), again.state_dict()["state"].values(), strict=True
    ):
        assert all(torch.equal(first[k], second[k]) for k in first)
    stream, history = loaded["stream"], loaded["history"]
    assert stream["cursor"] == [3, [5, 7]]
    assert stream["num_steps"] == 12
    assert stream["ledger"]["none"] is None
    assert stream["ledger"]["ring"]["losses"].dtype == np.float32
    np.testing.assert_array_equal(stream["ledger"]["ring"]["losses"], np.arange(5))
    assert history["empty"].shape == (0, 2)
    assert history["nested"][0].tolist() == [1, 1]
    assert history["nested"][1] == "x"


def test_every_file_loads_without_unpickling(tmp_path) -> None:
    checkpoint.save(tmp_path, **parts(*trained()))
    torch.load(tmp_path / "train.pt", weights_only=True)
    with np.load(tmp_path / "history.npz", allow_pickle=False) as arrays:
        assert all(array.dtype != object for array in arrays.values())
    json.loads((tmp_path / "stream.json").read_text())
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "history.npz",
        "model.safetensors",
        "stream.json",
        "train.pt",
    ]


class Bomb:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self):
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize("file", ["train.pt", "history.npz"])
def test_code_hidden_in_a_checkpoint_is_refused_and_never_runs(tmp_path, file) -> None:
    folder, target = tmp_path / "checkpoint", tmp_path / "hacked"
    checkpoint.save(folder, **parts(*trained()))
    if file == "train.pt":
        torch.save({"version": 1, "rng": Bomb(target)}, folder / file)
    else:
        with np.load(folder / file) as arrays:
            kept = dict(arrays)
        name = next(iter(kept))
        np.savez(folder / file, **kept | {name: np.array([Bomb(target)], object)})
    with pytest.raises((pickle.UnpicklingError, ValueError)):
        checkpoint.load(folder, model=Tied())
    assert not target.exists()


@pytest.mark.parametrize("file", ["train.pt", "stream.json"])
def test_a_checkpoint_of_another_version_is_refused_by_name(tmp_path, file) -> None:
    checkpoint.save(tmp_path, **parts(*trained()))
    if file == "train.pt":
        torch.save(torch.load(tmp_path / file, weights_only=True) | {"version": 9}, tmp_path / file)
    else:
        tree = json.loads((tmp_path / file).read_text())
        (tmp_path / file).write_text(json.dumps(tree | {"version": 9}))
    with pytest.raises(ValueError, match=rf"{file} has version 9"):
        checkpoint.load(tmp_path, model=Tied())


def test_a_checkpoint_that_fails_half_way_is_never_seen(tmp_path) -> None:
    model, optimizer = trained()
    broken = parts(model, optimizer) | {"history": {"bad": object()}}  # not JSON: fails last
    with pytest.raises(TypeError):
        checkpoint.save_atomically(tmp_path / "checkpoint_1", **broken)
    assert list(tmp_path.iterdir()) == []
    checkpoint.save_atomically(tmp_path / "checkpoint_1", **parts(model, optimizer))
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint_1"]


def test_a_step_that_is_saved_again_replaces_its_checkpoint(tmp_path) -> None:
    folder = tmp_path / "checkpoint_1"
    checkpoint.save_atomically(folder, **parts(*trained(1)))
    model, optimizer = trained(2)
    checkpoint.save_atomically(folder, **parts(model, optimizer))
    other = Tied()
    checkpoint.load(folder, model=other)
    assert torch.equal(other.encoder.weight, model.encoder.weight)
    with pytest.raises(TypeError):
        checkpoint.save_atomically(folder, **parts(*trained(3)) | {"history": {"bad": object()}})
    checkpoint.load(folder, model=other)
    assert torch.equal(other.encoder.weight, model.encoder.weight)
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint_1"]


def test_others_may_read_a_checkpoint_as_they_may_any_new_folder(tmp_path) -> None:
    checkpoint.save_atomically(tmp_path / "checkpoint_1", **parts(*trained()))
    (tmp_path / "plain").mkdir()
    assert (tmp_path / "checkpoint_1").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_the_random_numbers_go_on_where_they_were(tmp_path) -> None:
    checkpoint.save(tmp_path, **parts(*trained()))
    expected = torch.rand(3), random.random(), random.gauss(0, 1)
    torch.manual_seed(99)
    random.seed(99)
    checkpoint.set_rng_state(checkpoint.load(tmp_path, model=Tied())["learner"]["rng"])
    assert torch.equal(torch.rand(3), expected[0])
    assert (random.random(), random.gauss(0, 1)) == expected[1:]
