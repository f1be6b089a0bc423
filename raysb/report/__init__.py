"""What one sees of a run: its directory, its metrics, its lines on the console, maps of its rows.

`TSNE` and `TSNEOverTraining` load torch, and only when they are used.
"""

from typing import TYPE_CHECKING

from raysb.report.console import Console as Console
from raysb.report.directory import RunDirectory as RunDirectory
from raysb.report.records import MetricsWriter as MetricsWriter
from raysb.report.records import read_metrics as read_metrics

if TYPE_CHECKING:
    from raysb.report.tsne import TSNE as TSNE
    from raysb.report.tsne import TSNEOverTraining as TSNEOverTraining


def __getattr__(name: str) -> object:
    if name not in ("TSNE", "TSNEOverTraining"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from raysb.report import tsne

    return getattr(tsne, name)
