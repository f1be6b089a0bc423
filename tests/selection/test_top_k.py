"""The k largest, with ties by lot, against a sort by loss, draw and id."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from raysb.seeding import Draws
from raysb.selection.top_k import top_k


class Coarse(Draws):
    """Draws of few values, so that level rows draw alike now and then."""

    def uniform(self, ids, purpose="select"):
        return np.floor(super().uniform(ids, purpose) * 4) / 4


@settings(deadline=None)
@given(
    st.lists(st.integers(0, 4), min_size=1, max_size=40),
    st.integers(0, 40),
    st.sampled_from([Draws(epoch=2), Coarse(epoch=2)]),
    st.integers(0, 99),
)
def test_it_is_a_sort_by_value_draw_and_id_in_any_order_of_rows(values, count, draws, seed) -> None:
    size = len(values)
    count = min(count, size)
    ids = np.random.default_rng(seed).permutation(1000)[:size]
    lot = draws.uniform(ids).tolist()
    wanted = sorted(range(size), key=lambda row: (-values[row], lot[row], ids[row]))[:count]
    rows, chance = top_k(np.array(values, np.float32), count, ids, draws)
    assert rows.tolist() == sorted(wanted)
    if count:
        last = values[wanted[-1]]
        above = sum(value > last for value in values)
        level = (count - above) / values.count(last)
        assert chance.tolist() == [1.0 if values[row] > last else level for row in rows]
