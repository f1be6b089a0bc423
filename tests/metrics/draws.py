"""Rows for the property tests: labels, weights and scores of a few classes."""

import numpy as np
from hypothesis import strategies as st

MAX_ROWS = 30


@st.composite
def labels(draw, sides=2, most=4, names=False):
    """Label vectors of one length over at most `most` classes."""
    rows = draw(st.integers(1, MAX_ROWS))
    classes = draw(st.integers(1, most))
    values = st.lists(st.integers(0, classes - 1), min_size=rows, max_size=rows)
    found = [np.array(draw(values)) for _ in range(sides)]
    if names and draw(st.booleans()):
        found = [np.array(["ant", "bee", "cow", "dog"])[each] for each in found]
    return found


@st.composite
def weights(draw, rows):
    """`None`, whole numbers, or numbers above 0, one a row."""
    kind = draw(st.sampled_from(["none", "whole", "real"]))
    if kind == "none":
        return None
    if kind == "whole":
        return np.array(draw(st.lists(st.integers(1, 5), min_size=rows, max_size=rows)))
    real = st.floats(0.0625, 10)
    return np.array(draw(st.lists(real, min_size=rows, max_size=rows)))


@st.composite
def scores(draw, rows, classes):
    """Probabilities of rows over classes; coarse, so that many are equal."""
    whole = st.lists(st.integers(1, 5), min_size=rows * classes, max_size=rows * classes)
    found = np.array(draw(whole), float).reshape(rows, classes)
    return found / found.sum(1, keepdims=True)
