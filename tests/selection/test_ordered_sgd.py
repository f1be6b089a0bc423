"""OrderedSGD: top q of random minibatches; chances are hypergeometric."""

from math import nextafter

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.datasets import load_digits
from torch import nn

from raysb.loader import SelectiveLoader
from raysb.local import LocalStream
from raysb.losses import cross_entropy, mse
from raysb.schema import ID, POOL, PROBABILITY, WEIGHT
from raysb.scoring.settings import Scoring
from raysb.seeding import Draws
from raysb.selection import HighestK, LossDistribution, OrderedSGD
from raysb.selection.ordered_sgd import inclusion
from raysb.source.arrays import ArraySource
from raysb.source.settings import Data
from raysb.task import Task, inputs
from raysb.training.learner import Learner
from raysb.training.spec import StreamSpec


def test_the_golden_chances_of_sixteen_rows() -> None:
    """The j-th largest of 16 in a minibatch of 8 of which 4 are kept, drawn once: sum 4."""
    golden = [0.5] * 4 + [0.4872, 0.4499, 0.3846, 0.2976, 0.2024, 0.1154, 0.0501, 0.0128] + [0] * 4
    once = inclusion(16, 8, 4) * 8 / 16
    np.testing.assert_allclose(once, golden, atol=5e-5)
    assert once.sum() == pytest.approx(4)
    descending = np.arange(16, 0, -1, dtype=np.float32)
    both = OrderedSGD(fraction=0.5, minibatch=8).probability(descending)
    np.testing.assert_allclose(both / 2, golden, atol=5e-5)


@pytest.mark.parametrize(
    ("n", "s", "q"), [(2, 1, 1), (9, 4, 1), (9, 4, 4), (30, 7, 3), (30, 30, 11), (2000, 64, 32)]
)
def test_the_chances_are_those_of_scipys_hypergeometric(n, s, q) -> None:
    wanted = stats.hypergeom(n - 1, np.arange(n), s - 1).cdf(q - 1)
    np.testing.assert_allclose(inclusion(n, s, q), wanted, atol=1e-9)


@pytest.mark.parametrize("size", [1, 5, 63, 64, 65, 95, 97, 300])
def test_q_rows_of_each_minibatch_are_kept(size) -> None:
    """Minibatches of two sizes, one apart, where s does not divide the pool."""
    losses = np.random.default_rng(0).exponential(size=size).astype(np.float32)
    selector = OrderedSGD(fraction=0.25, minibatch=16)
    rows = selector.select(np.arange(size), losses, None, Draws()).indices
    parts = np.array_split(np.arange(size), max(round(size / 16), 1))
    assert len(rows) == sum(max(round(0.25 * len(part)), 1) for part in parts)
    assert selector.probability(losses).sum() == pytest.approx(len(rows), abs=1e-6)


def test_one_minibatch_is_the_highest_of_the_pool() -> None:
    losses = np.random.default_rng(0).exponential(size=90).astype(np.float32)
    picks = [
        selector.select(np.arange(90), losses, None, Draws()).indices.tolist()
        for selector in (OrderedSGD(fraction=0.3, minibatch=90), HighestK(fraction=0.3))
    ]
    assert picks[0] == picks[1]


def test_the_highest_of_a_minibatch_are_kept_and_lower_ones_are_not() -> None:
    """The q highest of the pool are certain; the q-1 lowest others of a minibatch are not."""
    losses = np.arange(64, dtype=np.float32)
    chances = OrderedSGD(fraction=0.25, minibatch=16).probability(losses)
    assert (chances[-4:] > 1 - 1e-9).all()
    assert (chances[:12] < 1e-9).all()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("fraction", 0),
        ("fraction", 2),
        ("fraction", "Auto"),
        ("fraction", None),
        ("minibatch", 0),
        ("minibatch", -3),
        ("minibatch", "auto"),
    ],
)
def test_values_out_of_range_are_refused_at_construction(name, value) -> None:
    with pytest.raises(ValueError, match=rf"OrderedSGD\({name}={value!r}\): must be"):
        OrderedSGD(**{name: value})


# --- q by training accuracy: 80, 90, 95 and 99.5 % ------------------------------------------------

REACHED = (0.8, 0.9, 0.95, 0.995)


@pytest.mark.parametrize(
    ("accuracy", "of_16", "of_4"),
    [
        (None, 16, 4),  # nothing known yet
        (0.0, 16, 4),
        (nextafter(0.8, 0), 16, 4),
        (0.8, 8, 2),
        (nextafter(0.9, 0), 8, 2),
        (0.9, 4, 1),
        (nextafter(0.95, 0), 4, 1),
        (0.95, 2, 1),
        (nextafter(0.995, 0), 2, 1),
        (0.995, 1, 1),
        (1.0, 1, 1),
    ],
)
def test_law_13_q_is_halved_at_80_90_95_and_99_5_percent(accuracy, of_16, of_4) -> None:
    losses = np.random.default_rng(0).exponential(size=64).astype(np.float32)
    for size, wanted in ((16, of_16), (4, of_4)):
        selector = OrderedSGD(fraction="auto", minibatch=size)
        assert selector.q(size, accuracy) == wanted
        known = LossDistribution(losses, accuracy=accuracy)
        rows = selector.select(np.arange(64), losses, known, Draws()).indices
        assert len(rows) == 64 // size * wanted


def test_q_is_rounded_down_and_at_least_one_row_of_any() -> None:
    selector = OrderedSGD(fraction="auto")
    assert [selector.q(63, a) for a in (0.5, 0.8, 0.9, 0.95, 1)] == [63, 31, 15, 7, 3]
    assert [selector.q(1, a) for a in (None, 1)] == [1, 1]
    assert [selector.q(0, a) for a in (None, 1)] == [0, 0]


@pytest.mark.parametrize("rows", [200, 1000, 1400, 60_000])
def test_a_share_of_rows_that_is_exactly_one_of_them_has_reached_it(rows) -> None:
    selector = OrderedSGD(fraction="auto", minibatch=16)
    for place, per_mille in enumerate((800, 900, 950, 995)):
        right = rows * per_mille // 1000
        assert right * 1000 == rows * per_mille
        assert selector.q(16, right / rows) == 8 >> place
        assert selector.q(16, (right - 1) / rows) == 16 >> place


def test_a_number_as_fraction_takes_no_notice_of_accuracy() -> None:
    losses = np.random.default_rng(0).exponential(size=64).astype(np.float32)
    selector = OrderedSGD(fraction=0.5, minibatch=16)
    picks = [
        selector.select(np.arange(64), losses, known, Draws()).indices.tolist()
        for known in (None, LossDistribution(losses, accuracy=0.99))
    ]
    assert picks[0] == picks[1]
    assert not selector.needs_accuracy
    with pytest.raises(ValueError, match="distribution=None"):
        OrderedSGD(fraction="auto").select(np.arange(64), losses, None, Draws())


def test_the_golden_chances_hold_for_the_q_in_force() -> None:
    """Of 16 rows in minibatches of 8: q = 8 below 80 %, then 4, 2, 1 and 1."""
    golden = [0.5] * 4 + [0.4872, 0.4499, 0.3846, 0.2976, 0.2024, 0.1154, 0.0501, 0.0128] + [0] * 4
    descending = np.arange(16, 0, -1, dtype=np.float32)
    selector = OrderedSGD(fraction="auto", minibatch=8)
    half = selector.probability(descending, 0.8)
    np.testing.assert_allclose(half / 2, golden, atol=5e-5)
    for accuracy, q in ((None, 8), (0.79, 8), (0.9, 2), (0.95, 1), (1.0, 1)):
        wanted = stats.hypergeom(15, np.arange(16), 7).cdf(q - 1)
        np.testing.assert_allclose(selector.probability(descending, accuracy), wanted, atol=1e-9)


def test_rows_are_kept_as_often_as_the_chance_that_is_told_of_them_says() -> None:
    losses, draws = np.arange(16, dtype=np.float32), 3000
    known = LossDistribution(losses, accuracy=0.92)
    selector = OrderedSGD(fraction="auto", minibatch=8)
    counts, chances = np.zeros(16), np.zeros(16)
    for seed in range(draws):
        rows, chance, _ = selector.select(np.arange(16), losses, known, Draws(seed=seed))
        counts[rows] += 1
        chances[rows] = chance
    assert counts.sum() == 2 * 2 * draws
    deviation = np.sqrt(chances * (1 - chances) / draws)
    assert (abs(counts / draws - chances) <= 4.5 * deviation + 1 / draws).all()


# --- a run ----------------------------------------------------------------------------------------

ROWS, POOL_ROWS, BATCH, EPOCHS = 640, 64, 16, 12
LOSS_OF = cross_entropy("label")


def digits() -> dict[str, np.ndarray]:
    images, labels = load_digits(return_X_y=True)
    return {"x": (images[:ROWS] / 16).astype(np.float32), "label": labels[:ROWS]}


def net() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(64, 48), nn.Tanh(), nn.Linear(48, 10))


def spec_with(loss=LOSS_OF, *, columns=None, correct=None, **scoring) -> StreamSpec:
    return StreamSpec(
        source=ArraySource(columns or digits(), seed=3),
        task=Task(model=net, forward=inputs("x"), loss=loss, correct=correct),
        selector=OrderedSGD(fraction="auto", minibatch=16),
        scoring=Scoring(batch_size=POOL_ROWS, **scoring),
        seed=3,
        inputs=("x",),
    )


def train(*, state=None, max_steps=None):
    """A run of the local engine, and its steps as plain arrays."""
    spec = spec_with()
    stream, model = LocalStream(spec), net()
    if state is not None:
        stream.load_state_dict(state[0])
        model.load_state_dict(state[1])
    learner = Learner(spec.task, model, torch.optim.SGD(model.parameters(), 0.3))
    steps = []
    for batch in stream.iter_batches(
        batch_size=BATCH, epochs=EPOCHS, model=model, max_steps=max_steps
    ):
        learner.step(stream, batch, 1.0)
        names = (ID, POOL, PROBABILITY, WEIGHT)
        steps.append({name: batch[name].numpy().copy() for name in names})
    return stream, model, steps


def schedule(epochs) -> list[float]:
    """The kept share of each epoch, by what the run recorded of the epoch before it."""
    error = [sums.num_correct / sums.num_judged for _, sums in sorted(epochs.items())]
    halvings = [sum(accuracy >= reached for reached in REACHED) for accuracy in error]
    return [1.0, *(2.0**-times for times in halvings[:-1])]


@pytest.fixture(scope="module")
def whole():
    return train()


def test_an_epoch_of_a_run_keeps_what_the_accuracy_of_the_epoch_before_it_says(whole) -> None:
    epochs = whole[0].ledger.totals.epochs
    assert len(epochs) == EPOCHS
    kept = [sums.num_selected / sums.num_offered for _, sums in sorted(epochs.items())]
    assert kept == schedule(epochs)
    assert len(set(kept)) >= 4, "accuracy was to pass several of the four"


def test_a_run_that_goes_on_within_an_epoch_equals_the_uninterrupted_one(whole) -> None:
    """Epoch 5 or so has begun, and what is known of the one before it is in the checkpoint."""
    kept = schedule(whole[0].ledger.totals.epochs)
    epoch = next(e for e, share in enumerate(kept) if share <= 0.25)
    of_epoch = whole[0].plan.pools_per_epoch * epoch
    newest = [int(step[POOL].max()) for step in whole[2]]
    at = newest.index(of_epoch + 4) + 1
    assert whole[2][at][POOL].min() > newest[at - 1], "no selected row waits there"
    first = train(max_steps=at)
    rest = train(state=(first[0].state_dict(), first[1].state_dict()))
    assert len(rest[2]) == len(whole[2]) - at
    for ours, theirs in zip(rest[2], whole[2][at:], strict=True):
        for name in (ID, PROBABILITY, WEIGHT):
            np.testing.assert_array_equal(ours[name], theirs[name])
    for ours, theirs in zip(rest[1].parameters(), whole[1].parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_the_loader_follows_accuracy_too() -> None:
    model = net()
    loader = SelectiveLoader(
        digits(),
        model=model,
        loss=LOSS_OF,
        forward=inputs("x"),
        selector=OrderedSGD(fraction="auto", minibatch=16),
        batch_size=BATCH,
        scoring=Scoring(batch_size=POOL_ROWS),
        data=Data(inputs=("x",)),
        seed=3,
    )
    optimizer, right, rows = torch.optim.SGD(model.parameters(), 0.3), [], []
    for _ in range(8):
        rows.append(0)
        for batch in loader:
            rows[-1] += len(batch[ID])
            optimizer.zero_grad()
            LOSS_OF(model(batch["x"]), batch).mean().backward()
            optimizer.step()
        known = loader.state_dict()["ledger"]["epochs"][str(len(right))]
        right.append(known["num_correct"] / ROWS)
    wanted = [1.0] + [2.0 ** -sum(a >= reached for reached in REACHED) for a in right[:-1]]
    # rows that fill no batch go into the first of the next epoch
    np.testing.assert_allclose(rows, ROWS * np.array(wanted), atol=BATCH)
    assert min(wanted) < 1


def no_answer(outputs, batch):
    return (outputs - batch["label"][:, None].float()).square().mean(1)


@pytest.mark.parametrize("loss", [mse("label"), no_answer])
def test_a_task_without_a_right_answer_is_refused_at_construction(loss) -> None:
    with pytest.raises(ValueError, match=r"OrderedSGD\(fraction='auto'.*no method `correct`"):
        spec_with(loss)
    told = spec_with(loss, correct=lambda outputs, batch: outputs.argmax(1) == batch["label"])
    assert told.selector.needs_accuracy


def test_a_proxy_whose_accuracy_would_stand_for_that_of_training_is_refused() -> None:
    with pytest.raises(ValueError, match=r"scoring\.proxy='some\.model' with OrderedSGD"):
        spec_with(proxy="some.model")
