"""Selected rows for any training loop, in one process and without Ray.

    loader = raysb.SelectiveLoader(dataset, model=model, loss=per_sample, batch_size=128)
    for epoch in range(10):
        for batch in loader:
            losses = per_sample(model(batch["image"]), batch)
            (losses * batch["weight"]).mean().backward()
            ...

The stages are those of the local engine, in its order; what differs is who owns the loop.
"""

import warnings
from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from numbers import Integral
from typing import Any

import numpy as np
import torch
from torch import nn

from raysb.errors import StreamOrderError
from raysb.local import LocalStream
from raysb.losses import CrossEntropy
from raysb.schema import (
    ID,
    POOL,
    STREAM_COLUMNS,
    WEIGHT,
    Batch,
    Floats,
    Ids,
    concatenate,
    num_rows,
    take,
)
from raysb.scoring.cursor import Cursor, Waiting
from raysb.scoring.settings import Scoring
from raysb.selection import Adjustments, Selector
from raysb.selection.batcher import Batcher
from raysb.source.open import given, open_sources
from raysb.source.plan import PoolPlan
from raysb.source.settings import Data
from raysb.task import Forward, PerSampleLoss, TensorBatch
from raysb.training.batch_stream import unwrap
from raysb.training.check import try_first_rows
from raysb.training.spec import StreamSpec

VERSION = 1
_MOST_EPOCHS = 65_534  # what the history can number


class SelectiveLoader:
    """Batches of exactly B rows that are worth a backward pass.

    One iteration is one epoch: every row is read and scored once, with the weights that the model
    has when the rows selected before do not fill another batch. Scoring is done in evaluation mode
    without gradient and leaves no trace in the model. What an epoch leaves over, less than B rows,
    goes into the first batch of the next one. An iteration that was broken off goes on where it
    stopped.

    There is no `len()`: how many rows are kept is known only afterwards. An epoch has at most
    ceil(N / B) batches, with `Uniform` floor or ceil of N / B.

    A batch is a dict of tensors on the model's device: the data's numeric columns, `id`, `weight`
    (factor on the row's loss), `probability`, and where rows are scored `loss`, `correct` and
    `weights_step`. Each batch counts as one optimizer step when it is handed out. Whoever asks for
    batches ahead of time, as Lightning does by one, has rows scored with weights as much older.

    Args:
        rows: A map-style `torch.utils.data.Dataset`, arrays by column, a tuple (inputs, target),
            parquet (path, folder, glob, URI), or any `Source`.
        model: The module that is trained; it is scored as it is at that moment.
        loss: `(outputs, batch) -> float [B]`, e.g. `raysb.losses.cross_entropy("label")`.
        batch_size: B, at least 1.
        forward: `(model, batch) -> outputs`; by default the model is called with `data.inputs`.
        selector: Which rows to keep; default `SelectiveBackprop()`.
        epochs: Passes over the data, if that is known: the last one then ends with a batch of what
            is left, filled up with rows of `weight` 0 and `id` -1. Without it there is no last one.
        scoring: `batch_size` of a pool, `score`, `dtype`, `image_scale`, `proxy`, `min_agreement`,
            `max_nonfinite_fraction`; the rest is for Ray.
        adjust: Exploration, a floor for each class, a cap, a schedule: changes of its choice.
        data: Names of the columns, image size, augmentation.
        collate: Pads a batch just before the forward pass, e.g. `raysb.pad("tokens")`.
        seed: Of order, augmentation and draws.

    Raises:
        TypeError: Rows cannot be read from `rows`.
        DataError: They cannot be used.
        ModelError: The model does not accept them, or the loss is not one per row.
        ValueError: A number is out of range.

    Attributes:
        epoch: Epoch that the next iteration gives, or goes on with.
        num_steps: Batches handed out.
        num_backpropped: Rows in them.
        num_scored: Rows scored.
        agreement: What audits of cheap scores found.
    """

    def __init__(
        self,
        rows: Any,
        *,
        model: nn.Module,
        loss: PerSampleLoss,
        batch_size: int,
        forward: Forward | None = None,
        selector: Selector | None = None,
        epochs: int | None = None,
        scoring: Scoring | None = None,
        adjust: Adjustments | None = None,
        data: Data | None = None,
        collate: Callable[[Batch], Batch] | None = None,
        seed: int = 0,
    ) -> None:
        _check_counts(batch_size=batch_size, epochs=epochs)
        data = data or Data()
        spec = StreamSpec.of(
            open_sources(
                data,
                seed=seed,
                train=given(rows, "SelectiveLoader(rows)"),
                labels=isinstance(loss, CrossEntropy),
            ),
            data,
            model=lambda: deepcopy(model),  # only to try the first rows: the live one stays as is
            loss=loss,
            forward=forward,
            selector=selector,
            scoring=scoring,
            adjust=adjust,
            seed=seed,
            collate=collate,
        )
        if spec.scored:
            try_first_rows(spec)
        self.model = model
        self.batch_size = batch_size
        self.epochs = epochs
        self.epoch = 0
        self._plan = spec.plan(batch_size, epochs or _MOST_EPOCHS)
        self._pools = _Pools(spec)
        self._batcher = Batcher(batch_size)
        self._pool = 0  # the next one to read

    @property
    def num_steps(self) -> int:
        """Batches handed out."""
        return self._pools.num_steps

    @property
    def num_backpropped(self) -> int:
        """Rows in the batches handed out."""
        return self._pools.num_backpropped

    @property
    def num_scored(self) -> int:
        """Rows scored."""
        return self._pools.ledger.totals.num_scored

    @property
    def agreement(self) -> dict[str, float]:
        """How far cheap scores rank rows as the live model does; nothing where none are cheap.

        Means over the last three audits: `agreement`, Spearman's rank correlation in [-1, 1],
        `overlap`, the share of the highest third that both have, and `fallback`, 1 once the
        live model scores in their place.
        """
        return self._pools.ledger.audits.metrics()

    def __iter__(self) -> Iterator[TensorBatch]:
        """The batches of one epoch, or of what is left of one.

        Raises:
            StreamOrderError: All `epochs` are over.
            NonFiniteError: Too many losses are NaN or infinite.
            ValueError: Several processes train together.
        """
        _refuse_several_processes()
        if self._plan.epochs <= self.epoch:
            raise StreamOrderError(
                f"SelectiveLoader(epochs={self.epochs}): iterated once more; all its epochs are "
                "over. Iterate over `range(loader.epoch, epochs)`, or give more epochs"
            )
        self._pools.start(self._plan, self.batch_size, self.model, self._pool, self._batcher.rows)
        while (batch := self._next()) is not None:
            device = next((p.device for p in self.model.parameters()), torch.device("cpu"))
            yield self._pools.task.tensors(batch, device)

    def _next(self) -> Batch | None:
        """The next batch of this epoch; `None` when there is none, and the next epoch is due."""
        end = (self.epoch + 1) * self._plan.pools_per_epoch
        while self._batcher.rows < self.batch_size and self._pool < end:
            cheap = not self._pools.ledger.audits.fallen_back
            self._batcher.push(self._pools.read(self._pool))
            self._pool += 1
            if cheap and self._pools.ledger.audits.fallen_back:
                self._tell_of_the_fallback()
        batch, rows = self._batcher.pop(), self.batch_size
        if batch is None and self._batcher.rows and self.epoch + 1 == self.epochs:
            batch, rows = self._batcher.flush()
        if batch is None:
            self.epoch += 1
            self._pools.ledger.forget(self._pool)
            return None
        self._pools.hand_out(rows)
        return batch

    def _tell_of_the_fallback(self) -> None:
        warnings.warn(
            f"cheap scores rank rows as the model's by {self.agreement['agreement']:.2f} only, "
            f"below scoring.min_agreement={self._pools.spec.scoring.min_agreement}: from here on "
            "the model scores, in full precision and size",
            stacklevel=4,  # who iterates
        )

    def record(self, losses: torch.Tensor, batch: TensorBatch) -> None:
        """Tell the losses of a training step, for selectors that look back at them.

        `InfoBatch` and `BudgetedSelection` live on them, `StaleSelectiveBackprop` ranks better with
        them, the others do nothing.

        Args:
            losses: float [B], of the batch's rows, before any reduction.
            batch: As the loader gave it.
        """
        if self._pools.spec.selector.records_backward:
            real = (batch[WEIGHT] > 0).cpu().numpy()
            ids = batch[ID].cpu().numpy()[real]
            self._pools.record_backward(ids, losses.detach().float().cpu().numpy()[real])

    def state_dict(self) -> dict[str, Any]:
        """Where the loader stands and all it knows: numbers and tensors, for `torch.save`.

        A batch that was handed out counts as trained. With the model's and the optimizer's own
        state, going on from here equals never having stopped.
        """
        pools = self._pools
        return {
            "version": VERSION,
            "made_with": self._made_with(),
            "epoch": self.epoch,
            "pool": self._pool,
            "num_steps": pools.num_steps,
            "num_backpropped": pools.num_backpropped,
            "waiting": _to_tensors(self._waiting()),
            "ledger": _to_tensors(pools.ledger.state_dict()),
            "outlooks": _to_tensors(pools.outlook_states()),
            "history": _to_tensors(pools.history.state_dict()),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was taken.

        Raises:
            ValueError: The state is of a loader with other rows or settings. Nothing was loaded.
        """
        mine = self._made_with()
        if state.get("version") != VERSION or state["made_with"] != mine:
            raise ValueError(
                f"SelectiveLoader.load_state_dict: the state was saved with "
                f"{state.get('made_with')}, this loader has {mine}; the rows of a pool would be "
                "others. Make the loader as it was"
            )
        waiting = _reread(self._pools.spec, self._plan, _to_arrays(state["waiting"]))
        self._pools = _Pools(self._pools.spec)
        self._pools.num_steps = state["num_steps"]
        self._pools.num_backpropped = state["num_backpropped"]
        self._pools.ledger.load_state_dict(_to_arrays(state["ledger"]))
        self._pools.load_outlooks(_to_arrays(state["outlooks"]))
        self._pools.history.load_state_dict(_to_arrays(state["history"]))
        self._batcher = Batcher(self.batch_size)
        for block in waiting:
            self._batcher.push(block)
        self.epoch, self._pool = state["epoch"], state["pool"]

    def _made_with(self) -> dict[str, Any]:
        spec = self._pools.spec
        return {
            "num_rows": self._plan.num_rows,
            "pool_rows": self._plan.pool_rows,
            "batch_size": self.batch_size,
            "seed": spec.seed,
            "selector": repr(spec.selector),
            "adjust": repr(spec.adjust),
            "score": spec.by.name,
        }

    def _waiting(self) -> Batch:
        """What is known of the rows selected and not handed out; the rows themselves are read."""
        parts = []
        while self._batcher.rows:
            parts.append(self._batcher.flush(padded=False)[0])
        if not parts:
            return {}
        rows = concatenate(parts)
        self._batcher.push(rows)
        return {name: rows[name] for name in STREAM_COLUMNS if name in rows}


class _Pools(LocalStream):
    """The local engine's scoring and selecting, pool by pool: the loader says when."""

    def start(
        self, plan: PoolPlan, batch_size: int, model: nn.Module, pool: int, waiting: int
    ) -> None:
        """Open the ledger, once, at a pool, with rows that were selected before and wait."""
        if self.plan is not None:
            return
        self.cursor = Cursor(pool)
        self.plan = self._open(batch_size, plan.epochs, unwrap(model))
        self.ledger.num_selected = waiting  # the steps that lockstep allows are counted from them

    def read(self, pool: int) -> Batch:
        """Selected rows of a pool, scored with the model as it is."""
        self.epoch = self._plan().epoch_of(pool)
        return self.rows_of(self._plan(), pool)

    def record_backward(self, ids: Ids, losses: Floats) -> None:
        """Enter the losses of the batch handed out last."""
        self.history.record_backward(ids, losses, self.num_steps - 1)

    def hand_out(self, rows: int) -> None:
        """Count a batch as a step."""
        self.num_backpropped += rows
        self.num_steps += 1
        if self._model is not None:
            self._publish(self._model)


def _reread(spec: StreamSpec, plan: PoolPlan, known: Batch) -> list[Batch]:
    """Blocks of the rows that waited, read again, with what was known of them."""
    blocks = []
    for pool in np.unique(known[POOL]).tolist() if known else ():
        mine = take(known, known[POOL] == pool)
        blocks.append(spec.reading.read_waiting(plan, pool, Waiting(num_rows(mine), mine), None))
    return blocks


def _to_tensors(state: Any) -> Any:
    """Arrays in nested dicts and lists as tensors, which `torch.load` reads without unpickling."""
    if isinstance(state, dict):
        return {key: _to_tensors(value) for key, value in state.items()}
    return torch.from_numpy(state.copy()) if isinstance(state, np.ndarray) else state


def _to_arrays(state: Any) -> Any:
    if isinstance(state, Mapping):
        return {key: _to_arrays(value) for key, value in state.items()}
    return state.cpu().numpy() if isinstance(state, torch.Tensor) else state


def _check_counts(*, batch_size: int, epochs: int | None) -> None:
    for name, value in (("batch_size", batch_size), ("epochs", epochs)):
        whole = isinstance(value, Integral) and not isinstance(value, bool)
        if value is not None and not (whole and value >= 1):
            raise ValueError(f"SelectiveLoader({name}={value!r}): must be a whole number above 0")


def _refuse_several_processes() -> None:
    distributed = torch.distributed
    if not (distributed.is_available() and distributed.is_initialized()):
        return
    if (world := distributed.get_world_size()) > 1:
        raise ValueError(
            f"SelectiveLoader: {world} processes train together; each would score all rows, and "
            "they would end after different numbers of batches and wait for ever. Use "
            "raysb.SelectiveStream, whose workers share one stream"
        )
