"""The project's cluster files, and `raysb doctor --cluster` on files with one thing wrong."""

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from raysb import cli
from raysb.config import Config, load
from raysb.doctor.cluster_file import check_cluster_file, machines
from raysb.needs import misfit

ROOT = Path(__file__).parents[1]
CLUSTER, LOCAL = ROOT / "cluster.yaml", ROOT / "docs" / "cluster" / "local.yaml"
RAYJOB, PAGE = ROOT / "docs" / "cluster" / "rayjob.yaml", ROOT / "docs" / "cluster.md"


def train_flags(command: str) -> list[str]:
    """The flags of `raysb train` in a longer command."""
    words = shlex.split(command)
    start = words.index("raysb")
    assert words[start + 1] == "train"
    return words[start + 2 :]


def commands(page: Path) -> list[str]:
    fences = re.findall(r"```sh\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    text = "".join(fences).replace("\\\n", " ")
    return [" ".join(re.sub(r"\s#.*", "", line).split()) for line in text.splitlines()]


def example() -> Config:
    """The run that docs/cluster.md submits to cluster.yaml."""
    (job,) = [line for line in commands(PAGE) if "ray job submit" in line]
    return load(None, resources_only(train_flags(job)))


def resources_only(flags: list[str]) -> list[str]:
    """What is asked of machines; the rest names files of theirs."""
    pairs = zip(flags[::2], flags[1::2], strict=True)
    kept = ("--scoring.", "--train.")
    return [word for pair in pairs if pair[0].startswith(kept) for word in pair]


def findings(path: Path, config: Config) -> dict[str, Any]:
    return {each.name: each for each in check_cluster_file(path, config)}


def statuses(found: dict[str, Any]) -> dict[str, str]:
    return {name: each.status for name, each in found.items() if each.status != "ok"}


# --- the files of the project ---------------------------------------------------------------------


def test_the_clusters_file_is_valid_and_holds_the_documented_run_from_the_start() -> None:
    found = findings(CLUSTER, example())
    assert statuses(found) == {"placeholders": "note"}
    assert {"schema", "machines", "resources", "security groups", "spot: scorer"} <= set(found)


def test_scoring_and_training_scale_apart() -> None:
    types = yaml.safe_load(CLUSTER.read_text())["available_node_types"]
    scorer, trainer = types["scorer"], types["trainer"]
    assert scorer["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
    assert "InstanceMarketOptions" not in trainer["node_config"]
    assert scorer["min_workers"] < scorer["max_workers"]
    assert trainer["resources"]["GPU"] > 0
    assert set(scorer["resources"]) & set(trainer["resources"]) == {"CPU"}
    assert types["head"]["resources"] == {"CPU": 0}
    more = load(None, ["--scoring.num_actors", "60", "--scoring.resources.scorer", "1"])
    machines = [each["resources"] for each in (scorer, trainer) for _ in range(each["max_workers"])]
    assert misfit(more, machines) is None
    assert "scorer" in str(misfit(more, machines[4:]))  # more trainers would not help


@pytest.mark.parametrize("path", [CLUSTER, LOCAL, RAYJOB], ids=lambda path: path.name)
def test_every_key_of_the_top_and_every_machine_has_its_comment(path: Path) -> None:
    """A block's comment may stand on its first line or above one of its lines."""
    blocks = re.split(r"\n(?=\w)", path.read_text(encoding="utf-8"))
    bare = [block.splitlines()[0] for block in blocks if "#" not in block]
    assert [line for line in bare if not re.match(r"(apiVersion|kind|metadata)", line)] == []


def test_the_file_for_machines_of_ones_own_is_valid() -> None:
    assert statuses(findings(LOCAL, load())) == {"resources": "note"}


def test_the_job_of_kubernetes_asks_for_what_its_machines_offer_from_the_start() -> None:
    job = yaml.safe_load(RAYJOB.read_text())
    cluster = job["spec"]["rayClusterSpec"]
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    assert cluster["authOptions"] == {"mode": "token"}
    assert f"ray=={cluster['rayVersion']}" in (ROOT / "constraints.txt").read_text()
    machines = []
    for group in cluster["workerGroupSpecs"]:
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
        (container,) = group["template"]["spec"]["containers"]
        limits = container["resources"]["limits"]
        assert container["resources"]["requests"] == limits
        # KubeRay passes this word to a shell: JSON in quotes of its own
        offered = json.loads(json.loads(group["rayStartParams"]["resources"]))
        gpus = {"GPU": float(limits.get("nvidia.com/gpu", 0))}
        machine = {"CPU": float(limits["cpu"]), **gpus, **offered}
        machines += [machine] * group["minReplicas"]
    config = load(None, resources_only(train_flags(job["spec"]["entrypoint"])))
    assert misfit(config, machines) is None
    assert misfit(config, machines[1:]) is not None


def test_all_images_have_the_version_of_ray_that_is_pinned() -> None:
    (pinned,) = re.findall(r"^ray==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    for path in (CLUSTER, PAGE):
        found = re.findall(r"rayproject/ray:([\d.]+)", path.read_text(encoding="utf-8"))
        assert found
        assert set(found) == {pinned}


# --- what is wrong with a file --------------------------------------------------------------------


def changed(tmp_path: Path, old: str, new: str) -> Path:
    text = CLUSTER.read_text()
    assert old in text
    path = tmp_path / "cluster.yaml"
    path.write_text(text.replace(old, new))
    return path


@pytest.mark.parametrize(
    ("old", "new", "name", "says"),
    [
        # Ray's own schema
        ("cluster_name:", "claster_name:", "schema", "claster_name"),
        ("CPU: 48", "CPU: 4.5", "schema", "available_node_types/trainer/resources/CPU"),
        ("head_node_type: head", "head_node_type: main", "schema", "head_node_type"),
        ("type: aws", "type: amazon", "schema", "amazon"),
        ("max_workers: 10 ", "max_workers: 1 ", "schema", "max_workers"),
        # what it lets pass
        ("min_workers: 2", "min_workers: 9", "machines", "min_workers=9 above max_workers=8"),
        ("max_workers: 8", "max_workers: 80", "machines", "80 above that of the cluster, 10"),
        ("RAY_AUTH_MODE=token ray start --head", "ray start --head", "token authentication",
         "head_start_ray_commands"),
        ("RAY_AUTH_MODE=token ray start --address", "ray start --address", "token authentication",
         "worker_start_ray_commands"),
        ("--dashboard-host=127.0.0.1", "--dashboard-host 0.0.0.0", "dashboard", "0.0.0.0"),
        ("      SecurityGroupIds: [sg-REPLACE]  # the head's\n", "", "security groups",
         "scorer, trainer"),
        ("InstanceType: m5.xlarge", "InstanceMarketOptions: {MarketType: spot}", "spot: head",
         "the run with it"),
        # what the documented run asks for
        ("scorer: 8 ", "scoring: 8 ", "resources", "no machine offers scorer=1"),
        ("GPU: 4", "GPU: 1", "resources", "4 GPUs are asked for and the cluster has 2"),
        ("min_workers: 2", "min_workers: 1", "machines at the start", "has 8"),
    ],
)  # fmt: skip
def test_one_thing_wrong_is_found_and_said(tmp_path, old, new, name, says) -> None:
    found = findings(changed(tmp_path, old, new), example())
    assert statuses(found)[name] == "wrong"
    assert says in found[name].said
    assert set(statuses(found)) <= {name, "placeholders"}  # and nothing else is blamed


def test_a_head_that_computes_counts_beside_the_machines_of_its_type() -> None:
    types = {
        "small": {"resources": {"CPU": 4}, "min_workers": 0, "max_workers": 2},
        "large": {"resources": {"CPU": 9}, "min_workers": 1, "max_workers": 1},
    }
    assert machines(types, "small", "min_workers") == [{"CPU": 4}, {"CPU": 9}]
    assert machines(types, "small", "max_workers") == [{"CPU": 4}] * 3 + [{"CPU": 9}]


def test_gpus_that_may_be_taken_away_are_worth_a_note(tmp_path) -> None:
    spot = "InstanceType: g5.12xlarge\n      InstanceMarketOptions: {MarketType: spot}"
    found = findings(changed(tmp_path, "InstanceType: g5.12xlarge", spot), example())
    assert statuses(found) == {"spot: trainer": "note", "placeholders": "note"}
    assert "last checkpoint" in found["spot: trainer"].said


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("- a\n- b\n", "a table of keys"),
        ("a: [", "expected"),
        ("cluster_name: x\n", "provider"),
        (RAYJOB.read_text(), "KubeRay"),
    ],
)
def test_what_is_no_cluster_file_is_said_to_be_none(tmp_path, text, says) -> None:
    path = tmp_path / "file.yaml"
    path.write_text(text)
    found = findings(path, load())
    assert statuses(found) == {"schema": "wrong"}
    assert says in found["schema"].said
    assert statuses(findings(tmp_path / "none.yaml", load())) == {"schema": "wrong"}


# --- the command ----------------------------------------------------------------------------------


def test_the_documented_check_of_the_clusters_file_finds_nothing_wrong(capsys, monkeypatch) -> None:
    (line,) = [line for line in commands(PAGE) if line.startswith("raysb doctor")]
    monkeypatch.chdir(ROOT)
    assert cli.main(shlex.split(line)[1:]) == 0
    out = capsys.readouterr().out
    assert "nothing stands in the way, 1 to know" in out
    assert max(map(len, out.splitlines())) <= 100
    flags = shlex.split(line)[4:]
    assert load(None, flags).scoring == example().scoring
    assert pairs_of(flags) <= pairs_of(
        train_flags(next(line for line in commands(PAGE) if "ray job submit" in line))
    )


def pairs_of(flags: list[str]) -> set[tuple[str, str]]:
    return set(zip(flags[::2], flags[1::2], strict=True))


def test_a_file_that_would_not_work_is_exit_code_1(capsys, tmp_path) -> None:
    path = changed(tmp_path, "max_workers: 8", "max_workers: 1")
    assert cli.main(["doctor", "--json", "--cluster", str(path)]) == 1
    found = json.loads(capsys.readouterr().out)
    assert [each["name"] for each in found["findings"] if each["status"] == "wrong"] == ["machines"]
