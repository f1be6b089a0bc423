"""Collects statistics during passes that run anyway: forwards that score, backwards that train.

```python
accumulator = Accumulator(model, needs={"activation"})
with accumulator.observe():  # each row counts once
    forward(model, batch)

accumulator = Accumulator(model, needs={"gradient"})
with accumulator.observe(inverse_probability(batch), scale=batch["weight"] / rows):
    (losses * batch["weight"] / rows).sum().backward()
```

Within `observe` the layers carry hooks, after it the model is as it was. An exception within it
leaves the statistics as they were.

The terms of a row are recovered from a backward pass over the whole batch: a position of row n
gets the gradient scale_n dl_n/da and nothing from other rows, provided that rows do not see each
other (no batch statistics while training). With z the output of a layer without its bias,

    sum_{w in filter j} w dl_n/dw = sum over positions of z_jn dl_n/dz_jn

since z is linear in the weights, so the filters' Taylor terms of single rows cost no gradient of
weights. What a layer that runs several times in a forward pass contributes is added up.

Dimensions in comments: B rows, C channels of a layer.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

from raysb.errors import ModelError
from raysb.prune.criteria.activations import ActivationFollower, Call
from raysb.prune.criteria.layers import find_layers, prunable_layers
from raysb.prune.criteria.runs import Run
from raysb.prune.criteria.statistics import (
    KeptRows,
    LayerStatistics,
    Statistics,
    check_needs,
    check_weights,
)
from raysb.prune.criteria.sums import Rows, add_activations, add_row_gradients, add_terms, empty
from raysb.schema import PROBABILITY, WEIGHT

POOLED_ROWS = 8192  # of entropy's histograms: 4 bytes a row and channel
GRADIENT_ROWS = 256  # of OBS: 4 bytes a row and weight
_GRADIENTS = frozenset({"gradient", "per_sample_gradient"})


class Accumulator:
    """Adds up statistics of the layers of a model, batch by batch.

    Args:
        model: Holds the layers; what a DistributedDataParallel wrapper wraps, not the wrapper.
        layers: Names; by default every convolution and linear layer.
        needs: What is collected, of `weight` (nothing), `activation`, `gradient` (from a backward
            pass, [B, C] a layer) and `per_sample_gradient` (every row's own gradient of the
            weights: about as long again as the backward pass).
        pooled_rows: Newest rows whose mean activations are kept, at least 1.
        gradient_rows: Newest rows whose gradients are kept, for OBS; 0: none.

    Raises:
        ValueError: A layer does not exist or has no channels to rank; `needs` has another word.
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Sequence[str] | None = None,
        *,
        needs: Collection[str],
        pooled_rows: int = POOLED_ROWS,
        gradient_rows: int = GRADIENT_ROWS,
    ) -> None:
        check_needs(frozenset(needs))
        if pooled_rows < 1 or gradient_rows < 0:
            raise ValueError(
                f"Accumulator(pooled_rows={pooled_rows}, gradient_rows={gradient_rows}): must be "
                "at least 1 and at least 0"
            )
        self._layers = find_layers(model, prunable_layers(model) if layers is None else layers)
        self.statistics = Statistics(
            frozenset(needs),
            {
                name: LayerStatistics(KeptRows(pooled_rows), KeptRows(gradient_rows))
                for name in self._layers
            },
        )
        self._runs: list[Run] = []
        self._busy = False

    @contextmanager
    def observe(
        self, weights: torch.Tensor | None = None, scale: torch.Tensor | float = 1.0
    ) -> Iterator[None]:
        """Watch one batch: its forward pass and, for gradients, its backward pass.

        Where gradients are collected, forward passes that record none are not looked at.

        Args:
            weights: u_n [B], finite and at least 0: how many rows of the population row n stands
                for, up to a common factor; rows of weight 0 are left out, whatever their values.
                By default 1.
            scale: The factor [B] or number with which each row's own loss enters what is
                differentiated, e.g. 1 / B of a mean; above 0 where `weights` is.

        Raises:
            ValueError: `weights` or `scale` are not one allowed number a row.
            ModelError: The output of a layer has not one entry a row, no gradient came back, or an
                activation was changed in place.
        """
        if self._busy:
            raise ValueError("observe(): within another observe() of the same accumulator")
        self._runs, self._busy = [], True
        follower = ActivationFollower(self._on_activation)
        try:
            with ExitStack() as hooks:
                for name, layer in self._layers.items():
                    hook = self._hook(name, follower)
                    hooks.callback(layer.register_forward_hook(hook).remove)
                hooks.enter_context(follower)
                yield
            if self._runs:
                self._commit(weights, scale)
        finally:
            self._runs, self._busy = [], False

    # --- while the batch runs --------------------------------------------------------------------

    def _needs(self, *kinds: str) -> bool:
        return bool(self.statistics.needs & set(kinds))

    def _hook(
        self, name: str, follower: ActivationFollower
    ) -> Callable[[nn.Module, tuple[Any, ...], Any], None]:
        layer = self._layers[name]

        def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            if self._needs(*_GRADIENTS) and not torch.is_grad_enabled():
                return  # e.g. the model scores before it trains
            run = Run.start(name, layer, args[0], output)
            self._runs.append(run)
            follower.mark(run, output)
            if self._needs(*_GRADIENTS) and run.requires_grad:
                _on_gradient(output, lambda gradient: self._on_output_gradient(run, gradient))

        return hook

    def _on_activation(self, run: Call, tensor: torch.Tensor, offset: int) -> None:
        if not isinstance(run, Run):
            raise TypeError(f"a call of {run.layer} that is no Run was followed")
        value = tensor.detach().narrow(run.dim, offset, run.channels)
        run.note_activation(value, statistics=self._needs("activation"))
        if not self._needs(*_GRADIENTS):
            run.forget_values()
        elif self._needs("gradient") and tensor.requires_grad:
            version = tensor._version

            def hook(gradient: torch.Tensor) -> None:
                if value._version != version:
                    raise ModelError(_changed(run.layer))
                run.gate = run.summed(value * gradient.narrow(run.dim, offset, run.channels))

            _on_gradient(tensor, hook)

    def _on_output_gradient(self, run: Run, gradient: torch.Tensor) -> None:
        if self._needs("per_sample_gradient"):
            run.delta = gradient.detach()
        if self._needs("gradient"):
            value = run.value()
            run.filter = run.summed(run.without_bias(value) * gradient)
            if not run.found:
                run.gate = run.summed(value * gradient)

    # --- after it --------------------------------------------------------------------------------

    def _commit(self, weights: torch.Tensor | None, scale: torch.Tensor | float) -> None:
        for run in self._runs:
            if not run.found:
                run.note_activation(run.value(), statistics=self._needs("activation"))
        rows = self._rows(weights, scale)
        self._check_gradients()
        if not len(rows.u):
            return
        by_layer: dict[str, list[Run]] = {}
        for run in self._runs:
            by_layer.setdefault(run.layer, []).append(run)
        added = {name: self._added(name, runs, rows) for name, runs in by_layer.items()}
        for name, layer in added.items():  # of all layers or, after an error above, of none
            self.statistics.layers[name].merge(layer)

    def _rows(self, weights: torch.Tensor | None, scale: torch.Tensor | float) -> Rows:
        count = self._runs[0].rows if weights is None else len(weights)
        for run in self._runs:
            if run.rows != count:
                raise ModelError(
                    f"layer {run.layer!r} gave {run.rows} entries for {count} rows; the first "
                    "dimension must be the rows, else no row has statistics of its own: leave the "
                    "layer out (layers=)"
                )
        device = self._runs[0].module.weight.device
        given = torch.ones(count) if weights is None else weights
        u = check_weights(given, count, "weights").to(device)
        factor = torch.as_tensor(scale, dtype=torch.float64)
        factor = check_weights(factor.expand(count), count, "scale").to(device)
        if bool(((u > 0) & (factor == 0)).any()):
            raise ValueError(
                "observe(scale=): is 0 where weights are not, and the gradient of such a row is "
                "lost: give it weight 0"
            )
        return Rows(kept=u > 0, u=u[u > 0], scale=factor[u > 0])

    def _check_gradients(self) -> None:
        """A backward pass that did not happen is no loss that a layer is no part of."""
        if not self._needs(*_GRADIENTS):
            return
        for run in self._runs:
            if not run.requires_grad:
                raise ModelError(
                    f"layer {run.layer!r}: no gradient is recorded at its output, as its weights "
                    "and all before it are frozen: leave it out (layers=), or collect() in a pass "
                    "of its own"
                )
        if all(run.filter is None and run.delta is None for run in self._runs):
            raise ModelError(
                "observe(): the model ran, but no gradient came back through its layers: call "
                "backward() on a loss of these outputs within it"
            )

    def _added(self, name: str, runs: list[Run], rows: Rows) -> LayerStatistics:
        """What the batch adds to one layer."""
        found = empty(self.statistics.layers[name], runs, rows)
        if self._needs("activation"):
            add_activations(found, runs, rows)
        if self._needs("gradient"):
            add_terms(found, runs, rows)
        if self._needs("per_sample_gradient"):
            add_row_gradients(found, runs, rows)
        return found


def inverse_probability(batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """u_n = 1 / p_n of selected rows, 0 for those that only pad the batch. float64 [B]

    N p_n without the N, which cancels. `weight` is the factor on the training loss and says nothing
    here beyond which rows are padding; for rows that `importance_sampling` reweights it is u_n / N
    itself.

    Args:
        batch: With the columns `probability` and `weight` [B].

    Raises:
        ValueError: A column is missing, or a probability of a true row is not in (0, 1].
    """
    for name in (PROBABILITY, WEIGHT):
        if name not in batch:
            raise ValueError(
                f"inverse_probability: the batch has no column {name!r}, so what was selected "
                f"cannot be told from what is common; columns: {', '.join(batch)}"
            )
    true = batch[WEIGHT] > 0
    chance = batch[PROBABILITY].double()
    if not bool(((chance > 0) & (chance <= 1))[true].all()):
        raise ValueError(
            f"inverse_probability: probabilities from {chance[true].min().item():g} to "
            f"{chance[true].max().item():g}; must be in (0, 1]"
        )
    return torch.where(true, 1 / torch.where(true, chance, 1.0), 0.0)


def _on_gradient(tensor: torch.Tensor, hook: Callable[[torch.Tensor], None]) -> None:
    """Call back with the gradient; the hook must not refer to the tensor, or neither is freed."""
    tensor.register_hook(hook)  # type: ignore[no-untyped-call]


def _changed(layer: str) -> str:
    return (
        f"layer {layer!r}: its activation was changed in place after the activation function, so "
        "its value is gone when the gradient comes: leave the layer out (layers=), or write the "
        "operation that follows without in-place"
    )
