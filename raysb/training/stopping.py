"""When evaluations have stopped to improve, and which was the best: `train.patience`."""

from collections.abc import Mapping
from typing import Any


class EarlyStopping:
    """Counts evaluations since the best one.

    Args:
        patience: Evaluations without improvement after which training ends, at least 1; `None`: it
            does not end by this.

    Attributes:
        best: The least score so far; `None` before the first that is finite.
        num_since: Evaluations since then.
    """

    def __init__(self, patience: int | None = None) -> None:
        self._patience = patience
        self.best: float | None = None
        self.num_since = 0

    def update(self, score: float) -> bool:
        """Take in an evaluation; less is better, and NaN is no improvement.

        Returns:
            Whether it is the best so far.
        """
        better = score < (float("inf") if self.best is None else self.best)
        self.best = score if better else self.best
        self.num_since = 0 if better else self.num_since + 1
        return better

    @property
    def over(self) -> bool:
        """Whether training is to end."""
        return self._patience is not None and self.num_since >= self._patience

    @property
    def reason(self) -> str:
        """What `stopped_by` says of it."""
        return f"train.patience={self._patience}"

    def state_dict(self) -> dict[str, Any]:
        """What was counted, as JSON."""
        return {"best": self.best, "num_since": self.num_since}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on counting where `state_dict` was taken, with the patience of now."""
        self.best, self.num_since = state["best"], state["num_since"]
