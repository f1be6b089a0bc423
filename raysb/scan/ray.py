"""The scoring stage alone on Ray: spans of rows -> readers -> scorers -> the driver, in order.

Nothing here imports torch before a scorer is made, since readers import this file too.
"""

import logging
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import ray
import ray.data

from raysb.cluster import check_placement, cluster_nodes
from raysb.packing import Processes
from raysb.placement import READER_CPUS, READER_SHARE, amounts
from raysb.schema import Batch
from raysb.source.dataset import share
from raysb.source.spans import START, STOP
from raysb.training.memory import keep_freed_pages

if TYPE_CHECKING:
    from raysb.scan.job import Scored, ScoreJob

IN_FLIGHT = 2  # spans at an actor: the next is there when one is done


class SpanReader:
    """A reader actor of Ray Data: turns the numbers of a span into its rows.

    Args:
        source: A list of one reference to the source.
    """

    def __init__(self, source: list[Any]) -> None:
        self._source = ray.get(source[0])

    def __call__(self, span: Batch) -> Batch:
        """Rows of one span, with the number of the first."""
        start, stop = int(span[START][0]), int(span[STOP][0])
        rows: Batch = self._source.read(None, start, stop)
        return {**rows, START: np.full(stop - start, start, np.int64)}


class SpanScorer:
    """A scorer actor of Ray Data.

    Args:
        job: A list of one reference to the job.
        source: As for `SpanReader` where the scorer reads for itself, else `None`.
    """

    def __init__(self, job: list[Any], source: list[Any] | None) -> None:
        from raysb.scan.job import RowScorer

        keep_freed_pages()  # calls run in threads that are not the main one
        mine = ray.get(job[0])
        self._read = None if source is None else SpanReader(source)
        self._score = RowScorer(mine, "cuda" if mine.scoring.num_gpus else "cpu")

    def __call__(self, batch: Batch) -> Batch:
        """Scores of one span's rows, with the number of the first."""
        rows = batch if self._read is None else self._read(batch)
        return {**self._score(rows), START: rows[START]}


def check_score_job(job: "ScoreJob") -> None:
    """Refuse at once what this cluster cannot hold.

    Raises:
        ResourceError: There are fewer CPUs or GPUs than asked for.
    """
    scoring = job.scoring
    check_placement(
        {
            "planning (Ray Data's own tasks)": Processes(1, 1.0),
            "data.num_readers": Processes(
                job.num_readers, READER_CPUS, resources=amounts(scoring.resources, READER_SHARE)
            ),
            "scoring.num_actors x scoring.num_cpus": Processes(
                scoring.min_actors, scoring.num_cpus, scoring.num_gpus, amounts(scoring.resources)
            ),
        },
        nodes=cluster_nodes(),
    )


def score_on_ray(job: "ScoreJob", *, verbose: bool = False) -> "Iterator[Scored]":
    """Score on the cluster at hand; the driver gets the spans in order.

    An actor that dies is started again and its spans are worked on anew: scoring leaves nothing
    but its output, so every row arrives once.
    """
    from raysb.training.stream import user_error

    if not verbose:  # the error itself is raised; what Ray Data logs of it is for its own makers
        logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    blocks = _flow(job).iter_batches(batch_size=None, batch_format="numpy", prefetch_batches=0)
    try:
        for block in blocks:
            starts = block.pop(START)
            yield int(starts[0]), block
    except Exception as error:
        raise user_error(error) from None


def _flow(job: "ScoreJob") -> Any:
    """Numbers of spans -> rows -> scores, as one lazy execution of Ray Data."""
    scoring = job.scoring
    spans = job.spans()
    shared = share(job.source)
    source = [ray.put(shared)]
    flow: Any = ray.data.from_blocks([pa.table({START: spans[:, 0], STOP: spans[:, 1]})])
    context = flow.context
    context.execution_options.preserve_order = True
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.raise_original_map_exception = True  # wrapped, it would lose its type on the way
    flow = flow.repartition(target_num_rows_per_block=1)
    if job.num_readers:
        flow = flow.map_batches(
            SpanReader,
            fn_constructor_args=(source,),
            batch_size=None,
            num_cpus=READER_CPUS,
            resources=amounts(scoring.resources, READER_SHARE),
            compute=_pool_of(job.num_readers),
        )
    return flow.map_batches(
        SpanScorer,
        fn_constructor_args=(
            [ray.put(replace(job, source=shared))],
            None if job.num_readers else source,
        ),
        batch_size=None,
        num_cpus=scoring.num_cpus,
        num_gpus=scoring.num_gpus or None,
        resources=amounts(scoring.resources),
        compute=_pool_of(scoring.min_actors),
    )


def _pool_of(size: int) -> Any:
    return ray.data.ActorPoolStrategy(size=size, max_tasks_in_flight_per_actor=IN_FLIGHT)
