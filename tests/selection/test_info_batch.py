"""InfoBatch: which rows it leaves out, that sums stay without bias, and the source's defects."""

import pickle

import numpy as np
import pytest

from raysb.history.records import LossRecords
from raysb.history.table import LossTable
from raysb.schema import Selection
from raysb.seeding import Draws
from raysb.selection.info_batch import InfoBatch


def recorded(losses: np.ndarray, ids: np.ndarray | None = None) -> LossRecords:
    table = LossTable(capacity=len(losses))
    ids = np.arange(len(losses)) if ids is None else ids
    table.record_backward(ids, losses.astype(np.float32), 7)
    return table.records()


def pruned(
    selector: InfoBatch, known: LossRecords, epoch: int = 3, epochs: int = 100, seed: int = 0
) -> Selection:
    draws = Draws(seed=seed, epoch=epoch)
    wanted = selector.preselect(known.id, selector.outlook(known, epoch, epochs), draws)
    assert len(wanted.score) == 0
    return wanted.drawn


def exponential(size: int) -> np.ndarray:
    return np.random.default_rng(0).exponential(size=size).astype(np.float32)


@pytest.mark.parametrize(("ratio", "share"), [(0.5, 0.684), (0.3, 0.810), (0.0, 1.0)])
def test_rows_above_the_mean_are_kept_and_of_the_others_a_share(ratio, share) -> None:
    """1 - 1/e of exponential losses lie below their mean; the source kept 679 and 807 of 1,000."""
    losses = exponential(20_000)
    rows, probability, weight = pruned(InfoBatch(prune_ratio=ratio), recorded(losses))
    low = losses < losses.mean(dtype=np.float64)
    assert set(np.flatnonzero(~low)) <= set(rows.tolist())
    assert len(rows) / 20_000 == pytest.approx(share, abs=0.01)
    np.testing.assert_allclose(weight, np.where(low[rows], 1 / (1 - ratio), 1), rtol=1e-6)
    np.testing.assert_allclose(probability, 1 / weight, rtol=1e-6)
    assert (np.diff(rows) > 0).all()


def test_the_weights_add_up_to_all_rows_on_average() -> None:
    """Five low rows at r = .5: the source keeps int(2.5) of them and has weight 4 for 5."""
    losses = np.array([1.0, 1, 1, 1, 1, 9, 9])
    sums = [
        pruned(InfoBatch(), recorded(losses), seed=seed).weight.sum(dtype=np.float64)
        for seed in range(4000)
    ]
    assert abs(np.mean(sums) - 7) < 3 * np.std(sums) / np.sqrt(4000)


def test_weighted_gradients_are_those_of_all_rows_on_average() -> None:
    """10,000 prunings of a linear model with squared error, within three standard errors."""
    draw = np.random.default_rng(1)
    inputs, truth, weights = draw.normal(size=(60, 4)), draw.normal(size=60), draw.normal(size=4)
    error = inputs @ weights - truth
    gradients = 2 * error[:, None] * inputs
    known = recorded(error**2)
    selector = InfoBatch(prune_ratio=0.6)
    outlook = selector.outlook(known, 3, 100)
    found = np.zeros((10_000, 4))
    for seed, total in enumerate(found):
        rows, _, weight = selector.preselect(known.id, outlook, Draws(seed=seed)).drawn
        total[:] = weight @ gradients[rows] / 60
    deviation = found.std(axis=0) / np.sqrt(10_000)
    assert (abs(found.mean(axis=0) - gradients.mean(axis=0)) < 3 * deviation).all()
    assert (deviation < 0.02 * abs(gradients).mean()).all()


@pytest.mark.parametrize(
    ("epochs", "anneal", "whole"),
    [
        (10, 0.125, [0, 8, 9]),
        (8, 0.125, [0, 7]),
        (10, 0.1, [0, 9]),
        (100, 0.07, [0, *range(93, 100)]),  # .07 * 100 is above 7
        (5, 0.0, [0]),
        (3, 1.0, [0, 1, 2]),
        (1, 0.125, [0]),
    ],
)
def test_the_first_and_the_last_epochs_train_every_row_with_weight_1(epochs, anneal, whole) -> None:
    """Of 10 epochs with delta .875 the source's last two gave 1,000 rows a weight of 1,321."""
    known = recorded(exponential(1000))
    found = []
    for epoch in range(epochs):
        rows, probability, weight = pruned(InfoBatch(anneal=anneal), known, epoch, epochs)
        if len(rows) == 1000:
            assert weight.sum() == probability.sum() == 1000
            found.append(epoch)
        else:
            assert 600 < len(rows) < 750
    assert found == whole


def test_ids_beyond_what_a_float_holds_are_told_apart() -> None:
    """The source's ids travel in the dtype of the loss: 2^24 + 1 becomes 2^24, in half 2,049 does.

    Every other id is low here; a mix-up would leave out rows of the others.
    """
    ids = np.sort(np.concatenate([np.arange(500) + 2**24, np.arange(500) + 2**53]))
    losses = np.where(ids % 2 == 0, 0.1, 5.0).astype(np.float16)
    rows, _, weight = pruned(InfoBatch(prune_ratio=0.9), recorded(losses, ids))
    assert set(np.flatnonzero(ids % 2)) <= set(rows.tolist())
    assert (weight == np.where(ids[rows] % 2 == 0, np.float32(1 / (1 - 0.9)), 1)).all()
    assert (weight > 1).sum() == pytest.approx(50, abs=25)


def test_a_loss_equal_to_the_mean_is_not_below_it() -> None:
    """Of 1, 2, 2, 3 the mean is 2; of rows that are all alike none is left out for ever."""
    outlook = InfoBatch().outlook(recorded(np.array([1.0, 2, 2, 3])), 3, 100)
    assert outlook.ids.tolist() == [0]
    rows, _, weight = pruned(InfoBatch(prune_ratio=0.9), recorded(np.full(64, 0.75)))
    assert len(rows) == weight.sum() == 64


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_loss_that_is_not_finite_does_not_stop_the_pruning(bad) -> None:
    """One NaN made the source's mean NaN, below which nothing lies."""
    losses = np.append(exponential(999), bad)
    table = LossTable(capacity=1000)
    table.record_backward(np.arange(1000), losses.astype(np.float32), 7)
    table.record_selected(np.array([999]), 1)  # known, without a finite loss
    rows, _, weight = pruned(InfoBatch(), table.records())
    assert len(rows) == pytest.approx(684, abs=50)
    assert rows[-1] == 999
    assert weight[-1] == 1


def test_rows_that_were_never_recorded_are_kept() -> None:
    selector, known = InfoBatch(prune_ratio=0.99), recorded(np.array([1.0] * 50 + [99.0]))
    outlook = selector.outlook(known, 3, 100)
    rows, _, weight = selector.preselect(np.arange(40, 80), outlook, Draws(epoch=3)).drawn
    assert set(range(10, 40)) <= set(rows.tolist())
    assert (weight[rows >= 10] == 1).all()
    assert len(rows) < 35
    assert selector.outlook(recorded(np.array([np.nan])), 3, 100) is None


def test_it_is_by_the_losses_and_not_by_their_ranks() -> None:
    """An increasing map moves rows across the mean: of the exponential, of its square root."""
    shares = []
    for losses in (exponential(20_000), np.sqrt(exponential(20_000))):
        known = recorded(losses)
        outlook = InfoBatch().outlook(known, 3, 100)
        shares.append(len(outlook.ids) / 20_000)
    assert shares[0] == pytest.approx(1 - np.exp(-1), abs=0.01)
    assert shares[1] == pytest.approx(1 - np.exp(-np.pi / 4), abs=0.01)


def test_what_is_left_out_depends_on_seed_epoch_and_id_alone() -> None:
    known, selector = recorded(exponential(500)), InfoBatch()
    outlook = selector.outlook(known, 3, 100)
    whole = selector.preselect(known.id, outlook, Draws(epoch=3)).drawn.indices
    order = np.random.default_rng(0).permutation(500)
    copy = pickle.loads(pickle.dumps((selector, outlook)))
    assert copy[0] == selector
    pieces = [
        ids[copy[0].preselect(ids, copy[1], Draws(epoch=3)).drawn.indices]
        for ids in np.array_split(order, 7)
    ]
    assert sorted(np.concatenate(pieces).tolist()) == whole.tolist()
    for other in (Draws(epoch=4), Draws(seed=1, epoch=3)):
        assert selector.preselect(known.id, outlook, other).drawn.indices.tolist() != whole.tolist()


def test_numpys_global_numbers_are_left_alone() -> None:
    before = np.random.get_state()[1].tolist()  # noqa: NPY002
    pruned(InfoBatch(), recorded(exponential(100)))
    assert np.random.get_state()[1].tolist() == before  # noqa: NPY002


def test_rows_offered_and_kept_are_counted() -> None:
    selector = InfoBatch()
    kept = len(pruned(selector, recorded(exponential(300))).indices)
    assert selector.metrics() == {
        "num_offered": 300,
        "num_selected": kept,
        "kept_fraction": kept / 300,
    }


@pytest.mark.parametrize(
    ("name", "value"),
    [("prune_ratio", 1.0), ("prune_ratio", -0.1), ("anneal", 1.1), ("anneal", float("nan"))],
)
def test_values_out_of_range_are_refused_at_construction(name, value) -> None:
    with pytest.raises(ValueError, match=rf"InfoBatch\({name}={value!r}\): must be"):
        InfoBatch(**{name: value})
