"""What Ray would ask of actors that nobody needs on a cluster of our own."""

import sys
from types import SimpleNamespace
from typing import Any

import pytest
import ray
from ray import cloudpickle
from ray.data import DataContext
from ray.data._internal import stats
from ray.data._internal.cluster_autoscaler import DefaultAutoscalingCoordinator
from ray.data._internal.execution.node_trackers import actor_location
from ray.data._internal.execution.operators import actor_pool_map_operator as actor_pool
from ray.train import ScalingConfig
from ray.train.v2._internal.execution.scaling_policy import create_scaling_policy, scaling_policy

from raysb.training.bystanders import asks_nobody, leave_out

HOOKED = (
    (DefaultAutoscalingCoordinator, ("request_resources", "cancel_request")),
    (DefaultAutoscalingCoordinator, ("get_reserved_resources",)),
    (stats._StatsManager, ("register_dataset_to_stats_actor",)),
    (stats._StatsManager, ("update_execution_metrics", "update_iteration_metrics")),
    (actor_pool, ("get_actor_locations", "get_or_create_actor_location_tracker")),
)
ASKED = {"num_workers": 2, "resources_per_worker": {"CPU": 1.5}}


class Asked(Exception):
    """Somebody was."""


class Asks:
    """In the place of the client of the actor that shares out a cluster."""

    def __init__(self, *_: Any) -> None:
        pass

    def _ask(self, *_: Any) -> None:
        raise Asked

    send_resource_request = maybe_send_resource_request = cancel_resource_request = _ask


@pytest.fixture(autouse=True)
def asking(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scaling_policy, "TrainAutoscalingCoordinatorClient", Asks)


def test_workers_of_a_fixed_number_are_started_unasked() -> None:
    policy = cloudpickle.loads(cloudpickle.dumps(asks_nobody(create(**ASKED))))
    policy.after_controller_start(SimpleNamespace(run_id="run"))
    assert vars(policy.make_decision_for_non_running_worker_group()) == ASKED
    policy.make_decision_for_running_worker_group(None, None)
    policy.before_controller_abort()


def test_whoever_counts_machines_asks_as_ever() -> None:
    for policy in (create(**ASKED), asks_nobody(create(num_workers=(1, 3)))):
        with pytest.raises(Asked):
            policy.after_controller_start(SimpleNamespace(run_id="run"))
    assert asks_nobody("another part") == "another part"


@pytest.fixture
def left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    for owner, names in HOOKED:
        for name in names:
            monkeypatch.setattr(owner, name, vars(owner)[name])  # and back after the test
    leave_out()


@pytest.mark.usefixtures("left_out")
def test_ray_data_counts_on_all_that_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """What its actor would share out to it on a cluster that it has to itself."""
    machine = {"NodeID": "a", "Alive": True, "Resources": {"CPU": 3.0, "memory": 5.0}}
    dead = {"NodeID": "b", "Alive": False, "Resources": {}}
    monkeypatch.setattr(ray, "nodes", lambda: [machine, dead])
    coordinator = DefaultAutoscalingCoordinator("data", autoscaling_coordinator_actor=Asks())
    coordinator.request_resources([{"CPU": 1.0}], expire_after_s=1.0)
    coordinator.cancel_request()
    assert coordinator.get_reserved_resources() == {"a": {"CPU": 3.0, "memory": 5.0}}


@pytest.mark.usefixtures("left_out")
def test_no_actor_is_made_that_would_be_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def made(*_: Any) -> None:
        raise Asked

    monkeypatch.setattr(stats, "get_or_create_stats_actor", made)
    monkeypatch.setattr(actor_location, "get_or_create_actor_location_tracker", made)
    stats._StatsManager.register_dataset_to_stats_actor("tag", [], None, DataContext())
    stats._StatsManager.update_execution_metrics("tag", [], [], {})
    stats._StatsManager.update_iteration_metrics(None, "tag")
    assert actor_pool.get_actor_locations(("a", "b")) == {}
    assert not actor_pool.get_or_create_actor_location_tracker().update_actor_location.remote("a")


@pytest.mark.usefixtures("left_out")
def test_what_ray_has_renamed_is_started_and_the_others_are_left_out(monkeypatch) -> None:
    monkeypatch.delattr(stats, "_StatsManager")
    monkeypatch.delattr(actor_pool, "get_actor_locations")
    monkeypatch.setitem(sys.modules, "ray.data._internal.cluster_autoscaler", None)
    leave_out()
    assert not hasattr(actor_pool, "get_actor_locations")
    assert asks_nobody(type("FixedScalingPolicy", (), {})()).__dict__ == {}


def create(**settings: Any) -> Any:
    return create_scaling_policy(ScalingConfig(**settings))
