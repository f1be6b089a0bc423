"""The bound of the gradient norm is that of autograd, bounds the true one, and leaves no trace."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.stats import spearmanr
from torch import nn
from torch.func import functional_call, grad, vmap
from torch.nn.utils.parametrizations import weight_norm

from raysb import losses
from raysb.errors import ModelError
from raysb.schema import Batch
from raysb.scoring.forward import score
from raysb.scoring.gradient_norm import GradientNormBound, last_module
from raysb.task import Task, inputs

ROWS, WIDTH, CLASSES = 150, 6, 5


def rows(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def labelled(classes: int = CLASSES) -> Batch:
    return {"x": rows(ROWS, WIDTH), "label": np.random.default_rng(1).integers(0, classes, ROWS)}


def bounds(model: nn.Module, batch: Batch, loss, at: str | None = None, dtype="float32", **args):
    task = Task(model=lambda: model, forward=args.pop("forward", inputs("x")), loss=loss, **args)
    return score(task, model, batch, by=GradientNormBound(at=at), dtype=dtype)


def mlp(*tail: nn.Module, inner: int = 16, out: int = CLASSES) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(WIDTH, inner), nn.ReLU(), nn.Linear(inner, out), *tail)


def norms_at(z: torch.Tensor, rest, batch: Batch) -> np.ndarray:
    """|| d loss_i / d z_i || in double precision, one backward pass per row."""
    z = z.detach().double().requires_grad_()
    batch = {k: torch.from_numpy(v) for k, v in batch.items()}
    found = []
    for i, value in enumerate(rest(z, batch)):
        (gradient,) = torch.autograd.grad(value, z, retain_graph=True)
        assert gradient.flatten(1).norm(dim=1).count_nonzero() <= 1  # of this row alone
        found.append(gradient[i].norm())
    return torch.stack(found).numpy()


@pytest.mark.parametrize("inplace", [False, True])
def test_a_net_that_ends_in_an_activation_is_taken_at_its_last_pre_activation(inplace) -> None:
    """Linear-ReLU-Linear-ReLU with squared error against z.grad, as the source defines G."""
    model, batch = mlp(nn.ReLU(inplace=inplace), out=3), {"x": rows(ROWS, WIDTH)}
    batch["label"] = rows(ROWS, 3, seed=1)
    z = model[2](model[1](model[0](torch.from_numpy(batch["x"])))).detach().requires_grad_()
    F.mse_loss(z.relu(), torch.from_numpy(batch["label"]), reduction="none").mean(
        1
    ).sum().backward()
    found = bounds(model, batch, losses.mse())
    np.testing.assert_allclose(found.scores, z.grad.norm(dim=1), rtol=1e-5, atol=1e-7)
    assert 0 < (found.scores == 0).sum() < ROWS  # where all units are off nothing is learned
    plain = score(Task(model=mlp, forward=inputs("x"), loss=losses.mse()), model, batch)
    np.testing.assert_allclose(found.losses, plain.losses, rtol=1e-6)
    named = bounds(model, batch, losses.mse(), at="2").scores
    np.testing.assert_array_equal(named, found.scores)
    assert not np.allclose(bounds(model, batch, losses.mse(), at="3").scores, found.scores)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
def test_cross_entropy_has_the_closed_form_of_softmax_minus_target(smoothing) -> None:
    model, batch = mlp(), labelled()
    loss = losses.cross_entropy(label_smoothing=smoothing)
    z = model(torch.from_numpy(batch["x"]))
    wanted = norms_at(
        z,
        lambda z, b: F.cross_entropy(z, b["label"], reduction="none", label_smoothing=smoothing),
        batch,
    )
    np.testing.assert_allclose(bounds(model, batch, loss).scores, wanted, rtol=1e-5, atol=1e-7)
    by_hand = z.softmax(1) - smoothing / CLASSES
    by_hand[range(ROWS), batch["label"]] -= 1 - smoothing
    found = by_hand.norm(dim=1).detach()
    np.testing.assert_allclose(bounds(model, batch, loss).scores, found, atol=1e-6)


def test_a_row_that_is_nearly_certain_keeps_the_relative_precision_of_its_bound() -> None:
    """1 - softmax in float32 is 0 from a logit of 17 on, and so would be the chance of the row."""
    batch = {"x": np.array([[20, 0, 1], [30, 0, 0]], np.float32), "label": np.array([0, 0])}
    wanted = []
    for others in ((np.exp(-20.0), np.exp(-19.0)), (np.exp(-30.0), np.exp(-30.0))):
        wanted.append(np.hypot(sum(others), np.hypot(*others)) / (1 + sum(others)))
    found = bounds(nn.Identity(), batch, losses.cross_entropy()).scores
    np.testing.assert_allclose(found, wanted, rtol=1e-6)


class Dense(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Conv2d(2, CLASSES, 3, padding=1)

    def forward(self, x):
        return self.body(x)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_dense_labels_count_the_gradient_of_all_their_positions(smoothing) -> None:
    torch.manual_seed(0)
    model, rng = Dense(), np.random.default_rng(2)
    batch = {"x": rows(70, 2, 4, 3), "label": rng.integers(0, CLASSES, (70, 4, 3))}
    wanted = norms_at(
        model(torch.from_numpy(batch["x"])),
        lambda z, b: F.cross_entropy(
            z, b["label"], reduction="none", label_smoothing=smoothing
        ).mean((1, 2)),
        batch,
    )
    found = bounds(model, batch, losses.cross_entropy(label_smoothing=smoothing)).scores
    np.testing.assert_allclose(found, wanted, rtol=1e-5)


@pytest.mark.parametrize("shift", [False, True])
def test_sequences_count_the_gradient_of_all_their_tokens_but_padding(shift) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(11, 8), nn.Linear(8, 11, bias=False))
    tokens = np.random.default_rng(3).integers(0, 11, (70, 9))
    for row, length in enumerate(np.random.default_rng(4).integers(1, 10, 70)):
        tokens[row, length:] = 10
    batch = {"x": np.where(tokens == 10, 0, tokens), "labels": np.where(tokens == 10, -100, tokens)}
    loss = losses.sequence_cross_entropy(shift=shift)

    def mean(z, b):
        z, wanted = (z[:, :-1], b["labels"][:, 1:]) if shift else (z, b["labels"])
        each = F.cross_entropy(z.transpose(1, 2), wanted, reduction="none", ignore_index=-100)
        return each.sum(1) / (wanted != -100).sum(1).clamp(min=1)

    wanted = norms_at(model(torch.from_numpy(batch["x"])), mean, batch)
    found = bounds(model, batch, loss).scores
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-8)
    assert (found > 0).sum() > 50


def as_dict(model, batch):
    return {"logits": model(batch["x"])}


@pytest.mark.parametrize(
    ("loss", "target", "same"),
    [
        (
            losses.soft_cross_entropy(),
            np.random.default_rng(5).dirichlet(np.ones(CLASSES), ROWS),
            lambda z, b: -(b["label"] * z.log_softmax(1)).sum(1),
        ),
        (
            losses.cross_entropy(label_smoothing=0.1),
            np.random.default_rng(5).dirichlet(np.ones(CLASSES), ROWS),
            lambda z, b: -((0.9 * b["label"] + 0.1 / CLASSES) * z.log_softmax(1)).sum(1),
        ),
        (
            losses.torch_loss("HuberLoss", delta=0.5),
            rows(ROWS, CLASSES),
            lambda z, b: F.huber_loss(z, b["label"].double(), reduction="none", delta=0.5).mean(1),
        ),
        (
            lambda z, b: (z["logits"].abs() * b["label"]).sum(1),
            rows(ROWS, CLASSES),
            lambda z, b: (z.abs() * b["label"]).sum(1),
        ),
    ],
    ids=["soft", "smoothed", "huber", "own"],
)
def test_every_other_loss_is_differentiated(loss, target, same) -> None:
    model, batch = mlp(), {"x": rows(ROWS, WIDTH), "label": target}
    wanted = norms_at(model(torch.from_numpy(batch["x"])), same, batch)
    found = bounds(model, batch, loss, forward=as_dict).scores
    np.testing.assert_allclose(found, wanted, rtol=2e-5, atol=1e-7)


@pytest.mark.parametrize("loss", [losses.cross_entropy(), losses.torch_loss("CrossEntropyLoss")])
def test_logits_that_are_squashed_are_taken_before_they_are(loss) -> None:
    """30 tanh(z / 30), as of some language models: the closed form would be at the wrong end."""

    class Capped(nn.Module):
        def forward(self, z):
            return 30 * (z / 30).tanh()

    model, batch = mlp(Capped()), labelled()
    z = model[:3](torch.from_numpy(batch["x"])) * 20
    with torch.no_grad():
        model[2].weight.mul_(20)
        model[2].bias.mul_(20)
    wanted = norms_at(
        z,
        lambda z, b: F.cross_entropy(30 * (z / 30).tanh(), b["label"], reduction="none"),
        batch,
    )
    np.testing.assert_allclose(bounds(model, batch, loss).scores, wanted, rtol=1e-4, atol=1e-6)


def true_norms(model: nn.Module, batch: Batch) -> np.ndarray:
    """The norm of each row's gradient over all weights, by torch.func."""
    weights = {name: value.detach() for name, value in model.named_parameters()}

    def loss(weights, x, y):
        z = functional_call(model, weights, (x.unsqueeze(0),))
        return F.cross_entropy(z, y.unsqueeze(0))

    each = vmap(grad(loss), (None, 0, 0))(
        weights, torch.from_numpy(batch["x"]), torch.from_numpy(batch["label"])
    )
    return torch.cat([g.flatten(1) for g in each.values()], 1).norm(dim=1).numpy()


def test_the_true_norm_lies_between_the_bound_and_a_constant_times_it() -> None:
    """Of Linear-ReLU-Linear: G^2 <= true^2 <= G^2 (1 + |h|^2 + |W|^2 (1 + |x|^2)).

    The gradient of the last bias is that of z; those before it pass through W, spectral norm |W|.
    """
    model, batch = mlp(), labelled()
    x = torch.from_numpy(batch["x"])
    with torch.no_grad():
        hidden, spectral = model[:2](x), torch.linalg.matrix_norm(model[2].weight, 2)
        factor = 1 + (hidden**2).sum(1) + spectral**2 * (1 + (x**2).sum(1))
    found, true = bounds(model, batch, losses.cross_entropy()).scores, true_norms(model, batch)
    assert (found <= true * (1 + 1e-5)).all()
    assert (true <= found * factor.sqrt().numpy() * (1 + 1e-5)).all()


def test_the_bound_ranks_rows_as_the_true_norms_do_better_than_the_loss() -> None:
    """Of a net in the middle of its training, whose rows differ in how well they are known."""
    model, batch = mlp(inner=32), labelled()
    batch["label"] = np.abs(batch["x"][:, :CLASSES]).argmax(1)
    x, y = torch.from_numpy(batch["x"]), torch.from_numpy(batch["label"])
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(150):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    found, true = bounds(model, batch, losses.cross_entropy()), true_norms(model, batch)
    assert spearmanr(found.scores, true).statistic > 0.95
    assert np.corrcoef(found.scores, true)[0, 1] > np.corrcoef(found.losses, true)[0, 1]


class Backwards(nn.Module):
    """Registered from the last layer to the first, with a weight of its own and a part unused."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.unused = nn.Linear(2, 2)
        self.head = nn.Linear(16, CLASSES)
        self.norm = nn.LayerNorm(16)
        self.body = nn.Linear(WIDTH, 16)

    def forward(self, x):
        return self.scale * self.head(self.norm(self.body(x)).relu())


def test_the_last_module_is_the_last_to_run_not_the_last_to_be_registered() -> None:
    batch = {"x": torch.zeros(4, WIDTH)}

    def of(model: nn.Module) -> str:
        task = Task(model=lambda: model, forward=inputs("x"), loss=losses.cross_entropy())
        return last_module(task, model, batch)

    assert of(Backwards()) == "head"
    assert of(mlp(nn.ReLU())) == "2"
    assert of(nn.Linear(WIDTH, 3)) == ""
    assert of(nn.Softmax(1)) == ""
    reweighted = mlp()
    reweighted[2] = weight_norm(nn.Linear(16, 4, bias=False))  # its part computes a weight
    assert of(reweighted) == "2"


def test_a_module_that_runs_twice_counts_with_both_outputs() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(3, 2)

        def forward(self, x):
            return self.head(x[:, :3]) * self.head(x[:, 3:])

    torch.manual_seed(0)
    model, batch = Twice(), {"x": rows(ROWS, 6), "label": rows(ROWS, 2)}
    x, y = torch.from_numpy(batch["x"]), torch.from_numpy(batch["label"])
    z = [model.head(part).detach().requires_grad_() for part in (x[:, :3], x[:, 3:])]
    F.mse_loss(z[0] * z[1], y, reduction="none").mean(1).sum().backward()
    wanted = torch.cat([z[0].grad, z[1].grad], 1).norm(dim=1)
    np.testing.assert_allclose(bounds(model, batch, losses.mse()).scores, wanted, rtol=1e-5)


class Noisy(nn.Module):
    """Batch statistics, dropout, frozen weights, and draws of its own also when it is scored."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(WIDTH, 8), nn.BatchNorm1d(8), nn.Dropout(), nn.ReLU())
        self.head = nn.Linear(8, CLASSES)
        self.head.weight.requires_grad_(False)

    def forward(self, x):
        return (self.head(self.body(x)) + torch.rand(1)).tanh()


@pytest.mark.parametrize("at", [None, "body.0"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("loss", [losses.cross_entropy(), losses.torch_loss("CrossEntropyLoss")])
def test_no_trace_is_left_in_model_gradients_hooks_or_random_state(loss, dtype, at) -> None:
    torch.manual_seed(0)
    model, batch = Noisy().train(), labelled()
    model.body[2].eval()
    model(torch.from_numpy(batch["x"])).sum().backward()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    gradients = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
    random, modes = torch.get_rng_state(), [m.training for m in model.modules()]
    first, again = (bounds(model, batch, loss, at=at, dtype=dtype) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), random)
    assert torch.is_grad_enabled()
    assert [m.training for m in model.modules()] == modes
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    for old, p in zip(gradients, model.parameters(), strict=True):
        assert (p.grad is None) if old is None else torch.equal(p.grad, old)
    assert [p.requires_grad for p in model.parameters()] == [True] * 4 + [False, True]
    assert not any(m._forward_hooks for m in model.modules())
    # the pass that looks for the last module draws from a fork, so a replay sees the same numbers
    np.testing.assert_array_equal(first.scores, again.scores)
    plain = score(Task(model=Noisy, forward=inputs("x"), loss=loss), model, batch, dtype=dtype)
    np.testing.assert_allclose(first.losses, plain.losses, rtol=1e-6)


def test_nothing_before_the_module_is_recorded_in_any_part_and_all_after_it_is() -> None:
    class Tells(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.told: set[bool] = set()

        def forward(self, x):
            self.told.add(torch.is_grad_enabled())
            return x

    before, after = Tells(), Tells()
    model = nn.Sequential(before, nn.Linear(WIDTH, CLASSES), after)
    bounds(model, labelled(), losses.cross_entropy())
    assert (before.told, after.told) == ({False}, {False, True})  # no gradient in the first search
    after.told.clear()
    bounds(model, labelled(), losses.cross_entropy())
    assert (before.told, after.told) == ({False}, {True})


def test_hooks_are_gone_also_when_the_model_fails() -> None:
    model = mlp(nn.Linear(99, 1))
    with pytest.raises(ModelError):
        bounds(model, labelled(), losses.cross_entropy())
    with pytest.raises(ModelError):
        bounds(model, labelled(), losses.cross_entropy(), at="0")
    assert not any(m._forward_hooks for m in model.modules())
    assert torch.is_grad_enabled()


def test_half_precision_ranks_as_full_precision_does() -> None:
    for loss, target in ((losses.cross_entropy(), labelled()["label"]), (losses.mse(), None)):
        model, batch = mlp(), labelled()
        batch["label"] = rows(ROWS, CLASSES, seed=9) if target is None else target
        full, half = (bounds(model, batch, loss, dtype=d).scores for d in ("float32", "bfloat16"))
        assert half.dtype == np.float32
        assert not np.array_equal(full, half)
        assert spearmanr(full, half).statistic > 0.999


def test_extra_columns_and_correct_are_those_of_a_plain_forward_pass() -> None:
    model, batch = mlp(nn.Tanh()), labelled()
    args = {
        "extra": {
            "same": lambda outputs, b: outputs,
            "by_numpy": lambda outputs, b: torch.from_numpy(np.exp(outputs.numpy())),
        }
    }
    found = bounds(model, batch, losses.cross_entropy(), **args)
    plain = score(
        Task(model=mlp, forward=inputs("x"), loss=losses.cross_entropy(), **args), model, batch
    )
    np.testing.assert_array_equal(found.extra["same"], plain.extra["same"])
    np.testing.assert_array_equal(found.correct, plain.correct)
    named = {"extra": {"same": lambda outputs, b: torch.from_numpy(outputs["logits"].numpy())}}
    found = bounds(model, batch, losses.cross_entropy(), forward=as_dict, **named)
    np.testing.assert_array_equal(found.extra["same"], plain.extra["same"])


def test_no_rows_have_no_bounds() -> None:
    batch = {name: column[:0] for name, column in labelled().items()}
    assert bounds(mlp(), batch, losses.cross_entropy()).scores.shape == (0,)
    assert bounds(mlp(nn.Tanh()), batch, losses.cross_entropy()).scores.shape == (0,)


class Flat(nn.Module):
    """Its last layer sees the tokens of all rows as one long list, its first has two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.GRU(WIDTH, 4, batch_first=True)
        self.head = nn.Linear(4, CLASSES)

    def forward(self, x):
        states, _ = self.rnn(x.unsqueeze(1).expand(-1, 3, -1))
        return self.head(states.flatten(0, 1)).unflatten(0, (-1, 3)).mean(1)


@pytest.mark.parametrize(
    ("model", "at", "message"),
    [
        (mlp(), "3", r"at='3'\): a module of the model unknown.*known: 0, 1, 2"),
        (Backwards(), "haed", "did you mean 'head'"),
        (Backwards(), "unused", "does not run in the forward pass"),
        (Flat(), "head", r"Linear gave float32 \[192, 5\] for 64 rows"),
        (Flat(), "rnn", "GRU gave tuple for 64 rows"),
    ],
)
def test_a_module_that_cannot_be_used_is_refused(model, at, message) -> None:
    with pytest.raises(ModelError, match=message):
        bounds(model, labelled(), losses.cross_entropy(), at=at)


def test_a_loss_that_does_not_depend_on_the_module_is_refused() -> None:
    def cut(outputs, batch):
        return F.cross_entropy(outputs.detach(), batch["label"], reduction="none")

    with pytest.raises(ModelError, match="does not depend on the output of this module"):
        bounds(mlp(), labelled(), cut)
    with pytest.raises(ModelError, match="does not depend"):
        bounds(mlp(), labelled(), losses.cross_entropy(), forward=lambda m, b: m(b["x"]).data)
