"""Which rows of a scored pool are worth a backward pass. Plain numpy.

`SELECTORS` maps the values of `selector.kind` to the classes.
"""

from raysb.selection.base import Selector as Selector
from raysb.selection.batcher import Batcher as Batcher
from raysb.selection.distribution import LossDistribution as LossDistribution
from raysb.selection.selective_backprop import SelectiveBackprop as SelectiveBackprop
from raysb.selection.stage import SelectedPool as SelectedPool
from raysb.selection.stage import select_pool as select_pool
from raysb.selection.uniform import Uniform as Uniform

SELECTORS: dict[str, type[Selector]] = {
    "selective_backprop": SelectiveBackprop,
    "uniform": Uniform,
}
