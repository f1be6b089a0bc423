"""A cluster file of `ray up`, looked at before it costs anything: `raysb doctor --cluster FILE`.

Ray's own schema, and what that lets pass: more machines at least than at most, ports open to all,
no token, what a run asks for and no type of machine has.
"""

import contextlib
import io
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from raysb.config import Config
from raysb.doctor.findings import NOTE, OK, WRONG, Finding
from raysb.doctor.resources import check_resources_of
from raysb.needs import Resources, misfit

MANIFESTS = ("RayCluster", "RayJob", "RayService")
LOCAL_HOSTS = ("127.0.0.1", "localhost", "::1")
TOKEN = "RAY_AUTH_MODE=token"
_GROUPS = "SecurityGroupIds"
_DASHBOARD = re.compile(r"--dashboard-host[= ]+(\S+)")
_FILL_IN = re.compile(r"[\w-]*REPLACE\b")


def check_cluster_file(path: Path, config: Config) -> Iterator[Finding]:
    """Look at a cluster file, and at whether its machines hold a run of the configuration.

    Args:
        path: YAML as `ray up` takes it.
        config: The run's.
    """
    try:
        text = path.read_text(encoding="utf-8")
        prepared = prepare(text)
    except Exception as error:  # of yaml, jsonschema, click, Ray: each says what is wrong
        yield _finding("schema", WRONG, f"{path}: {_said(error)}")
        return
    yield _finding("schema", OK, f"{path}: as Ray's own schema wants it")
    types = prepared["available_node_types"]
    yield from check_counts(types, prepared["max_workers"])
    yield check_token_mode(prepared)
    yield check_dashboard(prepared)
    if prepared["provider"]["type"] == "aws":
        yield check_security_groups(types)
    yield from check_spot(types, prepared["head_node_type"])
    if missing := sorted(set(_FILL_IN.findall(text)) - {"REPLACE"}):
        said = f"still to be filled in: {', '.join(missing)}"
        yield _finding("placeholders", NOTE, said, "your own, of your account and region")
    yield from check_machines(types, prepared["head_node_type"], config)


def prepare(text: str) -> dict[str, Any]:
    """The file with Ray's defaults, as `ray up` sees it.

    Raises:
        ValueError: It is no cluster file.
        Exception: Whatever Ray's checks raise.
    """
    import yaml  # type: ignore[import-untyped]
    from ray.autoscaler._private.util import prepare_config, validate_config

    given = yaml.safe_load(text)
    if not isinstance(given, dict):
        raise ValueError("a cluster file is a table of keys")
    if given.get("kind") in MANIFESTS:
        raise ValueError(
            f"a manifest of KubeRay (kind: {given['kind']}): kubectl apply --dry-run=server checks "
            "it"
        )
    if "provider" not in given:
        raise ValueError("'provider' is a required property")
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        prepared: dict[str, Any] = prepare_config(given)
        validate_config(prepared)
    return prepared


def check_counts(types: Mapping[str, Any], most: int) -> Iterator[Finding]:
    """Least and greatest number of machines of each type."""
    wrong = []
    for name, each in types.items():
        least, greatest = each.get("min_workers", 0), each.get("max_workers", most)
        if least > greatest:
            wrong.append(f"{name} has min_workers={least} above max_workers={greatest}")
        if greatest > most:
            wrong.append(f"{name} has max_workers={greatest} above that of the cluster, {most}")
    for said in wrong:
        yield _finding("machines", WRONG, said, "Ray would start the smaller number and not say so")
    if not wrong:
        counts = ", ".join(
            f"{name} {each.get('min_workers', 0)} to {each.get('max_workers', most)}"
            for name, each in types.items()
        )
        yield _finding("machines", OK, f"{counts}; at most {most} beside the head")


def check_token_mode(prepared: Mapping[str, Any]) -> Finding:
    """Token authentication, on the head and on every other machine."""
    everywhere = " ".join(map(str, prepared.get("docker", {}).get("run_options") or ()))
    without = [
        key
        for key in ("head_start_ray_commands", "worker_start_ray_commands")
        if TOKEN not in " ".join(prepared[key]) + everywhere
    ]
    if not without:
        return _finding("token authentication", OK, "on")
    said = f"{' and '.join(without)}: without a token, whoever reaches the ports runs code"
    return _finding("token authentication", WRONG, said, f"{TOKEN} before `ray start`")


def check_dashboard(prepared: Mapping[str, Any]) -> Finding:
    """The dashboard, which starts jobs: for its own machine alone."""
    hosts = set(_DASHBOARD.findall(" ".join(prepared["head_start_ray_commands"])))
    if hosts <= {*LOCAL_HOSTS}:
        return _finding("dashboard", OK, "on the head alone; `ray dashboard` brings it here by ssh")
    said = f"--dashboard-host={', '.join(sorted(hosts))}: whoever reaches the head can start jobs"
    return _finding("dashboard", WRONG, said, "--dashboard-host=127.0.0.1, and `ray dashboard`")


def check_security_groups(types: Mapping[str, Any]) -> Finding:
    """On AWS: a security group of one's own for every type of machine."""
    without = [name for name, each in types.items() if not each["node_config"].get(_GROUPS)]
    if not without:
        return _finding("security groups", OK, "one's own")
    said = f"{', '.join(without)}: Ray would make a group that opens ssh to 0.0.0.0/0"
    mend = f"node_config.{_GROUPS}, of a group open to itself, and to your network on port 22"
    return _finding("security groups", WRONG, said, mend)


def check_spot(types: Mapping[str, Any], head: str) -> Iterator[Finding]:
    """Machines that may be taken away: well for scorers, not for what holds the run."""
    for name, each in types.items():
        market = each["node_config"].get("InstanceMarketOptions") or {}
        if market.get("MarketType") != "spot":
            continue
        if name == head:
            said = "the head may be taken away, and the run with it"
            yield _finding(f"spot: {name}", WRONG, said, "no InstanceMarketOptions for the head")
        elif each["resources"].get("GPU"):
            said = "has GPUs: workers that are taken away begin again at the last checkpoint"
            yield _finding(
                f"spot: {name}", NOTE, said, "train.checkpoint_every, or machines on demand"
            )
        else:
            said = "may be taken away: its rows are scored again elsewhere"
            yield _finding(f"spot: {name}", OK, said)


def check_machines(types: Mapping[str, Any], head: str, config: Config) -> Iterator[Finding]:
    """Whether the machines hold the run: all that there may be, and those that are there first."""
    known = {name: each for name, each in types.items() if "CPU" in each["resources"]}
    if len(known) < len(types):
        said = f"{', '.join(sorted(set(types) - set(known)))}: how many CPUs shows when it runs"
        mend = "`raysb doctor --address ADDRESS`, once it runs"
        yield _finding("resources", NOTE, said, mend, "configuration")
        return
    most, first = (machines(known, head, key) for key in ("max_workers", "min_workers"))
    finding = check_resources_of(config, most)
    yield finding
    if finding.status == OK and (why := misfit(config, first)):
        said = f"with min_workers of each type alone: {why}; a run starts when its machines are up"
        mend = "more min_workers, or fewer processes"
        yield _finding("machines at the start", WRONG, said, mend, "configuration")


def machines(types: Mapping[str, Any], head: str, key: str) -> list[Resources]:
    """What each machine has, with `min_workers` or `max_workers` of each type, and the head."""
    found: list[Resources] = []
    for name, each in types.items():
        found += [dict(each["resources"])] * (each.get(key, 0) + (name == head))
    return found


def _said(error: Exception) -> str:
    path = "/".join(map(str, getattr(error, "absolute_path", ())))
    said = str(getattr(error, "message", None) or error).strip() or type(error).__name__
    return (f"{path}: " if path else "") + " ".join(said.split())[:200]


def _finding(
    name: str, status: str, said: str, mend: str = "", topic: str = "cluster file"
) -> Finding:
    return Finding(topic=topic, name=name, status=status, said=said, mend=mend)
