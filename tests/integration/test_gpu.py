"""On a GPU: scorer and worker share it, and say the same of the same rows. Skipped without CUDA."""

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
import torch
import torch.nn.functional as F
from ray.train import RunConfig
from scipy.stats import spearmanr
from torch import nn

from raysb.losses import cross_entropy
from raysb.models import load_model
from raysb.nn.cnn import ConvNet
from raysb.report.records import read_metrics
from raysb.scoring.forward import score
from raysb.scoring.settings import Scoring
from raysb.selection import SelectiveBackprop
from raysb.source.arrays import ArraySource
from raysb.source.demo import DEMOS
from raysb.source.settings import Data
from raysb.task import Task, inputs
from raysb.trainer import SelectiveTrainer
from raysb.training import checkpoint
from raysb.training.evaluation import evaluate
from raysb.training.exchange import Exchange
from raysb.training.generators import rng_state, set_rng_state
from raysb.training.settings import Training
from raysb.weights import FlatState

ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA"),
]


def build() -> nn.Module:
    return ConvNet(num_classes=10, in_channels=1)


def pictures(rows: int = 1024) -> dict[str, np.ndarray]:
    columns = DEMOS["digits"]()
    images = np.asarray(columns["image"])[:rows].reshape(-1, 8, 8, 1)
    large = images.repeat(4, axis=1).repeat(4, axis=2)  # 32x32
    return {"image": large, "label": np.asarray(columns["label"])[:rows].astype(np.int64)}


def task() -> Task:
    return Task(
        model=build,
        forward=inputs("image", mean=(0.3,), std=(0.4,)),
        loss=cross_entropy("label"),
    )


def trained(steps: int = 30) -> nn.Module:
    """A model in between: with easy rows and hard ones."""
    work, data = task(), pictures()
    model = work.build(0).cuda()
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
    for k in range(steps):
        rows = np.arange(32 * k, 32 * k + 32) % 1024
        batch = work.tensors({name: column[rows] for name, column in data.items()}, "cuda")
        loss = work.losses(work.outputs(model, batch), batch).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model


@dataclass
class Noting:
    """A forward pass that leaves a file for every kind of process that calls it, and where."""

    folder: str
    driver: int

    def __call__(self, model: Any, batch: dict[str, torch.Tensor]) -> Any:
        import torch.distributed as dist

        if os.getpid() != self.driver:
            role = "train" if model.training else "score"
            backend = dist.get_backend() if dist.is_initialized() else "none"
            (Path(self.folder) / f"{role}-{batch['image'].device.type}-{backend}").touch()
        return inputs("image", mean=(0.3,), std=(0.4,))(model, batch)


@pytest.mark.ray
@pytest.mark.parametrize("scorer", [0.5, 0.0], ids=["shared", "cpu"])
def test_a_worker_trains_on_the_gpu_with_scorers_on_it_or_on_the_cpu(ray_cluster, tmp_path, scorer):
    """The first batch's check holds on both: of the CPU's and the GPU's loss of the same rows."""
    result = SelectiveTrainer(
        model=build,
        forward=Noting(str(tmp_path), os.getpid()),
        loss=cross_entropy("label"),
        datasets={"train": pictures(), "eval": pictures(256)},
        selector=SelectiveBackprop(),
        data=Data(num_readers=1),
        scoring=Scoring(num_cpus=0.1, num_gpus=scorer, batch_size=128),
        training=Training(
            epochs=4, batch_size=32, num_cpus=0.5, num_gpus=0.5, use_gpu="auto", checkpoint_every=9
        ),
        run_config=RunConfig(storage_path=str(tmp_path), name="run"),
    ).fit()
    assert (tmp_path / "train-cuda-nccl").exists()
    assert not list(tmp_path.glob("train-cpu*"))
    # a scorer is no member of a process group; the worker scores too, its first batch and eval
    assert (tmp_path / f"score-{'cuda' if scorer else 'cpu'}-none").exists()
    losses = [line["eval/loss"] for line in read_metrics(tmp_path / "run") if "eval/loss" in line]
    assert losses[-1] < losses[0]
    weights = load_model(result.path, model=build).state_dict()
    assert all(
        tensor.device.type == "cpu" and tensor.isfinite().all() for tensor in weights.values()
    )


def test_a_scorers_loss_on_the_gpu_is_the_workers() -> None:
    """A scorer takes a pool at once in evaluation mode, a worker batches in training mode."""
    work, model, data = task(), trained(), pictures()
    scored = score(work, model, data).losses
    model.train()
    for start in range(0, 1024, 32):
        batch = work.tensors({k: v[start : start + 32] for k, v in data.items()}, "cuda")
        losses = work.training_losses(model, batch)["loss"].detach().cpu().numpy()
        np.testing.assert_allclose(scored[start : start + 32], losses, rtol=1e-4, atol=1e-4)


def test_half_precision_on_the_gpu_ranks_the_losses_as_full_precision_does() -> None:
    work, model, data = task(), trained(), pictures()
    full, half = (score(work, model, data, dtype=d).losses for d in ("float32", "bfloat16"))
    assert not np.array_equal(full, half)  # it did run in bfloat16
    assert spearmanr(full, half).statistic >= 0.999


def test_scoring_on_the_gpu_leaves_its_random_state_as_it_was() -> None:
    work, data = task(), pictures(64)
    drops = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(1024, 10)).cuda().train()
    before = torch.cuda.get_rng_state()
    score(work, drops, data)
    assert torch.equal(torch.cuda.get_rng_state(), before)
    assert drops.training


def test_evaluation_on_the_gpu_is_that_of_the_cpu() -> None:
    work, model, source = task(), trained(), ArraySource(pictures(300))
    with torch.backends.cudnn.flags(allow_tf32=False):
        found = evaluate(work, model, source, Exchange(alone=True), batch_size=128)
    expected = evaluate(work, model.cpu(), source, Exchange(alone=True), batch_size=128)
    assert found == pytest.approx(expected, rel=1e-4)


def test_weights_published_from_the_gpu_reach_a_scorer_on_the_cpu() -> None:
    model, other = trained(3), task().build(1)
    FlatState(other).unpack(FlatState(model).pack())
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor.cpu(), other.state_dict()[name])


def test_a_checkpoint_of_the_gpu_comes_back_with_its_optimizer_and_its_draws(tmp_path) -> None:
    model = trained(3)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    data = pictures(32)
    batch = task().tensors(data, "cuda")
    F.cross_entropy(task().outputs(model, batch), batch["label"]).backward()
    optimizer.step()
    checkpoint.save(
        tmp_path,
        model=model,
        learner={"optimizer": optimizer.state_dict(), "rngs": [rng_state()]},
        stream={},
        history=None,
    )
    expected = torch.rand(3, device="cuda")
    torch.manual_seed(99)
    fresh = task().build(5).cuda()
    loaded = checkpoint.load(tmp_path, model=fresh)
    again = torch.optim.AdamW(fresh.parameters(), lr=0.5)
    again.load_state_dict(loaded["learner"]["optimizer"])
    set_rng_state(loaded["learner"]["rngs"][0])
    assert torch.equal(torch.rand(3, device="cuda"), expected)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, fresh.state_dict()[name])
    for one, other in zip(optimizer.state.values(), again.state.values(), strict=True):
        assert other["exp_avg"].device.type == "cuda"
        assert torch.equal(one["exp_avg"], other["exp_avg"])
