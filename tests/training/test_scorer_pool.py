"""How many more scorers the machines have room for."""

import pytest

from raysb.training.scorer_pool import room_for


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
