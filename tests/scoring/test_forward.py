"""Scoring says what a direct computation says, and leaves no trace."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.stats import spearmanr
from sklearn.datasets import load_digits
from torch import nn

from raysb.errors import ModelError
from raysb.schema import ID
from raysb.scoring.forward import score
from raysb.task import Task, inputs


class Net(nn.Module):
    """Batch statistics, dropout, a part that stays in evaluation mode, and draws of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout2d(0.5), nn.Flatten()
        )
        self.still = nn.Sequential(nn.Linear(8 * 36, 32), nn.BatchNorm1d(32))
        self.head = nn.Linear(32, 10)

    def forward(self, image):
        return self.head(F.dropout(self.still(self.body(image)), 0.5, self.training))


def per_sample(outputs, batch):
    return F.cross_entropy(outputs, batch["label"], reduction="none")


def digits() -> dict[str, np.ndarray]:
    images, labels = load_digits(return_X_y=True)
    images = images.reshape(-1, 1, 8, 8).astype(np.float32) / 16
    return {"image": images, "label": labels.astype(np.int64), ID: np.arange(len(labels))}


@pytest.fixture(scope="module")
def trained() -> Net:
    """A net in the middle of training: the still part in evaluation mode, the rest not."""
    torch.manual_seed(0)
    model, data = Net(), {k: torch.from_numpy(v) for k, v in digits().items()}
    model.train()
    model.still.eval()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    for rows in torch.arange(1280).split(64) + torch.arange(1280).split(64):
        part = {k: v[rows] for k, v in data.items()}
        loss = per_sample(model(part["image"]), part).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model


def task(**args) -> Task:
    return Task(model=Net, forward=inputs("image"), loss=per_sample, **args)


def trace(model: nn.Module) -> tuple:
    return (
        {k: v.clone() for k, v in model.state_dict().items()},
        [m.training for m in model.modules()],
        [p.grad is None or p.grad.clone() for p in model.parameters()],
        torch.get_rng_state().clone(),
        torch.is_grad_enabled(),
        torch.is_autocast_enabled("cpu"),
    )


def same(first: tuple, second: tuple) -> bool:
    states = all(torch.equal(first[0][k], v) for k, v in second[0].items())
    grads = all(a is b or torch.equal(a, b) for a, b in zip(first[2], second[2], strict=True))
    return states and grads and torch.equal(first[3], second[3]) and first[1::3] == second[1::3]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_scoring_leaves_model_buffers_modes_gradients_and_random_state_as_they_were(
    trained, dtype
) -> None:
    def draws(outputs, batch):
        return per_sample(outputs, batch) + torch.rand(len(outputs))

    before = trace(trained)
    score(Task(model=Net, forward=inputs("image"), loss=draws), trained, digits(), dtype=dtype)
    after = trace(trained)
    assert same(before, after)
    assert before[4:] == after[4:]


def test_nothing_is_left_behind_when_the_model_fails_in_the_middle(trained) -> None:
    def fails(outputs, batch):
        torch.rand(3)
        raise RuntimeError("no")

    before = trace(trained)
    with pytest.raises(RuntimeError, match="no"):
        score(Task(model=Net, forward=inputs("image"), loss=fails), trained, digits())
    assert same(before, trace(trained))


def test_the_losses_are_those_of_a_direct_computation_in_evaluation_mode(trained) -> None:
    data = digits()
    scores = score(task(), trained, data)
    assert scores.losses.dtype == np.float32
    copy = Net()
    copy.load_state_dict(trained.state_dict())
    copy.eval()
    with torch.no_grad():
        logits = copy(torch.from_numpy(data["image"])).double()
    picked = logits[torch.arange(len(logits)), torch.from_numpy(data["label"])]
    expected = torch.logsumexp(logits, 1) - picked
    np.testing.assert_allclose(scores.losses, expected.numpy(), atol=2e-6, rtol=1e-5)


def test_half_precision_ranks_the_losses_as_full_precision_does(trained) -> None:
    full, half = (score(task(), trained, digits(), dtype=d).losses for d in ("float32", "bfloat16"))
    assert half.dtype == np.float32
    assert not np.array_equal(full, half)  # it did run in bfloat16
    assert spearmanr(full, half).statistic >= 0.999


def test_extra_columns_arrive_row_by_row_in_types_that_numpy_knows(trained) -> None:
    wanted = {
        "probs": lambda outputs, batch: outputs.softmax(1),
        "brain": lambda outputs, batch: outputs[:, 0].to(torch.bfloat16),
        "even": lambda outputs, batch: batch["label"] % 2 == 0,
    }
    data = digits()
    extra = score(task(extra=wanted), trained, data).extra
    assert {k: (v.shape, v.dtype) for k, v in extra.items()} == {
        "probs": ((1797, 10), np.float32),
        "brain": ((1797,), np.float32),
        "even": ((1797,), np.bool_),
    }
    np.testing.assert_allclose(extra["probs"].sum(1), 1, rtol=1e-5)
    np.testing.assert_array_equal(extra["even"], data["label"] % 2 == 0)


def test_correct_is_counted_where_the_task_can_tell(trained) -> None:
    assert score(task(), trained, digits()).correct is None
    told = task(correct=lambda o, b: o.argmax(1) == b["label"])
    correct = score(told, trained, digits()).correct
    assert correct.dtype == np.uint8
    assert 0.8 < correct.mean() <= 1


def test_a_scalar_loss_is_refused_here_already(trained) -> None:
    scalar = Task(
        model=Net,
        forward=inputs("image"),
        loss=lambda outputs, batch: per_sample(outputs, batch).mean(),
    )
    with pytest.raises(ModelError, match="one loss per sample"):
        score(scalar, trained, digits())


def test_a_model_without_parameters_is_scored_on_the_cpu() -> None:
    plain = Task(model=nn.Identity, forward=inputs("x"), loss=lambda o, b: o)
    assert score(plain, nn.Identity(), {"x": np.ones(2, np.float32)}).losses.tolist() == [1, 1]
