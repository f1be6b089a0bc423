"""One's own loop on Ray Train: two workers are one, and two streams can be drawn from in a step."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
import torch

sys.path.insert(0, str(Path(__file__).parent))
import ray.train
import ray.train.torch
import runs
from ray.train import RunConfig, ScalingConfig
from runs import build_net, rows

import raysb
from raysb.losses import cross_entropy
from raysb.ray_engine import Trainer
from raysb.source.settings import Data

ray.cloudpickle.register_pickle_by_value(runs)
ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
pytestmark = pytest.mark.ray

PER_SAMPLE = cross_entropy("label")


def a_stream(name: str, count: int, selector: Any, seed: int = 0) -> raysb.SelectiveStream:
    return raysb.SelectiveStream(
        rows(count, seed),
        model=build_net,
        forward=raysb.inputs("x"),
        loss=PER_SAMPLE,
        selector=selector,
        scoring=raysb.Scoring(batch_size=40, num_cpus=0.1, max_staleness_steps=0),
        data=Data(inputs=("x",), num_readers=1),
        name=name,
    )


def own_loop(config: dict[str, Any]) -> None:
    model = ray.train.torch.prepare_model(raysb.get_stream("train").task.build(0))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    stream = raysb.get_stream("train")
    for batch in stream.iter_batches(batch_size=config["batch_size"], epochs=2, model=model):
        losses = PER_SAMPLE(model(batch["x"]), batch)
        loss = stream.reduce(losses, batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        stream.step(model)
    if ray.train.get_context().get_world_rank() == 0:
        flat = torch.cat([p.detach().flatten() for p in model.parameters()])
        np.save(config["out"], flat.numpy())


def two_streams(config: dict[str, Any]) -> None:
    first, second = raysb.get_stream("train"), raysb.get_stream("unlabeled")
    model = ray.train.torch.prepare_model(first.task.build(0))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    seen: dict[str, list[int]] = {"train": [], "unlabeled": []}
    pairs = zip(
        first.iter_batches(batch_size=8, epochs=1, model=model),
        second.iter_batches(batch_size=16, epochs=1, model=model),
        strict=False,
    )
    for labeled, unlabeled in pairs:
        loss = first.reduce(PER_SAMPLE(model(labeled["x"]), labeled), labeled)
        entropy = torch.distributions.Categorical(logits=model(unlabeled["x"])).entropy()
        loss = loss + second.reduce(entropy, unlabeled)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        first.step(model)
        second.step(model)
        for name, batch in (("train", labeled), ("unlabeled", unlabeled)):
            seen[name] += batch["id"][batch["weight"] > 0].tolist()
    rank = ray.train.get_context().get_world_rank()
    np.savez(f"{config['out']}-{rank}.npz", **{k: np.array(v) for k, v in seen.items()})


def fit(loop: Any, config: dict[str, Any], streams: list[Any], folder: Path, workers: int) -> None:
    Trainer(
        loop,
        train_loop_config=config,
        scaling_config=ScalingConfig(num_workers=workers, resources_per_worker={"CPU": 0.5}),
        run_config=RunConfig(storage_path=str(folder), name=f"run{workers}"),
        **streams[0].trainer_kwargs(*streams[1:]),
    ).fit()


@pytest.mark.slow  # tests/test_readme.py has two workers and one process
def test_the_own_loop_with_two_workers_is_the_one_with_one(ray_cluster, tmp_path):
    for workers in (1, 2):
        config = {"batch_size": 16 // workers, "out": str(tmp_path / f"{workers}.npy")}
        stream = a_stream("train", 200, raysb.SelectiveBackprop(history=64))
        fit(own_loop, config, [stream], tmp_path, workers)
    one, two = (np.load(tmp_path / f"{workers}.npy") for workers in (1, 2))
    np.testing.assert_allclose(two, one, rtol=0, atol=1e-10)


def test_two_streams_give_their_rows_to_the_same_step(ray_cluster, tmp_path):
    everything = raysb.SelectiveBackprop(min_probability=1.0)
    streams = [a_stream("train", 160, everything), a_stream("unlabeled", 320, raysb.Uniform(), 1)]
    fit(two_streams, {"out": str(tmp_path / "seen")}, streams, tmp_path, 2)
    parts = [np.load(tmp_path / f"seen-{rank}.npz") for rank in (0, 1)]
    for name, count in (("train", 160), ("unlabeled", 320)):
        ids = np.sort(np.concatenate([part[name] for part in parts]))
        np.testing.assert_array_equal(ids, np.arange(count), name)


def test_streams_of_one_name_are_refused(ray_cluster):
    streams = [a_stream("train", 50, raysb.Uniform()), a_stream("train", 50, raysb.Uniform())]
    with pytest.raises(ValueError, match="give each its own name"):
        streams[0].trainer_kwargs(streams[1])
