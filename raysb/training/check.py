"""What can be known before a run: one small batch through reading, model, loss and optimizer."""

import warnings
from typing import Any

from torch import nn

from raysb.errors import DataError
from raysb.losses import CrossEntropy
from raysb.losses.outputs import logits_of
from raysb.nn.norm import has_batch_statistics
from raysb.optim.registry import build_optimizer
from raysb.schema import Batch, take
from raysb.scoring.forward import each_part, score
from raysb.source.open import check_classes
from raysb.training.channel_statistics import check_selection, observed_layers
from raysb.training.settings import Training
from raysb.training.spec import StreamSpec

ROWS = 8


def check_first_rows(spec: StreamSpec, training: Training, optimizer: Any = None) -> None:
    """Score a few rows in this process, build the optimizer, and see whether the bounds can hold.

    Args:
        spec: What is to be read, scored, selected and trained.
        training: Epochs, batch size, optimizer.
        optimizer: As given to the trainer.

    Raises:
        DataError: The rows cannot be read or decoded, or a label is none of the outputs.
        ModelError: The model does not accept them, the loss is not one per sample, or
            `train.statistics` cannot be had of it.
        ValueError: The optimizer does not take its arguments, `scoring.max_staleness_steps` is
            below what the sizes allow, or `train.statistics` does not go with the selector.
    """
    for count in sorted({training.min_workers, training.max_workers}):
        spec.limits(training.batch_size, count)
    model = try_first_rows(spec)
    build_optimizer(model, training, optimizer)
    if training.statistics:
        check_selection(spec.selector, spec.adjust)
        observed_layers(model)


def try_first_rows(spec: StreamSpec) -> nn.Module:
    """Score a few rows in this process; returns the model that did.

    Raises:
        DataError: The rows cannot be read or decoded, or a label is none of the outputs.
        ModelError: The model does not accept them, or the loss is not one per sample.
    """
    model = spec.task.build(spec.seed)
    batch = take(spec.read(spec.plan(ROWS, 1), 0), slice(0, ROWS))
    score(
        spec.task,
        model,
        batch,
        by=spec.by if spec.scored else None,
        image_scale=spec.scoring.image_scale if spec.scored else 1.0,
    )
    if spec.proxy is not None:
        scale = spec.scoring.image_scale
        score(spec.proxy.task(spec.task), spec.proxy.model, batch, by=spec.by, image_scale=scale)
    _check_class_column(spec, batch)
    _check_labels(spec, model, batch)
    moving = has_batch_statistics(model)
    if moving and spec.scored:
        warnings.warn(
            f"the model has batch statistics ({moving[0]} and {len(moving) - 1} more): selected "
            "rows are not a sample of the data, so their statistics are biased, and a score "
            "depends on which rows were selected. Group norm has none: model.convert_norm=true, or "
            "raysb.nn.convert_norm(model) where you build it, puts it in place of the batch norm",
            stacklevel=4,
        )
    return model


def _check_class_column(spec: StreamSpec, batch: Batch) -> None:
    """A floor for each class counts integers."""
    name = spec.pool_scoring.classes
    if name is None:
        return
    column = batch[name]
    if column.ndim != 1 or column.dtype.kind not in "iub":
        raise DataError(
            f"adjust.class_floor={spec.adjust.class_floor}: the column {name!r} is {column.dtype} "
            f"{list(column.shape[1:])} a row; one integer a row is needed to count classes. Set 0"
        )


def _check_labels(spec: StreamSpec, model: nn.Module, batch: Batch) -> None:
    """Every label must have an output: in a run, only its row in a shuffled pool is known."""
    loss = spec.task.loss
    if isinstance(loss, CrossEntropy) and spec.task.collate is None:
        outputs = each_part(spec.task, model, batch, lambda outputs, _: logits_of(outputs).shape[1])
        check_classes(spec.source, loss.target, outputs[0])
