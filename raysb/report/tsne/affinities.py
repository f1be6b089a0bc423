"""How likely two rows are neighbours: the joint probabilities P of t-SNE.

Rounding is amplified by every iteration of t-SNE, so that maps of P that differ by 1e-8 end apart.
The bisection therefore takes the very steps of scikit-learn's, and P equals its P to 1e-15.

Dimensions in comments: n rows, D features.
"""

import math

import torch

STEPS = 100
TOLERANCE = 1e-5  # of an entropy, in nats
UNITS = (1e-18, 1e18)  # mean distances that float32 holds well, with room for small and large ones
LEAST = 2.220446049250313e-16  # of a probability, so that its logarithm is finite


def squared_distances(rows: torch.Tensor) -> torch.Tensor:
    """||x_i - x_j||^2, at least 0 and exactly 0 on the diagonal. [n, D] to [n, n]"""
    centred = rows - rows.mean(0)
    norms = centred.square().sum(1)
    distances = norms[:, None] + norms - 2 * centred @ centred.T
    return distances.clamp_(min=0).fill_diagonal_(0)


def joint_probabilities(distances: torch.Tensor, perplexity: float) -> torch.Tensor:
    """P of t-SNE: how likely i and j pick each other as neighbours.

        p_(j|i) = exp(-b_i d_ij) / sum_(k != i) exp(-b_i d_ik),  entropy of p_(.|i) = ln perplexity
        p_ij    = (p_(j|i) + p_(i|j)) / sum of all

    Args:
        distances: Squared distances d, float64 [n, n], 0 on the diagonal.
        perplexity: Number of neighbours, in effect; above 0 and below n.

    Returns:
        float64 [n, n], symmetric, sum 1, 0 on the diagonal and at least `LEAST` beside it.
    """
    given = _conditional(distances, math.log(perplexity))
    joint = given + given.T
    joint = (joint / joint.sum().clamp(min=LEAST)).clamp(min=LEAST)
    return joint.fill_diagonal_(0)


def _conditional(distances: torch.Tensor, entropy: float) -> torch.Tensor:
    """p_(j|i), each row of the wanted entropy. [n, n]

    The precision b of each row is found by bisection from 1. Where so many rows are equal that no b
    gives so small an entropy, it ends at a very large one: equal rows share the probability.
    """
    near = _rounded(distances)
    others = near.clone().fill_diagonal_(math.inf)
    near -= others.amin(1, keepdim=True)  # the nearest has exp(0): no row vanishes
    near.fill_diagonal_(0)
    precision = near.new_ones(len(near), 1)
    low, high = torch.zeros_like(precision), torch.full_like(precision, math.inf)
    found = torch.zeros_like(precision, dtype=torch.bool)
    for _ in range(STEPS):
        weights = torch.exp(near * -precision).fill_diagonal_(0)
        total = weights.sum(1, keepdim=True)
        weights /= total
        excess = total.log() + precision * (near * weights).sum(1, keepdim=True) - entropy
        found |= excess.abs() <= TOLERANCE
        if found.all():
            break
        flat = excess > 0  # too many neighbours
        low = torch.where(flat & ~found, precision, low)
        high = torch.where(flat | found, high, precision)
        middle = torch.where(high.isinf(), precision * 2, (low + high) / 2)
        precision = torch.where(found, precision, middle)
    return weights


def _rounded(distances: torch.Tensor) -> torch.Tensor:
    """As float32 holds them, in float64; very small and very large ones in units of their mean."""
    mean = float(distances.mean())
    unit = 1.0 if mean == 0 or UNITS[0] < mean < UNITS[1] else mean
    return (distances / unit).float().double()
