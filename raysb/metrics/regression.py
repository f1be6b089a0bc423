"""How far predicted numbers are off: mean squared and absolute error, and the share explained.

Dimensions in comments: n rows, D outputs.
"""

import math
import warnings
from typing import Any

import numpy as np

from raysb.metrics.inputs import Floats, UndefinedMetricWarning, Values, mean, to_array, to_weights


def mean_squared_error(
    y_true: Any, y_pred: Any, *, sample_weight: Any = None, multioutput: Any = "uniform_average"
) -> Any:
    """Mean of the squared differences.

    Args:
        y_true: [n] or [n, D].
        y_pred: Of the same shape.
        sample_weight: [n].
        multioutput: `"uniform_average"` over D; `"raw_values"`: D values; or weights [D].
    """
    true, predicted, weights = _numbers(y_true, y_pred, sample_weight)
    return _combined(mean((true - predicted) ** 2, weights), multioutput)


def mean_absolute_error(
    y_true: Any, y_pred: Any, *, sample_weight: Any = None, multioutput: Any = "uniform_average"
) -> Any:
    """Mean of the absolute differences; arguments as of `mean_squared_error`."""
    true, predicted, weights = _numbers(y_true, y_pred, sample_weight)
    return _combined(mean(np.abs(true - predicted), weights), multioutput)


def r2_score(
    y_true: Any,
    y_pred: Any,
    *,
    sample_weight: Any = None,
    multioutput: Any = "uniform_average",
    force_finite: bool = True,
) -> Any:
    """Share of the variance that is explained: 1 - sum w (y - p)^2 / sum w (y - mean y)^2.

    Args:
        y_true: [n] or [n, D], n at least 2.
        y_pred: Of the same shape.
        sample_weight: [n].
        multioutput: As of `mean_squared_error`; also `"variance_weighted"`, by the second sum.
        force_finite: Of labels without variance the value is 1 where all are met and else 0; False:
            NaN and minus infinity.
    """
    true, predicted, weights = _numbers(y_true, y_pred, sample_weight)
    if len(true) < 2:
        warnings.warn(
            "r2 is not defined for less than two rows", UndefinedMetricWarning, stacklevel=2
        )
        return math.nan
    factor = np.ones((len(true), 1)) if weights is None else weights[:, None]
    missed = (factor * (true - predicted) ** 2).sum(axis=0)
    spread = (factor * (true - mean(true, weights)) ** 2).sum(axis=0)
    values = _explained(missed, spread, force_finite)
    if isinstance(multioutput, str) and multioutput == "variance_weighted":
        multioutput = spread if spread.any() else "uniform_average"
    return _combined(values, multioutput)


def _explained(missed: Floats, spread: Floats, force_finite: bool) -> Floats:
    if not force_finite:
        with np.errstate(divide="ignore", invalid="ignore"):
            return 1 - missed / spread
    constant = np.where(missed == 0, 1.0, 0.0)
    share = np.divide(missed, spread, out=np.zeros_like(missed), where=spread != 0)
    return np.where(spread != 0, 1 - share, constant)


def _numbers(y_true: Any, y_pred: Any, sample_weight: Any) -> tuple[Floats, Floats, Values | None]:
    """Both sides as float64 [n, D], and the weights."""
    true, predicted = to_array(y_true, "y_true"), to_array(y_pred, "y_pred")
    if true.reshape(len(true), -1).shape != predicted.reshape(len(predicted), -1).shape or (
        max(true.ndim, predicted.ndim) > 2
    ):
        raise ValueError(
            f"y_true has shape {true.shape} and y_pred {predicted.shape}: both (n,) or (n, D) are "
            "needed, with the same n and D; else every row would be compared with every other"
        )
    pair = (side.reshape(len(side), -1).astype(np.float64) for side in (true, predicted))
    return *pair, to_weights(sample_weight, len(true))  # type: ignore[return-value]  # two of them


def _combined(values: Floats, multioutput: Any) -> Any:
    """One number of D values, or all of them."""
    if isinstance(multioutput, str):
        if multioutput not in ("raw_values", "uniform_average"):
            raise ValueError(
                f"multioutput={multioutput!r}: must be 'raw_values', 'uniform_average' or weights; "
                "r2_score takes 'variance_weighted' too"
            )
        return values if multioutput == "raw_values" else float(values.mean())
    weights = to_array(multioutput, "multioutput")
    if weights.shape != values.shape:
        raise ValueError(
            f"multioutput: {len(values)} weights are needed, one for each output; shape "
            f"{weights.shape} was given"
        )
    return float(np.average(values, weights=weights))
