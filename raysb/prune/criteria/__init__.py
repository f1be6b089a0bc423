"""How much each output channel of a layer is worth: criteria, and the statistics that they need."""

from raysb.prune.criteria.accumulator import Accumulator as Accumulator
from raysb.prune.criteria.accumulator import inverse_probability as inverse_probability
from raysb.prune.criteria.base import Criterion as Criterion
from raysb.prune.criteria.collect import collect as collect
from raysb.prune.criteria.layers import prunable_layers as prunable_layers
from raysb.prune.criteria.masks import Masks as Masks
from raysb.prune.criteria.registry import CRITERIA as CRITERIA
from raysb.prune.criteria.registry import find_criterion as find_criterion
from raysb.prune.criteria.statistics import Statistics as Statistics
from raysb.prune.criteria.unstructured import WeightCriterion as WeightCriterion
