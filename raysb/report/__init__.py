"""What one sees of a run: its directory, its metrics, its lines on the console."""

from raysb.report.console import Console as Console
from raysb.report.directory import RunDirectory as RunDirectory
from raysb.report.records import MetricsWriter as MetricsWriter
from raysb.report.records import read_metrics as read_metrics
