"""Who else is told of a run's metrics: TensorBoard, MLflow, Weights & Biases, or one's own."""

from raysb.report.loggers.base import LOGGERS as LOGGERS
from raysb.report.loggers.base import Logger as Logger
from raysb.report.loggers.base import make_loggers as make_loggers
from raysb.report.loggers.group import Loggers as Loggers
