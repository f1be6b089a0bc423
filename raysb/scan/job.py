"""The scoring stage alone: every row of a source once, in its own order, without training.

Dimensions in comments: N rows of the source, n rows of a span.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import nn

from raysb.nn.lora import merge_lora
from raysb.schema import ID, Batch, Ids, Source, concatenate, num_rows, take
from raysb.scoring.forward import each_part, to_array
from raysb.scoring.scores import Column, columns_of
from raysb.scoring.settings import Scoring
from raysb.source.spans import row_group_starts, rows_of_span, spans
from raysb.task import Task, TensorBatch

LABEL = "label"
TRIED_ROWS = 64  # scored before the start, to learn what the outputs are

Scored: TypeAlias = tuple[int, Batch]  # number of the first row, columns of the rows


@dataclass(frozen=True, kw_only=True)
class ScoreJob:
    """What is scored, by which model, and which columns that gives.

    Args:
        source: All rows.
        task: How a batch reaches the model, and the loss.
        state: The model's weights, `state_dict` of it.
        columns: Scores by name.
        target: Column with the right answers, `None` where there is none.
        scoring: Number, size and precision of the scorers.
        num_readers: Processes that read and decode; 0: scorers read for themselves.
        seed: Of the weights that the state replaces.
        device: Of the model, for the local engine; on Ray it follows from `scoring.num_gpus`.
    """

    source: Source
    task: Task
    state: Mapping[str, torch.Tensor]
    columns: Mapping[str, Column]
    target: str | None
    scoring: Scoring
    num_readers: int = 2
    seed: int = 0
    device: str = "cpu"

    def model(self, device: str) -> nn.Module:
        """The model with its weights."""
        model = self.task.build(self.seed)
        merge_lora(model)  # the state is that of the whole module
        model.load_state_dict(self.state)
        return model.to(device)

    def spans(self) -> Ids:
        """First row of each span that is read at once, and the row after its last. [spans, 2]"""
        first = self.source.read(None, 0, min(TRIED_ROWS, self.source.num_rows))
        rows = rows_of_span(
            first,
            num_rows=self.source.num_rows,
            batch_size=self.scoring.batch_size,
            processes=max(self.scoring.min_actors, self.num_readers),
        )
        return spans(row_group_starts(self.source), rows)


class RowScorer:
    """A model that scores rows; the same in both engines.

    Args:
        job: What is scored.
        device: Of the model.
    """

    def __init__(self, job: ScoreJob, device: str) -> None:
        self._job = job
        self._model = job.model(device).eval()

    def __call__(self, batch: Batch) -> Batch:
        """`id`, scores, and `label` where each row has one, of n rows."""
        job, size = self._job, self._job.scoring.batch_size
        parts = [
            part
            for start in range(0, num_rows(batch), size)
            for part in self._forward(take(batch, slice(start, start + size)))
        ]
        found: Batch = {ID: batch[ID].astype(np.int64, copy=False), **concatenate(parts)}
        if job.target is not None and is_label(batch[job.target]):
            label = batch[job.target]
            found[LABEL] = label if label.dtype.kind == "f" else label.astype(np.int64)
        return found

    def _forward(self, batch: Batch) -> list[Batch]:
        scoring = self._job.scoring
        return each_part(self._job.task, self._model, batch, self._columns, dtype=scoring.dtype)

    def _columns(self, outputs: Any, tensors: TensorBatch) -> Batch:
        found = {name: to_array(f(outputs, tensors)) for name, f in self._job.columns.items()}
        return {
            name: values.astype(np.float32) if values.dtype.kind == "f" else values
            for name, values in found.items()
        }


def is_label(column: Any) -> bool:
    """Whether a column of the data can stand beside the scores: one number a row."""
    return column.ndim == 1 and column.dtype.kind in "biuf"


def find_columns(
    task: Task, model: nn.Module, rows: Batch, *, target: str | None, classes: bool, dtype: str
) -> dict[str, Column]:
    """Which scores make sense, from the outputs for a few rows.

    Raises:
        ModelError: The model does not accept the rows, or the loss is not one per row.
    """

    def look(outputs: Any, tensors: TensorBatch) -> dict[str, Column]:
        columns = columns_of(task, outputs, tensors, target=target, classes=classes)
        for column in columns.values():
            column(outputs, tensors)  # what fails, fails now
        return columns

    return each_part(task, model, rows, look, dtype=dtype)[0]


def score_locally(job: ScoreJob) -> Iterator[Scored]:
    """Score in this process, span after span."""
    score = RowScorer(job, job.device)
    for start, stop in job.spans().tolist():
        yield start, score(job.source.read(None, start, stop))
