"""Masks hold weights at 0 while the rest trains, as torch.nn.utils.prune does."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import clip_grad_norm_, prune

from raysb.prune.criteria import Masks
from raysb.prune.criteria.unstructured import least_first


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 10), nn.ReLU(), nn.Linear(10, 4))


def random_masks(model: nn.Module) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    return {name: torch.rand_like(model.get_submodule(name).weight) > 0.4 for name in ("0", "2")}


OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.1),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_training_under_masks_is_that_of_torchs_parametrisation(name) -> None:
    """With clipping: the norm of the gradient is that of the weights that stay."""
    ours = net()
    masks = Masks(random_masks(ours))
    theirs = copy.deepcopy(ours)
    for layer in ("0", "2"):
        prune.custom_from_mask(theirs.get_submodule(layer), "weight", masks[layer])
    optimizers = [OPTIMIZERS[name](model.parameters()) for model in (ours, theirs)]
    masks.hold(ours, optimizers[0])
    generator = torch.Generator().manual_seed(2)
    for _ in range(10):
        x = torch.randn(8, 6, generator=generator)
        y = torch.randint(0, 4, (8,), generator=generator)
        for model, optimizer in zip((ours, theirs), optimizers, strict=True):
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            clip_grad_norm_(model.parameters(), 0.5)
            optimizer.step()
    for layer in ("0", "2"):
        # the product with the mask, as of the next forward pass
        mine, other = ours.get_submodule(layer).weight, theirs.get_submodule(layer).weight_orig
        assert mine[~masks[layer]].eq(0).all()
        assert torch.allclose(mine[masks[layer]], other[masks[layer]], atol=1e-6)
    assert list(ours.state_dict()) == list(net().state_dict())


def test_weights_stay_0_even_where_momentum_is_from_before_the_masks() -> None:
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    masks = Masks(random_masks(model))
    release = None
    for step in range(4):
        if step == 2:
            release = masks.hold(model, optimizer)
        optimizer.zero_grad()
        model(torch.ones(3, 6)).square().sum().backward()
        optimizer.step()
    assert model[0].weight[~masks["0"]].eq(0).all()
    release()
    model(torch.ones(3, 6)).square().sum().backward()
    optimizer.step()
    assert not model[0].weight[~masks["0"]].eq(0).all()


def test_masks_are_saved_without_pickle(tmp_path) -> None:
    model = net()
    masks = Masks(random_masks(model))
    torch.save(masks.state_dict(), tmp_path / "masks.pt")
    again = Masks(torch.load(tmp_path / "masks.pt", weights_only=True))
    again.apply(model)
    assert model[2].weight[~masks["2"]].eq(0).all()
    assert again.density() == {n: masks[n].float().mean().item() for n in ("0", "2")}


@pytest.mark.parametrize("amount", [1, 7, 0.01, 0.5, 0.993])
def test_the_lowest_of_all_layers_go_in_the_number_that_torch_takes(amount) -> None:
    model = net()
    scores = {name: model.get_submodule(name).weight.detach().abs() for name in ("0", "2")}
    found = least_first(scores, amount)
    pairs = [(model.get_submodule(name), "weight") for name in scores]
    prune.global_unstructured(pairs, prune.L1Unstructured, amount=amount)
    for name in scores:
        assert torch.equal(found[name], model.get_submodule(name).weight_mask.bool())


def test_of_equal_scores_exactly_as_many_as_asked_go_and_the_first_ones() -> None:
    found = least_first({"a": torch.zeros(2, 2), "b": torch.zeros(3)}, 5)
    assert found["a"].tolist() == [[False, False], [False, False]]
    assert found["b"].tolist() == [False, True, True]


@pytest.mark.parametrize("amount", [0, 7, -1, 0.0, 1.0, 1.5, 0.01])
def test_an_amount_that_removes_nothing_or_everything_is_an_error(amount) -> None:
    with pytest.raises(ValueError, match="amount="):
        least_first({"a": torch.zeros(7)}, amount)


@pytest.mark.parametrize("amount", [True, "half", None])
def test_an_amount_that_is_no_number_is_an_error(amount) -> None:
    with pytest.raises(TypeError, match="amount="):
        least_first({"a": torch.zeros(7)}, amount)


def test_masks_that_do_not_fit_are_errors() -> None:
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(ValueError, match=r"layer '0' has a weight \[10, 6\], its mask is \[10\]"):
        Masks({"0": torch.ones(10, dtype=torch.bool)}).hold(model, optimizer)
    with pytest.raises(ValueError, match="no layer '7'"):
        Masks({"7": torch.ones(10, dtype=torch.bool)}).apply(model)
    with pytest.raises(TypeError, match=r"torch.float32; must be torch.bool"):
        Masks({"0": torch.ones(10, 6)})
