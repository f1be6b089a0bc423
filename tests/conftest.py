"""What several tests share: one Ray cluster for the session, one thread for torch."""

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any
from unittest import mock

import pytest


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything that starts Ray goes to one process of pytest-xdist: clusters get in each
    other's way (`Found multiple active Ray instances`)."""
    for item in items:
        if item.get_closest_marker("ray"):
            item.add_marker(pytest.mark.xdist_group("ray"))


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Sums of floats depend on the number of threads; tests compare them to the bit."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def interruptible() -> None:
    """A shell's background job ignores Ctrl-C, and so would the runs that tests interrupt."""
    import signal

    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[Any]:
    """A Ray cluster of this session's own, as raysb starts one, with more logical CPUs."""
    from raysb.cluster import connected

    with ExitStack() as session:
        with mock.patch("raysb.cluster.own_cpus", return_value=12):
            ray = session.enter_context(connected("local"))
        yield ray
