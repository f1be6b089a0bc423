"""The local engine against re-implementations of its own: a plain loop, a naive Selective-Backprop.

Nothing of raysb computes what is expected here but the order of the rows (`source.read`) and the
keyed draws (`Draws`), which have tests of their own.
"""

import copy
import json
import math
from collections import Counter, deque
from dataclasses import dataclass

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_diabetes, load_digits
from torch import nn

import raysb
from raysb.errors import NonFiniteError
from raysb.history.settings import History
from raysb.job import Silent, TrainingJob
from raysb.local import LocalStream, fit_locally
from raysb.schema import ID, LOSS, POOL, PROBABILITY, WEIGHTS_STEP
from raysb.scoring.cursor import Cursor
from raysb.scoring.settings import Scoring
from raysb.seeding import Draws
from raysb.selection import BudgetedSelection, SelectiveBackprop, Uniform
from raysb.source.arrays import ArraySource
from raysb.task import Task, inputs
from raysb.training.audit import read_audit
from raysb.training.checkpoint import load as load_checkpoint
from raysb.training.learner import Learner
from raysb.training.settings import Evaluation, Training
from raysb.training.spec import StreamSpec


def net():
    return nn.Sequential(nn.Linear(64, 24), nn.Tanh(), nn.Linear(24, 10))


def cross_entropy(outputs, batch):
    return F.cross_entropy(outputs, batch["label"], reduction="none")


TASK = Task(model=net, forward=inputs("x"), loss=cross_entropy)


def digits(rows=1797):
    images, labels = load_digits(return_X_y=True)
    return {"x": (images[:rows] / 16).astype(np.float32), "label": labels[:rows]}


def spec_of(columns=None, selector=None, pool=100, task=TASK, seed=3, **scoring):
    return StreamSpec(
        source=ArraySource(columns or digits(), seed=seed),
        task=task,
        selector=selector or SelectiveBackprop(),
        scoring=Scoring(batch_size=pool, **scoring),
        seed=seed,
        inputs=("x",),
    )


def job_of(spec, held_out=None, evaluation=None, watcher=None, **training):
    settings = {"epochs": 2, "batch_size": 32, "use_gpu": False, "lr": 0.1} | training
    return TrainingJob(
        spec=spec,
        training=Training(**settings),
        evaluation=evaluation or Evaluation(),
        history=History(),
        held_out=held_out,
        optimizer=None,
        directory=None,
        watcher=watcher or Silent(),
        verbose=False,
    )


def fit(job, folder):
    folder.mkdir(parents=True, exist_ok=True)
    return fit_locally(TrainingJob(**vars(job) | {"directory": folder}))


def sgd(model, lr=0.1):
    return torch.optim.SGD(model.parameters(), lr, momentum=0.9, nesterov=True, weight_decay=5e-4)


def assert_same(first, second, **tolerance):
    for p, q in zip(first.values(), second.values(), strict=True):
        torch.testing.assert_close(p, q, **tolerance)


def weights_of(folder):
    model = net()
    load_checkpoint(sorted(folder.glob("checkpoint_*"))[-1], model=model)
    return model.state_dict()


# --- law 1: Uniform is a plain loop -----------------------------------------------------------


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
@pytest.mark.parametrize(("batch_size", "workers"), [(60, 1), (16, 4)])
def test_uniform_is_a_plain_pytorch_loop_bit_for_bit(
    tmp_path, schedule, batch_size, workers
) -> None:
    spec, epochs = spec_of(selector=Uniform(), seed=5), 2
    fit(
        job_of(spec, epochs=epochs, batch_size=batch_size, num_workers=workers, schedule=schedule),
        tmp_path / "run",
    )
    data, n = digits(), len(digits()["x"])
    order = np.concatenate([spec.source.read(e, 0, n)[ID] for e in range(epochs)])
    torch.manual_seed(5)
    model = net()
    optimizer = sgd(model)
    steps = 0
    for rows in np.split(order, range(batch_size * workers, len(order), batch_size * workers)):
        done = steps * batch_size * workers / (epochs * n)
        factor = (1 + math.cos(math.pi * done)) / 2 if schedule == "cosine" else 1.0
        optimizer.param_groups[0]["lr"] = 0.1 * factor
        x, label = torch.from_numpy(data["x"][rows]), torch.from_numpy(data["label"][rows])
        loss = F.cross_entropy(model(x), label)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        steps += 1
        if steps == math.ceil(len(order) / (batch_size * workers)) - 1:
            before_last = {k: v.clone() for k, v in model.state_dict().items()}
    assert steps > 20
    # the last batch is padded, which sums in another order: up to it every bit is the same
    assert_same(weights_of(tmp_path / "run"), model.state_dict(), rtol=1e-5, atol=1e-7)
    fit(
        job_of(
            spec,
            epochs=epochs,
            batch_size=batch_size,
            num_workers=workers,
            schedule=schedule,
            max_steps=steps - 1,
        ),
        tmp_path / "short",
    )
    assert_same(weights_of(tmp_path / "short"), before_last, rtol=0, atol=0)


# --- law 2: lockstep Selective-Backprop against a naive one ------------------------------------


def naive(spec, *, beta, floor, history, ties, batch_size, epochs, lr, pool_rows):
    """Selective-Backprop as one would write it down: Python loops, a deque, a list of rows."""
    torch.manual_seed(spec.seed)
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr, momentum=0.9)
    recent, waiting, trained = deque(maxlen=history), [], []
    selected_before, steps, n = 0, 0, spec.source.num_rows

    def train(rows):
        x = torch.stack([row["x"] for row in rows])
        label = torch.tensor([row["label"] for row in rows])
        loss = F.cross_entropy(model(x), label, reduction="sum") / len(rows)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        trained.extend((row["id"], row["p"], row["made"], row["loss"], steps) for row in rows)

    for epoch in range(epochs):
        for start in range(0, n, pool_rows):
            while len(waiting) >= batch_size:
                batch, waiting = waiting[:batch_size], waiting[batch_size:]
                train(batch)
                steps += 1
            assert steps == selected_before // batch_size
            pool = spec.source.read(epoch, start, min(start + pool_rows, n))
            with torch.no_grad():
                logits = model(torch.from_numpy(pool["x"]))
                losses = F.cross_entropy(logits, torch.from_numpy(pool["label"]), reduction="none")
            losses = losses.tolist()
            recent.extend(losses)
            draws = Draws(seed=spec.seed, epoch=epoch).uniform(pool[ID])
            for i, loss in enumerate(losses):
                less = sum(other < loss for other in recent)
                equal = sum(other == loss for other in recent) if ties == "mid" else 0
                chance = max(floor, ((less + equal / 2) / len(recent)) ** beta)
                if draws[i] < chance:
                    waiting.append(
                        {
                            "id": int(pool[ID][i]),
                            "x": torch.from_numpy(pool["x"][i]),
                            "label": int(pool["label"][i]),
                            "p": chance,
                            "loss": loss,
                            "made": steps,
                        }
                    )
                    selected_before += 1
    while waiting:
        batch, waiting = waiting[:batch_size], waiting[batch_size:]
        train(batch)
        steps += 1
    return model, trained


@pytest.mark.parametrize(
    ("beta", "floor", "history", "ties", "batch_size", "pool"),
    [
        (1.0, 0.0, 1024, "mid", 32, 100),
        (2.0, 0.1, 150, "mid", 64, 37),  # several pools a step, a short history
        (3.0, 0.0, 300, "strict", 16, 200),  # several steps a pool
    ],
)
def test_lockstep_is_a_naive_selective_backprop(
    tmp_path, beta, floor, history, ties, batch_size, pool
) -> None:
    selector = SelectiveBackprop(beta=beta, min_probability=floor, history=history, ties=ties)
    spec = spec_of(digits(450), selector, pool)
    fit(
        job_of(
            spec,
            batch_size=batch_size,
            epochs=3,
            audit=True,
            schedule="constant",
            optimizer="SGD",
            optimizer_args={"momentum": 0.9},
        ),
        tmp_path,
    )
    model, trained = naive(
        spec,
        beta=beta,
        floor=floor,
        history=history,
        ties=ties,
        batch_size=batch_size,
        epochs=3,
        lr=0.1,
        pool_rows=pool,
    )
    audit = {
        name: np.array(column)
        for name, column in read_audit(tmp_path / "audit").to_pydict().items()
    }
    ids, chances, made, losses, steps = map(np.array, zip(*trained, strict=True))
    np.testing.assert_array_equal(audit[ID], ids)
    np.testing.assert_array_equal(audit[WEIGHTS_STEP], made)
    np.testing.assert_array_equal(audit["step"] - 1, steps)
    np.testing.assert_allclose(audit[PROBABILITY], chances, rtol=1e-6)
    np.testing.assert_allclose(audit[LOSS], losses, rtol=1e-5, atol=1e-7)
    assert_same(weights_of(tmp_path), model.state_dict(), rtol=1e-5, atol=1e-6)
    metrics = raysb.read_metrics(tmp_path)[-1]
    assert metrics["max_age_steps"] == (steps - made).max() <= math.ceil(pool / batch_size)
    assert metrics["mean_age_steps"] == pytest.approx((steps - made).mean())
    assert metrics["num_scored"] == 3 * 450
    assert metrics["num_backpropped"] == len(ids)


# --- law 3: every row once ------------------------------------------------------------------


class Constant(nn.Module):
    def __init__(self):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(()))

    def forward(self, x):
        return x * 0 + self.bias


CONSTANT = Task(model=Constant, forward=inputs("x"), loss=lambda o, b: (o - b["x"]) ** 2)


def stepped(stream, batch_size, epochs, lr=0.01, **limits):
    model = stream.task.build(0)
    learner = Learner(stream.task, model, torch.optim.SGD(model.parameters(), lr))
    for batch in stream.iter_batches(batch_size=batch_size, epochs=epochs, model=model, **limits):
        learner.step(stream, batch, 1.0)
    return model


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(1, 70),
    pool=st.integers(1, 40),
    b=st.integers(1, 20),
    epochs=st.integers(1, 3),
    selector=st.sampled_from(
        [Uniform(), SelectiveBackprop(min_probability=1.0), SelectiveBackprop(warmup_epochs=9)]
    ),
)
def test_every_id_is_trained_exactly_once_an_epoch(n, pool, b, epochs, selector) -> None:
    columns = {"x": np.random.default_rng(n).normal(size=n).astype(np.float32)}
    columns["id"] = np.arange(n) * 7 + 5
    trained = []
    spec = spec_of(columns, selector, pool, CONSTANT)
    stream = LocalStream(spec, on_step=lambda step, rank, batch: trained.append(batch))
    stepped(stream, b, epochs)
    per_epoch = [Counter() for _ in range(epochs)]
    for batch in trained:
        for i, q in zip(batch[ID].tolist(), batch[POOL].tolist(), strict=True):
            per_epoch[stream.plan.epoch_of(q)][i] += 1
    assert per_epoch == [Counter(columns["id"].tolist())] * epochs
    assert [len(batch[ID]) for batch in trained[:-1]] == [b] * (len(trained) - 1)
    assert stream.num_steps == math.ceil(n * epochs / b)
    assert stream.num_backpropped == n * epochs
    assert stream.num_scored == (n * epochs if spec.scored else 0)


def test_only_selected_rows_are_trained_and_each_of_them_once(tmp_path) -> None:
    spec = spec_of(digits(500), pool=70)
    stream, trained = None, []
    stream = LocalStream(spec, on_step=lambda step, rank, batch: trained.append(batch))
    stepped(stream, 24, 3)
    known = stream.history.export()
    counts = Counter(i for batch in trained for i in batch[ID].tolist())
    told = dict(zip(known["id"].tolist(), known["times_selected"].tolist(), strict=True))
    assert counts == Counter({i: k for i, k in told.items() if k})
    assert 0 in told.values()
    assert (known["times_scored"] == 3).all()


# --- stops ------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [1, 31, 32, 33, 200, 501])
def test_max_backprops_ends_in_the_middle_of_a_pool_and_of_a_batch_exactly(tmp_path, limit) -> None:
    selector = SelectiveBackprop(min_probability=1.0)
    result = fit(
        job_of(
            spec_of(digits(300), selector), max_backprops=limit, audit=True, schedule="constant"
        ),
        tmp_path,
    )
    assert result.metrics["num_backpropped"] == limit
    assert read_audit(tmp_path / "audit").num_rows == limit
    end = raysb.read_metrics(tmp_path)[-1]
    scored = math.ceil(math.ceil(limit / 32) * 32 / 100) * 100  # the pools that fill the last batch
    assert end["num_scored"] == scored
    assert end["select/waiting_rows"] >= scored - limit  # selected and never used


def test_rows_past_max_backprops_do_not_change_the_last_gradient(tmp_path) -> None:
    selector = SelectiveBackprop(min_probability=1.0)
    args = {"optimizer": "SGD", "schedule": "constant", "epochs": 1}
    fit(job_of(spec_of(digits(300), selector), max_backprops=40, **args), tmp_path)
    spec = spec_of(digits(300), selector)
    torch.manual_seed(spec.seed)
    model = net()
    rows = spec.source.read(0, 0, 40)
    for part in (slice(0, 32), slice(32, 40)):
        x, label = torch.from_numpy(rows["x"][part]), torch.from_numpy(rows["label"][part])
        grads = torch.autograd.grad(F.cross_entropy(model(x), label), list(model.parameters()))
        with torch.no_grad():
            for p, g in zip(model.parameters(), grads, strict=True):
                p -= 0.1 * g
    assert_same(weights_of(tmp_path), model.state_dict(), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    ("limits", "steps"),
    [({"max_steps": 3}, 3), ({"max_time_s": 1e-9}, 0), ({"max_cost": 0.5}, None)],
)
def test_limits_end_a_run_and_leave_everything_that_a_whole_run_leaves(
    tmp_path, limits, steps
) -> None:
    result = fit(job_of(spec_of(), **limits), tmp_path)
    if steps is not None:
        assert result.metrics["step"] == steps
    else:  # one step costs at most a batch and the pools that it took
        assert 0.5 <= result.metrics["cost"] < 0.5 + (32 + 200 / 3) / 1797
    assert (tmp_path / "model.safetensors").exists()
    assert raysb.read_metrics(tmp_path)[-1]["kind"] == "end"


def test_a_schedule_of_cost_ends_with_the_budget(tmp_path) -> None:
    rates = []

    class Watch(torch.optim.SGD):
        def step(self, closure=None):
            rates.append(self.param_groups[0]["lr"])
            return super().step(closure)

    job = job_of(spec_of(), max_cost=0.8, schedule_axis="cost", schedule="linear", epochs=50)
    fit(TrainingJob(**vars(job) | {"optimizer": Watch}), tmp_path)
    assert rates[0] == pytest.approx(0.1 * (1 - 100 / 3 / 1797 / 0.8))
    assert rates == sorted(rates, reverse=True)
    assert 0 < rates[-1] < 0.1 * 0.1


def test_a_checkpoint_interval_that_divides_the_run_saves_each_step_once(tmp_path) -> None:
    fit(job_of(spec_of(), max_steps=6, checkpoint_every=3), tmp_path)
    assert len(list(tmp_path.glob("checkpoint_*"))) == 2
    assert not list(tmp_path.glob(".*"))


# --- losses that are not finite -----------------------------------------------------------------


def broken(count, rows=400):
    data = digits(rows)
    data["x"][7 : 7 + count] = np.nan
    return data


def test_rows_with_nan_losses_are_set_aside_and_listed(tmp_path) -> None:
    fit(job_of(spec_of(broken(3)), audit=True, epochs=3), tmp_path)
    listed = json.loads((tmp_path / "nonfinite.json").read_text())
    assert listed == {"7": 3, "8": 3, "9": 3}
    trained = read_audit(tmp_path / "audit")
    assert not {7, 8, 9} & set(trained[ID].to_pylist())
    assert np.isfinite(trained[LOSS].to_numpy()).all()
    assert all(v.isfinite().all() for v in weights_of(tmp_path).values())
    assert raysb.read_metrics(tmp_path)[-1]["score/nonfinite"] == 3


def test_past_the_limit_the_run_ends_naming_ids_and_leaves_the_list(tmp_path) -> None:
    with pytest.raises(NonFiniteError, match="max_nonfinite_fraction") as caught:
        fit(job_of(spec_of(broken(8))), tmp_path)
    named = {i for i in range(7, 15) if str(i) in str(caught.value).split("first ids:")[1]}
    assert len(named) >= 5
    listed = json.loads((tmp_path / "nonfinite.json").read_text())
    assert len(listed) >= 5
    assert set(listed) <= {str(i) for i in range(7, 15)}


# --- resuming -----------------------------------------------------------------------------------


@pytest.mark.parametrize("selector", [Uniform(), SelectiveBackprop(min_probability=1.0)])
@pytest.mark.parametrize("stop", [1, 5, 12, 30])
def test_a_stream_that_is_resumed_trains_every_row_of_every_epoch(selector, stop) -> None:
    spec, seen = spec_of(digits(300), selector, pool=70), []
    note = lambda step, rank, batch: seen.append((step, batch))  # noqa: E731
    first = LocalStream(spec, on_step=note)
    stepped(first, 16, 3, max_steps=stop)
    state = first.state_dict()
    second = LocalStream(spec, on_step=note)
    second.load_state_dict(state)
    stepped(second, 16, 3)
    assert [step for step, _ in seen] == list(range(1, len(seen) + 1))
    times = [Counter() for _ in range(3)]
    for _, batch in seen:
        for i, q in zip(batch[ID].tolist(), batch[POOL].tolist(), strict=True):
            times[second.plan.epoch_of(q)][i] += 1
    assert all(len(epoch) == 300 for epoch in times)
    repeated = sum(sum(epoch.values()) for epoch in times) - 900
    assert repeated <= second.plan.pool_rows + 16
    if spec.scored:
        assert [sums.num_scored for sums in second.ledger.totals.epochs.values()] == [300] * 3


@pytest.mark.parametrize("selector", [Uniform(), SelectiveBackprop(min_probability=1.0)])
def test_pools_that_a_cursor_has_as_done_are_not_trained_again(selector) -> None:
    spec, pools = spec_of(digits(300), selector, pool=50), Counter()
    note = lambda step, rank, batch: pools.update(batch[POOL].tolist())  # noqa: E731
    stream = LocalStream(spec, on_step=note)
    stream.cursor = Cursor(1, (2, 4))
    stepped(stream, 10, 2)
    spans = {q: stream.plan.locate(q) for q in range(stream.plan.num_pools)}
    assert pools == {q: stop - start for q, (_, start, stop) in spans.items() if q not in (0, 2, 4)}


def test_epochs_of_fewer_rows_than_a_batch_go_on_with_the_very_rows_that_waited() -> None:
    """Rows of up to six epochs wait side by side, each drawn by the losses before its epoch."""
    spec = spec_of(digits(48), BudgetedSelection(rows_per_epoch=3), pool=16)
    kept = []

    def trained(stream, model):
        rows = []
        optimizer = torch.optim.SGD(model.parameters(), 0.5)
        for batch in stream.iter_batches(batch_size=16, epochs=40, model=model):
            optimizer.zero_grad()
            stream.reduce(stream.task.losses(model(batch["x"]), batch), batch).backward()
            optimizer.step()
            stream.step(model)
            rows.append(batch[ID].tolist())
            if stream.num_steps > len(kept):
                kept.append((copy.deepcopy(stream.state_dict()), copy.deepcopy(model)))
        return rows

    whole = trained(LocalStream(spec), spec.task.build(0))
    assert max(len(state["outlooks"]) for state, _ in kept) >= 5
    for done, (state, model) in enumerate(list(kept), 1):
        stream = LocalStream(spec)
        stream.load_state_dict(state)
        assert trained(stream, model) == whole[done:], done


@pytest.mark.parametrize("cheap", [{"dtype": "bfloat16"}, {"image_scale": 0.5}])
def test_cheap_scores_are_audited_whenever_weights_would_be_published(cheap) -> None:
    """In one process no weights are older than others."""
    pictures = {"x": np.zeros((300, 1, 8, 8), np.float32), "label": np.arange(300) % 10}
    pictures["x"][:] = digits(300)["x"].reshape(300, 1, 8, 8)
    flat = Task(
        model=lambda: nn.Sequential(nn.AdaptiveAvgPool2d(8), nn.Flatten(), net()),
        forward=inputs("x"),
        loss=cross_entropy,
    )
    audited = []
    for every in (1, 4):
        spec = spec_of(pictures, task=flat, publish_every=every, **cheap)
        stream = LocalStream(spec)
        stepped(stream, 16, 3)
        audited.append(stream.ledger.audits.metrics())
    assert audited[0]["agreement"] > 0
    assert audited[0] == audited[1]


# --- same start for all ---------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_weights_and_the_same_order_to_all_selectors() -> None:
    starts, orders = [], []
    for selector in (
        Uniform(),
        SelectiveBackprop(min_probability=1.0),
        SelectiveBackprop(warmup_epochs=9),
    ):
        spec, ids = spec_of(digits(300), selector, seed=11), []
        stream = LocalStream(spec, on_step=lambda s, r, b, ids=ids: ids.extend(b[ID].tolist()))
        starts.append(spec.task.build(spec.seed).state_dict())
        stepped(stream, 16, 2)
        orders.append(ids)
    assert orders[0] == orders[1] == orders[2]
    assert_same(starts[0], starts[1], rtol=0, atol=0)
    other = spec_of(digits(300), Uniform(), seed=12)
    assert not torch.equal(TASK.build(12)[0].weight, starts[0]["0.weight"])
    assert other.source.read(0, 0, 300)[ID].tolist() != orders[0][:300]


def test_scoring_does_not_change_what_dropout_draws_in_training() -> None:
    def drop():
        return nn.Sequential(nn.Linear(64, 24), nn.Dropout(0.5), nn.Linear(24, 10))

    task = Task(model=drop, forward=inputs("x"), loss=cross_entropy)
    ends = []
    for selector in (Uniform(), SelectiveBackprop(min_probability=1.0)):
        torch.manual_seed(1)
        ends.append(
            stepped(LocalStream(spec_of(digits(300), selector, task=task)), 30, 2).state_dict()
        )
    assert_same(*ends, rtol=0, atol=0)


def test_a_stream_that_scores_needs_the_model() -> None:
    with pytest.raises(ValueError, match="pass model="):
        next(LocalStream(spec_of()).iter_batches(batch_size=8, epochs=1))


# --- law 8: other kinds of data ---------------------------------------------------------------


def falls(spec, folder, lr=0.05, **training):
    args = {"epochs": 12, "batch_size": 32, "lr": lr, "schedule": "constant", "optimizer": "adam"}
    fit(job_of(spec, **args | training), folder)
    lines = [line for line in raysb.read_metrics(folder) if line["kind"] == "epoch"]
    losses = [line["score/loss"] for line in lines]
    assert len(losses) == training.get("epochs", 12)
    return losses


def test_a_regression_on_numbers_trains(tmp_path) -> None:
    x, y = load_diabetes(return_X_y=True)
    columns = {
        "x": (x / x.std(0)).astype(np.float32),
        "y": ((y - y.mean()) / y.std()).astype(np.float32),
    }
    task = Task(
        model=lambda: nn.Sequential(nn.Linear(10, 16), nn.ReLU(), nn.Linear(16, 1)),
        forward=inputs("x"),
        loss=raysb.losses.build_loss("mse", "y", {}),
    )
    losses = falls(spec_of(columns, task=task, pool=64), tmp_path, lr=0.01)
    assert losses[-1] < 0.7 * losses[0]
    assert "score/error" not in raysb.read_metrics(tmp_path)[-1]


class Bag(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(17, 16)
        self.head = nn.Linear(16, 10)

    def forward(self, *, tokens, mask):
        states = self.embed(tokens) * mask.unsqueeze(2)
        return self.head(states.sum(1) / mask.sum(1, keepdim=True))


def ragged(rows=400):
    """Digits as the list of their bright pixels: sequences of different lengths."""
    images, labels = load_digits(return_X_y=True)
    tokens = np.empty(rows, object)
    for i in range(rows):
        tokens[i] = np.flatnonzero(images[i] > 8) // 4
    return {"tokens": tokens, "label": labels[:rows]}


def pad(batch):
    length = max(len(row) for row in batch["tokens"])
    tokens = np.zeros((len(batch["tokens"]), length), np.int64)
    mask = np.zeros(tokens.shape, np.float32)
    for i, row in enumerate(batch["tokens"]):
        tokens[i, : len(row)], mask[i, : len(row)] = row + 1, 1
    return {"tokens": tokens, "mask": mask, "label": batch["label"]}


def test_ragged_tokens_padded_by_collate_and_called_by_name_train(tmp_path) -> None:
    task = Task(
        model=Bag, forward=inputs("tokens", "mask", by_name=True), loss=cross_entropy, collate=pad
    )
    spec = StreamSpec(
        source=ArraySource(ragged(), seed=1),
        task=task,
        selector=SelectiveBackprop(),
        scoring=Scoring(batch_size=100),
        inputs=("tokens",),
    )
    losses = falls(spec, tmp_path)
    assert losses[-1] < 0.8 * losses[0]


@dataclass
class Output:
    logits: torch.Tensor
    hidden: torch.Tensor


class Dataclass(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(64, 24), nn.Linear(24, 10)

    def forward(self, x):
        hidden = self.body(x).relu()
        return Output(logits=self.head(hidden), hidden=hidden)


def test_a_model_that_returns_a_dataclass_trains_and_is_judged(tmp_path) -> None:
    task = Task(
        model=Dataclass,
        forward=inputs("x"),
        loss=raysb.losses.build_loss("cross_entropy", "label", {}),
        extra={"features": lambda outputs, batch: outputs.hidden},
    )
    losses = falls(spec_of(digits(500), task=task), tmp_path, lr=0.02, epochs=8)
    assert losses[-1] < 0.5 * losses[0]
    assert raysb.read_metrics(tmp_path)[-1]["score/error"] < 0.2


def test_held_out_rows_are_judged_after_each_epoch_with_the_weights_of_that_moment(
    tmp_path,
) -> None:
    data = digits()
    train, test = (
        {k: v[rows] for k, v in data.items()} for rows in (slice(0, 1400), slice(1400, None))
    )
    task = Task(
        model=net, forward=inputs("x"), loss=raysb.losses.build_loss("cross_entropy", "label", {})
    )
    fit(job_of(spec_of(train, task=task), ArraySource(test), epochs=3), tmp_path)
    lines = [line for line in raysb.read_metrics(tmp_path) if "eval/loss" in line]
    assert [line["kind"] for line in lines] == ["epoch"] * 3
    model = net()
    model.load_state_dict(weights_of(tmp_path))
    with torch.no_grad():
        logits = model(torch.from_numpy(test["x"]))
    expected = F.cross_entropy(logits, torch.from_numpy(test["label"]))
    assert lines[-1]["eval/loss"] == pytest.approx(expected.item(), rel=1e-5)
    wrong = (logits.argmax(1).numpy() != test["label"]).mean()
    assert lines[-1]["eval/error"] == pytest.approx(wrong)
    assert lines[0]["eval/loss"] > lines[-1]["eval/loss"]
