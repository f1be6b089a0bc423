"""`raysb prune`: what it shows, what it writes, what it refuses."""

import json
import os
import re
import shutil
from pathlib import Path

import pytest
import torch
from torch.nn.utils import prune as torch_prune

import raysb
from raysb import cli
from raysb.commands.prune import HELP, OPTIONS, SETTINGS
from raysb.config import load, settings
from raysb.resume import reopen
from raysb.run import train

FAST = [
    *("--engine", "local", "--data.train", "digits", "--model.name", "cnn"),
    *("--model.args.channels", "[8, 16]", "--train.epochs", "1", "--train.use_gpu", "false"),
    *("--run.loggers", "[]", "--train.num_threads", "1"),
]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with one run, `full`."""
    folder, before = tmp_path_factory.mktemp("runs"), Path.cwd()
    os.chdir(folder)
    train(load(None, [*FAST, "--run.dir", "full"]))
    os.chdir(before)
    return folder


@pytest.fixture(autouse=True)
def elsewhere(home, tmp_path, monkeypatch):
    shutil.copytree(home / "full", tmp_path / "full")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "environ", os.environ.copy())


def answered(capsys, *words):
    capsys.readouterr()
    assert cli.main([*words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def images(rows=6):
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (rows, 8, 8, 1), dtype=torch.uint8, generator=generator)


def files(folder):
    return {path: path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}


def test_show_sorts_the_importance_of_every_layer_and_changes_nothing(capsys) -> None:
    before = files(".")
    found = answered(capsys, "prune", "full", "--show", "--criterion", "l1")
    assert files(".") == before
    model = raysb.load_model("full").module
    for layer in found["layers"]:
        weight = model.get_submodule(layer["name"]).weight
        assert layer["weight"] == list(weight.shape)
        if layer["name"] == "head":
            assert layer["importance"] is None
            continue
        wanted = weight.detach().double().abs().flatten(1).sum(1).sort(descending=True).values
        assert layer["importance"] == pytest.approx(wanted.tolist())
    assert found["size"]["parameters"] == sum(p.numel() for p in model.parameters())


def test_people_see_a_line_for_each_layer_and_a_picture(capsys) -> None:
    pytest.importorskip("matplotlib")
    assert cli.main(["prune", "full", "--show", "--figure", "seen/importance.png"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[2] == (
        "importance by taylor_act, statistics of a pass of its own over 1,024 rows, higher stays:"
    )
    assert [line.split()[:3] for line in lines[4:]] == [
        ["stages.0.0", "8x1x3x3", "8"],
        ["stages.1.0", "16x8x3x3", "16"],
        ["head", "10x16", "10"],
    ]
    assert lines[-1].endswith("stays")
    assert Path("seen/importance.png").read_bytes().startswith(b"\x89PNG")


def test_statistics_of_training_are_used_where_they_are_what_the_criterion_needs(capsys) -> None:
    """Gradients were kept, activations not; few rows, or --rows, mean a pass of its own."""
    every = ["--selector.kind", "uniform", "--train.statistics", '["gradient"]']
    for name, step in (("kept", "1"), ("few", "10")):
        train(load(None, [*FAST, *every, "--run.dir", name, "--train.statistics_every", step]))
    own = "a pass of its own over"
    assert answered(capsys, "prune", "few", "--show")["statistics"] == f"{own} 1,024 rows"
    rows = answered(capsys, "prune", "full", "--show")["statistics"]
    assert rows.startswith(own)
    kept = answered(capsys, "prune", "kept", "--show")
    assert re.fullmatch(r"[\d,]+ training rows, weighted 1/p", kept["statistics"])
    assert answered(capsys, "prune", "kept", "--show", "--criterion", "l1")["statistics"] == ""
    for words in (["--criterion", "apoz"], ["--rows", "64"]):
        assert answered(capsys, "prune", "kept", "--show", *words)["statistics"].startswith(own)
    # the pruned run has other channels than they are of
    pruned = answered(capsys, "prune", "kept", "--amount", ".3", "--out", "small")
    assert pruned["statistics"] == kept["statistics"]
    assert answered(capsys, "prune", "small", "--show")["statistics"].startswith(own)
    assert cli.main(["prune", "kept", "--show"]) == 0
    told = "importance by taylor_act, statistics of "
    assert told + kept["statistics"] in capsys.readouterr().out


def test_hyperparameters_reach_the_criterion(capsys) -> None:
    """beta: what a multiply-add is worth; of the first layer's channel, in it and in the next."""
    free, dear = (
        answered(
            capsys,
            "prune",
            "full",
            "--show",
            "--criterion",
            "fisher",
            "--criterion-args",
            f"beta={b}",
        )["layers"][0]["importance"]
        for b in ("0", "1e-3")
    )
    macs = 64 * 9 * 1 + 16 * 9 * 16  # 8x8 pictures, and half of that after the pool
    assert [a - b for a, b in zip(free, dear, strict=True)] == pytest.approx([macs * 1e-3] * 8)
    assert cli.main(["prune", "full", "--show", "--criterion-args", "beta=1"]) == 2
    assert "beta" in capsys.readouterr().err


def test_the_pruned_run_is_a_run_with_the_best_channels(capsys) -> None:
    found = answered(
        capsys, "prune", "full", "--criterion", "l1", "--keep", "stages.0.0=3", "--out", "small"
    )
    assert found["channels"]["stages.0.0"] == [8, 3]
    full, small = (raysb.load_model(name).module for name in ("full", "small"))
    weight = full.stages[0][0].weight.detach().clone()
    torch_prune.ln_structured(full.stages[0][0], "weight", amount=5, n=1, dim=0)
    stays = full.stages[0][0].weight_mask.flatten(1)[:, 0].bool()
    assert torch.equal(small.stages[0][0].weight, weight[stays])
    assert torch.equal(small.stages[1][0].weight, full.stages[1][0].weight[:, stays])
    assert found["after"]["parameters"] == sum(p.numel() for p in small.parameters())
    assert sorted(os.listdir("small")) == ["config.toml", "model.safetensors", "plan.safetensors"]


def test_a_pruned_run_is_evaluated_moved_and_pruned_again(capsys) -> None:
    assert cli.main(["prune", "full", "--amount", ".3", "--criterion", "l2", "--out", "a"]) == 0
    first = answered(capsys, "eval", "a")
    os.rename("a", "moved")
    assert answered(capsys, "eval", "moved")["eval/loss"] == first["eval/loss"]
    assert first["rows"] == answered(capsys, "eval", "full")["rows"]
    assert cli.main(["prune", "moved", "--keep", "stages.1.0=4", "--out", "b"]) == 0
    twice = raysb.load_model("b")
    assert twice.module.head.in_features == 4
    assert twice(images()).shape == (6, 10)
    assert answered(capsys, "eval", "b")["rows"] == first["rows"]


def test_rebirth_is_training_with_the_plan_from_the_pruned_weights(capsys) -> None:
    assert cli.main(["prune", "full", "--amount", ".5", "--out", "small"]) == 0
    line = next(li for li in capsys.readouterr().out.splitlines() if li.startswith("rebirth:"))
    words = line.removeprefix("rebirth: raysb train --config ").split()
    assert words[-2:] == ["--train.lr", "0.005"]
    metrics = train(load(words[0], [*words[1:], "--run.dir", "reborn"]))
    found = answered(capsys, "eval", "reborn")
    assert found["eval/loss"] == metrics["eval/loss"]
    small, reborn = (raysb.load_model(name).module for name in ("small", "reborn"))
    shapes = [[p.shape for p in model.parameters()] for model in (small, reborn)]
    assert shapes[0] == shapes[1]
    assert not torch.equal(small.head.weight, reborn.head.weight)
    # the plan is part of the run
    Path("small/plan.safetensors").unlink()
    Path("reborn").rename("elsewhere")
    assert answered(capsys, "eval", "elsewhere")["eval/loss"] == metrics["eval/loss"]
    assert cli.main(["score", "elsewhere", "--out", "scores.parquet"]) == 0
    resumed = reopen(Path("elsewhere"), ("--train.epochs", "2"))
    assert resumed.differences() == ["train.epochs = 2 (was 1)"]
    assert train(resumed.config, resumed=resumed)["epoch"] == 1


@pytest.mark.parametrize("kind", ["parameters", "macs", "latency"])
def test_a_budget_is_met(capsys, monkeypatch, kind) -> None:
    monkeypatch.setattr("raysb.prune.latency.fastest", lambda layer, _: layer.weight.numel())
    found = answered(capsys, "prune", "full", "--budget", f"{kind}=.6", "--out", "small")
    assert found["budget"][0] == kind
    assert found["budget"][1] <= 0.6
    if kind != "latency":
        assert found["after"][kind] <= 0.6 * found["before"][kind]


def test_a_budget_of_energy_reads_its_table(capsys) -> None:
    Path("energy.toml").write_text('mac = 1.0\nbyte = 0.0\n"stages.1.0.mac" = 9.0\n')
    words = ["--budget", "energy=.5", "--energy-table", "energy.toml", "--out", "small"]
    found = answered(capsys, "prune", "full", *words)
    assert found["budget"] == ["energy", pytest.approx(found["budget"][1])]
    assert found["budget"][1] <= 0.5


def test_repair_brings_the_outputs_closer_to_those_of_the_run(capsys) -> None:
    for name, more in (("plain", []), ("repaired", ["--repair"])):
        assert cli.main(["prune", "full", "--amount", ".4", "--out", name, *more]) == 0
    rows = torch.from_numpy(_digits())
    with torch.no_grad():
        full, plain, repaired = (raysb.load_model(n)(rows) for n in ("full", "plain", "repaired"))
    assert (repaired - full).square().mean() < 0.7 * (plain - full).square().mean()


def _digits():
    from raysb.source.demo import DEMOS

    return DEMOS["digits"]()["image"][:256]


def test_the_directory_has_a_name_of_its_own_by_default(capsys) -> None:
    for number in (1, 2):
        found = answered(capsys, "prune", "full", "--amount", ".5", "--criterion", "random")
        assert found["out"] == f"runs/full-pruned-{number}"


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        ([], 2, "nothing would change: give --amount, --keep or --budget"),
        (["--amount", ".001"], 2, "nothing would change: every channel stays"),
        (["--amount", "1.5"], 2, "must be above 0 and below 1"),
        (["--amount", "half"], 2, "--amount half: a number is needed"),
        (["--keep", "stages.0.0"], 2, "must be a name, '=' and a number"),
        (["--keep", "stages.0=4"], 2, "did you mean 'stages.1.0'"),
        (["--keep", "head=4"], 2, "its channels stay"),
        (["--budget", "time=.5"], 2, "must be one of parameters, macs, latency, energy"),
        (["--budget", "macs=.001"], 2, "cannot be met"),
        (["--budget", "energy=.5"], 2, "one needs the other"),
        (["--budget", "macs=.5", "--amount", ".5"], 2, "give one"),
        (["--amount", ".5", "--criterion", "tailor"], 2, "did you mean 'taylor'"),
        (["--amount", ".5", "--protect", "stem"], 2, "protect='stem': matches no part"),
        (["--amount", ".5", "--protect", "stages"], 2, "nothing may be pruned"),
        (["--amount", ".5", "--rows", "0"], 2, "rows=0"),
        (["--amount", ".5", "--out", "full"], 1, "name another folder with --out"),
        (["--show", "--amount", ".5"], 2, "--amount does nothing with --show"),
        (["--amount", ".5", "--figure", "a.png"], 2, "--figure needs --show"),
        (["--amount", ".5", "--share", ".5"], 2, "unknown option --share"),
        (["--amount", ".5", "--train.epochs", "3"], 2, "train.epochs has no effect on pruning"),
    ],
)
def test_what_cannot_be_pruned_is_told_and_nothing_written(capsys, words, code, told) -> None:
    before = files(".")
    assert cli.main(["prune", "full", *words]) == code
    assert told in capsys.readouterr().err
    assert files(".") == before
    assert not Path("runs").exists()


def test_a_folder_without_a_run_is_told(capsys) -> None:
    assert cli.main(["prune", "nosuch", "--amount", ".5"]) == 1
    assert "nosuch holds no config.toml" in capsys.readouterr().err


def test_a_caution_is_passed_on(capsys) -> None:
    assert cli.main(["prune", "full", "--show", "--criterion", "sum"]) == 0
    assert "caution: signed" in capsys.readouterr().out


def test_the_help_names_options_settings_and_criteria() -> None:
    from raysb.prune.criteria import CRITERIA

    assert set(SETTINGS) <= set(settings())
    assert set(re.findall(r"--(\w+\.\w+)", HELP)) == set(SETTINGS)
    options = HELP.partition("Settings that")[0]
    assert set(re.findall(r"^  --([\w-]+)", options, re.MULTILINE)) == set(OPTIONS)
    assert all(re.search(rf"\b{name}\b", HELP) for name in CRITERIA)
    assert max(map(len, HELP.splitlines())) <= 100
