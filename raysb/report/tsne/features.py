"""What the last layer of a model is given: the features of a row, without a change of the model.

Dimensions in comments: n rows, D features, C classes.
"""

from types import TracebackType
from typing import Any, Self

import torch
from torch import nn

from raysb.errors import ModelError
from raysb.schema import LOSS, Batch, concatenate
from raysb.scoring.forward import each_part, to_array
from raysb.scoring.scores import PREDICTION, columns_of
from raysb.task import Task, TensorBatch

FEATURES = "features"


class LastLayerInput:
    """Listens to every `Linear` of a model; holds what the last one to run was given.

        with LastLayerInput(model) as features:
            outputs = model(images)
            features.take()                                      # [n, D]

    Args:
        model: Whatever it computes; leaving the block removes all traces.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._handles: list[Any] = []
        self._last: torch.Tensor | None = None

    def take(self) -> torch.Tensor:
        """The features of the last forward pass, [n, D]; further dimensions are averaged over.

        Raises:
            ModelError: No `Linear` ran.
        """
        features, self._last = self._last, None
        if features is None:
            raise ModelError(
                f"{type(self._model).__name__}: no torch.nn.Linear ran in its forward pass, so "
                "there are no features of a last layer; embed other ones with "
                "raysb.report.TSNE().fit_transform(features)"
            )
        inner = tuple(range(1, features.dim() - 1))
        return features.mean(inner) if inner else features

    def _note(self, module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        self._last = inputs[0].detach()

    def __enter__(self) -> Self:
        linear = [each for each in self._model.modules() if isinstance(each, nn.Linear)]
        self._handles = [each.register_forward_pre_hook(self._note) for each in linear]
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for handle in self._handles:
            handle.remove()
        self._last = None


def look_at(task: Task, model: nn.Module, batch: Batch, *, target: str | None = None) -> Batch:
    """Features of rows and what the model makes of them, in evaluation mode, without a trace.

    Args:
        task: How a batch reaches the model, and the loss.
        model: On whatever device it is.
        batch: n rows.
        target: Column with the right answers.

    Returns:
        `features` float32 [n, D], `loss` float32 [n], and `prediction` [n] where the outputs are
        classes or one value a row.

    Raises:
        ModelError: The model has no `Linear`, or does not accept the rows.
    """
    with LastLayerInput(model) as features:

        def measure(outputs: Any, tensors: TensorBatch) -> Batch:
            columns = columns_of(task, outputs, tensors, target=target)
            wanted = {name: columns[name] for name in (LOSS, PREDICTION) if name in columns}
            found = {name: to_array(of(outputs, tensors)) for name, of in wanted.items()}
            return {FEATURES: to_array(features.take().float()), **found}

        parts = each_part(task, model, batch, measure)
    found = concatenate(parts)
    if PREDICTION in found and found[PREDICTION].ndim > 1:
        del found[PREDICTION]  # several values a row
    return found
