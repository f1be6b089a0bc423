"""t-SNE: rows as points of the plane, of features, of a finished run, and over training."""

from raysb.report.tsne.estimator import TSNE as TSNE
from raysb.report.tsne.over_training import TSNEOverTraining as TSNEOverTraining
