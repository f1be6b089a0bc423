"""Ray for a benchmark: as raysb starts it, or with more logical CPUs than there are."""

import contextlib
import logging
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from raysb.cluster import NAMESPACE, prepare_environment


@contextlib.contextmanager
def many_cpus(count: int) -> Iterator[None]:
    """A cluster of our own with so many logical CPUs, for processes that mostly sleep."""
    prepare_environment()
    import ray

    ray.init(
        address="local",
        num_cpus=count,
        include_dashboard=False,
        namespace=NAMESPACE,
        log_to_driver=False,
        logging_level=logging.ERROR,
    )
    try:
        yield
    finally:
        ray.shutdown()


def run_in_workers(
    loop: Callable[[dict[str, Any]], None], config: dict[str, Any], streams: list[Any]
) -> None:
    """Run a loop in one Ray Train worker that finds the streams by their names."""
    import ray.train

    from raysb.ray_engine import Trainer

    train: Any = ray.train  # typed as its first version, whose settings have fewer fields

    with tempfile.TemporaryDirectory(prefix="raysb-bench-") as folder:
        Trainer(
            loop,
            train_loop_config=config,
            scaling_config=train.ScalingConfig(num_workers=1, resources_per_worker={"CPU": 1}),
            run_config=train.RunConfig(
                storage_path=str(Path(folder)),
                name="run",
                logging_config=train.LoggingConfig(log_level="ERROR"),
            ),
            **streams[0].trainer_kwargs(*streams[1:]),
        ).fit()
