"""Another model that scores: what is loaded, what is ranked by it, when it may no longer."""

import math
import os
import signal
from multiprocessing import get_context

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from scipy.stats import spearmanr
from sklearn.datasets import load_digits
from torch import nn

from raysb import cli
from raysb.errors import ModelError
from raysb.history.settings import History
from raysb.job import Silent, TrainingJob
from raysb.local import fit_locally
from raysb.losses import cross_entropy
from raysb.models import load_model
from raysb.prune.graph import trace_channels
from raysb.prune.plan import PLAN, plan_for
from raysb.prune.surgery import apply
from raysb.report.records import read_metrics
from raysb.schema import ID, POOL
from raysb.scoring.agreement import AUDIT_EVERY, AUDIT_ROWS
from raysb.scoring.proxy import Proxy, find_proxy
from raysb.scoring.settings import Scoring
from raysb.selection import SelectiveBackprop, StaleSelectiveBackprop
from raysb.selection.scorer import PoolScoring
from raysb.source.arrays import ArraySource
from raysb.task import Task, inputs
from raysb.training import checkpoint
from raysb.training.audit import read_audit
from raysb.training.checkpoints import Checkpoints
from raysb.training.settings import Evaluation, Training
from raysb.training.spec import StreamSpec

CODE = """
import torch
from torch import nn
def other():
    torch.manual_seed(8)
    return nn.Linear(64, 10)
def nothing():
    return 3
"""


def net():
    return nn.Sequential(nn.Linear(64, 24), nn.Tanh(), nn.Linear(24, 10))


def made(build, seed):
    torch.manual_seed(seed)
    return build()


def images():
    pixels, labels = load_digits(return_X_y=True)
    return {"x": (pixels / 16).astype(np.float32), "label": labels}


TASK = Task(model=net, forward=inputs("x"), loss=cross_entropy("label"))


@pytest.fixture(autouse=True)
def code(tmp_path, monkeypatch):
    (tmp_path / "some_proxys_code.py").write_text(CODE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)


# --- a pool ---


def pool(number=0, rows=300):
    columns = {name: column[:rows] for name, column in images().items()}
    return columns | {ID: np.arange(rows), POOL: np.full(rows, number)}


def scored(batch, fallen_back=False, **cheap):
    scoring = PoolScoring(task=TASK, selector=SelectiveBackprop(), seed=0, **cheap)
    args = {"window": np.empty(0, np.float32), "weights_step": 0, "epoch": 0}
    return scoring(made(net, 1), batch, fallen_back=fallen_back, **args)


def losses_of(model, batch):
    with torch.no_grad():
        x, y = torch.from_numpy(batch["x"]), torch.from_numpy(batch["label"])
        return F.cross_entropy(model(x), y, reduction="none").numpy()


def test_the_proxy_scores_until_scoring_falls_back_to_the_live_model() -> None:
    other, batch = made(lambda: nn.Linear(64, 10), 2), pool()
    for fallen_back, model in ((False, other), (True, made(net, 1))):
        found = scored(batch, fallen_back, proxy=Proxy(other))
        np.testing.assert_allclose(found.scores.losses, losses_of(model, batch), rtol=1e-5)
        assert found.record.fallen_back is fallen_back


def test_a_proxy_with_inputs_of_its_own_sees_them() -> None:
    batch = pool() | {"half": pool()["x"] / 2}
    other = made(lambda: nn.Linear(64, 10), 2)
    found = scored(batch, proxy=Proxy(other, inputs("half"))).scores.losses
    np.testing.assert_allclose(found, losses_of(other, batch | {"x": batch["half"]}), rtol=1e-5)


def test_a_fallback_means_full_precision() -> None:
    batch = pool()
    low, full = (scored(batch, back, dtype="bfloat16").scores.losses for back in (False, True))
    np.testing.assert_array_equal(full, scored(batch).scores.losses)
    assert (low != full).any()


@pytest.mark.parametrize("rows", [AUDIT_ROWS - 40, AUDIT_ROWS + 40])
def test_the_first_rows_of_some_pools_are_scored_by_the_live_model_too(rows) -> None:
    other, batch = made(net, 2), pool(3 * AUDIT_EVERY, rows)
    found = scored(batch, proxy=Proxy(other)).record.agreement
    few = {name: column[:AUDIT_ROWS] for name, column in batch.items()}
    both = losses_of(other, few), losses_of(made(net, 1), few)
    assert found.spearman == pytest.approx(spearmanr(*both).statistic, abs=1e-6)
    third = math.ceil(len(few[ID]) / 3)
    highest = [set(np.argsort(losses)[-third:].tolist()) for losses in both]
    assert found.overlap == len(highest[0] & highest[1]) / third


@pytest.mark.parametrize(
    ("number", "fallen_back", "cheap"),
    [(AUDIT_EVERY + 1, False, {"dtype": "bfloat16"}), (0, True, {"dtype": "bfloat16"}), (0, 0, {})],
)
def test_other_pools_are_not_audited_nor_what_the_live_model_scores(
    number, fallen_back, cheap
) -> None:
    assert scored(pool(number), bool(fallen_back), **cheap).record.agreement is None


# --- a run ---


def job_in(folder, selector=None, epochs=5, **scoring):
    columns = images()
    return TrainingJob(
        spec=StreamSpec(
            source=ArraySource(columns, seed=3),
            task=TASK,
            selector=selector or SelectiveBackprop(beta=1.0, history=256),
            scoring=Scoring(**{"batch_size": 30, **scoring}),
            seed=3,
            inputs=("x",),
        ),
        training=Training(
            **{"epochs": epochs, "batch_size": 32, "lr": 0.1, "schedule": "constant"},
            **{"use_gpu": False, "audit": True, "checkpoint_every": 10},
        ),
        evaluation=Evaluation(),
        history=History(),
        held_out=ArraySource({name: column[-200:] for name, column in columns.items()}, seed=0),
        optimizer=None,
        directory=folder,
        watcher=Silent(),
        verbose=False,
    )


def fitted(folder, **args):
    """Metrics, ledger and rows of a run."""
    folder.mkdir(exist_ok=True)
    metrics = fit_locally(job_in(folder, **args)).metrics
    with Checkpoints(folder=str(folder)).local(Checkpoints(folder=str(folder)).newest()) as path:
        ledger = checkpoint.load(path, model=net())["stream"]["ledger"]
    return metrics, ledger, read_audit(folder / "audit").to_pydict()


def of_the_end(folder):
    return [line for line in read_metrics(folder) if line["kind"] == "end"][-1]


def test_low_precision_ranks_alike_and_is_told(tmp_path) -> None:
    fitted(tmp_path / "run", dtype="bfloat16", epochs=3)
    end = of_the_end(tmp_path / "run")
    assert 0.98 < end["score/agreement"] < 1
    assert 0.9 < end["score/overlap"] <= 1
    assert end["score/fallback"] == 0


def test_the_live_model_itself_is_not_audited(tmp_path) -> None:
    fitted(tmp_path / "run", epochs=1)
    assert "score/agreement" not in of_the_end(tmp_path / "run")


def test_a_proxy_that_ranks_at_random_gives_way_to_the_live_model(tmp_path) -> None:
    """What the window then holds, and what is trained, are the live model's scores."""
    ledger = fitted(tmp_path / "run", proxy="some_proxys_code:other")[1]
    end = of_the_end(tmp_path / "run")
    assert end["score/agreement"] < 0.8
    assert end["score/fallback"] == 1
    assert ledger["audits"]["fallen_back"]
    pools = set(ledger["ring"]["pools"].tolist())
    assert min(pools) > 3 * AUDIT_EVERY
    fixed = made(lambda: nn.Linear(64, 10), 8)
    proxys = losses_of(fixed, {"x": images()["x"], "label": images()["label"]})
    assert not np.isin(ledger["ring"]["losses"], proxys.astype(np.float32)).any()


def test_a_run_of_few_pools_can_fall_back_too(tmp_path) -> None:
    """Of 8 pools an epoch the first is audited; pool 0 decides nothing, so pool 24 is the third."""
    ledger = fitted(tmp_path / "run", proxy="some_proxys_code:other", batch_size=256)[1]
    assert [pool for pool, *_ in ledger["audits"]["last"]] == [8, 16, 24]
    assert of_the_end(tmp_path / "run")["score/fallback"] == 1


def test_a_bound_of_minus_one_keeps_the_proxy(tmp_path) -> None:
    fitted(tmp_path / "run", proxy="some_proxys_code:other", min_agreement=-1.0)
    end = of_the_end(tmp_path / "run")
    assert (end["score/agreement"] < 0.8, end["score/fallback"]) == (True, 0)


def _fit_and_die(folder, step, args):
    steps, move = iter(range(step)), torch.optim.SGD.step

    def dying(*given, **named):
        if next(steps, None) is None:
            os.kill(os.getpid(), signal.SIGKILL)
        return move(*given, **named)

    torch.optim.SGD.step = dying
    folder.mkdir()
    fit_locally(job_in(folder, **args))


@pytest.mark.parametrize("step", [55, 95])
def test_a_run_killed_around_its_fallback_and_resumed_equals_the_whole_one(tmp_path, step) -> None:
    """Pool 150, of the third epoch of 60 pools, is where it falls back."""
    args = {"proxy": "some_proxys_code:other"}
    whole = fitted(tmp_path / "whole", **args)
    assert whole[0]["step"] > 110
    child = get_context("fork").Process(target=_fit_and_die, args=(tmp_path / "parts", step, args))
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGKILL
    parts = fitted(tmp_path / "parts", **args)
    assert parts[1]["audits"] == whole[1]["audits"]
    np.testing.assert_array_equal(parts[1]["ring"]["losses"], whole[1]["ring"]["losses"])
    assert parts[2]["id"] == whole[2]["id"]
    assert parts[0]["eval/loss"] == whole[0]["eval/loss"]


def test_losses_of_training_steps_are_not_mixed_with_a_proxys(tmp_path) -> None:
    with pytest.raises(ValueError, match=r"scoring\.proxy='some_proxys_code:other' with Stale"):
        job_in(tmp_path, StaleSelectiveBackprop(), proxy="some_proxys_code:other")


@pytest.mark.ray
@pytest.mark.slow
def test_on_ray_the_fallback_is_that_of_one_process_for_any_number_of_scorers(
    ray_cluster, tmp_path
) -> None:
    from dataclasses import replace

    from raysb.ray_engine import fit_on_ray

    args = {"dtype": "bfloat16", "min_agreement": 1.0, "max_staleness_steps": 0, "epochs": 4}
    ids = fitted(tmp_path / "local", **args)[2]["id"]
    assert of_the_end(tmp_path / "local")["score/fallback"] == 1
    job = job_in(tmp_path / "ray", **args, num_actors=2, num_cpus=0.5)
    (tmp_path / "ray").mkdir()
    fit_on_ray(replace(job, training=replace(job.training, num_cpus=0.5)))
    assert of_the_end(tmp_path / "ray")["score/fallback"] == 1
    trained = read_audit(tmp_path / "ray" / "audit").to_pydict()["id"]
    assert sorted(trained) == sorted(ids)


@pytest.mark.ray
@pytest.mark.parametrize(
    ("least", "fallback"), [(1.0, 1), pytest.param(-1.0, 0, marks=pytest.mark.slow)]
)
def test_a_stale_copy_that_ranks_otherwise_gives_way_to_the_weights_of_every_step(
    ray_cluster, tmp_path, least, fallback
) -> None:
    from dataclasses import replace

    from raysb.ray_engine import fit_on_ray

    job = job_in(tmp_path / "run", min_agreement=least, publish_every=7, num_cpus=0.5, epochs=6)
    (tmp_path / "run").mkdir()
    fit_on_ray(replace(job, training=replace(job.training, num_cpus=0.5)))
    end = of_the_end(tmp_path / "run")
    assert 0 < end["score/agreement"] < 1
    assert end["score/fallback"] == fallback
    behind = set(read_audit(tmp_path / "run" / "audit").to_pydict()["weights_step"])
    assert any(step % 7 for step in behind) == bool(fallback)


# --- what is loaded ---


def live():
    return made(net, 0)


def test_a_file_of_weights_is_of_a_copy_of_the_live_model(tmp_path) -> None:
    distilled = made(net, 5)
    save_file(distilled.state_dict(), tmp_path / "copy.safetensors")
    found = find_proxy(str(tmp_path / "copy.safetensors"), live)
    x = torch.randn(4, 64)
    torch.testing.assert_close(found.model(x), distilled(x))
    assert found.inputs is None
    assert not found.model.training


def test_a_plan_beside_the_file_cuts_it_down(tmp_path) -> None:
    x, distilled = torch.randn(4, 64), made(net, 5)
    graph = trace_channels(distilled, x)
    kept = torch.ones(graph.num_ids, dtype=torch.bool)
    kept[graph.layers["0"].outputs[:9]] = False
    plan = plan_for(graph, kept)
    small = apply(plan, distilled)
    assert small[0].out_features == 15
    plan.save(tmp_path / PLAN)
    save_file(small.state_dict(), tmp_path / "model.safetensors")
    for name in (tmp_path / "model.safetensors", tmp_path):  # a folder of both is a run directory
        torch.testing.assert_close(find_proxy(str(name), live).model(x), small(x))


def test_a_run_of_another_model_brings_its_own_inputs(tmp_path) -> None:
    words = ["--engine", "local", "--data.train", "digits", "--model.name", "mlp"]
    assert cli.main(["train", *words, "--train.epochs", "1", "--run.dir", "a-run"]) == 0
    found = find_proxy("a-run", live)
    pictures = torch.randint(0, 256, (5, 8, 8, 1), dtype=torch.uint8)
    with torch.no_grad():
        torch.testing.assert_close(
            found.task(TASK).outputs(found.model, {"image": pictures}),
            load_model("a-run")(pictures),
        )


@pytest.mark.parametrize(
    ("name", "error", "said"),
    [
        ("mlp", ValueError, "without trained weights"),
        ("runs/none", ValueError, "no such run directory"),
        ("some_proxys_code:missing", ValueError, "has no 'missing'"),
        ("some_proxys_code:nothing", ModelError, "returned int"),
    ],
)
def test_what_cannot_score_is_refused_with_the_key(name, error, said) -> None:
    with pytest.raises(error, match=f"scoring.proxy='{name}'.*{said}"):
        find_proxy(name, live)


def test_weights_that_do_not_fit_are_refused(tmp_path) -> None:
    save_file(nn.Linear(3, 3).state_dict(), tmp_path / "other.safetensors")
    with pytest.raises(ModelError, match=r"scoring\.proxy"):
        find_proxy(str(tmp_path / "other.safetensors"), live)


@pytest.mark.parametrize(
    "wrong", [{"proxy": ""}, {"proxy": 3}, {"min_agreement": 1.1}, {"min_agreement": math.nan}]
)
def test_settings_out_of_range_are_refused(wrong) -> None:
    with pytest.raises(ValueError, match=f"scoring.{next(iter(wrong))}="):
        Scoring(**wrong)
