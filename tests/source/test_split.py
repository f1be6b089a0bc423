import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raysb.source.split import Part, split_by_id

ids = st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, unique=True)


@given(ids, st.floats(0, 1), st.randoms())
def test_a_row_stays_on_its_side_wherever_it_stands(
    values: list[int], fraction: float, rng: object
) -> None:
    together = split_by_id(np.array(values), fraction)
    reversed_ = split_by_id(np.array(values[::-1]), fraction)[::-1]
    alone = [split_by_id(np.array([value]), fraction)[0] for value in values]
    assert together.tolist() == reversed_.tolist() == alone


@given(ids, st.floats(0, 1), st.floats(0, 1))
def test_a_larger_fraction_holds_out_the_same_rows_and_more(
    values: list[int], one: float, other: float
) -> None:
    small, large = (split_by_id(np.array(values), f) for f in sorted((one, other)))
    assert not np.any(small & ~large)


@pytest.mark.parametrize("fraction", [0.0, 0.1, 0.5, 1.0])
def test_the_share_held_out_is_the_fraction(fraction: float) -> None:
    share = split_by_id(np.arange(100_000), fraction).mean()
    assert abs(share - fraction) <= 4 * np.sqrt(fraction * (1 - fraction) / 100_000)


def test_another_process_holds_out_the_same_rows() -> None:
    code = (
        "import numpy as np; from raysb.source.split import split_by_id;"
        "print(np.flatnonzero(split_by_id(np.arange(99), .2)).tolist())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(np.flatnonzero(split_by_id(np.arange(99), 0.2)).tolist())


def test_the_rows_held_out_never_change_between_versions() -> None:
    # Else a model trained by one version would be tested by the next on rows that it has seen.
    held = np.flatnonzero(split_by_id(np.arange(60), 0.2)).tolist()
    assert held == [4, 5, 10, 14, 15, 19, 25, 28, 55, 56]


def test_both_parts_make_up_the_whole() -> None:
    values = np.arange(500)
    train, test = (Part(fraction=0.3, held_out=side).keep(values) for side in (False, True))
    assert np.array_equal(train, ~test)
    assert np.array_equal(test, split_by_id(values, 0.3))


@pytest.mark.parametrize("fraction", [-0.1, 1.1, float("nan")])
def test_fractions_that_are_no_share_are_refused(fraction: float) -> None:
    with pytest.raises(ValueError, match="share"):
        split_by_id(np.arange(3), fraction)
