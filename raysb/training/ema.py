"""An average of the weights over the steps, which is what is evaluated and kept: `train.ema`."""

from collections.abc import Mapping
from typing import Any

from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

_rule: Any = get_ema_multi_avg_fn  # which torch has not annotated


class Average:
    """An exponential moving average of a model's parameters,

        a_1 = w_1,        a_t = d a_{t-1} + (1 - d) w_t,

    one update a step. Buffers, as of batch norm, are those of the model itself.

    Args:
        module: The whole model, on its devices; a copy of it holds the average.
        decay: d, above 0 and below 1; about 1 / (1 - d) steps are averaged.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self._averaged = AveragedModel(module, multi_avg_fn=_rule(decay))

    @property
    def module(self) -> nn.Module:
        """A model with the averaged weights; before the first step those it was made with."""
        module: nn.Module = self._averaged.module
        return module

    def update(self, module: nn.Module) -> None:
        """Take in the weights after a step."""
        self._averaged.update_parameters(module)

    def state_dict(self) -> dict[str, Any]:
        """The module itself, which `checkpoint.save` writes as such, and the number of updates."""
        return {"average": self.module, "num_averaged": int(self._averaged.n_averaged)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was taken.

        Of a run that had no average before, it begins with the first step from here.
        """
        if "average" not in state:
            return
        self.module.load_state_dict(state["average"].state_dict())
        self._averaged.n_averaged.fill_(state["num_averaged"])
