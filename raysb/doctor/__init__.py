"""What would not work here, before anything is started: `raysb doctor`.

A check whose arguments say everything needs no machine of its own kind to be tested.
"""

import os
from pathlib import Path

from raysb.config import Config
from raysb.doctor.findings import Finding as Finding
from raysb.doctor.findings import Report as Report


def examine(config: Config) -> Report:
    """Look at everything that a run of this configuration relies on. Nothing is written."""
    from raysb.cluster import prepare_environment

    prepare_environment()  # before anything loads Ray
    from raysb.doctor.authentication import check_token
    from raysb.doctor.machine import check_machine
    from raysb.doctor.resources import check_cluster, check_neighbours, joins
    from raysb.doctor.run import check_run
    from raysb.doctor.versions import installed_versions

    found = [*installed_versions(), *check_machine()]
    store = None
    if config.engine == "ray":
        found += check_token(os.environ, Path.home(), joins=joins(config))
        found += check_neighbours(config)
        cluster, store = check_cluster(config)
        found += cluster
    found += check_run(config, store)
    return Report(tuple(found))


def examine_cluster_file(path: Path, config: Config) -> Report:
    """Look at a cluster file of `ray up`, and at whether its machines hold the run."""
    from raysb.cluster import prepare_environment

    prepare_environment()
    from raysb.doctor.cluster_file import check_cluster_file

    return Report(tuple(check_cluster_file(path, config)))
