"""What one batch adds to the statistics of one layer.

Dimensions in comments: B rows, C channels.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from raysb.prune.criteria.row_gradients import row_gradients
from raysb.prune.criteria.runs import Run
from raysb.prune.criteria.statistics import KeptRows, LayerStatistics


@dataclass(frozen=True, kw_only=True)
class Rows:
    """The rows of a batch that count; n of B.

    Args:
        kept: Which, bool [B].
        u: Their weights above 0, float64 [n].
        scale: The factor of each one's loss in what was differentiated, float64 [n].
    """

    kept: torch.Tensor
    u: torch.Tensor
    scale: torch.Tensor

    def weighted(self, values: torch.Tensor) -> torch.Tensor:
        """Sum of u_n x_n over values [n, ...], float64."""
        return torch.einsum("n,n...->...", self.u, values.double())


def add_activations(found: LayerStatistics, runs: Sequence[Run], rows: Rows) -> None:
    """Zeros and mean activations, both averaged over the layer's runs."""
    found.add("zeros", rows.weighted(_mean(runs, lambda run: run.zeros)[rows.kept]))
    pooled = _mean(runs, lambda run: run.pooled)[rows.kept]
    found.pooled.add(pooled.float(), rows.u)


def add_terms(found: LayerStatistics, runs: Sequence[Run], rows: Rows) -> None:
    """First-order terms of gates and of filters, by row."""
    gate = _sum(runs, lambda run: run.gate)[rows.kept].double() / rows.scale[:, None]
    steps = sum(run.steps for run in runs)
    found.add("taylor", rows.weighted((gate / steps).abs()))
    found.add("gate", rows.weighted(gate))
    found.add("gate_squared", rows.weighted(gate.square()))
    terms = _sum(runs, lambda run: run.filter)[rows.kept].double() / rows.scale[:, None]
    found.add("filter_squared", rows.weighted(terms.square()))
    found.add("filter_batch", (rows.weighted(terms) / rows.u.sum()).square())


def add_row_gradients(found: LayerStatistics, runs: Sequence[Run], rows: Rows) -> None:
    """Mean, mean square and the newest of the weights' gradients by row."""
    layer = runs[0].module
    pairs = [
        (run.inputs[rows.kept], _scaled(run.delta, rows)) for run in runs if run.delta is not None
    ]
    if not pairs:  # the loss does not depend on the layer
        nothing = layer.weight.detach().double() * 0
        found.add("gradient", nothing)
        found.add("gradient_squared", nothing)
        return
    done = 0
    for part in row_gradients(layer, pairs):
        u = rows.u[done : done + len(part)]
        done += len(part)
        found.add("gradient", torch.einsum("n,n...->...", u, part.double()))
        found.add("gradient_squared", torch.einsum("n,n...->...", u, part.double().square()))
        found.gradients.add(part, u)


def empty(like: LayerStatistics, runs: Sequence[Run], rows: Rows) -> LayerStatistics:
    """Statistics of the rows of a batch, with nothing summed yet."""
    return LayerStatistics(
        KeptRows(like.pooled.capacity),
        KeptRows(like.gradients.capacity),
        rows=len(rows.u),
        weight=float(rows.u.sum()),
        weight_squares=float(rows.u.square().sum()),
        batches=1,
        positions=float(sum(run.positions for run in runs)),
    )


def _scaled(delta: torch.Tensor, rows: Rows) -> torch.Tensor:
    """The gradient of each row's own loss."""
    shape = (-1, *[1] * (delta.dim() - 1))
    return delta[rows.kept] / rows.scale.to(delta.dtype).view(shape)


def _sum(runs: Sequence[Run], term: Callable[[Run], torch.Tensor | None]) -> torch.Tensor:
    """Sum over the runs of a layer; 0 for one that the loss does not depend on. [B, C]"""
    total = runs[0].output.new_zeros((runs[0].rows, runs[0].channels))
    for run in runs:
        if (value := term(run)) is not None:
            total = total + value
    return total


def _mean(runs: Sequence[Run], term: Callable[[Run], torch.Tensor | None]) -> torch.Tensor:
    return _sum(runs, term) / len(runs)
