"""A checkpoint comes back bit for bit, holds no code, and is whole or absent."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from raysb.errors import ModelError, RunDirectoryError
from raysb.nn.freeze import freeze
from raysb.nn.lora import add_lora
from raysb.training import checkpoint
from raysb.training.generators import rng_state, set_rng_state


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
        "learner": {
            "optimizer": optimizer.state_dict(),
            "base_lrs": [0.01],
            "rngs": [rng_state()],
        },
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
    with pytest.raises(RunDirectoryError, match=file) as caught:
        checkpoint.load(folder, model=Tied())
    assert "weights_only" not in str(caught.value)  # torch's advice would run it
    assert not target.exists()


@pytest.mark.parametrize("file", ["train.pt", "stream.json"])
def test_a_checkpoint_of_another_version_is_refused_by_name(tmp_path, file) -> None:
    checkpoint.save(tmp_path, **parts(*trained()))
    if file == "train.pt":
        torch.save(torch.load(tmp_path / file, weights_only=True) | {"version": 9}, tmp_path / file)
    else:
        tree = json.loads((tmp_path / file).read_text())
        (tmp_path / file).write_text(json.dumps(tree | {"version": 9}))
    with pytest.raises(RunDirectoryError, match=rf"{file} has version 9"):
        checkpoint.load(tmp_path, model=Tied())


# --- parts that are frozen ------------------------------------------------------------------------


def tuned(seed=1, adapt=False, steps=3):
    """A net whose first layer is frozen, or which learns adapters and its last layer."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(6, 40), nn.BatchNorm1d(40), nn.Tanh(), nn.Linear(40, 2))
    if adapt:
        add_lora(model, rank=2, modules_to_save=["3"])
    else:
        freeze(model, ["0", "1"])
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.1)
    advance(model, optimizer, steps)
    return model, optimizer


def advance(model, optimizer, steps):
    for _ in range(steps):
        loss = model(torch.randn(8, 6)).square().sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


@pytest.mark.parametrize("adapt", [False, True])
def test_training_goes_on_bit_for_bit_from_a_checkpoint_of_the_trained_part(
    tmp_path, adapt
) -> None:
    model, optimizer = tuned(adapt=adapt)
    checkpoint.save(tmp_path, **parts(model, optimizer))
    other, fresh = tuned(adapt=adapt, steps=0)
    loaded = checkpoint.load(tmp_path, model=other)["learner"]
    fresh.load_state_dict(loaded["optimizer"])
    for each, its in ((model, optimizer), (other, fresh)):
        set_rng_state(loaded["rngs"][0])
        advance(each.train(), its, 4)
    assert all(torch.equal(v, other.state_dict()[k]) for k, v in model.state_dict().items())


@pytest.mark.parametrize("adapt", [False, True])
def test_only_the_trained_part_is_in_the_file_and_in_the_optimizer(tmp_path, adapt) -> None:
    model, optimizer = tuned(adapt=adapt)
    checkpoint.save(tmp_path, **parts(model, optimizer))
    names = {"3.weight", "3.bias"} | ({"0.lora.A.weight", "0.lora.B.weight"} if adapt else set())
    assert load_file(tmp_path / checkpoint.MODEL).keys() == names
    saved = torch.load(tmp_path / "train.pt", weights_only=True)["optimizer"]["state"]
    assert len(saved) == len(names)


def test_another_frozen_part_is_refused_and_nothing_is_loaded(tmp_path) -> None:
    checkpoint.save_trained(tuned(seed=1)[0], tmp_path / "model.safetensors")
    other, _ = tuned(seed=2, steps=0)
    before = {k: v.clone() for k, v in other.state_dict().items()}
    with pytest.raises(ModelError, match=r"frozen part is not the one .* model\.init"):
        checkpoint.load_trained(other, tmp_path / "model.safetensors")
    assert all(torch.equal(v, before[k]) for k, v in other.state_dict().items())


def test_a_moved_statistic_of_a_frozen_norm_is_noticed_too(tmp_path) -> None:
    model, _ = tuned()
    checkpoint.save_trained(model, tmp_path / "model.safetensors")
    model[1].running_mean[7] += 1e-6
    with pytest.raises(ModelError, match="frozen part is not the one"):
        checkpoint.load_trained(model, tmp_path / "model.safetensors")


def test_a_model_with_another_trained_part_is_refused_by_name(tmp_path) -> None:
    checkpoint.save_trained(tuned()[0], tmp_path / "model.safetensors")
    with pytest.raises(ModelError, match=r"0\.lora\.A\.weight, 0\.lora\.B\.weight differ"):
        checkpoint.load_trained(tuned(adapt=True)[0], tmp_path / "model.safetensors")


@pytest.mark.parametrize("adapt", [False, True])
def test_the_exported_file_is_the_whole_plain_model_with_the_same_outputs(tmp_path, adapt) -> None:
    model, optimizer = tuned(adapt=adapt)
    checkpoint.save(tmp_path / "checkpoint", **parts(model, optimizer))
    whole = tmp_path / "whole.safetensors"
    checkpoint.export(lambda: tuned(adapt=adapt, steps=0)[0], tmp_path / "checkpoint", whole)
    plain = nn.Sequential(nn.Linear(6, 40), nn.BatchNorm1d(40), nn.Tanh(), nn.Linear(40, 2))
    plain.load_state_dict(load_file(whole))
    assert checkpoint.frozen_digest(whole) is None
    x = torch.randn(5, 6)
    torch.testing.assert_close(plain.eval()(x), model.eval()(x), rtol=1e-5, atol=1e-6)


def test_without_frozen_parts_the_exported_file_is_the_checkpoint_s_own(tmp_path) -> None:
    checkpoint.save(tmp_path / "checkpoint", **parts(*trained()))
    checkpoint.export(Tied, tmp_path / "checkpoint", tmp_path / "whole")
    own = tmp_path / "checkpoint" / checkpoint.MODEL
    assert (tmp_path / "whole").read_bytes() == own.read_bytes()
