"""A learning rate that stays flat and then falls along half a cosine."""

import math

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler


class FlatCosineLR(LRScheduler):
    """The base learning rate for a share of the run, then half a cosine down.

    With r = max(0, (t / total_steps - flat) / (1 - flat)) after t calls of `step()`:

        lr = base (final + (1 - final) (1 + cos(pi r)) / 2)

    Ranger's author advises a flat 72 to 75 % of the run. `train.schedule=flat_cosine` is the same
    in the pipeline.

    Args:
        optimizer: Its groups' rates are the base.
        total_steps: Calls of `step()` until the rate is `final` times the base, where it then
            stays; at least 1.
        flat: Share of the run before the rate falls, in [0, 1).
        final: Factor on the base at the end, at least 0.
        last_epoch: Calls done already; -1 starts anew.

    Raises:
        ValueError: For a value out of its range.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        total_steps: int,
        flat: float = 0.75,
        final: float = 0.0,
        last_epoch: int = -1,
    ) -> None:
        if total_steps < 1:
            raise ValueError(f"FlatCosineLR(total_steps={total_steps!r}): must be at least 1")
        if not 0.0 <= flat < 1.0:
            raise ValueError(f"FlatCosineLR(flat={flat!r}): must be a share of the run, in [0, 1)")
        if not 0.0 <= final < math.inf:
            raise ValueError(f"FlatCosineLR(final={final!r}): must be a number of at least 0")
        self.total_steps, self.flat, self.final = total_steps, flat, final
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float | Tensor]:
        """Learning rates of the groups after `last_epoch` calls of `step()`."""
        progress = min(self.last_epoch / self.total_steps, 1.0)
        rest = max(0.0, (progress - self.flat) / (1.0 - self.flat))
        scale = self.final + (1.0 - self.final) * (1.0 + math.cos(math.pi * rest)) / 2.0
        return [base * scale for base in self.base_lrs]
