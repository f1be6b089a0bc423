"""Weights & Biases: one run for each run, offline where there is no key."""

import importlib
import netrc
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from raysb.report.loggers.base import FINISHED, require


class WandB:
    """Settings become the run's config, metrics keep their keys over the axis `step`.

    `WANDB_PROJECT` (default `raysb`) says where. `WANDB_MODE` decides between `online` and
    `offline`; without it a run is online where a key is known and offline where none is, never
    asking for one. An offline run lies in the run directory; `wandb sync` uploads it.
    """

    def __init__(self) -> None:
        require("wandb", "wandb", "wandb")
        self._run: Any = None

    def start(self, config: Mapping[str, Any], directory: Path) -> None:
        """Begin a run."""
        wandb: Any = importlib.import_module("wandb")
        mode = os.environ.get("WANDB_MODE") or ("online" if _has_key() else "offline")
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "raysb"),
            name=directory.name,
            dir=str(directory),
            config=dict(config),
            mode=mode,
            reinit="create_new",  # a run of the user's own goes on beside it
            settings=wandb.Settings(console="off", silent=True),
        )
        self._run.define_metric("*", step_metric="step")

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """One call for all metrics of a line."""
        # not `step=`, which drops what comes after a restart of workers, at a step seen before
        self._run.log({**metrics, "step": step})

    def finish(self, status: str) -> None:
        """End the run."""
        self._run.finish(exit_code=0 if status == FINISHED else 1)


def _has_key() -> bool:
    """Whether W&B would find a key: without one it asks on the terminal, and the run waits."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlparse(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    try:
        return netrc.netrc().authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False
