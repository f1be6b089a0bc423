"""What an outlook finds of some ids, against a dict."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from raysb.selection.preselection import Outlook

IDS = st.integers(-(2**63), 2**63 - 1) | st.integers(-5, 5)


@settings(deadline=None)
@given(st.sets(IDS), st.lists(IDS))
def test_it_finds_the_entries_of_ids_in_whatever_order(known, asked) -> None:
    """Ids asked about may be unknown, below all or above all of those known, or repeated."""
    ids = np.array(sorted(known), np.int64)
    asked = np.array([*asked, *ids[::2]], np.int64)[::-1]
    place = {int(i): entry for entry, i in enumerate(ids)}
    entries, found = Outlook(ids, {}).find(asked)
    assert entries.tolist() == [place.get(int(i), 0) for i in asked]
    assert found.tolist() == [int(i) in place for i in asked]
