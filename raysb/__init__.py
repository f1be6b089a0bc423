"""Selective-Backprop on Ray: score everything, train on what is worth a backward pass.

Names are imported when they are first used: `import raysb` alone loads neither torch nor ray.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from raysb import losses as losses
    from raysb import metrics as metrics
    from raysb import optim as optim
    from raysb.collate import pad as pad
    from raysb.errors import DataError as DataError
    from raysb.errors import ModelError as ModelError
    from raysb.errors import NonFiniteError as NonFiniteError
    from raysb.errors import RaysbError as RaysbError
    from raysb.errors import ResourceError as ResourceError
    from raysb.errors import RunDirectoryError as RunDirectoryError
    from raysb.errors import StreamOrderError as StreamOrderError
    from raysb.history.settings import History as History
    from raysb.loader import SelectiveLoader as SelectiveLoader
    from raysb.models import load_model as load_model
    from raysb.report.records import read_metrics as read_metrics
    from raysb.scan.run import score as score
    from raysb.schema import Selection as Selection
    from raysb.schema import Source as Source
    from raysb.scoring.settings import Scoring as Scoring
    from raysb.seeding import Draws as Draws
    from raysb.selection import Adjustments as Adjustments
    from raysb.selection import BudgetedSelection as BudgetedSelection
    from raysb.selection import ConfidenceBand as ConfidenceBand
    from raysb.selection import HighestK as HighestK
    from raysb.selection import ImportanceSampling as ImportanceSampling
    from raysb.selection import InfoBatch as InfoBatch
    from raysb.selection import KeepFraction as KeepFraction
    from raysb.selection import LossDistribution as LossDistribution
    from raysb.selection import LowestK as LowestK
    from raysb.selection import OrderedSGD as OrderedSGD
    from raysb.selection import RandomSubset as RandomSubset
    from raysb.selection import RankSampling as RankSampling
    from raysb.selection import ReducibleLoss as ReducibleLoss
    from raysb.selection import SelectiveBackprop as SelectiveBackprop
    from raysb.selection import Selector as Selector
    from raysb.selection import StaleSelectiveBackprop as StaleSelectiveBackprop
    from raysb.selection import Uniform as Uniform
    from raysb.selection import WeightedReservoir as WeightedReservoir
    from raysb.source.settings import Data as Data
    from raysb.stream import SelectiveStream as SelectiveStream
    from raysb.task import inputs as inputs
    from raysb.trainer import SelectiveTrainer as SelectiveTrainer
    from raysb.training.audit import read_audit as read_audit
    from raysb.training.settings import Evaluation as Evaluation
    from raysb.training.settings import Training as Training
    from raysb.training.stream import get_stream as get_stream

    __version__: str

_HOMES = {
    "Adjustments": "raysb.selection",
    "BudgetedSelection": "raysb.selection",
    "ConfidenceBand": "raysb.selection",
    "Data": "raysb.source.settings",
    "DataError": "raysb.errors",
    "Draws": "raysb.seeding",
    "Evaluation": "raysb.training.settings",
    "HighestK": "raysb.selection",
    "History": "raysb.history.settings",
    "ImportanceSampling": "raysb.selection",
    "InfoBatch": "raysb.selection",
    "KeepFraction": "raysb.selection",
    "LossDistribution": "raysb.selection",
    "LowestK": "raysb.selection",
    "ModelError": "raysb.errors",
    "NonFiniteError": "raysb.errors",
    "OrderedSGD": "raysb.selection",
    "RandomSubset": "raysb.selection",
    "RankSampling": "raysb.selection",
    "RaysbError": "raysb.errors",
    "ReducibleLoss": "raysb.selection",
    "ResourceError": "raysb.errors",
    "RunDirectoryError": "raysb.errors",
    "Scoring": "raysb.scoring.settings",
    "Selection": "raysb.schema",
    "SelectiveBackprop": "raysb.selection",
    "SelectiveLoader": "raysb.loader",
    "SelectiveStream": "raysb.stream",
    "SelectiveTrainer": "raysb.trainer",
    "Selector": "raysb.selection",
    "Source": "raysb.schema",
    "StaleSelectiveBackprop": "raysb.selection",
    "StreamOrderError": "raysb.errors",
    "Training": "raysb.training.settings",
    "Uniform": "raysb.selection",
    "WeightedReservoir": "raysb.selection",
    "get_stream": "raysb.training.stream",
    "inputs": "raysb.task",
    "load_model": "raysb.models",
    "losses": "raysb.losses",
    "metrics": "raysb.metrics",
    "optim": "raysb.optim",
    "pad": "raysb.collate",
    "read_audit": "raysb.training.audit",
    "read_metrics": "raysb.report.records",
    "score": "raysb.scan.run",
}

__all__ = [
    "Adjustments",
    "BudgetedSelection",
    "ConfidenceBand",
    "Data",
    "DataError",
    "Draws",
    "Evaluation",
    "HighestK",
    "History",
    "ImportanceSampling",
    "InfoBatch",
    "KeepFraction",
    "LossDistribution",
    "LowestK",
    "ModelError",
    "NonFiniteError",
    "OrderedSGD",
    "RandomSubset",
    "RankSampling",
    "RaysbError",
    "ReducibleLoss",
    "ResourceError",
    "RunDirectoryError",
    "Scoring",
    "Selection",
    "SelectiveBackprop",
    "SelectiveLoader",
    "SelectiveStream",
    "SelectiveTrainer",
    "Selector",
    "Source",
    "StaleSelectiveBackprop",
    "StreamOrderError",
    "Training",
    "Uniform",
    "WeightedReservoir",
    "__version__",
    "get_stream",
    "inputs",
    "load_model",
    "losses",
    "metrics",
    "optim",
    "pad",
    "read_audit",
    "read_metrics",
    "score",
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
