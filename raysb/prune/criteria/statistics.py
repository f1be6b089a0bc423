"""What criteria know of the layers beside their weights: weighted sums over rows, mergeable.

With u_n the weight of row n (1 in a pass over all rows; 1/(N p_n) where row n was drawn with
probability p_n), each sum estimates a mean over the population,

    mean(x) = sum_n u_n x_n / sum_n u_n

so that what was selected more often counts less. N cancels. The quotient's error is of order
1/effective rows and common to all channels of a layer: it does not move their ranks.

key               per       x_n
zeros             channel   share of positions where the activation is 0
taylor            channel   |mean over positions of a g|
gate              channel   sum over positions of a g: the derivative by a gate on the channel
gate_squared      channel   its square
filter_squared    channel   (sum_{w in filter} w dl_n/dw)^2
filter_batch      channel   (mean over the batch's rows of that sum)^2, one value a batch
gradient          weight    dl_n/dw
gradient_squared  weight    (dl_n/dw)^2
"""

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from raysb.imports import unknown

NEEDS = frozenset({"weight", "activation", "gradient", "per_sample_gradient"})
VERSION = 1
_COUNTS = ("rows", "weight", "weight_squares", "batches")


@dataclass
class KeptRows:
    """The newest rows of something, with their weights.

    Args:
        capacity: Rows that are kept at most; 0 keeps none.
    """

    capacity: int
    _parts: list[tuple[torch.Tensor, torch.Tensor]] = field(default_factory=list)

    def add(self, values: torch.Tensor, weights: torch.Tensor) -> None:
        """Add rows [n, ...] with weights [n]; the oldest go where there are too many."""
        if not self.capacity:
            return
        self._parts.append((values[-self.capacity :], weights[-self.capacity :]))
        while sum(map(_length, self._parts[1:])) >= self.capacity:
            self._parts.pop(0)

    def rows(self) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Values [n, ...] and weights [n], the oldest first; `None` where there are none."""
        if not self._parts:
            return None
        values, weights = map(torch.cat, zip(*self._parts, strict=True))
        return values[-self.capacity :], weights[-self.capacity :]


def _length(part: tuple[torch.Tensor, torch.Tensor]) -> int:
    return len(part[1])


@dataclass
class LayerStatistics:
    """Sums of one layer; C output channels, whatever the shape of its weight.

    Args:
        pooled: Activations of rows, averaged over positions, float32 [n, C].
        gradients: dl_n/dW of rows, float32 [n, *W.shape].
        rows: How many were added.
        weight: Sum of u.
        weight_squares: Sum of u^2.
        batches: How many `filter_batch` is the sum of.
        positions: How often each weight is used for one row: a channel costs D times as many
            multiply-adds.
        sums: By the keys of the module's table, float64 [C] or in the shape of the weight.
        macs: Multiply-adds for one row that the net saves without each channel, float64 [C], where
            somebody who knows the whole net has said so; is not saved.
    """

    pooled: KeptRows
    gradients: KeptRows
    rows: int = 0
    weight: float = 0.0
    weight_squares: float = 0.0
    batches: int = 0
    positions: float = 0.0
    sums: dict[str, torch.Tensor] = field(default_factory=dict)
    macs: torch.Tensor | None = None

    def add(self, key: str, value: torch.Tensor) -> None:
        """Add to a sum."""
        self.sums[key] = self.sums[key] + value if key in self.sums else value

    def mean(self, key: str) -> torch.Tensor:
        """The estimate of a population mean; of `filter_batch`, the mean over batches."""
        return self.sums[key] / (self.batches if key == "filter_batch" else self.weight)

    @property
    def effective_rows(self) -> float:
        """(sum u)^2 / sum u^2: how many rows of equal weight would be as good."""
        return self.weight**2 / self.weight_squares if self.weight_squares else 0.0

    @property
    def is_finite(self) -> bool:
        """Whether no row brought a NaN or an infinity."""
        return all(bool(value.isfinite().all()) for value in self.sums.values())

    def merge(self, other: "LayerStatistics") -> None:
        """Add what another process saw."""
        for name in _COUNTS:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.positions = max(self.positions, other.positions)
        for key, value in other.sums.items():
            self.add(key, value)
        for mine, its in ((self.pooled, other.pooled), (self.gradients, other.gradients)):
            if (found := its.rows()) is not None:
                mine.add(*found)

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain numbers, on the CPU."""
        kept = {"pooled": self.pooled, "gradients": self.gradients}
        return {
            **{name: getattr(self, name) for name in (*_COUNTS, "positions")},
            "sums": {key: value.cpu() for key, value in self.sums.items()},
            **{
                name: [rows.capacity, [t.cpu() for t in rows.rows() or ()]]
                for name, rows in kept.items()
            },
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> "LayerStatistics":
        """What `state_dict` was taken of."""
        pooled, gradients = (_kept(*state[name]) for name in ("pooled", "gradients"))
        rest = {name: state[name] for name in (*_COUNTS, "positions")}
        return cls(pooled, gradients, sums=dict(state["sums"]), **rest)


def _kept(capacity: int, tensors: list[torch.Tensor]) -> KeptRows:
    kept = KeptRows(capacity)
    if tensors:
        kept.add(tensors[0], tensors[1])
    return kept


@dataclass
class Statistics:
    """Statistics of several layers, from one pass or from several processes.

    Args:
        needs: Which kinds were collected, of `NEEDS`.
        layers: By name.
    """

    needs: frozenset[str]
    layers: dict[str, LayerStatistics] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_needs(self.needs)

    def __getitem__(self, name: str) -> LayerStatistics:
        """The statistics of a layer.

        Raises:
            ValueError: None were collected of it, or it did not run on any row.
        """
        if name not in self.layers:
            raise ValueError(f"statistics: none of layer {name!r}: {unknown(name, self.layers)}")
        if not self.layers[name].rows:
            raise ValueError(
                f"statistics: layer {name!r} saw no row: there was no batch, every row had weight "
                "0, or the layer does not run in the forward pass. Its channels would all be "
                "alike: collect over at least one row, or leave the layer out"
            )
        return self.layers[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.layers)

    @property
    def rows(self) -> int:
        """Rows that were added, in the layer that saw most."""
        return max((layer.rows for layer in self.layers.values()), default=0)

    def serve(self, needs: Collection[str], layers: Collection[str], rows: float) -> bool:
        """Whether they are of these kinds and layers, worth so many rows of each, and finite."""
        if not set(needs) - {"weight"} <= self.needs or not set(needs) - {"weight"}:
            return False
        found = [self.layers.get(name) for name in layers]
        return all(layer and layer.effective_rows >= rows and layer.is_finite for layer in found)

    def with_macs(self, macs: Mapping[str, torch.Tensor]) -> "Statistics":
        """The same of these layers, with what each of their channels costs the whole net."""
        layers = {name: replace(self[name], macs=each) for name, each in macs.items()}
        return Statistics(self.needs, layers)

    def merge(self, other: "Statistics") -> None:
        """Add what another process saw of the same layers.

        Raises:
            ValueError: It collected other kinds, or other layers.
        """
        if self.needs != other.needs or self.layers.keys() != other.layers.keys():
            raise ValueError(
                f"Statistics.merge: {sorted(other.needs)} of {sorted(other.layers)} cannot be added"
                f" to {sorted(self.needs)} of {sorted(self.layers)}: collect the same in both"
            )
        for name, layer in other.layers.items():
            self.layers[name].merge(layer)

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values only: can be saved without pickle."""
        layers = {name: layer.state_dict() for name, layer in self.layers.items()}
        return {"version": VERSION, "needs": sorted(self.needs), "layers": layers}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> "Statistics":
        """What `state_dict` was taken of.

        Raises:
            ValueError: It is of another version.
        """
        if state.get("version") != VERSION:
            raise ValueError(
                f"Statistics.from_state(version={state.get('version')!r}): this version of raysb "
                f"reads {VERSION}: collect them again"
            )
        layers = {n: LayerStatistics.from_state(kept) for n, kept in state["layers"].items()}
        return cls(frozenset(state["needs"]), layers)


def check_needs(needs: frozenset[str]) -> None:
    """Raise `ValueError` unless every word is one of `NEEDS`."""
    if wrong := sorted(needs - NEEDS):
        raise ValueError(f"needs={sorted(needs)}: {unknown(wrong[0], NEEDS)}")


def check_weights(weights: torch.Tensor, rows: int, name: str) -> torch.Tensor:
    """One finite number of at least 0 for each row, float64.

    Raises:
        ValueError: They are something else.
    """
    if weights.shape != (rows,):
        raise ValueError(
            f"observe({name}=): shape {list(weights.shape)} for {rows} rows; one a row is needed"
        )
    as_floats = weights.detach().double()
    if rows and not (math.isfinite(float(as_floats.sum())) and bool((as_floats >= 0).all())):
        raise ValueError(
            f"observe({name}=): every value must be finite and at least 0, got "
            f"{as_floats.min().item():g} to {as_floats.max().item():g}"
        )
    return as_floats
