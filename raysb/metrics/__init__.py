"""Metrics with the names, the argument order and the values of scikit-learn, in numpy alone.

Arrays, lists and torch tensors (of any device) are taken; numbers and numpy arrays are returned.
Where scikit-learn warns of an undefined value, so does this: `UndefinedMetricWarning`. Rows have
one label each; indicator matrices of several labels a row are refused.
"""

from raysb.metrics.averages import f1_score as f1_score
from raysb.metrics.averages import fbeta_score as fbeta_score
from raysb.metrics.averages import (
    precision_recall_fscore_support as precision_recall_fscore_support,
)
from raysb.metrics.averages import precision_score as precision_score
from raysb.metrics.averages import recall_score as recall_score
from raysb.metrics.confusion import accuracy_score as accuracy_score
from raysb.metrics.confusion import balanced_accuracy_score as balanced_accuracy_score
from raysb.metrics.confusion import confusion_matrix as confusion_matrix
from raysb.metrics.inputs import UndefinedMetricWarning as UndefinedMetricWarning
from raysb.metrics.probabilities import brier_score_loss as brier_score_loss
from raysb.metrics.probabilities import log_loss as log_loss
from raysb.metrics.probabilities import top_k_accuracy_score as top_k_accuracy_score
from raysb.metrics.ranking import average_precision_score as average_precision_score
from raysb.metrics.ranking import roc_auc_score as roc_auc_score
from raysb.metrics.regression import mean_absolute_error as mean_absolute_error
from raysb.metrics.regression import mean_squared_error as mean_squared_error
from raysb.metrics.regression import r2_score as r2_score
from raysb.metrics.report import classification_report as classification_report

__all__ = [
    "UndefinedMetricWarning",
    "accuracy_score",
    "average_precision_score",
    "balanced_accuracy_score",
    "brier_score_loss",
    "classification_report",
    "confusion_matrix",
    "f1_score",
    "fbeta_score",
    "log_loss",
    "mean_absolute_error",
    "mean_squared_error",
    "precision_recall_fscore_support",
    "precision_score",
    "r2_score",
    "recall_score",
    "roc_auc_score",
    "top_k_accuracy_score",
]
