"""How likely two rows are neighbours: the joint probabilities P of t-SNE.

Dimensions in comments: n rows, D features.
"""

import math

import torch

STEPS = 100
TOLERANCE = 1e-6  # of an entropy, in nats
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

    The precision b of each row is found by bisection. Where so many rows are equal that no b gives
    so small an entropy, it ends at a very large one: equal rows share the probability.
    """
    rows = len(distances)
    others = distances.clone().fill_diagonal_(math.inf)
    shifted = distances - others.amin(1, keepdim=True)  # the nearest has exp(0): no row vanishes
    scale = shifted.fill_diagonal_(0).sum(1, keepdim=True) / max(rows - 1, 1)
    scaled = shifted / torch.where(scale > 0, scale, 1)
    precision = scaled.new_ones(rows, 1)
    low, high = torch.zeros_like(precision), torch.full_like(precision, math.inf)
    for _ in range(STEPS):
        weights = torch.exp(scaled * -precision).fill_diagonal_(0)
        total = weights.sum(1, keepdim=True)
        found = total.log() + precision * (scaled * weights).sum(1, keepdim=True) / total
        excess = found - entropy
        if excess.abs().max() <= TOLERANCE:
            break
        flat = excess > 0  # too many neighbours
        low, high = torch.where(flat, precision, low), torch.where(flat, high, precision)
        precision = torch.where(high.isinf(), precision * 2, (low + high) / 2)
    return weights / total
