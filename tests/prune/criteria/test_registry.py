"""What every criterion keeps to, and how it is found by name."""

from dataclasses import FrozenInstanceError

import pytest
import torch
from torch import nn

from raysb.prune.criteria import CRITERIA, Criterion, collect, find_criterion
from raysb.prune.criteria.statistics import NEEDS

NAMES = list(CRITERIA)


def statistics(case, name: str):
    needs = CRITERIA[name].needs
    return collect(case.model, case.forward, case.loss, case.batches, needs)


def test_the_issue_s_criteria_are_there() -> None:
    assert set(NAMES) == {
        *("sum", "mean", "std", "l1", "l2", "fpgm", "apoz", "entropy", "taylor_act", "taylor"),
        *("obd", "obs", "fisher", "snip", "skeletonization", "random"),
    }


@pytest.mark.parametrize("name", NAMES)
def test_importance_is_one_finite_float_a_channel(case, name) -> None:
    criterion = find_criterion(name)
    assert (criterion.name, criterion.needs <= NEEDS) == (name, True)
    before = {k: v.clone() for k, v in case.model.state_dict().items()}
    found = criterion.importance(case.model, case.layers, statistics(case, name))
    assert {n: (v.shape, v.dtype, v.device.type) for n, v in found.items()} == {
        n: (torch.Size([c]), torch.float64, "cpu")
        for n, c in zip(case.layers, (4, 6, 3), strict=True)
    }
    assert all(v.isfinite().all() and not v.requires_grad for v in found.values())
    assert all(torch.equal(v, before[k]) for k, v in case.model.state_dict().items())


@pytest.mark.parametrize("name", [n for n in NAMES if n != "random"])
def test_channels_in_another_order_have_their_importance_in_that_order(case, name) -> None:
    """Whatever a criterion computes, it may not depend on the number of a channel."""
    criterion = find_criterion(name)
    first = criterion.importance(case.model, ["conv2"], statistics(case, name))["conv2"]
    order = torch.tensor([3, 1, 5, 0, 4, 2])
    model = case.model
    with torch.no_grad():
        model.conv2.weight.copy_(model.conv2.weight[order])
        for tensor in (*model.norm2.parameters(), *model.norm2.buffers()):
            if tensor.dim():
                tensor.copy_(tensor[order].clone())
        model.fc.weight.copy_(model.fc.weight[:, order])
    second = criterion.importance(model, ["conv2"], statistics(case, name))["conv2"]
    assert torch.allclose(first[order], second, rtol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_missing_statistics_are_named(case, name) -> None:
    criterion = find_criterion(name)
    if criterion.needs == {"weight"}:
        assert criterion.importance(case.model, ["fc"])
        return
    with pytest.raises(
        ValueError, match=f"{name}.importance.*=None.*needs {next(iter(criterion.needs))}"
    ):
        criterion.importance(case.model, ["fc"])
    wrong = {"gradient"} if "gradient" not in criterion.needs else {"activation"}
    other = collect(case.model, case.forward, case.loss, case.batches, wrong)
    with pytest.raises(ValueError, match="needs"):
        criterion.importance(case.model, ["fc"], other)


@pytest.mark.parametrize("name", [n for n in NAMES if n not in ("random", "apoz", "obs")])
def test_what_is_not_finite_is_an_error_that_names_the_layer(case, name) -> None:
    """APoZ counts zeros and random looks at nothing; OBS has an error of its own."""
    case.batch["x"][0] = torch.nan
    with torch.no_grad():
        case.model.conv1.weight[1, 0, 0, 0] = torch.inf
    found = statistics(case, name)
    with pytest.raises(ValueError, match=r"4? ?channels of layer 'conv1' is not finite"):
        find_criterion(name).importance(case.model, ["conv1"], found)


@pytest.mark.parametrize("name", NAMES)
def test_layers_that_are_not_there_are_named(case, name) -> None:
    with pytest.raises(ValueError, match=r"no layer 'conv9'.*did you mean"):
        find_criterion(name).importance(case.model, ["conv9"], statistics(case, name))
    with pytest.raises(ValueError, match="'norm2' is BatchNorm2d"):
        find_criterion(name).importance(case.model, ["norm2"], statistics(case, name))


@pytest.mark.parametrize("name", NAMES)
def test_criteria_are_frozen_and_take_keywords_only(name) -> None:
    criterion = find_criterion(name)
    assert criterion == find_criterion(name)
    with pytest.raises(FrozenInstanceError):
        criterion.bins = 3  # type: ignore[attr-defined]
    with pytest.raises(TypeError):
        CRITERIA[name](1)


@pytest.mark.parametrize(
    ("name", "args", "match"),
    [
        ("tailor", {}, "did you mean 'taylor'"),
        ("fisher", {"betta": 1}, "criterion_args.betta=1.*did you mean 'beta'"),
        ("fisher", {"beta": -1.0}, "beta=-1.0.*at least 0"),
        ("fisher", {"beta": "x"}, "beta='x'.*must be a finite number of at least 0"),
        ("fisher", {"beta": True}, "beta=True.*must be a finite number"),
        ("obs", {"damping": "1"}, "damping='1'.*must be a finite number above 0"),
        ("obs", {"damping": None}, "damping=None.*must be a finite number above 0"),
        ("entropy", {"bins": "8"}, "bins='8'.*whole number"),
        ("taylor", {"per": 3}, "per=3.*'batch' or 'row'"),
        ("entropy", {"bins": 1}, "bins=1.*at least 2"),
        ("obs", {"damping": 0.0}, "damping=0.0.*above 0"),
        ("taylor", {"per": "sample"}, "per='sample'.*'batch' or 'row'"),
        ("random", {"seed": 0.5}, "seed=0.5.*whole number"),
        ("no.such:thing", {}, "tried to import"),
    ],
)
def test_what_is_wrong_with_a_name_or_an_argument_is_told(name, args, match) -> None:
    with pytest.raises(ValueError, match=match):
        find_criterion(name, **args)


def test_a_criterion_of_one_s_own_is_found_by_its_path() -> None:
    found = find_criterion("raysb.prune.criteria.fisher:Fisher", beta=0.5)
    assert found == CRITERIA["fisher"](beta=0.5)
    with pytest.raises(TypeError, match="gave OrderedDict"):
        find_criterion("collections:OrderedDict")


def test_signed_criteria_come_with_a_caution() -> None:
    assert {name for name, each in CRITERIA.items() if each.caution} == {"sum", "mean"}
    assert isinstance(find_criterion("sum"), Criterion)


LAYERS = {
    "linear": (nn.Linear(3, 5), (6, 3)),
    "conv1d in groups": (nn.Conv1d(4, 6, 3, groups=2), (6, 4, 9)),
    "conv2d": (nn.Conv2d(3, 7, 3, stride=2, padding=1, padding_mode="circular"), (6, 3, 9, 9)),
    "conv3d": (nn.Conv3d(2, 5, 2, dilation=2), (6, 2, 5, 5, 5)),
    "transposed": (nn.ConvTranspose2d(4, 6, 3, stride=2, groups=2), (6, 4, 5, 5)),
}


@pytest.mark.parametrize(
    "name", ["l1", "l2", "taylor_act", "taylor", "fisher", "obd", "obs", "snip"]
)
@pytest.mark.parametrize("kind", LAYERS)
def test_a_channel_of_zeros_is_worth_least_in_layers_of_all_kinds(kind, name) -> None:
    """A filter and bias of 0: nothing is lost without it, whatever is lost with the others."""
    layer, shape = LAYERS[kind]
    torch.manual_seed(0)
    layer.reset_parameters()
    key = "weight", "bias"
    channels = len(layer.bias)
    with torch.no_grad():
        index = (slice(None), 1) if kind == "transposed" else (1,)
        for part, at in zip(key, (index, 1), strict=True):
            getattr(layer, part)[at] = 0
        if kind == "transposed":  # channel 1 of the first of two groups
            layer.weight[2:, 1] = 0.5
    model, x = nn.ModuleDict({"a": layer}), torch.randn(*shape)
    needs = CRITERIA[name].needs
    found = collect(
        model, lambda m, b: m["a"](b), lambda o, b: o.square().flatten(1).sum(1), [x], needs
    )
    importance = find_criterion(name).importance(model, ["a"], found)["a"]
    assert importance.shape == (channels,)
    assert importance[1] == 0
    assert (importance[[j for j in range(channels) if j != 1]] > 1e-12).all()
