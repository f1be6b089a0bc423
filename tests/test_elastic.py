"""When Ray's count of a worker group of a changing size is right, and what is refused else."""

import pytest

from raysb.elastic import check_elastic, counted_workers
from raysb.errors import ResourceError
from raysb.packing import TRAIN_WORKERS, Processes

WORKER = Processes(1, 1.0)
SCORERS = {"scoring.num_actors x scoring.num_cpus": Processes(2, 1.0)}
OWN = Processes(1, 1.0, resources={"trainer": 1.0})


@pytest.mark.parametrize(
    ("each", "nodes", "counted"),
    [
        (WORKER, [{"CPU": 4.0}], 4),
        (WORKER, [{"CPU": 2.0}, {"CPU": 0.9}, {"CPU": 1.0}], 3),
        (WORKER, [{"CPU": 64.0}], 4),  # no more than are allowed
        (Processes(1, 1.0, 1.0), [{"CPU": 8.0, "GPU": 2.0}, {"CPU": 8.0}], 2),
        (OWN, [{"CPU": 8.0}, {"CPU": 8.0, "trainer": 1.0}], 1),
        (Processes(1, 0.1), [{"CPU": 0.3}], 3),  # .3 // .1 is 2
        (Processes(1, 0.0), [{"CPU": 1.0}], 4),
    ],
)
def test_machines_are_counted_as_ray_does_as_if_nothing_else_lay_on_them(each, nodes, counted):
    assert counted_workers(each, 4, nodes) == counted


def test_a_count_that_finds_no_place_beside_the_others_is_refused():
    asked = {TRAIN_WORKERS: WORKER, **SCORERS}
    for nodes in ([{"CPU": 4.0}], [{"CPU": 2.0}, {"CPU": 2.0}]):
        with pytest.raises(ResourceError, match=r"train\.num_workers=1,4: .* start 4 workers") as e:
            check_elastic((1, 4), asked, nodes)
        assert "train.resources" in str(e.value)
    check_elastic((1, 2), asked, [{"CPU": 4.0}])
    check_elastic((1, 4), asked, [{"CPU": 6.0}])
    check_elastic(4, asked, [{"CPU": 1.0}])  # one number is checked elsewhere


def test_machines_of_their_own_let_workers_come_and_go():
    asked = {TRAIN_WORKERS: OWN, **SCORERS}
    scorers = {"CPU": 4.0, "scorer": 4.0}
    for trainers in range(1, 4):
        check_elastic((1, 4), asked, [scorers, *[{"CPU": 1.0, "trainer": 1.0}] * trainers])
