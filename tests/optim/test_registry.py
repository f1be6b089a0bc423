from dataclasses import dataclass, field
from functools import partial

import pytest
import torch
from torch import nn

from raysb.optim import Ranger
from raysb.optim.registry import OPTIMIZERS, build_optimizer
from raysb.training.settings import Training


def make_model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))


def after_three_steps(make_optimizer):
    """Parameters after three steps on fixed data."""
    model = make_model()
    optimizer = make_optimizer(model)
    x = torch.randn(5, 4, generator=torch.Generator().manual_seed(1))
    for _ in range(3):
        optimizer.zero_grad()
        model(x).square().sum().backward()
        optimizer.step()
    return [p.detach() for p in model.parameters()]


def assert_same(ours, torchs):
    pairs = zip(after_three_steps(ours), after_three_steps(torchs), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


@dataclass
class Named:
    """Settings without the checks of `Training`, to show what the builder needs."""

    optimizer: str = "sgd"
    optimizer_args: dict = field(default_factory=dict)
    lr: float = 0.1


@pytest.mark.parametrize(
    ("name", "args", "expected"),
    [
        ("sgd", {}, partial(torch.optim.SGD, momentum=0.9, nesterov=True, weight_decay=5e-4)),
        (
            "sgd",
            {"momentum": 0.5},
            partial(torch.optim.SGD, momentum=0.5, nesterov=True, weight_decay=5e-4),
        ),
        ("sgd", {"momentum": 0.0, "weight_decay": 0.0}, torch.optim.SGD),
        (
            "sgd",
            {"dampening": 0.1},
            partial(torch.optim.SGD, momentum=0.9, dampening=0.1, weight_decay=5e-4),
        ),
        ("SGD", {}, torch.optim.SGD),
        ("adam", {}, torch.optim.Adam),
        ("adamw", {"betas": [0.8, 0.9]}, partial(torch.optim.AdamW, betas=(0.8, 0.9))),
        ("radam", {"eps": 1e-5}, partial(torch.optim.RAdam, eps=1e-5)),
        ("NAdam", {}, torch.optim.NAdam),
        ("ranger", {"betas": [0.9, 0.99], "k": 2}, partial(Ranger, betas=(0.9, 0.99), k=2)),
        ("raysb.optim:Ranger", {"use_gc": False}, partial(Ranger, use_gc=False)),
        ("torch.optim:Adagrad", {}, torch.optim.Adagrad),
    ],
)
def test_a_name_gives_torchs_optimizer(name, args, expected):
    settings = Training(optimizer=name, optimizer_args=args, lr=0.01)
    assert_same(
        lambda model: build_optimizer(model, settings),
        lambda model: expected(model.parameters(), lr=0.01),
    )


@pytest.mark.parametrize(
    "factory",
    [
        torch.optim.SGD,
        partial(torch.optim.SGD, lr=0.01),
        partial(partial(torch.optim.SGD, momentum=0.5), momentum=0.0),
        lambda model: torch.optim.SGD(model.parameters(), lr=0.01),
    ],
)
def test_classes_partials_and_functions_of_the_model_are_told_apart(factory):
    settings = Training(lr=0.01)
    assert_same(
        lambda model: build_optimizer(model, settings, factory),
        lambda model: torch.optim.SGD(model.parameters(), lr=0.01),
    )


class Callable:
    """A callable object without a name is a function of the model as well."""

    def __call__(self, model):
        return torch.optim.SGD(model[0].parameters(), lr=0.5)


def test_a_function_of_the_model_chooses_parameters_and_rates_by_itself():
    model = make_model()
    groups = build_optimizer(model, Training(lr=0.01), Callable()).param_groups
    assert [group["lr"] for group in groups] == [0.5]
    assert groups[0]["params"] == list(model[0].parameters())


def test_a_partial_of_a_function_is_called_with_the_model():
    def layered(model, lr):
        return torch.optim.SGD(
            [
                {"params": layer.parameters(), "lr": lr / (i + 1)}
                for i, layer in enumerate(model[::2])
            ]
        )

    groups = build_optimizer(make_model(), Training(), partial(layered, lr=0.2)).param_groups
    assert [group["lr"] for group in groups] == [0.2, 0.1]


def test_what_a_partial_says_wins_over_the_settings():
    settings = Training(lr=0.01, optimizer_args={"momentum": 0.1, "dampening": 0.2})
    factory = partial(torch.optim.SGD, lr=0.3, momentum=0.4)
    (group,) = build_optimizer(make_model(), settings, factory).param_groups
    assert (group["lr"], group["momentum"], group["dampening"]) == (0.3, 0.4, 0.2)


def test_frozen_parameters_are_left_out():
    model = make_model()
    model[0].requires_grad_(False)
    for factory in (None, torch.optim.SGD, partial(torch.optim.Adam, lr=0.1)):
        (group,) = build_optimizer(model, Training(), factory).param_groups
        assert [id(p) for p in group["params"]] == [id(p) for p in model[2].parameters()]


@pytest.mark.parametrize("factory", [None, Ranger, partial(partial(Ranger, k=3), alpha=0.8)])
def test_ranger_is_told_which_weights_are_an_embeddings_and_which_are_transposed(factory):
    model = nn.Sequential(nn.Embedding(4, 6), nn.ConvTranspose1d(6, 3, 2), nn.Linear(3, 2))
    settings = Training(optimizer="ranger", lr=0.01, optimizer_args={"gc_conv_only": True})
    groups = build_optimizer(model, settings, factory).param_groups
    told = {id(p): (g["use_gc"], g["gc_dim"], g["lr"]) for g in groups for p in g["params"]}
    expected = [(False, 0, 0.01), (True, 1, 0.01), *[(True, 0, 0.01)] * 3]
    assert [told[id(p)] for p in model.parameters()] == expected
    assert all(group["gc_conv_only"] for group in groups)


def test_a_model_without_trainable_parameters_is_refused():
    with pytest.raises(ValueError, match=r"Sequential has no parameter that requires a gradient"):
        build_optimizer(make_model().requires_grad_(False), Training())


@pytest.mark.parametrize(
    ("name", "args", "message"),
    [
        ("sdg", {}, r"train\.optimizer='sdg': unknown; did you mean 'sgd'"),
        ("rangr", {}, r"train\.optimizer='rangr': unknown; did you mean 'ranger'"),
        ("ranger", {"n": 1}, r"train\.optimizer_args\.n=1: an argument of Ranger unknown"),
        ("ranger", {"k": -1}, r"train\.optimizer_args=.*Ranger says: Invalid k: -1"),
        ("adam", {"momentum": 0.9}, r"train\.optimizer_args\.momentum=0\.9.*Adam.*betas"),
        ("sgd", {"momentun": 0.9}, r"train\.optimizer_args\.momentun.*did you mean 'momentum'"),
        ("sgd", {"momentum": -1.0}, r"train\.optimizer_args=.*SGD says: .*momentum"),
        ("sgd", {"lr": 0.1}, r"train\.optimizer_args\.lr=0\.1: is set by train\.lr"),
        ("LBFGS", {}, r"train\.optimizer='LBFGS': unknown"),
        ("math:nothing", {}, r"train\.optimizer='math:nothing'"),
    ],
)
def test_what_cannot_be_built_is_refused_with_its_key(name, args, message):
    with pytest.raises(ValueError, match=message):
        build_optimizer(make_model(), Named(optimizer=name, optimizer_args=args))


@pytest.mark.parametrize("factory", [lambda model: None, lambda model: model])
def test_a_function_that_returns_no_optimizer_is_refused(factory):
    with pytest.raises(TypeError, match=r"not a torch\.optim\.Optimizer"):
        build_optimizer(make_model(), Training(), factory)


def named_function(model, *, lr):
    return torch.optim.SGD(model.parameters(), lr=lr)


def test_an_import_path_to_a_function_is_called_with_model_and_arguments():
    settings = Training(optimizer=f"{__name__}:named_function", optimizer_args={"lr": 0.7})
    (group,) = build_optimizer(make_model(), settings).param_groups
    assert group["lr"] == 0.7


def test_the_table_holds_optimizers_only():
    assert "Optimizer" not in OPTIMIZERS
    assert all(issubclass(each, torch.optim.Optimizer) for each in OPTIMIZERS.values())
