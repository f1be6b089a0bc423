"""MLflow: one run for each run. Where it goes, MLflow's own environment variables say."""

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from raysb.report.loggers.base import FAILED, FINISHED, INTERRUPTED, require

STATUS = {FINISHED: "FINISHED", FAILED: "FAILED", INTERRUPTED: "KILLED"}


class MLflow:
    """Settings become parameters, metrics keep their keys and steps.

    `MLFLOW_TRACKING_URI` (`sqlite:///mlflow.db`, `http://...`) says where, `MLFLOW_EXPERIMENT_NAME`
    under which name; the run is called like its directory.
    """

    def __init__(self) -> None:
        require("mlflow", "mlflow", "mlflow")
        self._mlflow: Any = None
        self._run_id = ""

    def start(self, config: Mapping[str, Any], directory: Path) -> None:
        """Begin a run."""
        self._mlflow = importlib.import_module("mlflow")
        run = self._mlflow.start_run(run_name=directory.name)
        self._run_id = run.info.run_id
        self._mlflow.log_params(dict(config), run_id=self._run_id)
        self._mlflow.set_tag("raysb.directory", str(directory))

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """One call for all metrics of a line."""
        self._mlflow.log_metrics(dict(metrics), step=step, run_id=self._run_id)

    def finish(self, status: str) -> None:
        """End the run."""
        self._mlflow.end_run(STATUS[status])
