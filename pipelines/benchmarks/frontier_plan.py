"""Which cells the frontier is made of, in which order they run, and which are finished."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from frontier_cells import HALF, Cell, Holdout, Method, Setup, read, settings
from frontier_fit import Runs

METHODS = {
    "uniform": Method("Uniform"),
    "stale_sb": Method("StaleSelectiveBackprop", {"beta": 2.0, "refresh_every": 3}),
    "sb": Method("SelectiveBackprop", {"beta": 2.0}),
    "sb_half": Method("SelectiveBackprop", {"beta": 2.0}, {"image_scale": HALF}),
    "stale_sb_beta1": Method("StaleSelectiveBackprop", {"beta": 1.0, "refresh_every": 3}),
    "stale_sb_5": Method("StaleSelectiveBackprop", {"beta": 2.0, "refresh_every": 5}),
    "info_batch": Method("InfoBatch"),
    "importance_sampling": Method("ImportanceSampling"),
    "random_subset": Method("RandomSubset"),
    "keep_fraction": Method("KeepFraction", {"fraction": 1 / 3}),
    "uniform_deduplicated": Method("Uniform", rows="without_equal_rows"),
    "uniform_originals": Method("Uniform", rows="one_of_each_original"),
    "sb_beta1": Method("SelectiveBackprop", {"beta": 1.0}),
    "sb_beta05": Method("SelectiveBackprop", {"beta": 0.5}),
    "sb_third": Method("SelectiveBackprop", {"target_fraction": 1 / 3}),
    "band": Method("ConfidenceBand"),
    "rank_sampling": Method("RankSampling"),
    "highest_k": Method("HighestK"),
    "lowest_k": Method("LowestK"),
    "ordered_sgd": Method("OrderedSGD"),
    "budgeted": Method("BudgetedSelection", {"rows_per_epoch": 20_000}),
    # what `raysb plan` names where a fifth of the labels is wrong, beside sb_beta05
    "band_to_80": Method("ConfidenceBand", {"low": 0.0, "high": 0.8}),
    "band_to_80_floor": Method(
        "ConfidenceBand", {"low": 0.0, "high": 0.8}, adjust={"class_floor": 0.5}
    ),
    "band_to_80_later": Method(
        "ConfidenceBand", {"low": 0.0, "high": 0.8}, adjust={"start_epoch": 1}
    ),
    "band_to_80_floor_half": Method(
        "ConfidenceBand",
        {"low": 0.0, "high": 0.8},
        {"image_scale": HALF},
        adjust={"class_floor": 0.5},
    ),
    "reducible_loss": Method("ReducibleLoss", holdout=Holdout()),
    "reducible_loss_third": Method("ReducibleLoss", {"fraction": 1 / 3}, holdout=Holdout()),
    "reducible_loss_half": Method("ReducibleLoss", {"fraction": 1 / 2}, holdout=Holdout()),
}
RATES = (0.02, 0.05, 0.1)
TUNING_SEED, TUNING_COST = 0, 2.0


@dataclass
class Plan:
    """The cells of a benchmark, and those that are finished."""

    methods: dict[str, Method]
    regimes: list[str]
    seeds: list[int]
    budgets: list[float]
    setup: Setup
    folder: Path
    done: dict[Cell, dict[str, Any]] = field(default_factory=dict)

    def load(self) -> None:
        """Take over what earlier runs left."""
        for cell in self.tuning():
            self._take(cell)
        for known in self.figures():  # whose learning rates are found by now
            if known is not None:
                self._take(known)

    def tuning(self) -> list[Cell]:
        """The runs that choose the learning rates."""
        pairs = [(r, m) for r in self.regimes for m in self.methods]
        return [Cell(r, m, TUNING_COST, TUNING_SEED, lr) for r, m in pairs for lr in RATES]

    def rate(self, regime: str, method: str) -> float | None:
        """The learning rate with the smallest error; `None` until all were tried."""
        tried = [Cell(regime, method, TUNING_COST, TUNING_SEED, lr) for lr in RATES]
        if not all(cell in self.done for cell in tried):
            return None
        return min(tried, key=lambda cell: self.done[cell].get("error", 1.0)).lr

    def figures(self) -> list[Cell | None]:
        """The runs that are reported, seed by seed, the long ones first; `None`: lr not known."""
        cells: list[Cell | None] = []
        for seed in self.seeds:
            for regime in self.regimes:
                for cost in sorted(self.budgets, reverse=True):
                    for method in self.methods:
                        lr = self.rate(regime, method)
                        cell = None if lr is None else Cell(regime, method, cost, seed, lr)
                        cells.append(cell)
        return cells

    def next(self, running: set[Cell]) -> Cell | None:
        """The first cell that can be run now."""
        for cell in [*self.tuning(), *self.figures()]:
            if cell is None or cell in running:
                continue
            if cell not in self.done and not self._take(cell):
                return cell
        return None

    def cost_left(self) -> float:
        """Epochs of uniform training that are still to be paid."""
        tuning = sum(cell.cost for cell in self.tuning() if cell not in self.done)
        whole = len(self.seeds) * len(self.regimes) * len(self.methods) * sum(self.budgets)
        figures = {cell for cell in self.figures() if cell is not None}
        return tuning + whole - sum(cell.cost for cell in figures if cell in self.done)

    def find(self, regime: str, method: str, cost: float, seed: int) -> dict[str, Any] | None:
        """A finished run; `None` also of one that failed."""
        lr = self.rate(regime, method)
        record = None if lr is None else self.done.get(Cell(regime, method, cost, seed, lr))
        return None if record is None or "failed" in record else record

    def whole_seeds(self, regime: str, methods: Sequence[str]) -> list[int]:
        """Seeds for which all of these methods have finished all budgets."""
        return [
            seed
            for seed in self.seeds
            if all(self.find(regime, m, cost, seed) for m in methods for cost in self.budgets)
        ]

    def runs(self, regime: str, method: str, seeds: Sequence[int]) -> Runs:
        """The finished runs of some seeds."""
        found = [[self.find(regime, method, cost, seed) for cost in self.budgets] for seed in seeds]
        costs = [[cell["cost"] for cell in row if cell] for row in found]
        rows = [[backprop_epochs(cell) for cell in row if cell] for row in found]
        errors = [[cell["error"] for cell in row if cell] for row in found]
        return Runs(np.array(costs), np.array(rows), np.array(errors))

    def _take(self, cell: Cell) -> bool:
        wanted = settings(cell, self.methods[cell.method], self.setup)
        found = read(self.folder / cell.file, wanted)
        if found is not None:
            self.done[cell] = found
        return found is not None


def backprop_epochs(record: Mapping[str, Any]) -> float:
    """Rows that a run has back-propagated, in epochs of uniform training."""
    return float(record["num_backpropped"]) / float(record["unit_rows"])
