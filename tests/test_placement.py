"""Custom resources: what may be asked for, who asks for it, and where that lets processes lie."""

import math

import pytest

from raysb.cluster import check_placement
from raysb.config import SettingError, load, to_toml
from raysb.errors import ResourceError
from raysb.needs import mends, misfit, processes_of
from raysb.packing import TRAIN_WORKERS, Processes, misplaced
from raysb.placement import amounts, check_resources
from raysb.scoring.settings import Scoring
from raysb.training.settings import Training

SCORER, TRAINER = {"CPU": 4.0, "scorer": 4.0}, {"CPU": 8.0, "GPU": 2.0, "trainer": 2.0}
SCORERS = "scoring.num_actors x scoring.num_cpus"


# --- the settings ---------------------------------------------------------------------------------


@pytest.mark.parametrize("amount", [0, -1, math.nan, math.inf, 1e-4, "2", True, None])
def test_an_amount_that_ray_would_not_count_is_refused(amount) -> None:
    with pytest.raises(ValueError, match=r"scoring\.resources=.*fast=.*at least 0\.001"):
        Scoring(resources={"fast": amount})


@pytest.mark.parametrize(("name", "key"), [("CPU", "num_cpus"), ("GPU", "num_gpus")])
def test_what_has_a_setting_of_its_own_is_refused_with_that(name, key) -> None:
    with pytest.raises(ValueError, match=rf"{name} is asked for by train\.{key}"):
        Training(resources={name: 1})


@pytest.mark.parametrize("name", ["", "schön", 3])
def test_a_name_that_ray_would_not_take_is_refused(name) -> None:
    with pytest.raises(ValueError, match="must be ASCII text"):
        check_resources("train", {name: 1})


def test_no_table_is_a_type_error() -> None:
    with pytest.raises(TypeError, match=r"train\.resources=\['a'\]: must be a table"):
        Training(resources=["a"])  # type: ignore[arg-type]


def test_flags_and_a_file_set_them_and_the_resolved_file_keeps_them(tmp_path) -> None:
    flags = ["--scoring.resources.scorer", "1", "--train.resources", "{trainer = 0.5, big = 2}"]
    config = load(None, flags)
    assert config.scoring.resources == {"scorer": 1}
    assert config.train.resources == {"trainer": 0.5, "big": 2}
    (tmp_path / "config.toml").write_text(to_toml(config))
    assert load(tmp_path / "config.toml") == config
    with pytest.raises(SettingError, match=r"scoring\.resources.*command line"):
        load(None, ["--scoring.resources.scorer", "none"])


def test_amounts_are_in_the_ten_thousandths_that_ray_counts_in() -> None:
    assert amounts({"a": 1 / 3, "b": 2}, 0.1) == {"a": 0.0333, "b": 0.2}


# --- who asks for them ----------------------------------------------------------------------------


def test_scorers_ask_for_all_readers_for_a_tenth_and_workers_for_their_own() -> None:
    flags = ["--scoring.resources.scorer", "2", "--train.resources.trainer", "1"]
    asked = processes_of(load(None, flags), {})
    assert asked[SCORERS].resources == {"scorer": 2.0}
    assert asked["data.num_readers"].resources == {"scorer": 0.2}
    assert asked[TRAIN_WORKERS].resources == {"trainer": 1.0}


# --- where they lie -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "nodes", "fits"),
    [
        ([(2, 1, 0, {"a": 1})], [{"CPU": 2, "a": 2}], True),
        ([(3, 1, 0, {"a": 1})], [{"CPU": 3, "a": 2}], False),  # amounts bound the number
        ([(2, 1, 0, {"a": 2})], [{"CPU": 2, "a": 2}, {"CPU": 2, "a": 2}], True),
        ([(2, 1, 0, {"a": 2})], [{"CPU": 2, "a": 3}, {"CPU": 2, "a": 1}], False),  # no sums
        ([(1, 3, 0, {"a": 1})], [{"CPU": 2, "a": 1}, {"CPU": 8}], False),  # the CPUs lie elsewhere
        ([(1, 1, 0, {"a": 1, "b": 1})], [{"CPU": 4, "a": 1}, {"CPU": 4, "b": 1}], False),
        ([(1, 1, 0, {"a": 1, "b": 1})], [{"CPU": 4, "a": 1, "b": 1}], True),
        # the one that may lie anywhere makes room for the one that may not
        ([(1, 2, 0, {}), (1, 2, 0, {"a": 1})], [{"CPU": 2, "a": 1}, {"CPU": 2}], True),
        ([(2, 2, 0, {}), (1, 2, 0, {"a": 1})], [{"CPU": 2, "a": 1}, {"CPU": 2}], False),
        ([(1, 1, 0, {"a": 1}), (1, 2, 0, {})], [{"CPU": 2, "a": 1}, {"CPU": 1}], False),
        ([(10, 0.1, 0, {"a": 0.1})], [{"CPU": 1, "a": 1}], True),
        ([(1, 1, 0.5, {"a": 1}), (1, 1, 0.5, {})], [{"CPU": 2, "GPU": 1, "a": 1}], True),
    ],
)
def test_a_table_of_what_fits(asked, nodes, fits) -> None:
    processes = {f"flag{i}": Processes(*each) for i, each in enumerate(asked)}
    for order in (nodes, nodes[::-1]):
        assert (misplaced(processes, order) is None) is fits


def test_what_no_machine_offers_is_refused_with_the_key_to_change() -> None:
    asked = {TRAIN_WORKERS: Processes(2, 1.0, 0.0, {"trainr": 1.0})}
    with pytest.raises(ResourceError) as caught:
        check_placement(asked, nodes=[SCORER, {**TRAINER, "node:10.0.0.1": 1.0, "memory": 1e9}])
    told = str(caught.value)
    assert told.startswith(
        "train.resources: no machine offers trainr=1; they offer scorer, trainer."
    )
    assert "change train.resources" in told
    with pytest.raises(ResourceError, match="they offer no custom resource"):
        check_placement(asked, nodes=[{"CPU": 8.0}])
    check_placement({TRAIN_WORKERS: asked[TRAIN_WORKERS]._replace(number=0)}, nodes=[SCORER])


def test_more_than_a_machine_offers_is_refused_with_what_it_offers() -> None:
    asked = {SCORERS: Processes(1, 1.0, 0.0, {"scorer": 5.0})}
    with pytest.raises(ResourceError, match=r"offers scorer=5; they offer at most 4 of it"):
        check_placement(asked, nodes=[SCORER, SCORER])


def test_more_than_all_machines_offer_is_refused_with_the_sum_and_the_parts() -> None:
    asked = {
        SCORERS: Processes(8, 0.5, 0.0, {"scorer": 1.0}),
        "data.num_readers": Processes(2, 0.1, 0.0, {"scorer": 0.1}),
    }
    with pytest.raises(ResourceError) as caught:
        check_placement(asked, nodes=[SCORER, SCORER, TRAINER])
    told = str(caught.value)
    assert "8.2 scorer are asked for and the cluster has 8" in told
    assert f"{SCORERS}: 8, data.num_readers: 0.2" in told
    assert "lower scoring.resources.scorer" in told


def test_who_is_not_started_is_not_named() -> None:
    asked = {
        SCORERS: Processes(5, 0.5, 0.0, {"scorer": 1.0}),
        "data.num_readers": Processes(0, 0.1, 0.0, {"scorer": 0.1}),
    }
    with pytest.raises(ResourceError) as caught:
        check_placement(asked, nodes=[SCORER])
    assert "num_readers" not in str(caught.value)


def test_cpus_of_other_machines_do_not_count_for_who_may_not_lie_there() -> None:
    asked = {SCORERS: Processes(4, 2.0, 0.0, {"scorer": 0.1})}
    with pytest.raises(ResourceError, match=r"4 processes of 2 CPUs, 0 GPUs, scorer 0.1 each"):
        check_placement(asked, nodes=[SCORER, TRAINER])
    check_placement(asked, nodes=[SCORER, SCORER, TRAINER])


@pytest.mark.parametrize(
    ("flags", "mend"),
    [
        (["--train.resources.typo", "1"], "--train.resources {}"),
        (["--scoring.resources.typo", "1"], "--scoring.resources {}"),
        (
            ["--scoring.resources.typo", "1", "--train.resources.typo", "1"],
            "--scoring.resources {} --train.resources {}",
        ),
        (
            ["--scoring.resources.scorer", "1", "--scoring.num_actors", "9"],
            "--scoring.num_actors 3",
        ),
    ],
)
def test_the_flag_that_is_named_mends_it(flags, mend) -> None:
    nodes = [SCORER, TRAINER]
    assert misfit(load(None, flags), nodes) is not None
    assert mends(load(None, flags), nodes)[0] == mend
    # a whole table takes the place of the entries that were given of it
    others = [] if "{}" in mend else flags
    assert misfit(load(None, [*others, *mend.split()]), nodes) is None
