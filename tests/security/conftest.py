"""Makes `kinds`, `mutations` and `victim` importable, and gives one victim to all tests."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from victim import Victim


@pytest.fixture(scope="session")
def victim() -> Iterator[Victim]:
    """A process that may die."""
    each = Victim()
    yield each
    each.close()
