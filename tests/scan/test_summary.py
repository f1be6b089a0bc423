"""How fast a pass over the rows is: one definition, for few rows and for many."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from raysb.scan import summary
from raysb.scan.summary import Progress


def scored(monkeypatch: pytest.MonkeyPatch, blocks: list[tuple[float, int]]) -> Progress:
    """A pass that began at 100 s, with blocks of (seconds when it came, rows)."""
    times = iter(100.0 + seconds for seconds, _ in blocks)
    monkeypatch.setattr(summary, "time", SimpleNamespace(monotonic=lambda: next(times)))
    progress = Progress(total=sum(rows for _, rows in blocks), began=100.0)
    for _, rows in blocks:
        progress.add({"id": np.arange(rows)})
    return progress


@pytest.mark.parametrize(
    ("blocks", "rate"),
    [
        ([(10.0, 100)], None),
        ([(10.0, 100), (14.0, 20)], 5.0),
        ([(10.0, 100), (12.0, 50), (14.0, 50)], 25.0),
        ([(0.5, 1), (1000.5, 4000)], 4.0),
    ],
)
def test_the_rate_is_rows_after_the_first_block_over_the_time_after_it(
    monkeypatch, blocks, rate
) -> None:
    assert scored(monkeypatch, blocks).rows_per_s == rate


def test_a_pass_of_one_block_has_a_summary_without_a_rate(monkeypatch) -> None:
    progress = scored(monkeypatch, [(10.0, 100)])
    monkeypatch.setattr(summary, "time", SimpleNamespace(monotonic=lambda: 111.0))
    done = progress.summary(Path("a.parquet"), ["id"], 1)
    assert (done.start_s, done.wall_time_s, done.rows_per_s) == (10.0, 11.0, None)
    assert done.as_json()["rows_per_s"] is None
