"""The audit holds what was trained, once, also when a step is done again."""

import numpy as np

from raysb.schema import ID, LOSS, POOL, PROBABILITY, WEIGHT, WEIGHTS_STEP
from raysb.training.audit import Audit, read_audit


def batch(ids, scored=True):
    n = len(ids)
    columns = {
        ID: np.array(ids, np.int64),
        POOL: np.full(n, 2),
        PROBABILITY: np.full(n, 0.25, np.float32),
        WEIGHT: np.full(n, 4, np.float32),
        "image": np.zeros((n, 8, 8), np.uint8),
    }
    more = {LOSS: np.arange(n, dtype=np.float32), WEIGHTS_STEP: np.full(n, 7)}
    return columns | more if scored else columns


def test_what_is_noted_is_read_back_in_the_order_of_steps_and_workers(tmp_path) -> None:
    note = Audit(str(tmp_path / "deep" / "audit"))
    note(10, 0, batch([5]))
    note(2, 1, batch([3, 4]))
    note(2, 0, batch([1, 2]))
    note(9, 0, batch([]))  # a worker that had only padding
    table = read_audit(note.folder).to_pydict()
    assert table.pop("step") == [2, 2, 2, 2, 10]
    assert table == {
        ID: [1, 2, 3, 4, 5],
        POOL: [2] * 5,
        PROBABILITY: [0.25] * 5,
        WEIGHT: [4.0] * 5,
        WEIGHTS_STEP: [7] * 5,
        LOSS: [0.0, 1.0, 0.0, 1.0, 0.0],
    }


def test_a_step_that_is_done_again_replaces_what_it_noted(tmp_path) -> None:
    note = Audit(str(tmp_path))
    note(1, 0, batch([1, 2]))
    note(1, 0, batch([3]))
    assert read_audit(tmp_path)[ID].to_pylist() == [3]
    (tmp_path / "step-00000002-rank-0000.draft").write_bytes(b"torn")
    assert read_audit(tmp_path)[ID].to_pylist() == [3]


def test_what_was_noted_after_a_step_is_forgotten_also_of_workers_that_are_there_no_more(
    tmp_path,
) -> None:
    note = Audit(str(tmp_path / "audit"))
    note.forget_after(0)  # nothing was noted yet
    for step in (1, 2):
        for rank in (0, 1):
            note(step, rank, batch([2 * step + rank]))
    (tmp_path / "audit" / "step-00000002-rank-0000.draft").write_bytes(b"torn")
    note.forget_after(1)
    assert read_audit(note.folder)[ID].to_pylist() == [2, 3]
    note.forget_after(0)
    assert list((tmp_path / "audit").iterdir()) == []


def test_rows_that_were_not_scored_have_no_step_and_loss(tmp_path) -> None:
    Audit(str(tmp_path))(1, 0, batch([1], scored=False))
    assert read_audit(tmp_path).column_names == ["step", ID, POOL, PROBABILITY, WEIGHT]


def test_a_run_that_trained_nothing_has_an_empty_audit(tmp_path) -> None:
    assert read_audit(tmp_path).num_rows == 0
