"""`raysb doctor`: what would not work, and the flag that mends it."""

import json
import os
import shlex
import socket
import tempfile
from pathlib import Path

import pytest

from raysb import cli
from raysb.cluster import SPARE_CPUS, check_placement, object_store_bytes
from raysb.config import load
from raysb.doctor.authentication import check_token, readers_besides
from raysb.doctor.findings import Finding, Report
from raysb.doctor.machine import check_gpus, check_shared_memory
from raysb.doctor.resources import check_cluster, check_resources_of, neighbours
from raysb.doctor.run import check_run
from raysb.doctor.versions import TESTED, TESTED_PYTHON, check_versions
from raysb.needs import mends, misfit, processes_of

ROOT = Path(__file__).parents[2]
LAPTOP = [{"CPU": 4.0, "GPU": 0.0}]
GPU_BOX = [{"CPU": 16.0, "GPU": 1.0}]
FAST = ["--data.train", "digits", "--model.name", "mlp", "--address", "local"]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """An empty folder and home; the environment as it was afterwards."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr(os, "environ", os.environ.copy())
    for name in ("RAY_ADDRESS", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        os.environ.pop(name, None)


def examined(capsys, *words):
    code = cli.main(["doctor", "--json", *FAST, *words])
    found = json.loads(capsys.readouterr().out)
    return code, found, {(f["topic"], f["name"]): f for f in found["findings"]}


# --- the command ----------------------------------------------------------------------------


def test_what_can_run_is_found_to_work_and_nothing_is_written(capsys) -> None:
    code, found, by_name = examined(capsys)
    assert (code, found["works"]) == (0, True)
    assert by_name["configuration", "resources"]["data"]["asked"]["CPU"] == pytest.approx(2.2)
    there = by_name["configuration", "resources"]["data"]["there"]["CPU"]
    assert there == os.cpu_count() + SPARE_CPUS
    assert "1,442 rows, 355 held out" in by_name["configuration", "run"]["said"]
    assert list(Path().iterdir()) == []


def test_a_request_too_large_is_exit_code_1_and_the_flag_named_mends_it(capsys) -> None:
    code, found, by_name = examined(capsys, "--train.num_workers", "99")
    assert (code, found["works"]) == (1, False)
    finding = by_name["configuration", "resources"]
    flag = finding["data"]["mends"][0]
    assert flag.startswith("--train.num_workers ")
    assert flag in finding["mend"]
    assert examined(capsys, *shlex.split(flag))[0] == 0


def test_people_see_the_flag_and_how_many_things_would_not_work(capsys) -> None:
    assert cli.main(["doctor", *FAST, "--train.num_workers", "99"]) == 1
    out = capsys.readouterr().out
    assert "mend: --train.num_workers" in out
    assert out.splitlines()[-1].startswith("1 would not work")
    assert max(map(len, out.splitlines())) <= 100


def test_without_ray_no_cluster_is_asked_for(capsys) -> None:
    code, _, by_name = examined(capsys, "--engine", "local", "--train.num_workers", "99")
    assert code == 0
    assert not [name for topic, name in by_name if topic == "ray"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--data.train", "gone.parquet"], "gone.parquet"),
        (["--train.optimizer", "sgdd"], "did you mean 'sgd'"),
        (["--scoring.max_staleness_steps", "1"], "Allow "),
        (["--run.dir", "file/run"], "file is not a folder"),
    ],
)
def test_what_a_run_would_refuse_is_found(capsys, words, told) -> None:
    Path("file").write_text("")
    code, _, by_name = examined(capsys, *words)
    assert code == 1
    assert told in by_name["configuration", "run"]["said"]


def test_batch_statistics_are_a_note(capsys) -> None:
    found = list(check_run(load(None, [*FAST, "--model.norm=batch"]), None))
    assert [each.status for each in found] == ["ok", "ok", "note"]
    assert "model.convert_norm=true" in found[-1].said


def test_nobody_at_the_address_is_told_at_once() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{unused.getsockname()[1]}"
        (finding,), store = check_cluster(load(None, [f"--address={address}"]))
    assert (finding.status, store) == ("wrong", None)
    assert address in finding.said
    assert "--address" in finding.mend


@pytest.mark.ray
def test_the_cluster_at_the_address_is_what_counts(ray_cluster) -> None:
    address = ray_cluster.get_runtime_context().gcs_address
    flags = [f"--address={address}", "--train.num_workers=11"]
    (cluster, resources), store = check_cluster(load(None, flags))
    assert cluster.data["nodes"][0]["CPU"] == 12
    assert store == cluster.data["nodes"][0]["object_store_memory"]
    assert resources.status == "wrong"
    assert resources.mend.startswith("--train.num_workers 10, or ")


# --- CPUs and GPUs --------------------------------------------------------------------------

REQUESTS = [
    [],
    ["--selector.kind=uniform", "--train.num_workers=3"],
    ["--scoring.max_staleness_steps=0", "--data.num_readers=0", "--scoring.num_actors=4"],
    ["--train.num_cpus=2", "--scoring.num_cpus=0.5", "--scoring.num_gpus=0.25"],
    ["--train.use_gpu=true", "--train.num_workers=2", "--train.num_gpus=0.5"],
]


@pytest.mark.parametrize("flags", REQUESTS)
def test_the_request_is_what_a_run_counts(flags) -> None:
    """The oracle is `check_job`'s own count: that of worker settings and of the stream."""
    import ray.train

    from raysb.prepare import prepare
    from raysb.ray_engine import _train_processes
    from raysb.stream import stream_processes

    config = load(None, [*FAST, *flags])
    job = prepare(config).job
    gpus = {"GPU": config.train.num_gpus} if config.train.use_gpu is True else {}
    scaling = ray.train.ScalingConfig(
        num_workers=config.train.num_workers,
        use_gpu=bool(gpus),
        resources_per_worker={"CPU": config.train.num_cpus, **gpus},
    )
    counted = {**_train_processes(scaling), **stream_processes(job.spec)}
    assert processes_of(config, {"CPU": 5.0, "GPU": 0.0}) == counted


@pytest.mark.parametrize(
    ("nodes", "flags", "first"),
    [
        (LAPTOP, ["--train.num_workers=8"], "--train.num_workers 2"),
        (LAPTOP, ["--scoring.num_actors=7"], "--scoring.num_actors 2"),
        (LAPTOP, ["--train.num_cpus=6"], "--train.num_cpus 2"),
        (LAPTOP, ["--train.use_gpu=true"], "--train.use_gpu false"),
        (LAPTOP, ["--scoring.num_gpus=1"], None),
        (
            LAPTOP,
            ["--train.num_workers=8", "--scoring.num_gpus=1"],
            "--train.num_workers 1 --scoring.num_gpus 0",
        ),
        (GPU_BOX, ["--scoring.num_gpus=0.25"], "--train.num_gpus 0.7"),
        (
            LAPTOP,
            ["--train.num_workers=8", "--scoring.num_actors=3"],
            "--scoring.num_actors 1 --train.num_workers 2",
        ),
        ([{"CPU": 2.0}] * 4, ["--train.num_cpus=3"], "--train.num_cpus 2"),
        ([{"CPU": 1.0}], [], "--scoring.num_cpus 0.1 --train.num_cpus 0.7"),
    ],
)
def test_every_flag_named_makes_the_request_fit(nodes, flags, first) -> None:
    config = load(None, flags)
    assert misfit(config, nodes) is not None
    named = mends(config, nodes)
    if first is not None:
        assert named[0] == first
    for each in named:
        changed = dict(pair.split("=") for pair in flags)
        words = shlex.split(each)
        changed |= dict(zip(words[::2], words[1::2], strict=True))
        assert misfit(load(None, [f"{k}={v}" for k, v in changed.items()]), nodes) is None, each


def test_what_fits_is_what_a_run_lets_through() -> None:
    config = load(None, ["--train.num_workers=2"])
    assert misfit(config, LAPTOP) is None
    check_placement(processes_of(config, LAPTOP[0]), nodes=LAPTOP)


def test_a_process_larger_than_any_machine_does_not_fit() -> None:
    why = misfit(load(None, ["--train.num_cpus=3"]), [{"CPU": 2.0}] * 4)
    assert why is not None
    assert why.startswith("train.num_workers x train.num_cpus, num_gpus: 1 processes of 3 CPUs")


def test_where_no_flag_helps_a_larger_cluster_is_named() -> None:
    found = check_resources_of(load(None, []), [{"CPU": 0.3}])
    assert found.status == "wrong"
    assert found.mend == "a larger cluster with --address, or --engine local"


def test_gpus_that_torch_cannot_use_are_told() -> None:
    assert check_gpus(0, []).said == "none"
    assert check_gpus(1, [("H100", 80 * 10**9)]).said == "H100 (80 GB)"
    found = check_gpus(2, [])
    assert found.status == "wrong"
    assert "--train.use_gpu false" in found.mend


# --- versions, memory, token, neighbours ------------------------------------------------------


def test_what_was_tested_is_what_is_pinned() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    assert {name: pins[name] for name in TESTED} == TESTED


@pytest.mark.parametrize(
    ("version", "status"),
    [
        ("2.60.0", "ok"),
        ("2.60.1", "note"),
        ("2.61.0", "wrong"),
        ("2.54.0", "wrong"),
        (None, "wrong"),
    ],
)
def test_versions_are_tested_allowed_or_wrong(version, status) -> None:
    ranges = {"ray": ">=2.60,<2.61"}
    found = {f.name: f for f in check_versions({**TESTED, "ray": version}, ranges, "3.11.9")}
    assert found["ray"].status == status
    assert ("pip install 'ray==2.60.0'" in found["ray"].mend) == (status == "wrong")
    assert found["python"].status == found["torch"].status == "ok"


def test_a_build_of_the_tested_version_is_the_tested_version() -> None:
    found = check_versions(TESTED | {"torch": "2.13.0+cu130"}, {}, f"{TESTED_PYTHON}.0")
    assert {each.status for each in found} == {"ok"}
    assert next(check_versions(TESTED, {}, "3.12.1")).status == "note"


def test_shared_memory_smaller_than_the_object_store_is_a_note_with_the_size_to_ask_for() -> None:
    assert check_shared_memory(2**30, 2**30).status == "ok"
    found = check_shared_memory(2 * 2**30, 64 * 2**20)
    assert found.status == "note"
    assert "--shm-size=2.2gb" in found.mend


def test_the_object_store_of_this_machine_is_known() -> None:
    wanted, there = object_store_bytes() or (0, 0)
    usage = os.statvfs("/dev/shm")
    assert there == pytest.approx(usage.f_bsize * usage.f_bavail, rel=0.05)
    assert wanted > 0


def token(home, env=(), joins=None):
    return list(check_token(dict(env), home, joins=joins))


def write_token(home, mode):
    (home / ".ray").mkdir()
    file = home / ".ray" / "auth_token"
    file.write_text("0" * 64)
    file.chmod(mode)
    return file


def test_authentication_is_on_unless_the_user_has_turned_it_off(tmp_path) -> None:
    assert token(tmp_path)[0].said == "on"
    (off,) = token(tmp_path, {"RAY_AUTH_MODE": "disabled"})
    assert off.status == "note"
    assert off.mend == "unset RAY_AUTH_MODE"


def test_a_token_that_others_can_read_is_a_note_with_what_mends_it() -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as name:  # pytest's own folders are closed
        home = Path(name)
        file = write_token(home, 0o644)
        for folder in (home, file.parent):
            folder.chmod(0o755)
        found = token(home)[1]
        assert found.status == "note"
        assert "its group and everybody" in found.said
        assert found.mend == f"chmod 600 {file}"


def test_a_closed_folder_above_closes_the_file(tmp_path) -> None:
    file = write_token(tmp_path, 0o644)
    file.parent.chmod(0o700)
    assert readers_besides(file) == ""
    assert token(tmp_path)[1].status == "ok"


def test_a_token_of_its_owner_alone_is_fine(tmp_path) -> None:
    write_token(tmp_path, 0o600)
    assert token(tmp_path)[1].status == "ok"
    assert token(tmp_path)[1].said.endswith("readable by its owner alone")


def test_a_missing_token_is_wrong_only_where_ray_writes_none(tmp_path) -> None:
    assert token(tmp_path)[1].status == "ok"
    asked = {"RAY_AUTH_MODE": "token"}
    assert token(tmp_path, asked, joins="10.0.0.1:6379")[1].status == "wrong"
    (off,) = token(tmp_path, joins="10.0.0.1:6379")  # which is how it would be joined
    assert (off.status, off.data["on"]) == ("note", False)
    gone = {"RAY_AUTH_TOKEN_PATH": str(tmp_path / "gone")}
    assert token(tmp_path, gone, joins="10.0.0.1:6379")[1].status == "wrong"
    named = token(tmp_path, {"RAY_AUTH_TOKEN_PATH": str(tmp_path / "gone")})[1]
    assert named.status == "wrong"
    assert "RAY_AUTH_TOKEN_PATH" in named.mend
    assert token(tmp_path, {"RAY_AUTH_TOKEN": "secret"})[1].status == "ok"


def test_the_token_itself_is_never_shown(tmp_path) -> None:
    file = write_token(tmp_path, 0o600)
    file.write_text("secret-token")
    for env in ({}, {"RAY_AUTH_TOKEN": "secret-token"}):
        report = Report(tuple(token(tmp_path, env)))
        assert "secret" not in json.dumps(report.as_json())


def test_an_empty_token_is_wrong_and_as_none_where_a_cluster_is_joined(tmp_path) -> None:
    write_token(tmp_path, 0o600).write_text("\n")
    assert token(tmp_path)[1].status == "wrong"
    (off,) = token(tmp_path, joins="10.0.0.1:6379")
    assert off.status == "note"


@pytest.mark.parametrize(
    ("running", "address", "status"),
    [
        ([], None, "ok"),
        (["10.0.0.1:6379"], None, "wrong"),
        (["10.0.0.1:6379"], "local", "note"),
        (["10.0.0.1:6379"], "10.0.0.1:6379", "ok"),
    ],
)
def test_a_cluster_nobody_named_stands_in_the_way(running, address, status) -> None:
    found = neighbours(running, address)
    assert found.status == status
    assert ("--address 10.0.0.1:6379 to join it" in found.mend) == (status == "wrong")


# --- the text -------------------------------------------------------------------------------


def test_the_report_names_topics_once_and_keeps_flags_whole() -> None:
    said = "more than fits into a line " * 6
    findings = [
        Finding(topic="one", name="a", status="ok", said="fine"),
        Finding(topic="two", name="long name", status="wrong", said=said, mend="--some.flag 1"),
    ]
    lines = Report(tuple(findings)).lines()
    assert [line for line in lines if not line.startswith(" ")] == [
        "one",
        "two",
        "1 would not work",
    ]
    assert lines[1] == "  ok     a          fine"
    assert lines[-2].strip() == "mend: --some.flag 1"
    assert max(map(len, lines)) <= 100
