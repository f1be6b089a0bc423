"""What several tests of benchmarks share: the way to their modules, which are no package."""

import importlib
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "pipelines" / "benchmarks"


@pytest.fixture(scope="module")
def load():
    """Imports a module of the benchmarks by name, and leaves the path as it was."""
    before = list(sys.path)
    sys.path.insert(0, str(BENCHMARKS))
    yield importlib.import_module
    sys.path[:] = before
