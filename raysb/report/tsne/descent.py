"""Gradient descent on the divergence between neighbours in the data and on the map.

Dimensions in comments: n rows, K components of the map.
"""

import math
from dataclasses import dataclass

import torch

CHECK_EVERY = 50  # iterations between two looks at whether it still moves
LEAST_GAIN = 0.01
CPU_ROWS = 128  # at once: what is written stays in cache
LEAST = torch.finfo(torch.float64).eps  # of a probability, so that its logarithm is finite


class Divergence:
    """KL(P || Q) of a map, and its gradient; Student's t with v = max(K - 1, 1) degrees of freedom.

        q_ij = w_ij / sum w,    w_ij = (1 + |y_i - y_j|^2 / v)^(-(v + 1) / 2)
        dKL / dy_i = 2 (v + 1) / v  sum_j (p_ij - q_ij) (y_i - y_j) / (1 + |y_i - y_j|^2 / v)

    Distances are sums of squared differences, in float64: |y_i|^2 + |y_j|^2 - 2 y_i y_j loses what
    is near, and scikit-learn's points were not met.

    Args:
        joint: P, float64 [n, n], 0 on the diagonal; its sum is 1, or the exaggeration.
        components: K.
        dtype: Of the points.
    """

    def __init__(
        self, joint: torch.Tensor, components: int, dtype: torch.dtype = torch.float32
    ) -> None:
        self._joint = joint
        self._degrees = max(components - 1, 1)
        rows = len(joint)
        most = CPU_ROWS if joint.device.type == "cpu" else rows
        self._parts = [slice(i, i + most) for i in range(0, rows, most)]
        # written over and over: to allocate them anew takes longer than to compute
        self._near = torch.empty_like(joint)  # 1 / (1 + |y_i - y_j|^2 / v)
        self._scratch = torch.empty_like(joint[:most])
        self._apart = torch.empty_like(joint[:most], dtype=dtype)

    def gradient(self, points: torch.Tensor) -> torch.Tensor:
        """For all points. [n, K]"""
        weights, total = self._weights(points)
        columns, v = points.T.contiguous(), self._degrees
        gradient = torch.empty_like(columns, dtype=torch.float64)
        for part in self._parts:
            pull, joint = self._near[part], self._joint[part]
            scratch, apart = self._scratch[: len(joint)], self._apart[: len(joint)]
            torch.div(weights[part], total, out=scratch).clamp_(min=LEAST)  # q
            pull *= torch.sub(joint, scratch, out=scratch)
            for column, sums in zip(columns, gradient, strict=True):
                torch.sub(column[part, None], column, out=apart)  # rounded as the points are
                torch.mul(pull, apart, out=scratch)
                torch.sum(scratch, 1, out=sums[part])
        return gradient.T.to(points.dtype) * (2 * (v + 1) / v)

    def value(self, points: torch.Tensor) -> float:
        """In nats."""
        weights, total = self._weights(points)
        q = (weights / total).clamp_(min=LEAST)
        return float(torch.xlogy(self._joint, self._joint).sub_(torch.xlogy(self._joint, q)).sum())

    def _weights(self, points: torch.Tensor) -> tuple[torch.Tensor, float]:
        """The weights w [n, n], 0 on the diagonal, and their sum."""
        near, v, columns = self._near, self._degrees, points.T.double().contiguous()
        for part in self._parts:
            square = near[part].zero_()
            apart = self._scratch[: len(square)]
            for column in columns:
                torch.sub(column[part, None], column, out=apart)
                square.addcmul_(apart, apart)
            square.div_(v).add_(1).reciprocal_()
        near.fill_diagonal_(0)
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
        move, gains = torch.zeros_like(points, dtype=torch.float64), torch.ones_like(points)
        best, best_at = math.inf, 0
        for done in range(1, iterations + 1):
            looks = done % CHECK_EVERY == 0
            value = divergence.value(points) if looks else math.nan
            gradient = divergence.gradient(points)
            turned = move * gradient < 0  # downhill still lies ahead
            gains = torch.where(turned, gains + 0.2, gains * 0.8).clamp_(min=LEAST_GAIN)
            gradient *= gains
            move.mul_(momentum).sub_(gradient.double(), alpha=self.learning_rate)
            points.copy_(points + move)
            if not looks:
                continue
            if value < best:
                best, best_at = value, done
            elif done - best_at > patience:
                return done
            if float(gradient.norm()) <= self.least_gradient:
                return done
        return iterations
