"""A frozen part does not move, whatever mode the model is in, and is no part of what travels."""

import copy
import pickle

import pytest
import torch
from torch import nn

from raysb.nn.freeze import freeze, frozen_state, is_held, state_bytes, trained_state
from raysb.nn.registry import build_model
from raysb.nn.settings import Model
from raysb.optim.registry import build_optimizer
from raysb.training.settings import Training


def net(norm="batch", name="resnet18"):
    torch.manual_seed(0)
    args = {"width": 4} if name == "resnet18" else {}
    settings = Model(name=name, norm=norm, args=args)
    return build_model(settings, image_shape=(8, 8, 1), num_classes=3)


def step(model, optimizer, seed):
    torch.manual_seed(seed)
    images, labels = torch.randn(6, 1, 8, 8), torch.randint(3, (6,))
    loss = nn.functional.cross_entropy(model(images), labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def copied(state):
    return {name: tensor.clone() for name, tensor in state.items()}


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_training_moves_what_is_left_and_nothing_that_is_frozen(optimizer) -> None:
    model = net()
    freeze(model, ["stem", "stages.[01]", "stages.2.*"])
    before = copied(model.state_dict())
    training = Training(optimizer=optimizer, lr=0.1)
    chosen = build_optimizer(model, training)
    for seed in range(3):
        model.train()  # the whole model, as every loop does
        step(model, chosen, seed)
    moved = {k for k, v in model.state_dict().items() if not torch.equal(v, before[k])}
    assert moved
    assert all(name.startswith(("stages.3", "head")) for name in moved)
    assert any("running_mean" in name for name in moved)  # of the part that is trained
    held = {id(p) for group in chosen.param_groups for p in group["params"]}
    assert held == {
        id(p) for k, p in model.named_parameters() if k.startswith(("stages.3", "head"))
    }


def test_a_frozen_batch_norm_gives_what_evaluation_mode_gives() -> None:
    model = net()
    for seed in range(3):  # statistics that are no longer 0 and 1
        model(torch.randn(6, 1, 8, 8, generator=torch.Generator().manual_seed(seed)))
    freeze(model, ["stem", "stages"])
    images = torch.randn(5, 1, 8, 8)
    expected = model.eval()(images)
    assert torch.equal(model.train()(images), expected)
    assert torch.equal(model(images[:1]), model.eval()(images[:1]))


def test_batch_norm_whose_weight_and_bias_are_named_is_frozen_and_half_of_one_is_not() -> None:
    model = net()
    freeze(model, ["stem.1.weight"])
    assert not is_held(model.stem[1])
    freeze(model, ["stem.1.weight", "stem.1.bias"])
    assert is_held(model.stem[1])
    freeze(model, ["stem.1"])  # a second time changes nothing
    assert len(model.stem[1]._forward_pre_hooks) == 1


def test_batch_norm_without_parameters_is_frozen_by_its_own_name() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3, affine=False), nn.Linear(3, 1))
    freeze(model, ["1"])
    model.train()(torch.randn(8, 3))
    assert torch.equal(model[1].running_mean, torch.zeros(3))
    assert trained_state(model).keys() == {"0.weight", "0.bias", "2.weight", "2.bias"}


def test_dropout_in_a_frozen_part_follows_the_mode_of_the_model() -> None:
    model = nn.Sequential(nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.5)), nn.Linear(3, 1))
    freeze(model, ["0"])
    x = torch.ones(64, 3)
    assert (model.train()[0](x) == 0).any()
    assert (model.eval()[0](x) != 0).all()


def test_what_travels_is_the_rest_and_both_are_the_whole_state() -> None:
    model = net()
    freeze(model, ["stem", "stages"])
    trained, frozen = trained_state(model), frozen_state(model)
    assert trained.keys() == {"head.weight", "head.bias"}
    assert trained.keys() | frozen.keys() == model.state_dict().keys()
    whole = sum(t.numel() * t.element_size() for t in model.state_dict().values())
    head = (32 * 3 + 3) * 4  # resnet18 of width 4 ends with 32 channels
    assert state_bytes(model) == {
        "weights/published_bytes": head,
        "weights/total_bytes": whole,
    }
    assert state_bytes(net())["weights/published_bytes"] == whole


def test_a_tied_parameter_is_frozen_under_any_of_its_names() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 1))
    model[1].weight = model[0].weight
    freeze(model, ["1"])
    assert not model[0].weight.requires_grad
    assert model[0].bias.requires_grad
    assert "0.weight" in frozen_state(model)


@pytest.mark.parametrize("patterns", [["*"], ["stem", "stages", "head"]])
def test_to_freeze_everything_is_refused_and_changes_nothing(patterns) -> None:
    model = net()
    with pytest.raises(ValueError, match=r"model\.freeze=.*freezes every parameter of ResNet"):
        freeze(model, patterns)
    assert all(p.requires_grad for p in model.parameters())
    assert not any(map(is_held, model.modules()))


def test_a_misspelt_part_is_refused() -> None:
    with pytest.raises(ValueError, match=r"model\.freeze='stages\.4': matches no part"):
        freeze(net(), ["stem", "stages.4"])


@pytest.mark.parametrize("again", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_a_copy_is_frozen_too(again) -> None:
    model = net()
    freeze(model, ["stem"])
    other = again(model).train()
    other(torch.randn(4, 1, 8, 8))
    assert torch.equal(other.stem[1].running_mean, model.stem[1].running_mean)
    assert trained_state(other).keys() == trained_state(model).keys()
