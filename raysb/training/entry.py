"""Where a Ray Train worker begins: it loads torch and the loop here, by itself."""

from collections.abc import Mapping
from typing import Any

import ray

from raysb.collecting import collecting_rarely


def train_loop_per_worker(config: Mapping[str, Any]) -> None:
    """Train on this worker's share of the stream, as the job at `config["job"][0]` says."""
    with collecting_rarely():
        from raysb.training.faults import telling
        from raysb.training.worker import Job, Worker

        job: Job = ray.get(config["job"][0])
    if job.stream.lost() or job.stream.ledger.progress()["failure"]:
        return  # another try would end like the last; the driver knows what to do
    with telling(job.stream.ledger):
        Worker(job).run()
