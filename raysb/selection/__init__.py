"""Which rows of a scored pool are worth a backward pass. Plain numpy.

`SELECTORS` maps the values of `selector.kind` to the classes.
"""

from raysb.selection.adjustments import Adjustments as Adjustments
from raysb.selection.base import Selector as Selector
from raysb.selection.batcher import Batcher as Batcher
from raysb.selection.budgeted import BudgetedSelection as BudgetedSelection
from raysb.selection.confidence_band import ConfidenceBand as ConfidenceBand
from raysb.selection.distribution import LossDistribution as LossDistribution
from raysb.selection.highest_k import HighestK as HighestK
from raysb.selection.highest_k import LowestK as LowestK
from raysb.selection.importance_sampling import ImportanceSampling as ImportanceSampling
from raysb.selection.info_batch import InfoBatch as InfoBatch
from raysb.selection.keep_fraction import KeepFraction as KeepFraction
from raysb.selection.ordered_sgd import OrderedSGD as OrderedSGD
from raysb.selection.preselection import Outlook as Outlook
from raysb.selection.preselection import Preselection as Preselection
from raysb.selection.random_subset import RandomSubset as RandomSubset
from raysb.selection.rank_sampling import RankSampling as RankSampling
from raysb.selection.reducible_loss import ReducibleLoss as ReducibleLoss
from raysb.selection.reservoir import WeightedReservoir as WeightedReservoir
from raysb.selection.selective_backprop import SelectiveBackprop as SelectiveBackprop
from raysb.selection.stage import SelectedPool as SelectedPool
from raysb.selection.stage import select_pool as select_pool
from raysb.selection.stale import StaleSelectiveBackprop as StaleSelectiveBackprop
from raysb.selection.uniform import Uniform as Uniform

SELECTORS: dict[str, type[Selector]] = {
    "selective_backprop": SelectiveBackprop,
    "uniform": Uniform,
    "stale_selective_backprop": StaleSelectiveBackprop,
    "highest_k": HighestK,
    "lowest_k": LowestK,
    "confidence_band": ConfidenceBand,
    "rank_sampling": RankSampling,
    "ordered_sgd": OrderedSGD,
    "keep_fraction": KeepFraction,
    "importance_sampling": ImportanceSampling,
    "reducible_loss": ReducibleLoss,
    "info_batch": InfoBatch,
    "budgeted_selection": BudgetedSelection,
    "random_subset": RandomSubset,
}
