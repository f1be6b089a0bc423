"""Errors of regressions against scikit-learn, over drawn numbers."""

import sys
from pathlib import Path

import numpy as np
import pytest
import sklearn.metrics as oracle
from hypothesis import given, settings
from hypothesis import strategies as st

from raysb import metrics

sys.path.insert(0, str(Path(__file__).parent))
from draws import weights


@st.composite
def numbers(draw, least=1):
    rows, outputs = draw(st.integers(least, 20)), draw(st.integers(1, 3))
    value = st.integers(-20, 20).map(lambda v: v / 4)  # exact, so that no variance is exactly 0
    size = rows * outputs
    sides = [np.array(draw(st.lists(value, min_size=size, max_size=size))) for _ in range(2)]
    if draw(st.booleans()):
        sides[0][:] = sides[0][0]
    return [side.reshape(rows, outputs) if outputs > 1 else side for side in sides]


def combination(data, true):
    outputs = 1 if true.ndim == 1 else true.shape[1]
    given_weights = list(range(1, outputs + 1))
    kinds = ["uniform_average", "raw_values", given_weights]
    return data.draw(st.sampled_from(kinds[: 2 if outputs == 1 else 3]))


@settings(max_examples=60, deadline=None)
@given(st.data(), st.sampled_from(["mean_squared_error", "mean_absolute_error"]))
def test_mean_errors_are_those_of_sklearn(data, name) -> None:
    true, predicted = data.draw(numbers())
    words = {"sample_weight": data.draw(weights(len(true))), "multioutput": combination(data, true)}
    ours, expected = (getattr(m, name)(true, predicted, **words) for m in (metrics, oracle))
    np.testing.assert_allclose(ours, expected, rtol=1e-9, atol=1e-12)


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_r2_is_that_of_sklearn_also_of_constant_labels(data) -> None:
    true, predicted = data.draw(numbers(least=2))
    kinds = st.sampled_from(["uniform_average", "raw_values", "variance_weighted"])
    words = {"multioutput": data.draw(kinds), "force_finite": data.draw(st.booleans())}
    w = data.draw(weights(len(true)))
    words["sample_weight"] = None if w is None else np.ceil(w)  # a mean of equal ones is exact
    with np.errstate(all="ignore"):
        ours, expected = (m.r2_score(true, predicted, **words) for m in (metrics, oracle))
    np.testing.assert_allclose(ours, expected, rtol=1e-9, atol=1e-12)


def test_values_worked_out_by_hand() -> None:
    true, predicted = [3, -0.5, 2, 7], [2.5, 0.0, 2, 8]
    assert metrics.mean_squared_error(true, predicted) == 0.375
    assert metrics.mean_absolute_error(true, predicted) == 0.5
    assert metrics.r2_score(true, predicted) == pytest.approx(1 - 1.5 / 29.1875)


def test_a_single_row_has_no_r2() -> None:
    with pytest.warns(metrics.UndefinedMetricWarning, match="less than two rows"):
        assert np.isnan(metrics.r2_score([1.0], [1.0]))


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda: metrics.mean_squared_error(np.ones(3), np.ones((3, 2))), r"\(3,\).*\(3, 2\)"),
        (lambda: metrics.mean_squared_error([1, 2], [1, np.inf]), "NaN or infinite"),
        (lambda: metrics.mean_squared_error([1], [1], multioutput="variance_weighted"), "r2_score"),
        (lambda: metrics.mean_squared_error([1], [1], multioutput=[1, 2]), "1 weights are needed"),
    ],
)
def test_what_cannot_be_compared_is_refused(call, told) -> None:
    with pytest.raises(ValueError, match=told):
        call()
