"""Criteria by name: what `--criterion` may be.

name             needs                s_j, higher = keep
sum, mean, std   weight               of W[j]; the first two signed
l1, l2           weight               norm of W[j]
fpgm             weight               sum_i || W[j] - W[i] ||
apoz             activation           1 - share of zeros
entropy          activation           entropy of the mean activation over rows
taylor_act       gradient             mean_n |mean over positions of a g|, normalised by layer
taylor           gradient             mean over batches of (sum w dl/dw)^2
fisher           gradient             1/2 mean_n (sum a g)^2 - beta MACs
skeletonization  gradient             - dL/d gate
obd              per_sample_gradient  sum 1/2 h w^2
obs              per_sample_gradient  1/2 w' ([H^-1]_jj)^-1 w
snip             per_sample_gradient  sum |w dL/dw|, normalised over all layers
random           weight               a draw keyed by (seed, layer)
"""

from collections.abc import Mapping
from typing import Any

from raysb.imports import call, describe, resolve
from raysb.prune.criteria.activation_entropy import ActivationEntropy
from raysb.prune.criteria.apoz import APoZ
from raysb.prune.criteria.base import Criterion
from raysb.prune.criteria.fisher import Fisher
from raysb.prune.criteria.fpgm import FPGM
from raysb.prune.criteria.norms import L1, L2
from raysb.prune.criteria.obd import OBD
from raysb.prune.criteria.obs import OBS
from raysb.prune.criteria.random_order import Random
from raysb.prune.criteria.skeletonization import Skeletonization
from raysb.prune.criteria.snip import SNIP
from raysb.prune.criteria.taylor import Taylor, TaylorActivation
from raysb.prune.criteria.weight_moments import Mean, Std, Sum

_ALL: tuple[type[Criterion], ...] = (
    *(TaylorActivation, Taylor, Fisher, Skeletonization),
    *(L1, L2, FPGM, Sum, Mean, Std, APoZ, ActivationEntropy, OBD, OBS, SNIP, Random),
)
CRITERIA: Mapping[str, type[Criterion]] = {criterion.name: criterion for criterion in _ALL}


def find_criterion(name: str, **args: Any) -> Criterion:
    """The criterion that a name or an import path stands for.

    Args:
        name: One of `CRITERIA`, or `package.module:attribute` of a class or function that returns
            a criterion.
        args: Its hyperparameters.

    Raises:
        ValueError: The name or an argument is unknown (the nearest right one is named), or a value
            is out of its range.
        TypeError: What the path stands for gives no criterion.
    """
    made = resolve(name, CRITERIA, "criterion")
    found = call(made, (), args, "criterion_args") if callable(made) else made
    if not isinstance(found, Criterion):
        raise TypeError(
            f"criterion={name!r}: {describe(made)} gave {type(found).__name__}; a class derived "
            "from raysb.prune.criteria.Criterion is needed"
        )
    return found
