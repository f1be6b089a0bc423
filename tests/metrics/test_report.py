"""The table of all classes against scikit-learn's, character for character."""

import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import sklearn.metrics as oracle
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from raysb import metrics

sys.path.insert(0, str(Path(__file__).parent))
from draws import labels, weights


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_the_report_is_that_of_sklearn_as_text_and_as_numbers(data) -> None:
    true, predicted = data.draw(labels(names=True))
    assume((true == predicted).any())  # else scikit-learn writes rows as 1.0, and not as 1
    found = np.union1d(true, predicted)
    chosen = data.draw(st.sampled_from([None, found[:1], found[::-1]]))
    count = len(found) if chosen is None else len(chosen)
    named = [f"class number {i}" for i in range(count)]
    words = {
        "labels": chosen,
        "target_names": data.draw(st.sampled_from([None, named])),
        "sample_weight": data.draw(weights(len(true))),
        "digits": data.draw(st.integers(0, 5)),
        "zero_division": data.draw(st.sampled_from([0, 1])),
    }
    weight = words["sample_weight"]
    # eighths add up exactly in any order; else the last digit of a sum may differ, and be printed
    if weight is not None and weight.dtype.kind == "f":
        weight = np.ceil(8 * weight) / 8
    exact = words | {"sample_weight": weight}
    assert metrics.classification_report(true, predicted, **exact) == (
        oracle.classification_report(true, predicted, **exact)
    )
    theirs = oracle.classification_report(true, predicted, output_dict=True, **words)
    ours = metrics.classification_report(true, predicted, output_dict=True, **words)
    assert list(ours) == list(theirs)
    for name, line in theirs.items():
        assert ours[name] == pytest.approx(line, nan_ok=True), name


def test_undefined_values_are_warned_of() -> None:
    with pytest.warns(metrics.UndefinedMetricWarning):
        metrics.classification_report([0, 1], [0, 0])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        metrics.classification_report([0, 1], [0, 0], zero_division=0)


@pytest.mark.parametrize(
    ("words", "told"), [({"target_names": ["a"]}, "1 names, and 2"), ({"digits": -1}, "digits=-1")]
)
def test_what_does_not_go_together_is_refused(words, told) -> None:
    with pytest.raises(ValueError, match=told):
        metrics.classification_report([0, 1], [0, 1], **words)
