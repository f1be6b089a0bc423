"""The README is run, not trusted: its examples, commands, settings and names of tests."""

import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import raysb
from raysb import config, errors
from raysb.local import LocalStream
from raysb.training.bystanders import driving

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
DIGITS = ('"mnist5k"', '"digits"')  # 1,442 rows of 8x8 pixels in place of 4,000 of 28x28
LONGER = ("epochs=4", "epochs=12")


def block(marker: str) -> str:
    """The text of the one fence that follows a marker."""
    found = re.findall(rf"<!-- {marker} -->\n```\w+\n(.*?)\n```\n", README, re.DOTALL)
    assert len(found) == 1, f"{marker}: {len(found)} fences"
    return str(found[0])


def run(example: str, *changes: tuple[str, str]) -> dict[str, Any]:
    """Run an example as a script, with some of its text replaced; returns its names."""
    code = block(f"example: {example}")
    for old, new in changes:
        assert old in code, f"the {example} example no longer says {old}"
        code = code.replace(old, new)
    # functions of `__main__` travel to other processes by value, as those of a script do
    names: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(code, f"README.md, {example}", "exec"), names)
    return names


def error_of(model: nn.Module, forward: Any) -> float:
    """Share of the held-out digits that a model gets wrong."""
    from raysb.source.open import open_sources

    sources = open_sources(raysb.Data(train="digits", test="digits"), seed=0)
    assert sources.eval is not None
    rows = sources.eval.read(None, 0, sources.eval.num_rows)
    with torch.no_grad():
        logits = forward(model, {"image": torch.from_numpy(rows["image"])})
    return float((logits.argmax(1).numpy() != rows["label"]).mean())


# --- the examples ---------------------------------------------------------------------------


def check_trainer(names: dict[str, Any]) -> None:
    """The run reached something, trained on less than it scored, and left its model."""
    metrics = names["result"].metrics
    assert metrics["num_scored"] == 12 * 1442
    assert 0.15 < metrics["num_backpropped"] / metrics["num_scored"] < 0.45
    assert metrics["max_age_steps"] <= 16
    assert metrics["eval/error"] < 0.2
    forward = names["trainer"].job.spec.task.forward  # with the mean and deviation of the data
    assert error_of(names["model"], forward) == pytest.approx(metrics["eval/error"])


def test_the_trainer_example_runs_in_one_process(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    engine = ("SelectiveTrainer(", 'SelectiveTrainer(engine="local",')
    check_trainer(run("trainer", DIGITS, LONGER, engine))


@pytest.mark.ray
def test_the_trainer_example_runs_on_ray(ray_cluster, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    check_trainer(run("trainer", DIGITS, LONGER))


@pytest.mark.ray
def test_the_loop_example_with_two_workers_equals_one_process(ray_cluster, tmp_path) -> None:
    """All rows selected and in lockstep, so that no rounding can tip a draw."""
    with driving(own=False):  # who starts Ray by hand may share it
        names = run(
            "loop",
            DIGITS,
            ("ray.init(num_cpus=8)", "..."),
            ("beta=1.0", "min_probability=1.0"),
            ("max_staleness_steps=16", "max_staleness_steps=0"),
            ("TorchTrainer(loop,", "TorchTrainer(loop, run_config=RUN_CONFIG,"),
            ("import raysb\n", f"import raysb\n{RUN_CONFIG.format(folder=tmp_path)}\n"),
        )
    stream = LocalStream(names["stream"].spec)
    torch.manual_seed(0)
    model = names["build_model"]()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for batch in stream.iter_batches(batch_size=2 * 32, epochs=4, model=model):
        losses = names["per_sample"](names["forward"](model, batch), batch)
        optimizer.zero_grad()
        stream.reduce(losses, batch).backward()
        optimizer.step()
        stream.step(model)
    result = names["result"]
    assert result.metrics["steps"] == stream.num_steps == 91
    with result.checkpoint.as_directory() as folder:
        trained = torch.load(f"{folder}/model.pt", weights_only=True)
    for name, parameter in model.state_dict().items():
        torch.testing.assert_close(trained[f"module.{name}"], parameter, rtol=1e-4, atol=1e-5)


RUN_CONFIG = """
from ray.train import RunConfig
RUN_CONFIG = RunConfig(storage_path="{folder}", name="run")
"""


def test_the_core_example_keeps_a_third_of_the_rows_and_prefers_the_hard_ones() -> None:
    names = run("core")
    chosen, losses = names["chosen"], names["losses"]
    assert 0.25 < len(chosen.indices) / 256 < 0.42
    assert losses[chosen.indices].mean() > losses.mean()
    ranks = (np.argsort(np.argsort(losses)) + 0.5) / 256  # no two losses are equal
    np.testing.assert_allclose(chosen.probability, ranks[chosen.indices] ** 2, rtol=1e-6)


# --- the commands ---------------------------------------------------------------------------


def test_ci_runs_the_command_of_the_readme() -> None:
    shown = subprocess.run(
        ["bash", str(ROOT / ".ci" / "run"), "--show"], capture_output=True, text=True, check=True
    )
    assert shown.stdout.strip() == block("command: test")


@pytest.mark.parametrize("command", ["run", "test"])
def test_a_command_installs_extras_that_exist_at_pinned_versions(command) -> None:
    text = block(f"command: {command}")
    wanted = re.search(r"-c constraints\.txt '\.\[([\w,]+)\]'", text)
    assert wanted is not None
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    assert set(wanted[1].split(",")) <= extras.keys()
    assert text.count("\n") == 0  # one command


def test_every_dependency_is_pinned_to_one_version() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    names = {re.split(r"[\[<>=]", each)[0] for group in groups for each in group}
    assert names <= pins.keys()
    assert all(re.fullmatch(r"\d+(\.\w+)+", version) for version in pins.values())


# --- what it says ---------------------------------------------------------------------------


def test_the_settings_have_the_defaults_that_the_table_gives() -> None:
    rows = re.findall(r"^\| `([\w.]+)` \| `([^`]*)` \|", README, re.MULTILINE)
    assert len(rows) > 20
    known = config.settings() | config.settings(config.DEFAULT_KIND)
    for key, default in rows:
        value = known[key].default
        assert default == ("none" if value is None else str(value)), key


def test_the_tests_that_it_names_exist() -> None:
    tests = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    named = set(re.findall(r"`(test_\w+)`", README))
    assert len(named) > 12
    assert {name for name in named if f"def {name}(" not in tests} == set()


def test_the_files_that_it_links_to_exist() -> None:
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target


def test_every_public_name_is_in_it() -> None:
    assert {name for name in raysb.__all__ if not re.search(rf"\b{name}\b", README)} == set()


def test_the_tree_of_errors_is_that_of_the_code() -> None:
    tree = [line for line in errors.__doc__.splitlines() if line.startswith((" |-", " '-", "Rays"))]
    assert "\n".join(tree) in README
