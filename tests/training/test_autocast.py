"""A step in bfloat16 is that of a plain loop under torch.autocast."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from raysb.losses import cross_entropy
from raysb.schema import ID, POOL, PROBABILITY, WEIGHT
from raysb.scoring.settings import Scoring
from raysb.selection import Uniform
from raysb.source.arrays import ArraySource
from raysb.task import Task, inputs
from raysb.training.autocast import lifted, training_losses
from raysb.training.batch_stream import BatchStream
from raysb.training.learner import Learner
from raysb.training.settings import Training
from raysb.training.spec import StreamSpec

ROWS, B, PIXELS = 80, 8, 12
EXACT = {"rtol": 0, "atol": 0}


def net():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.GroupNorm(2, 8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, stride=2),
        nn.Flatten(),
        nn.Linear(200, 4),
    )


def columns():
    rng = np.random.default_rng(0)
    return {
        "image": rng.integers(0, 256, (ROWS, PIXELS, PIXELS, 3), np.uint8),
        "label": rng.integers(0, 4, ROWS),
        ID: np.arange(ROWS),
        POOL: np.zeros(ROWS, np.int64),
        PROBABILITY: np.ones(ROWS, np.float32),
        WEIGHT: np.ones(ROWS, np.float32),
    }


def own_loss(outputs, batch):
    """As a user writes it, who knows nothing of half precision."""
    assert outputs.dtype == torch.float32
    return F.cross_entropy(outputs, batch["label"], reduction="none")


TASKS = {
    "raysb": Task(model=net, forward=inputs("image"), loss=cross_entropy("label")),
    "own": Task(model=net, forward=inputs("image"), loss=own_loss),
}


class Given(BatchStream):
    def __init__(self, task):
        super().__init__(
            StreamSpec(
                source=ArraySource(columns()), task=task, selector=Uniform(), scoring=Scoring()
            )
        )

    def _open(self, batch_size, epochs, model):
        return self.spec.plan(batch_size, epochs)

    def _blocks(self):
        yield columns()

    def _publish(self, model):
        pass

    def _record_backward(self, ids, losses):
        pass

    def _close(self):
        pass


def trained(dtype, task=TASKS["raysb"], optimizer=torch.optim.Adam):
    model = task.build(0)
    learner = Learner(task, model, optimizer(model.parameters(), lr=0.01), dtype=dtype)
    stream = Given(task)
    for batch in stream.iter_batches(batch_size=B, epochs=1, model=model):
        learner.step(stream, batch, 1.0)
    return model, learner


def plain(dtype):
    model = TASKS["raysb"].build(0).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    rows = {name: torch.from_numpy(column) for name, column in columns().items()}
    for start in range(0, ROWS, B):
        images = rows["image"][start : start + B].permute(0, 3, 1, 2)
        images = images.to(torch.float32, memory_format=torch.channels_last) / 255.0
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16"):
            logits = model(images)
        loss = F.cross_entropy(logits.float(), rows["label"][start : start + B])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model


@pytest.mark.parametrize("name", sorted(TASKS))
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_steps_are_those_of_a_plain_loop_under_autocast(name, dtype) -> None:
    model, _ = trained(dtype, TASKS[name])
    expected = plain(dtype)
    for p, q in zip(model.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6)
    other = plain("float32" if dtype == "bfloat16" else "bfloat16")
    with pytest.raises(AssertionError):
        torch.testing.assert_close(model[5].weight, other[5].weight, rtol=1e-5, atol=1e-6)


def test_weights_gradients_and_optimizer_stay_float32_and_the_forward_pass_is_not() -> None:
    seen = []
    model = TASKS["raysb"].build(0)
    model[3].register_forward_hook(lambda module, given, out: seen.append(out.dtype))
    rows = {name: torch.from_numpy(column) for name, column in columns().items()}
    losses = training_losses(TASKS["raysb"], model, rows, "bfloat16")["loss"]
    losses.sum().backward()
    assert seen == [torch.bfloat16]
    assert losses.dtype == torch.float32
    assert {p.grad.dtype for p in model.parameters()} == {torch.float32}
    _, learner = trained("bfloat16")
    kept = [s["exp_avg"].dtype for s in learner.optimizer.state_dict()["state"].values()]
    assert set(kept) == {torch.float32}


def test_a_step_hook_is_in_bfloat16_as_a_whole_and_its_terms_are_float32() -> None:
    def step(model, batch):
        logits = model(batch["image"].permute(0, 3, 1, 2).float())
        assert logits.dtype == torch.bfloat16
        return {"a": logits[:, 0] / 2, "b": logits[:, 1]}

    task = Task(model=net, forward=inputs("image"), loss=own_loss, step=step)
    rows = {name: torch.from_numpy(column) for name, column in columns().items()}
    terms = training_losses(task, task.build(0), rows, "bfloat16")
    assert {name: term.dtype for name, term in terms.items()} == {
        "a": torch.float32,
        "b": torch.float32,
    }


def test_outputs_in_plain_containers_are_lifted_and_whole_numbers_are_not() -> None:
    half, whole = torch.ones(2, dtype=torch.bfloat16), torch.ones(2, dtype=torch.int64)
    found = lifted({"a": half, "b": [half.half(), whole], "c": (half.double(), None)})
    assert found["a"].dtype == found["b"][0].dtype == torch.float32
    assert (found["b"][1].dtype, found["c"][0].dtype) == (torch.int64, torch.float64)
    assert found["c"][1] is None


def test_images_and_weights_are_channels_last_from_the_data_to_the_optimizer() -> None:
    """Also after steps, for both precisions; numbers of a plain model stay as they are."""
    seen = []

    def note(module, given, out):
        seen.extend([*given, out])

    for dtype in ("float32", "bfloat16"):
        model, learner = trained(dtype)
        hook = model[3].register_forward_hook(note)
        rows = {name: torch.from_numpy(column) for name, column in columns().items()}
        training_losses(TASKS["raysb"], model, rows, dtype)
        hook.remove()
        moments = [s["exp_avg"] for s in learner.optimizer.state_dict()["state"].values()]
        seen += [t for t in [*model.parameters(), *moments] if t.dim() == 4]
    assert len(seen) == 12
    assert all(t.is_contiguous(memory_format=torch.channels_last) for t in seen)


@pytest.mark.parametrize("dtype", ["float16", "bf16", None])
def test_another_precision_is_refused(dtype) -> None:
    with pytest.raises(ValueError, match=r"train\.dtype=.*: must be float32 or bfloat16"):
        Training(dtype=dtype)


def test_a_pipeline_has_no_autocast() -> None:
    with pytest.raises(ValueError, match=r"train\.dtype=bfloat16: train\.strategy=pipeline"):
        Training(dtype="bfloat16", strategy="pipeline", num_workers=2, accumulate=2)
