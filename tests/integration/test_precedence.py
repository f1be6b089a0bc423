"""On one machine, train workers go before whoever brings them rows; and few pools are ahead."""

import json
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
from ray.data._internal.execution import metadata_fetcher, streaming_executor_state
from ray.data._internal.execution.execution_callback import ExecutionCallback
from ray.train import RunConfig, ScalingConfig

sys.path.insert(0, str(Path(__file__).parent))
import runs
from runs import Case, build_net

import raysb
from raysb.precedence import STEP
from raysb.ray_engine import Trainer
from raysb.training import small_pools
from raysb.training.small_pools import NUMBERS_AHEAD, SmallPools

ray.cloudpickle.register_pickle_by_value(runs)
ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
pytestmark = pytest.mark.ray

BRING_ROWS = (
    *("LedgerService", "BoardState", "HistoryShard"),
    *("SplitCoordinator", "PoolReader", "PoolScorer"),
)


def levels() -> dict[str, list[int]]:
    """Niceness of the threads of all workers of this machine's Ray, by title."""
    found: dict[str, list[int]] = {}
    for entry in Path("/proc").iterdir():
        try:
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            title = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            threads = [int(thread.name) for thread in (entry / "task").iterdir()]
        except (OSError, IndexError):  # it is no process, or has ended
            continue
        if parent == os.getppid() and title.startswith("ray::"):
            own = found.setdefault(title.split("(", 1)[-1].strip(), [])
            for thread in threads:
                with suppress(ProcessLookupError):  # it has ended
                    own.append(os.getpriority(os.PRIO_PROCESS, thread))
    return found


def note_levels(config: dict[str, Any]) -> None:
    stream = raysb.get_stream("train")
    model = build_net()
    for batch in stream.iter_batches(batch_size=8, epochs=1, model=model):
        losses = raysb.losses.cross_entropy("label")(model(batch["x"]), batch)
        stream.reduce(losses, batch)
        stream.step(model)
        if stream.num_steps == 3:
            found = {"this thread": os.getpriority(os.PRIO_PROCESS, 0), "of": levels()}
            Path(config["out"]).write_text(json.dumps(found))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_whoever_brings_rows_steps_back_and_the_training_thread_does_not(
    ray_cluster, tmp_path
) -> None:
    case = Case(name="train", stale=8)
    Trainer(
        note_levels,
        train_loop_config={"out": str(tmp_path / "levels")},
        scaling_config=ScalingConfig(num_workers=1, resources_per_worker={"CPU": 0.5}),
        run_config=RunConfig(storage_path=str(tmp_path), name="run"),
        **case.stream().trainer_kwargs(),
    ).fit()
    found = json.loads((tmp_path / "levels").read_text())
    base = os.getpriority(os.PRIO_PROCESS, 0)  # the driver's, of which Ray's processes are made
    assert found["this thread"] == base
    for name in BRING_ROWS:
        own = [level for title, levels in found["of"].items() if name in title for level in levels]
        assert set(own) == {min(base + STEP, 19)}, name


def test_a_run_fits_where_nothing_is_left_beside_its_own_processes(ray_cluster, tmp_path) -> None:
    """Ray Data's own tasks, two in lockstep, run where all CPUs are taken."""
    cases = [Case(name="late", stale=8, epochs=1), Case(name="lockstep", stale=0, epochs=1)]
    streams = [case.stream() for case in cases]
    left = ray.available_resources()["CPU"] - 2 * (0.1 + 0.1)  # a reader and a scorer each
    Trainer(
        runs.loop,
        train_loop_config={"cases": cases, "folder": str(tmp_path)},
        scaling_config=ScalingConfig(num_workers=1, resources_per_worker={"CPU": round(left, 4)}),
        run_config=RunConfig(storage_path=str(tmp_path), name="run"),
        **streams[0].trainer_kwargs(*streams[1:]),
    ).fit()
    for case in cases:
        assert np.load(tmp_path / f"{case.name}.npz")["scored"] == case.count


class Eyes(ExecutionCallback):
    """Notes how many pool numbers wait, each time when Ray Data's loop turns."""

    most = 0

    def before_execution_starts(self, executor: Any) -> None:
        topology = executor._topology
        self._state = next(s for op, s in topology.items() if "Repartition" in op.name)

    def on_execution_step(self, executor: Any) -> None:
        type(self).most = max(self.most, self._state.total_enqueued_output_blocks())


class Slow:
    """An actor that takes a while for each number."""

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        import time

        time.sleep(0.015)
        return batch


def test_a_few_pool_numbers_are_taken_ahead_and_none_is_lost(ray_cluster, monkeypatch) -> None:
    for module, name in (  # which the callback changes
        (streaming_executor_state, "WAIT_FOR_TASK_COMPLETION_TIMEOUT_S"),
        (metadata_fetcher, "_FETCH_WAIT_TIMEOUT_S"),
    ):
        monkeypatch.setattr(module, name, getattr(module, name))
    monkeypatch.setattr(small_pools, "step_back", lambda: None)  # this is the tests' own process
    flow = ray.data.range(count := 300).materialize().repartition(1).materialize()
    flow = flow.repartition(target_num_rows_per_block=1)
    flow.context.custom_execution_callback_classes = [SmallPools, Eyes]
    flow.context.enable_progress_bars = False
    flow.context.set_config("backpressure_policies.enabled", [])
    flow = flow.map_batches(
        Slow, batch_size=None, num_cpus=0.1, compute=ray.data.ActorPoolStrategy(size=1)
    )
    given = [row["id"] for row in flow.iter_rows()]
    assert sorted(given) == list(range(count))
    assert Eyes.most == NUMBERS_AHEAD
