"""Which samples come first, against Python's own sort and scipy's ranks."""

from pathlib import Path

import numpy as np
import pytest
from scipy.stats import rankdata

from raysb.inspect_history.order import ORDERS, SHOWN, order, suspicion
from raysb.inspect_history.records import RunHistory


def history(count=300, seed=0, learned=True):
    rng = np.random.default_rng(seed)
    loss = rng.choice([0.5, 1, 2, np.nan], count).astype(np.float32)
    samples = {
        "id": np.arange(count) * 3,
        "loss": loss,
        "mean_loss": np.where(np.isnan(loss), np.nan, rng.choice([0.25, 1, 4], count)),
        "forgetting_events": rng.integers(0, 4, count),
        "times_selected": rng.integers(0, 9, count),
        "first_learned_epoch": rng.choice([0, 2, 65535], count) if learned else np.full(count, -1),
        "last_epoch": np.full(count, 8),
    }
    if not learned:
        samples["first_learned_epoch"][:] = 65535
    return RunHistory(checkpoint=Path("c"), num_steps=1, samples=samples)


def rows_of(found):
    columns = {name: column.tolist() for name, column in found.samples.items()}
    return [
        dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)
    ]


def falling(value):
    """A key that sorts large values first and those without a value last."""
    return (1, 0.0) if value != value else (0, -value)


@pytest.mark.parametrize(
    ("by", "columns"),
    [
        ("loss", ["loss"]),
        ("mean_loss", ["mean_loss"]),
        ("forgetting", ["forgetting_events", "mean_loss"]),
        ("selected", ["times_selected", "mean_loss"]),
        ("never", ["mean_loss"]),
    ],
)
def test_the_order_is_that_of_a_plain_sort_with_ties_by_id(by, columns) -> None:
    found = history()
    wanted = [row for row in rows_of(found) if by != "never" or row["first_learned_epoch"] == 65535]
    wanted.sort(key=lambda row: ([falling(row[name]) for name in columns], row["id"]))
    assert found.samples["id"][order(found, by)].tolist() == [row["id"] for row in wanted]


def test_suspicion_is_the_mean_of_two_mid_ranks() -> None:
    found = history()
    n = found.num_samples
    ranks = [
        (rankdata(np.nan_to_num(found.samples[name], nan=-1)) - 0.5) / n
        for name in ("mean_loss", "loss")
    ]
    np.testing.assert_allclose(suspicion(found.samples), np.mean(ranks, axis=0), rtol=1e-12)
    values = suspicion(found.samples)[order(found, "suspicion")]
    assert (np.diff(values) <= 0).all()
    assert 0 < values.min() <= values.max() < 1


def test_orders_of_learning_need_something_learned() -> None:
    found = history(learned=False)
    for by in ("forgetting", "never"):
        with pytest.raises(ValueError, match=f"by={by}: no prediction .* suspicion, loss"):
            order(found, by)
    assert len(order(found, "selected")) == 300


def test_an_unknown_order_is_refused_and_each_has_a_column_to_show() -> None:
    with pytest.raises(ValueError, match="by=size: must be one of suspicion, loss"):
        order(history(), "size")
    assert SHOWN.keys() == ORDERS.keys()
