"""Gradient descent on the divergence between neighbours in the data and on the map.

Dimensions in comments: n rows, K components of the map.
"""

import math
from dataclasses import dataclass

import torch

CHECK_EVERY = 50  # iterations between two looks at whether it still moves
LEAST_GAIN = 0.01
LEAST = torch.finfo(torch.float64).eps  # of a probability, so that its logarithm is finite


class Divergence:
    """KL(P || Q) of a map, and its gradient; Student's t with v = max(K - 1, 1) degrees of freedom.

        q_ij = w_ij / sum w,    w_ij = (1 + |y_i - y_j|^2 / v)^(-(v + 1) / 2)
        dKL / dy_i = 2 (v + 1) / v  sum_j (p_ij - q_ij) (y_i - y_j) / (1 + |y_i - y_j|^2 / v)

    Args:
        joint: P [n, n], 0 on the diagonal; its sum is 1, or the exaggeration.
        components: K.
    """

    def __init__(self, joint: torch.Tensor, components: int) -> None:
        self._joint = joint
        self._degrees = max(components - 1, 1)
        self._near = torch.empty_like(joint)  # 1 / (1 + |y_i - y_j|^2 / v), written over and over
        self._pull = torch.empty_like(joint)

    def gradient(self, points: torch.Tensor) -> torch.Tensor:
        """For all points. [n, K]"""
        weights, total = self._weights(points)
        torch.sub(self._joint, weights, alpha=1 / total, out=self._pull)
        self._pull *= self._near
        one = torch.ones_like(points[:, :1])
        pulled = self._pull @ torch.cat([points, one], dim=1)  # both sums of the gradient at once
        gradient = points * pulled[:, -1:] - pulled[:, :-1]
        return gradient * (2 * (self._degrees + 1) / self._degrees)

    def value(self, points: torch.Tensor) -> float:
        """In nats, summed in float64."""
        weights, total = self._weights(points)
        q = (weights.double() / total).clamp_(min=LEAST)
        p = self._joint.double()
        return float(torch.xlogy(p, p).sub_(torch.xlogy(p, q)).sum())

    def _weights(self, points: torch.Tensor) -> tuple[torch.Tensor, float]:
        """The weights w [n, n] and their sum; 1 + |y_i - y_j|^2 / v is one matrix product."""
        near, centred = self._near, points - points.mean(0)
        norms = centred.square().sum(1, keepdim=True)
        one, v = torch.ones_like(norms), self._degrees
        left = torch.cat([centred * (-2 / v), norms / v + 1, one], dim=1)
        torch.mm(left, torch.cat([centred, one, norms / v], dim=1).T, out=near)
        near.reciprocal_().fill_diagonal_(0)
        weights = near if v == 1 else near ** ((v + 1) / 2)
        return weights, float(weights.sum())


@dataclass(frozen=True, kw_only=True)
class Descent:
    """Momentum with a gain for each coordinate (Jacobs 1988), as van der Maaten and Hinton have it.

    Args:
        learning_rate: Above 0.
        least_gradient: It ends where the norm of the gradient, times gains, is at most this.
    """

    learning_rate: float
    least_gradient: float

    def run(
        self,
        divergence: Divergence,
        points: torch.Tensor,
        *,
        iterations: int,
        momentum: float,
        patience: int,
    ) -> int:
        """Move the points in place; returns the iterations that it took.

        Args:
            divergence: What is to become small.
            points: [n, K].
            iterations: At most so many.
            momentum: Share of the last move that is made again.
            patience: It ends where the divergence did not fall for so many iterations.
        """
        move, gains = torch.zeros_like(points), torch.ones_like(points)
        best, best_at = math.inf, 0
        for done in range(1, iterations + 1):
            gradient = divergence.gradient(points)
            turned = move * gradient < 0  # downhill still lies ahead
            gains = torch.where(turned, gains + 0.2, gains * 0.8).clamp_(min=LEAST_GAIN)
            gradient *= gains
            move.mul_(momentum).sub_(gradient, alpha=self.learning_rate)
            points += move
            if done % CHECK_EVERY:
                continue
            value = divergence.value(points)
            if value < best:
                best, best_at = value, done
            if done - best_at > patience or float(gradient.norm()) <= self.least_gradient:
                return done
        return iterations
