"""The pipeline compares each metric with scikit-learn's, on what a trained net predicts."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "pipelines" / "evaluate_metrics.py"

pytest.importorskip("mlxtend")
pytest.importorskip("sklearn")


def test_every_metric_of_a_trained_net_is_scikit_learns(tmp_path) -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--epochs", "1"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    compared = [line.split() for line in done.stdout.splitlines() if "off by" in line]
    assert len(compared) == 11
    assert all(float(words[4]) < 1e-12 for words in compared)
    value = {words[0]: float(words[1]) for words in compared}
    assert 0.1 < value["accuracy_score"] == value["confusion_matrix"] / 1000
