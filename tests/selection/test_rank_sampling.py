"""RankSampling: the probabilities of Loshchilov and Hutter, and their decay."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate

from raysb.selection import LossDistribution, RankSampling


def chances(selector: RankSampling, losses: list[float], epoch: int = 0) -> np.ndarray:
    values = np.array(losses, np.float32)
    return selector.probability(values, LossDistribution(values), epoch)


def test_the_golden_case_of_five_rows() -> None:
    """N = 5, s_e = 100, one row expected: p = exp(-log(s_e) i/N) / sum, i = 0 the highest loss."""
    selector = RankSampling(fraction=1 / 5, pressure=100)
    golden = [0.6080, 0.2420, 0.0964, 0.0384, 0.0153]
    np.testing.assert_allclose(chances(selector, [5, 4, 3, 2, 1]), golden, atol=5e-5)
    np.testing.assert_allclose(chances(selector, [1, 2, 3, 4, 5]), golden[::-1], atol=5e-5)


@pytest.mark.parametrize(("pressure", "mass"), [(100, 0.373), (10, 0.229), (2, 0.134)])
def test_the_share_of_the_highest_tenth(pressure, mass) -> None:
    selector = RankSampling(fraction=0.01, pressure=pressure)
    found = chances(selector, list(range(1000)))
    assert found[-100:].sum() / found.sum() == pytest.approx(mass, abs=5e-4)


@pytest.mark.parametrize("pressure", [1.0, 1.0001, 2.0, 100.0, 1e6])
@pytest.mark.parametrize("fraction", [0.01, 0.3, 0.5, 0.95, 1.0])
def test_chances_are_the_exponential_cut_off_at_one(pressure, fraction) -> None:
    """Against the definition, integrated numerically over each rank, with c found by bisection."""
    rate, size = np.log(pressure), 20
    low, high = -50.0, 50.0

    def curve(u: float, log_c: float) -> float:
        return float(np.exp(min(log_c - rate * u, 0.0)))

    for _ in range(100):
        middle = (low + high) / 2
        bend = [np.clip(middle / rate, 0, 1)] if rate else None
        area, _ = integrate.quad(curve, 0, 1, args=(middle,), points=bend)
        low, high = (middle, high) if area < fraction else (low, middle)
    cut = float(np.clip(high / rate, 0, 1)) if rate else 0.0
    wanted = []
    for rank in range(size):
        a, b = rank / size, (rank + 1) / size
        inner = min(max(cut, a), b)
        parts = [integrate.quad(curve, *ends, args=(high,))[0] for ends in ((a, inner), (inner, b))]
        wanted.append(sum(parts) * size)
    found = chances(RankSampling(fraction=fraction, pressure=pressure), list(range(size, 0, -1)))
    np.testing.assert_allclose(found, wanted, atol=1e-6)


@given(
    st.lists(st.integers(0, 9), min_size=1, max_size=50),
    st.floats(0.01, 1),
    st.floats(1, 1e9),
)
def test_the_chances_of_the_recent_losses_add_up_to_the_fraction(
    losses, fraction, pressure
) -> None:
    found = chances(RankSampling(fraction=fraction, pressure=pressure), losses)
    assert found.sum() == pytest.approx(len(losses) * fraction, abs=1e-6)
    assert ((found > 0) & (found <= 1)).all()
    order = np.argsort(losses)
    assert (np.diff(found[order]) >= -1e-9).all()


def test_the_pressure_falls_geometrically_to_one_and_all_rows_are_alike() -> None:
    selector = RankSampling(fraction=0.3, pressure=100, decay_epochs=4)
    pressures = [selector.pressure_at(epoch) for epoch in range(6)]
    assert pressures == pytest.approx([100, 100**0.75, 10, 100**0.25, 1, 1])
    np.testing.assert_allclose(chances(selector, list(range(9)), epoch=4), 0.3)
    assert np.ptp(chances(selector, list(range(9)), epoch=3)) > 0.1
    assert RankSampling(pressure=7).pressure_at(999) == 7


def test_from_pressure_1_to_infinity_it_goes_from_uniform_to_the_highest_alone() -> None:
    losses = list(range(40))
    assert chances(RankSampling(fraction=0.25, pressure=1), losses) == pytest.approx([0.25] * 40)
    hardest = chances(RankSampling(fraction=0.25, pressure=1e300), losses)
    assert hardest == pytest.approx([0] * 30 + [1] * 10, abs=0.06)  # the edge is e-foldings wide


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("fraction", 0),
        ("fraction", 1.5),
        ("pressure", 0.5),
        ("pressure", float("inf")),
        ("pressure", float("nan")),
        ("decay_epochs", -1),
        ("history", 0),
    ],
)
def test_values_out_of_range_are_refused_at_construction(name, value) -> None:
    with pytest.raises(ValueError, match=rf"RankSampling\({name}={value!r}\): must be"):
        RankSampling(**{name: value})
