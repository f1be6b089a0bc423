"""The flat array of a model's state: complete, exact, and only what training changes."""

import numpy as np
import pytest
import torch
from torch import nn

from raysb.nn.freeze import freeze, frozen_state, state_bytes, trained_state
from raysb.nn.lora import LowRank, add_lora
from raysb.weights import FlatState


class Mixed(nn.Module):
    """Every kind of tensor: odd sizes, several dtypes, tied, frozen, persistent and not."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 5, 3)
        self.norm = nn.BatchNorm2d(5)
        self.first = nn.Linear(7, 7, bias=False)
        self.second = nn.Linear(7, 7, bias=False)
        self.second.weight = self.first.weight
        self.frozen = nn.Linear(2, 2)
        self.frozen.requires_grad_(False)
        self.brain = nn.Parameter(torch.randn(3).to(torch.bfloat16))
        self.wide = nn.Parameter(torch.randn((), dtype=torch.float64))
        self.register_buffer("mask", torch.tensor([True, False, True]))
        self.register_buffer("empty", torch.zeros(0, 4))
        self.register_buffer("scratch", torch.randn(9), persistent=False)


def built(seed: int) -> Mixed:
    torch.manual_seed(seed)
    model = Mixed().to(memory_format=torch.channels_last)
    model.norm.running_mean.normal_()
    model.norm.num_batches_tracked += seed
    return model


def test_another_build_gets_exactly_the_trained_part_and_keeps_the_rest() -> None:
    source, target = built(1), built(2)
    frozen, scratch = target.frozen.weight.clone(), target.scratch.clone()
    flat = FlatState(source).pack()
    flat.setflags(write=False)  # as it comes out of the object store
    FlatState(target).unpack(flat)
    for name, tensor in source.state_dict().items():
        if not name.startswith("frozen"):
            assert torch.equal(target.state_dict()[name], tensor), name
    assert torch.equal(target.frozen.weight, frozen)
    assert torch.equal(target.scratch, scratch)
    assert target.first.weight is target.second.weight
    assert target.conv.weight.is_contiguous(memory_format=torch.channels_last)


def test_a_packed_array_is_a_copy_that_later_steps_do_not_change() -> None:
    model = built(1)
    state = FlatState(model)
    before = state.pack()
    kept = before.copy()
    with torch.no_grad():
        model.conv.weight.add_(1)
    np.testing.assert_array_equal(before, kept)
    assert not np.array_equal(state.pack(), kept)


def test_frozen_parameters_and_scratch_buffers_do_not_travel_and_tied_ones_go_once() -> None:
    names = trained_state(built(0)).keys()
    assert "first.weight" in names
    assert not names & {"second.weight", "frozen.weight", "frozen.bias", "scratch"}
    assert {"norm.running_mean", "norm.num_batches_tracked", "mask", "brain", "wide"} <= names


def test_every_tensor_starts_at_an_aligned_offset_and_nbytes_is_the_whole() -> None:
    state = FlatState(built(0))
    assert state.nbytes % 64 == 0
    assert state.pack().nbytes == state.nbytes
    payload = sum(t.numel() * t.element_size() for t in trained_state(built(0)).values())
    assert payload <= state.nbytes <= payload + 64 * len(trained_state(built(0)))


def test_weights_of_another_model_are_refused_and_nothing_changes() -> None:
    model = built(0)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(ValueError, match="do not fit"):
        FlatState(model).unpack(FlatState(nn.Linear(2, 2)).pack())
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


class Centred(nn.Module):
    """Puts another tensor in its buffer's place, as the centre of DINO's teacher."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("center", torch.zeros(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.center = 0.9 * self.center + 0.1 * x.mean(0)
        return x - self.center


def test_a_buffer_that_the_forward_pass_replaces_is_published_as_it_is_and_taken_over() -> None:
    source, target = Centred(), Centred()
    out, into = FlatState(source), FlatState(target)
    for _ in range(3):
        source(torch.ones(2, 3))
        target(torch.full((2, 3), -1.0))
        into.unpack(out.pack())
        assert torch.equal(target.center, source.center)
    torch.testing.assert_close(source.center, torch.full((3,), 1 - 0.9**3))


def test_unpacking_into_a_model_under_training_keeps_its_gradients_usable() -> None:
    model = nn.Linear(3, 1)
    state = FlatState(model)
    flat = state.pack()
    model(torch.ones(2, 3)).sum().backward()
    state.unpack(flat)
    assert model.weight.requires_grad
    assert model.weight.grad is not None
    model(torch.ones(2, 3)).sum().backward()


def test_of_a_fine_tuned_model_the_trained_part_travels_and_the_rest_is_built() -> None:
    """The scorer builds from the same seed; adapters and head arrive, statistics do not move."""

    def built_and_frozen():
        model = built(1)
        add_lora(model, rank=2, target_modules=["conv", "frozen"], modules_to_save=["wide"])
        return model

    worker, scorer = built_and_frozen(), built_and_frozen()
    with torch.no_grad():
        for parameter in worker.parameters():
            if parameter.requires_grad:
                parameter.add_(1)
    worker.train().norm(torch.randn(8, 5, 3, 3))
    state = FlatState(worker)
    FlatState(scorer).unpack(state.pack())
    assert all(torch.equal(v, scorer.state_dict()[k]) for k, v in worker.state_dict().items())
    assert trained_state(worker).keys() == {"wide", "mask"} | {  # the module of both is trained
        f"{layer}.lora.{ab}.weight" for layer in ("conv", "frozen") for ab in "AB"
    }
    sizes = state_bytes(worker)
    assert sizes["weights/published_bytes"] <= state.nbytes  # that much, each tensor aligned
    assert state.nbytes < sizes["weights/published_bytes"] + 64 * len(trained_state(worker))
    assert sizes["weights/total_bytes"] == sum(
        t.numel() * t.element_size()
        for state in (trained_state(worker), frozen_state(worker))
        for t in state.values()
    )
    assert sum(isinstance(m, LowRank) for m in worker.modules()) == 2


def test_statistics_of_a_frozen_norm_are_not_published_and_those_of_a_trained_one_are() -> None:
    model = built(0)
    assert "norm.running_mean" in trained_state(model)
    freeze(model, ["norm"])
    assert not any(name.startswith("norm") for name in trained_state(model))
    assert {"norm.running_mean", "norm.running_var", "norm.num_batches_tracked"} <= frozen_state(
        model
    ).keys()
