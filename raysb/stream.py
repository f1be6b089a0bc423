"""A stream of selected rows for one's own training loop on Ray Train.

    stream = SelectiveStream("data/*.parquet", model=build_model, loss=per_sample, selector=...)
    trainer = TorchTrainer(loop, scaling_config=..., **stream.trainer_kwargs())

and in `loop`: `stream = raysb.get_stream("train")`, `for batch in stream.iter_batches(...)`.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import ray
import ray.train
from torch import nn

from raysb.board import Board
from raysb.cluster import check_placement, cluster_nodes
from raysb.history.settings import History
from raysb.history.shards import LossHistory, Snapshot
from raysb.losses import CrossEntropy
from raysb.packing import Processes
from raysb.placement import READER_CPUS, READER_SHARE, amounts
from raysb.schema import Batch
from raysb.scoring.ledger_actor import LedgerClient
from raysb.scoring.settings import Scoring
from raysb.selection import Adjustments, Selector
from raysb.source.dataset import share
from raysb.source.open import given, open_sources
from raysb.source.settings import Data
from raysb.task import Forward, PerSampleLoss
from raysb.training.bystanders import is_alone
from raysb.training.check import try_first_rows
from raysb.training.spec import StreamSpec
from raysb.training.stages import StreamHandle


class SelectiveStream:
    """Rows that are worth a backward pass, for any Ray Train loop.

    Args:
        rows: Parquet files (path, folder, glob or URI), arrays by column, a map-style data set of
            torch, a `ray.data.Dataset`, or any `Source`.
        model: `() -> nn.Module`; scorers build their copies with it.
        loss: `(outputs, batch) -> [B]`.
        forward: `(model, batch) -> outputs`; by default the model is called with `data.inputs`.
        selector: Which rows to keep.
        scoring: Number, size and precision of the scorers, and how old a score may be.
        adjust: Exploration, a floor for each class, a cap, a schedule: changes of its choice.
        history: Shards of what is known per sample.
        data: Columns, image size, augmentation, readers.
        correct: `(outputs, batch) -> bool [B]`, where the loss has no such method.
        extra: Further columns that scoring is to add.
        collate: Pads a batch just before the forward pass, in scorer and worker.
        step: Training loss where it is not that of the scorers; see `Task`.
        seed: Of order, augmentation, draws and initial weights.
        name: Under which the loop finds the stream.
    """

    def __init__(
        self,
        rows: Any,
        *,
        model: Callable[[], nn.Module],
        loss: PerSampleLoss,
        forward: Forward | None = None,
        selector: Selector | None = None,
        scoring: Scoring | None = None,
        adjust: Adjustments | None = None,
        history: History | None = None,
        data: Data | None = None,
        correct: Callable[..., Any] | None = None,
        extra: Mapping[str, Callable[..., Any]] | None = None,
        collate: Callable[[Batch], Batch] | None = None,
        step: Callable[..., Any] | None = None,
        seed: int = 0,
        name: str = "train",
    ) -> None:
        data = data or Data()
        self.spec = StreamSpec.of(
            open_sources(
                data,
                seed=seed,
                train=given(rows, "SelectiveStream(rows)"),
                labels=isinstance(loss, CrossEntropy),
            ),
            data,
            model=model,
            loss=loss,
            forward=forward,
            selector=selector,
            scoring=scoring,
            adjust=adjust,
            seed=seed,
            name=name,
            correct=correct,
            extra=extra,
            collate=collate,
            step=step,
        )
        try_first_rows(self.spec)
        self._history = history or History()
        self._handle: StreamHandle | None = None

    def start(self) -> StreamHandle:
        """Start the stream's actors, once; Ray must be running."""
        if self._handle is None:
            self._handle = start_stream(self.spec, self._history)
        return self._handle

    def trainer_kwargs(self, *others: "SelectiveStream") -> dict[str, Any]:
        """Keyword arguments that give a `TorchTrainer` this stream and others beside it.

        Raises:
            ValueError: Two streams have the same name.
        """
        streams = {stream.spec.name: stream for stream in (self, *others)}
        if len(streams) <= len(others):
            raise ValueError(
                f"trainer_kwargs: {1 + len(others)} streams with the names {sorted(streams)}; "
                "give each its own name=..., by which the loop finds it"
            )
        check_placement(
            {
                f"{name}: {flag}": processes
                for name, stream in streams.items()
                for flag, processes in stream_processes(stream.spec).items()
            },
            nodes=cluster_nodes(),
        )
        handles = {name: stream.start() for name, stream in streams.items()}
        return {
            "datasets": {name: (lambda h=handle: h) for name, handle in handles.items()},
            "dataset_config": StreamDataConfig(),
        }


class StreamDataConfig(ray.train.DataConfig):
    """Hands streams to the workers as they are, and data sets as Ray does."""

    def configure(
        self, datasets: dict[str, Any], world_size: int, *args: Any, **kwargs: Any
    ) -> list[dict[str, Any]]:
        """See `ray.train.DataConfig.configure`."""
        streams = {k: v for k, v in datasets.items() if isinstance(v, StreamHandle)}
        rest = {k: v for k, v in datasets.items() if k not in streams}
        shards: list[dict[str, Any]] = [{} for _ in range(world_size)]
        if rest:
            shards = list(super().configure(rest, world_size, *args, **kwargs))
        return [{**shard, **streams} for shard in shards]


def start_stream(
    spec: StreamSpec,
    history: History,
    snapshot: Snapshot | None = None,
    stacks: str | None = None,
) -> StreamHandle:
    """Start ledger, board and history of a stream.

    Args:
        spec: What it is made of.
        history: Its shards.
        snapshot: See `LossHistory.start`.
        stacks: See `StreamHandle`.
    """
    shared = replace(spec, source=share(spec.source))
    table = None
    if spec.has_history:
        table = LossHistory.start(history.num_shards, spec.source.num_rows, snapshot)
    return StreamHandle(
        spec=[ray.put(shared)],
        reading=[ray.put(shared.reading)],
        name=spec.name,
        ledger=LedgerClient.start(spec.ledger()),
        board=Board.start(),
        history=table,
        stacks=stacks,
        alone=is_alone(),
    )


def stream_processes(spec: StreamSpec) -> dict[str, Processes]:
    """A stream's readers and scorers, by the flag that asks for them.

    Of the scorers the fewest: more of them are only added where there is room. Ray Data's own
    tasks ask for nothing (`training.small_pools`).
    """
    scoring = spec.scoring
    processes = {
        "data.num_readers": Processes(
            spec.num_readers, READER_CPUS, resources=amounts(scoring.resources, READER_SHARE)
        ),
    }
    if spec.scored:
        processes["scoring.num_actors x scoring.num_cpus"] = Processes(
            scoring.min_actors, scoring.num_cpus, scoring.num_gpus, amounts(scoring.resources)
        )
    return processes
