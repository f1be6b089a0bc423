"""The table equals a dict of lists that keeps the last version of every record."""

from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raysb.history.routing import join_exports, join_records, join_states, split, split_state
from raysb.history.table import LossTable


class Record(NamedTuple):
    epoch: int
    loss: float
    correct: bool | None
    selected: bool
    weights_step: int


class Oracle:
    """All records ever made, by id and epoch, and what follows from them."""

    def __init__(self) -> None:
        self.records: dict[int, dict[int, Record]] = {}
        self.loss: dict[int, tuple[float, int]] = {}
        self.ignored = 0

    def record(self, ids, losses, correct, selected, weights_step, epoch) -> None:
        correct = [None] * len(ids) if correct is None else [bool(c) for c in correct]
        rows = dict(zip(ids.tolist(), zip(losses, correct, selected, strict=True), strict=True))
        for i, (loss, right, chosen) in rows.items():
            epochs = self.records.setdefault(i, {})
            if epochs and max(epochs) > epoch:
                self.ignored += 1
                continue
            epochs[epoch] = Record(epoch, float(loss), right, bool(chosen), weights_step)
            if np.isfinite(loss):
                self.loss[i] = (float(loss), weights_step)

    def export(self) -> dict[int, dict[str, Any]]:
        return {i: self._row(i, [e[k] for k in sorted(e)]) for i, e in self.records.items()}

    def _row(self, i: int, records: list[Record]) -> dict[str, Any]:
        finite = [r.loss for r in records if np.isfinite(r.loss)]
        right = [r.correct for r in records]
        forgotten = sum(bool(before) and after is False for before, after in pairwise(right))
        loss, step = self.loss.get(i, (np.nan, 0))
        return {
            "loss": loss,
            "scored_loss": records[-1].loss if np.isfinite(records[-1].loss) else np.nan,
            "weights_step": step,
            "mean": np.mean(finite) if finite else np.nan,
            "variance": np.var(finite) if finite else np.nan,
            "times_scored": len(finite),
            "times_selected": sum(r.selected for r in records),
            "first_learned_epoch": next((r.epoch for r in records if r.correct), 65535),
            "forgetting_events": forgotten,
            "epoch": records[-1].epoch,
            "correct": bool(records[-1].correct),
            "selected": records[-1].selected,
            "backward": False,
            "nonfinite": not np.isfinite(records[-1].loss),
            "times_nonfinite": len(records) - len(finite),
        }


IDS = st.sampled_from([-(2**63), -1, 0, 1, 2, 3, 2**40, 2**63 - 1])
LOSSES = st.one_of(st.floats(0, 50, width=32), st.sampled_from([np.nan, np.inf, -np.inf]))


@st.composite
def calls(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Records of increasing epochs, with replays of other values and late ones."""
    made = []
    epoch = 0
    for _ in range(draw(st.integers(0, 12))):
        epoch = max(0, epoch + draw(st.sampled_from([0, 0, 1, 1, 2, -1])))
        ids = draw(st.lists(IDS, max_size=6))
        flags = st.lists(st.booleans(), min_size=len(ids), max_size=len(ids))
        values = st.lists(LOSSES, min_size=len(ids), max_size=len(ids))
        correct = draw(st.one_of(st.none(), flags))
        made.append(
            {
                "ids": np.array(ids, np.int64),
                "losses": np.array(draw(values), np.float32),
                "correct": None if correct is None else np.array(correct, np.uint8),
                "selected": np.array(draw(flags), np.bool_),
                "weights_step": draw(st.integers(0, 2**31 - 1)),
                "epoch": epoch,
            }
        )
    return made


def assert_equals(exported: dict[str, np.ndarray], oracle: Oracle) -> None:
    rows = oracle.export()
    assert exported["id"].tolist() == sorted(rows)
    for name, column in exported.items():
        if name == "id":
            continue
        wanted = np.array([rows[i][name] for i in exported["id"].tolist()], np.float64)
        tolerance = {"mean": 1e-5, "variance": 1e-3}.get(name, 0)
        np.testing.assert_allclose(column, wanted, rtol=1e-5 if tolerance else 0, atol=tolerance)


@given(calls())
@settings(max_examples=300, deadline=None)
def test_the_table_knows_what_a_dict_of_all_records_knows(made) -> None:
    table, oracle = LossTable(), Oracle()
    for call in made:
        table.record(**call)
        oracle.record(**call)
    assert_equals(table.export(), oracle)
    records = table.lookup(table.ids())
    for name, column in table.export().items():
        np.testing.assert_array_equal(getattr(records, name), column)
    np.testing.assert_array_equal(table.variance(), records.variance)
    metrics = table.metrics()
    assert metrics["num_ids"] == len(table) == len(oracle.records)
    assert metrics["num_ignored"] == oracle.ignored
    assert metrics["num_nonfinite"] == sum(r["times_nonfinite"] for r in oracle.export().values())


@given(calls(), st.integers(1, 8))
@settings(max_examples=100, deadline=None)
def test_any_number_of_shards_answers_like_one_table(made, num_shards) -> None:
    table, shards = LossTable(), [LossTable() for _ in range(num_shards)]
    for call in made:
        table.record(**call)
        for shard, rows in zip(shards, split(call["ids"], num_shards), strict=True):
            columns = {k: v[rows] if isinstance(v, np.ndarray) else v for k, v in call.items()}
            shard.record(**columns)
    whole = join_exports([shard.export() for shard in shards])
    for name, column in table.export().items():
        np.testing.assert_array_equal(whole[name], column)
    asked = np.array([3, 99, -1, 3, 2**40], np.int64)
    rows = split(asked, num_shards)
    parts = [shard.lookup(asked[r]) for shard, r in zip(shards, rows, strict=True)]
    for ours, theirs in zip(join_records(parts, rows), table.lookup(asked), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert_same_state(join_states([shard.state_dict() for shard in shards]), table.state_dict())


def assert_same_state(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        np.testing.assert_array_equal(ours[name], value, err_msg=name)


@given(calls(), st.integers(0, 12), st.sampled_from([1, 2, 4, 8]))
@settings(max_examples=100, deadline=None)
def test_a_restored_table_goes_on_like_the_saved_one_on_any_shards(made, cut, num_shards) -> None:
    table = LossTable()
    for call in made[:cut]:
        table.record(**call)
    shards = [LossTable() for _ in range(num_shards)]
    for shard, state in zip(shards, split_state(table.state_dict(), num_shards), strict=True):
        shard.load_state_dict(state)
    restored = LossTable(3)
    restored.load_state_dict(join_states([shard.state_dict() for shard in shards]))
    for call in made[cut:]:
        table.record(**call)
        restored.record(**call)
    assert_same_state(restored.state_dict(), table.state_dict())


def record(table: LossTable, epoch: int, losses: list[float], **columns: Any) -> None:
    """Record ids 0, 1, ... with plain defaults."""
    table.record(
        columns.pop("ids", np.arange(len(losses))),
        np.array(losses, np.float32),
        correct=columns.pop("correct", None),
        selected=columns.pop("selected", np.ones(len(losses), np.bool_)),
        weights_step=columns.pop("weights_step", epoch),
        epoch=epoch,
    )


def test_a_replay_leaves_no_trace_of_what_it_replaces() -> None:
    replayed, plain = LossTable(), LossTable()
    for epoch in range(20):
        draw = np.random.default_rng(epoch)
        losses = draw.exponential(size=50).astype(np.float32)
        for _ in range(2):  # with outliers, from which no subtraction would recover
            wrong = (draw.exponential(size=50) * 1e6).tolist()
            record(replayed, epoch, wrong, correct=draw.integers(0, 2, 50, np.uint8))
        for table in (replayed, plain):
            record(table, epoch, losses.tolist(), correct=np.uint8(losses < 1))
    assert_same_state(replayed.state_dict(), plain.state_dict())


def test_the_variance_keeps_its_digits_over_many_epochs() -> None:
    losses = 100 + np.random.default_rng(0).normal(size=(500, 20)).astype(np.float32)
    table = LossTable()
    for epoch, row in enumerate(losses):
        record(table, epoch, row.tolist())
    exported = table.export()
    np.testing.assert_allclose(exported["mean"], losses.mean(0, np.float64), rtol=1e-5)
    np.testing.assert_allclose(table.variance(), losses.var(0, np.float64), rtol=2e-3)


def test_finite_losses_of_any_size_raise_no_warning() -> None:
    table = LossTable()
    for epoch, loss in enumerate([3e38, 0.0, 3e38]):
        record(table, epoch, [loss])
    assert table.lookup(np.arange(1)).variance == np.inf


def test_forgetting_events_and_first_learned_epoch_on_a_written_out_case() -> None:
    table = LossTable()
    #            epoch 0  1  2  3  4
    history = np.array([[0, 1, 0, 1, 0], [1, 1, 1, 1, 1], [0, 0, 0, 0, 0]], np.uint8)
    for epoch in range(5):
        record(table, epoch, [1.0] * 3, correct=history[:, epoch])
    known = table.lookup(np.arange(3))
    assert known.forgetting_events.tolist() == [2, 0, 0]
    assert known.first_learned_epoch.tolist() == [1, 0, 65535]


def test_of_an_id_that_occurs_twice_in_a_call_the_last_row_counts() -> None:
    table = LossTable()
    record(table, 0, [1.0, 2.0, 3.0], ids=np.array([5, 6, 5]))
    assert table.lookup(np.array([5, 6])).loss.tolist() == [3.0, 2.0]
    assert table.lookup(np.array([5])).times_scored.tolist() == [1]


def test_a_loss_of_the_backward_pass_becomes_the_last_loss_and_nothing_else() -> None:
    table, plain = LossTable(), LossTable()
    record(table, 0, [4.0, 5.0], weights_step=7)
    record(plain, 0, [4.0, 5.0], weights_step=7)
    table.record_backward(np.array([0, 8]), np.array([1.5, np.nan], np.float32), 9)
    known = table.lookup(np.array([0, 1, 8]))
    assert known.loss[:2].tolist() == [1.5, 5.0]
    assert known.weights_step.tolist() == [7, 7, 0]  # of the score, by which ages are compared
    assert known.scored_loss[:2].tolist() == [4.0, 5.0]
    assert known.backward.tolist() == [True, False, False]
    assert known.known.tolist() == [True, True, False]
    assert known.mean[:2].tolist() == [4.0, 5.0]
    for each in (table, plain):  # scored again, the mark goes and the statistics never saw it
        record(each, 1, [2.0, 3.0], weights_step=11)
    assert_same_state(table.state_dict(), plain.state_dict())


def test_the_backward_losses_of_an_id_that_is_never_scored_carry_their_own_step() -> None:
    table = LossTable()
    for step in (3, 8):
        table.record_backward(np.array([4]), np.array([step / 2], np.float32), step)
    known = table.lookup(np.array([4]))
    assert (known.loss[0], known.weights_step[0], known.times_scored[0]) == (4.0, 8, 0)
    assert np.isnan(known.scored_loss[0])


def test_one_call_with_losses_of_many_steps_leaves_what_a_call_for_each_step_does() -> None:
    """Where rows were scored, some after the first of these steps, and some ids come twice."""
    draw = np.random.default_rng(0)
    once, apart = LossTable(), LossTable()
    for step in range(9):
        for each in (once, apart):
            scored = np.arange(3 * step, 3 * step + 3)
            record(each, 0, [1.0, 2.0, 3.0], ids=scored, weights_step=step)
    ids = draw.integers(0, 40, (8, 12))
    losses = draw.exponential(size=ids.shape).astype(np.float32)
    losses[draw.random(ids.shape) < 0.1] = np.nan
    steps = np.arange(2, 10)
    for mine, theirs, step in zip(ids, losses, steps, strict=True):
        apart.record_backward(mine, theirs, int(step))
    once.record_backward(ids.ravel(), losses.ravel(), np.repeat(steps, ids.shape[1]))
    for name, column in apart.export().items():
        np.testing.assert_array_equal(once.export()[name], column, err_msg=name)


def test_rows_selected_unscored_are_counted_once_an_epoch_and_leave_the_statistics_alone() -> None:
    table, plain = LossTable(), LossTable()
    for each in (table, plain):
        record(each, 0, [4.0, 5.0], selected=np.array([True, False]))
    for epoch in (1, 1, 2, 1):  # a replay, and one that comes late
        table.record_selected(np.array([1, 7]), epoch)
    known = table.lookup(np.array([0, 1, 7]))
    assert known.times_selected.tolist() == [1, 2, 2]
    assert known.epoch.tolist() == [0, 2, 2]
    assert known.mean[:2].tolist() == [4.0, 5.0]
    for each in (table, plain):
        record(each, 3, [2.0, 1.0], selected=np.zeros(2, np.bool_))
    first, second = table.lookup(np.array([0, 1])), plain.lookup(np.array([0, 1]))
    for name in ("mean", "variance", "times_scored", "loss"):
        assert getattr(first, name).tolist() == getattr(second, name).tolist(), name


def test_a_row_that_is_scored_after_it_was_selected_unscored_counts_both_ways_once() -> None:
    table = LossTable()
    record(table, 0, [2.0])
    for _ in range(2):
        table.record_selected(np.array([0]), 1)
    for _ in range(2):
        record(table, 1, [4.0], selected=np.array([True]))
    table.record_selected(np.array([0]), 1)
    record(table, 1, [4.0], selected=np.array([True]))
    known = table.lookup(np.array([0]))
    assert (known.times_scored[0], known.mean[0], known.times_selected[0]) == (2, 3.0, 2)
    assert known.times_selected_before(1).tolist() == [1]
    assert known.times_selected_before(2).tolist() == [2]


def test_a_backward_loss_that_arrives_late_does_not_replace_a_newer_score() -> None:
    table = LossTable()
    record(table, 1, [4.0], weights_step=7)
    table.record_backward(np.array([0]), np.array([1.5], np.float32), 6)
    known = table.lookup(np.array([0]))
    assert (known.loss[0], known.weights_step[0], known.backward[0]) == (4.0, 7, False)


def test_a_backward_loss_of_the_weights_that_scored_replaces_the_score() -> None:
    """Of level steps what arrives later counts: a training step follows the score it acts on."""
    table = LossTable()
    record(table, 1, [4.0], weights_step=7)
    table.record_backward(np.array([0]), np.array([1.5], np.float32), 7)
    known = table.lookup(np.array([0]))
    assert (known.loss[0], known.weights_step[0], known.backward[0]) == (1.5, 7, True)


def test_of_a_replay_only_the_selection_that_it_repeats_is_taken_away() -> None:
    """Ids that were selected in a later epoch by then keep that count too: a cap on the times that
    one is selected would not hold if a late replay could select it once more."""
    table = LossTable()
    for epoch in (0, 3):
        record(table, epoch, [1.0, 1.0], selected=np.array([True, False]))
    known = table.lookup(np.arange(2))
    counts = [known.times_selected_before(epoch).tolist() for epoch in (2, 3, 4)]
    assert counts == [[2, 0], [1, 0], [2, 0]]


def test_a_backward_loss_stays_the_last_one_when_the_next_score_is_not_finite() -> None:
    table = LossTable()
    record(table, 0, [4.0])
    table.record_backward(np.array([0]), np.array([1.5], np.float32), 2)
    record(table, 1, [np.nan])
    known = table.lookup(np.array([0]))
    assert (known.loss[0], known.weights_step[0], known.backward[0]) == (1.5, 0, True)
    assert (known.nonfinite[0], known.times_scored[0], known.mean[0]) == (True, 1, 4.0)


def test_nonfinite_losses_of_an_id_are_counted_up_to_255_and_in_all_beyond() -> None:
    table = LossTable()
    for epoch in range(300):
        record(table, epoch, [np.inf])
    assert table.lookup(np.array([0])).times_nonfinite.tolist() == [255]
    assert table.metrics()["num_nonfinite"] == 300


def test_unknown_ids_are_nan_and_zero() -> None:
    table = LossTable()
    for _ in range(2):
        known = table.lookup(np.array([3, 4]))
        assert known.id.tolist() == [3, 4]
        assert known.known.tolist() == [False, False]
        assert np.isnan([known.loss, known.mean, known.variance]).all()
        assert known.times_scored.tolist() == [0, 0]
        assert known.epoch.tolist() == [65535, 65535]
        record(table, 0, [1.0])
    assert len(table.lookup(np.zeros(0, np.int64)).loss) == 0


@pytest.mark.parametrize("capacity", [0, 1, 1000, 100_000])
def test_sparse_ids_are_found_again_through_every_growth(capacity) -> None:
    draw = np.random.default_rng(0)
    ids = np.unique(draw.integers(-(2**63), 2**63, 50_000))
    draw.shuffle(ids)
    table = LossTable(capacity)
    for start in range(0, len(ids), 777):
        part = ids[start : start + 777]
        record(table, 0, (part % 1000).tolist(), ids=part)
    assert (table.lookup(ids).loss == ids % 1000).all()
    assert not table.lookup(draw.integers(-(2**63), 2**63, 1000)).known.any()
    assert (table.ids() == np.sort(ids)).all()


def test_an_id_takes_48_bytes_and_a_growing_table_a_quarter_more_at_most() -> None:
    assert LossTable(100_000).nbytes == 48 * 100_000
    table = LossTable()
    for start in range(0, 100_000, 500):
        record(table, 0, [1.0] * 500, ids=np.arange(start, start + 500))
    assert 48 * len(table) <= table.nbytes <= 1.26 * 48 * len(table)


def test_what_cannot_be_recorded_is_refused_and_changes_nothing() -> None:
    table = LossTable()
    for epoch in (-1, 65535):
        with pytest.raises(ValueError, match=f"epoch={epoch}"):
            record(table, epoch, [1.0])
    with pytest.raises(ValueError, match="3 ids, 2 losses"):
        record(table, 0, [1.0, 2.0], ids=np.arange(3))
    assert len(table) == 0
    with pytest.raises(ValueError, match=r"LossTable\(capacity=-1\)"):
        LossTable(-1)
    with pytest.raises(ValueError, match=r"no \['loss'\]"):
        table.load_state_dict({k: v for k, v in table.state_dict().items() if k != "loss"})
