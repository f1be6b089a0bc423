"""How many more scorers the machines have room for, and what the cluster's autoscaler is asked."""

from types import SimpleNamespace
from typing import Any

import pytest

from raysb.scoring.settings import Scoring
from raysb.training import scorer_pool
from raysb.training.scorer_pool import RENEW_EVERY_S, Machines, Orders, ScorerPool, room_for

FORGOTTEN_AFTER_S = 180  # what Ray was asked for


@pytest.mark.parametrize(
    ("needs", "nodes", "room"),
    [
        ({"CPU": 1.0}, [{"CPU": 2.5}, {"CPU": 0.5}], 2),  # 3 CPUs, but each lies on one machine
        ({"CPU": 0.1}, [{"CPU": 0.3}], 3),
        ({"CPU": 1.0, "GPU": 0.0}, [{"CPU": 2.0}], 2),
        ({"CPU": 1.0, "scorer": 2.0}, [{"CPU": 8.0}, {"CPU": 8.0, "scorer": 5.0}], 2),
        ({"CPU": 1.0}, [], 0),
        ({"CPU": 1.0}, [{"memory": 1e9}], 0),  # a kind of which all is taken is not listed
    ],
)
def test_scorers_are_added_where_a_machine_has_all_that_one_asks_for(needs, nodes, room) -> None:
    assert room_for(needs, nodes) == room


def test_scorers_that_ask_for_nothing_have_room_everywhere() -> None:
    assert room_for({"CPU": 0.0, "GPU": 0.0}, []) > 1000


class Autoscaler:
    """Ray Data's, as far as it is used: its rule, and its way to ask."""

    def __init__(self) -> None:
        self.asked: list[list[dict[str, float]]] = []

    def try_trigger_scaling(self) -> None:
        """Its own rule, which asks for CPUs."""
        self.asked.append([{"CPU": 1.0}])

    def _send_resource_request(self, bundles: list[dict[str, float]]) -> None:
        self.asked.append(bundles)


def test_room_is_asked_for_by_all_that_scorers_and_readers_take() -> None:
    scoring = Scoring(num_cpus=2, resources={"spot": 1.0})
    orders = Orders.of(scoring, None, 1, num_readers=1)  # type: ignore[arg-type]
    autoscaler = Autoscaler()
    Machines(autoscaler).ask([orders.needs, orders.needs, *orders.beside])
    scorer, reader = {"CPU": 2, "spot": 1.0}, {"CPU": 0.1, "spot": 0.1}
    assert autoscaler.asked == [[scorer, scorer, reader]]  # and for no GPU at all, not for 0


def test_room_is_asked_for_when_the_number_changes_and_now_and_then(monkeypatch) -> None:
    assert 2 * RENEW_EVERY_S < FORGOTTEN_AFTER_S
    clock = [1000.0]
    monkeypatch.setattr(scorer_pool.time, "monotonic", lambda: clock[0])
    autoscaler: Any = Autoscaler()
    machines, one = Machines(autoscaler), {"CPU": 1.0}
    for seconds, number in [(0, 1), (1, 1), (1, 2), (1, 1), (RENEW_EVERY_S + 1, 1), (1, 1)]:
        clock[0] += seconds
        machines.ask([one] * number)
    assert [len(bundles) for bundles in autoscaler.asked] == [1, 2, 1, 1]


def test_ray_datas_own_rule_asks_for_nothing_beside() -> None:
    autoscaler: Any = Autoscaler()
    Machines(autoscaler)
    autoscaler.try_trigger_scaling()
    assert autoscaler.asked == []


def test_without_rays_hook_nothing_is_asked() -> None:
    Machines(None).ask([{"CPU": 1.0}])
    Machines(object()).ask([{"CPU": 1.0}])


def test_the_autoscaler_is_asked_for_as_many_scorers_as_the_ledger_wants(monkeypatch) -> None:
    orders = Orders.of(Scoring(num_cpus=1), None, 1, num_readers=1)  # type: ignore[arg-type]
    pool = SimpleNamespace(min_size=lambda: 1, current_size=lambda: 1)
    autoscaler = Autoscaler()
    executor = SimpleNamespace(
        _data_context=SimpleNamespace(get_config=lambda key: orders),
        _topology=[
            SimpleNamespace(
                name="MapBatches(PoolScorer)", get_autoscaling_actor_pools=lambda: [pool]
            )
        ],
        _backpressure_policies=[],
        _cluster_autoscaler=autoscaler,
    )
    scorers = ScorerPool()
    scorers.before_execution_starts(executor)
    monkeypatch.setattr(scorer_pool.ray, "wait", lambda refs, timeout: (refs, []))
    monkeypatch.setattr(scorer_pool.ray, "get", lambda answer: 3)
    scorers._asked = "how many there should be"
    scorers._listen(orders)
    autoscaler.try_trigger_scaling()
    assert autoscaler.asked == [[{"CPU": 1}] * 3 + [{"CPU": 0.1}]]
