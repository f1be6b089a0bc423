"""Selective-Backprop on Ray: score everything, train on what is worth a backward pass.

Names are imported when they are first used: `import raysb` alone loads neither torch nor ray.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from raysb import losses as losses
    from raysb.history.settings import History as History
    from raysb.models import load_model as load_model
    from raysb.report.records import read_metrics as read_metrics
    from raysb.scoring.settings import Scoring as Scoring
    from raysb.seeding import Draws as Draws
    from raysb.selection import SelectiveBackprop as SelectiveBackprop
    from raysb.selection import Uniform as Uniform
    from raysb.source.settings import Data as Data
    from raysb.stream import SelectiveStream as SelectiveStream
    from raysb.task import inputs as inputs
    from raysb.trainer import SelectiveTrainer as SelectiveTrainer
    from raysb.training.settings import Evaluation as Evaluation
    from raysb.training.settings import Training as Training
    from raysb.training.stream import get_stream as get_stream

    __version__: str

_HOMES = {
    "Data": "raysb.source.settings",
    "Draws": "raysb.seeding",
    "Evaluation": "raysb.training.settings",
    "get_stream": "raysb.training.stream",
    "History": "raysb.history.settings",
    "inputs": "raysb.task",
    "load_model": "raysb.models",
    "losses": "raysb.losses",
    "read_metrics": "raysb.report.records",
    "Scoring": "raysb.scoring.settings",
    "SelectiveBackprop": "raysb.selection",
    "SelectiveStream": "raysb.stream",
    "SelectiveTrainer": "raysb.trainer",
    "Training": "raysb.training.settings",
    "Uniform": "raysb.selection",
}

__all__ = [
    "Data",
    "Draws",
    "Evaluation",
    "History",
    "Scoring",
    "SelectiveBackprop",
    "SelectiveStream",
    "SelectiveTrainer",
    "Training",
    "Uniform",
    "__version__",
    "get_stream",
    "inputs",
    "load_model",
    "losses",
    "read_metrics",
]


def __getattr__(name: str) -> object:
    if name == "__version__":
        value: object = _version()
    elif name in _HOMES:
        home = importlib.import_module(_HOMES[name])
        value = home if _HOMES[name] == f"{__name__}.{name}" else getattr(home, name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _version() -> str:
    from importlib import metadata

    try:
        return metadata.version(__name__)
    except metadata.PackageNotFoundError:  # a checkout that was never installed
        return "0+unknown"
