"""What Ray is told and asked before it starts; a cluster is started elsewhere."""

import os

import pytest
import ray

from raysb import cluster
from raysb.cluster import ENVIRONMENT, QUIET, check_placement, connected, prepare_environment
from raysb.errors import ResourceError
from raysb.packing import Processes
from raysb.training.bystanders import driving, is_alone

THERE = {"CPU": 3.0, "memory": 1e9}


def test_what_fits_is_let_through_to_the_last_cpu() -> None:
    check_placement(
        {"train.num_workers": Processes(2, 1.0), "scoring.num_actors": Processes(1, 1.0)},
        nodes=[THERE],
    )
    check_placement(
        {"scoring.num_cpus": Processes(30, 0.1)}, nodes=[THERE]
    )  # .1 is no binary number
    check_placement({}, nodes=[{}])


def test_what_does_not_fit_is_refused_with_the_sum_the_parts_and_the_flag_to_lower() -> None:
    needs = {
        "train.num_workers": Processes(4, 1.0),
        "scoring.num_actors": Processes(1, 1.5),
        "data.num_readers": Processes(0, 0.1),
    }
    with pytest.raises(ResourceError) as caught:
        check_placement(needs, nodes=[THERE])
    told = str(caught.value)
    assert "5.5 CPUs are asked for and the cluster has 3" in told
    assert "train.num_workers: 4, scoring.num_actors: 1.5" in told
    assert "lower train.num_workers" in told
    assert "num_readers" not in told


def test_gpus_that_are_not_there_are_refused_too() -> None:
    with pytest.raises(ResourceError, match=r"0.25 GPUs .* has 0: scoring.num_gpus"):
        check_placement({"scoring.num_gpus": Processes(1, 1.0, 0.25)}, nodes=[THERE])


def test_what_the_user_has_set_stays(monkeypatch) -> None:
    name, *others = ENVIRONMENT
    monkeypatch.setattr(os, "environ", {name: "mine"})
    prepare_environment()
    assert os.environ[name] == "mine"
    assert all(os.environ[other] == ENVIRONMENT[other] for other in others)
    assert os.environ.keys() >= QUIET.keys()


def test_verbose_leaves_rays_own_output_on(monkeypatch) -> None:
    monkeypatch.setattr(os, "environ", {})
    prepare_environment(verbose=True)
    assert not QUIET.keys() & os.environ.keys()


@pytest.mark.parametrize(("address", "own"), [("local", True), ("10.0.0.1:6379", False)])
def test_a_cluster_is_ones_own_that_was_not_joined(monkeypatch, address, own) -> None:
    """On a shared one others must be asked for machines."""
    before, ends = is_alone(), []
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", lambda **_: ends.append("started"))
    monkeypatch.setattr(cluster, "join", lambda *_, **__: ends.append("joined"))
    monkeypatch.setattr(ray, "shutdown", lambda: ends.append(is_alone()))
    with driving(own=not own):
        with connected(address):
            assert is_alone() == own
        assert is_alone() != own
    assert ends == ["started" if own else "joined", own]
    assert is_alone() == before  # that of this session's cluster, where it is up
