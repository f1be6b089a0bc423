"""Processes on machines: whatever fits is let through, and what fits only in sum is not."""

import itertools

import pytest

from raysb.cluster import check_placement
from raysb.errors import ResourceError
from raysb.packing import Processes, misplaced


def node(cpus, gpus=0.0):
    return {"CPU": float(cpus), "GPU": float(gpus), "memory": 1e9}


ONE_GPU, TWO_GPUS = node(8, 1), node(8, 2)


@pytest.mark.parametrize(
    ("asked", "nodes", "fits"),
    [
        # shares of a GPU: no sum over GPUs makes one of .6
        ([(3, 0, 0.6)], [ONE_GPU, ONE_GPU], False),
        ([(3, 0, 0.6)], [TWO_GPUS], False),
        ([(2, 0, 0.6)], [TWO_GPUS], True),
        ([(2, 0, 0.6), (2, 0, 0.4)], [TWO_GPUS], True),
        ([(2, 0, 0.6), (2, 0, 0.4)], [ONE_GPU, ONE_GPU], True),
        ([(10, 0, 0.1)], [ONE_GPU], True),  # .1 is no binary number
        ([(3, 0, 1 / 3)], [ONE_GPU], True),
        # the largest first, each onto the first GPU that holds it, would need a third one
        ([(2, 0, 0.4), (4, 0, 0.3)], [TWO_GPUS], True),
        # whole GPUs lie on one machine, and none of them is shared
        ([(1, 0, 2)], [ONE_GPU, ONE_GPU], False),
        ([(1, 0, 2)], [ONE_GPU, TWO_GPUS], True),
        ([(1, 0, 2), (1, 0, 0.5)], [ONE_GPU, TWO_GPUS], True),
        ([(1, 0, 2), (1, 0, 0.5)], [node(8, 3)], True),
        ([(1, 0, 2), (3, 0, 0.5)], [node(8, 3)], False),
        # CPUs lie on one machine too, beside the GPU
        ([(3, 2, 0)], [node(3), node(3)], False),
        ([(2, 2, 0)], [node(3), node(3)], True),
        ([(1, 4, 0)], [node(3), node(3)], False),
        ([(2, 2, 0), (2, 1, 0)], [node(3), node(3)], True),
        ([(1, 2, 1), (1, 8, 0)], [node(2, 1), node(8)], True),
        ([(1, 2, 1), (1, 1, 0)], [node(1, 1), node(8)], False),
        ([(30, 0.1, 0)], [node(1), node(2)], True),
        # what asks for nothing has room anywhere, but not nowhere
        ([(5, 0, 0)], [node(0)], True),
        ([], [], True),
        ([(1, 0, 0)], [], False),
    ],
)
def test_a_table_of_what_fits(asked, nodes, fits):
    processes = {f"flag{i}": Processes(*ask) for i, ask in enumerate(asked)}
    for order in (nodes, nodes[::-1]):
        assert (misplaced(processes, order) is None) is fits


def brute_force(sizes, bins):
    """Every way to deal processes to GPUs of one machine."""
    return any(
        all(
            sum(s for s, b in zip(sizes, deal, strict=True) if b == gpu) <= 10
            for gpu in range(bins)
        )
        for deal in itertools.product(range(bins), repeat=len(sizes))
    )


def test_it_agrees_with_every_way_to_deal_shares_to_gpus():
    for counts in itertools.product(range(4), repeat=3):
        for shares in ((7, 4, 3), (6, 5, 2), (5, 4, 1)):
            sizes = [s for s, count in zip(shares, counts, strict=True) for _ in range(count)]
            if len(sizes) > 7:
                continue
            processes = {
                str(s): Processes(c, 0, s / 10) for s, c in zip(shares, counts, strict=True)
            }
            for bins in (1, 2, 3):
                found = misplaced(processes, [node(8, bins)]) is None
                assert found == brute_force(sizes, bins), (sizes, bins)


def test_the_message_names_the_flag_the_machines_and_both_ways_out():
    processes = {
        "train.num_workers x train.num_cpus, num_gpus": Processes(3, 1, 0.6),
        "data.num_readers": Processes(2, 0.1),
    }
    with pytest.raises(ResourceError) as caught:
        check_placement(processes, nodes=[ONE_GPU, ONE_GPU])
    told = str(caught.value)
    assert told.startswith("train.num_workers x train.num_cpus, num_gpus: 3 processes of 1 CPUs")
    assert "0.6 GPUs each find no place" in told
    assert "2 x (8 CPUs, 1 GPUs)" in told
    assert "--address" in told
    check_placement(processes, nodes=[ONE_GPU] * 3)


def test_a_sum_that_is_too_large_is_told_as_a_sum():
    with pytest.raises(ResourceError, match="5 CPUs are asked for and the cluster has 4: a: 5"):
        check_placement({"a": Processes(5, 1)}, nodes=[node(3), node(1)])


def test_a_thousand_processes_on_a_hundred_machines_are_placed_in_few_tries():
    others = {"workers": Processes(200, 2, 1), "readers": Processes(400, 0.1)}
    nodes = [node(16, 4)] * 100
    assert misplaced({**others, "scorers": Processes(400, 1, 0.5)}, nodes) is None
    assert misplaced({**others, "scorers": Processes(200, 1, 0.6)}, nodes) is None
    assert misplaced({"scorers": Processes(401, 1, 0.6)}, nodes) == "scorers"
