"""Runs on Ray for the integration tests: several streams in one worker group, since a group takes
longer to start than a stream does to run."""

import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import ray.train
import torch
from ray.train import FailureConfig, RunConfig, ScalingConfig
from torch import nn

from raysb.losses import cross_entropy
from raysb.ray_engine import Trainer
from raysb.scoring.settings import Scoring
from raysb.selection import SelectiveBackprop
from raysb.stream import SelectiveStream
from raysb.task import inputs
from raysb.training.audit import Audit, read_audit
from raysb.training.learner import Learner
from raysb.training.settings import Training
from raysb.training.stream import get_stream

FEATURES, CLASSES = 6, 3


def rows(count: int, seed: int = 0) -> dict[str, np.ndarray]:
    """A small problem with hard and easy rows: three overlapping clouds."""
    rng = np.random.default_rng(seed)
    label = rng.integers(CLASSES, size=count)
    centres = rng.normal(size=(CLASSES, FEATURES)) * 1.5
    x = centres[label] + rng.normal(size=(count, FEATURES))
    return {"x": x.astype(np.float64), "label": label.astype(np.int64)}


def build_net() -> nn.Module:
    """float64, so that the order of a sum over workers cannot tip a draw."""
    net = nn.Sequential(nn.Linear(FEATURES, 16), nn.Tanh(), nn.Linear(16, CLASSES))
    return net.double()


def scored_slowly(model: nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """A forward pass that takes scorers long enough for two of them to be at it at once."""
    if not model.training:
        time.sleep(0.2)
    outputs: torch.Tensor = model(batch["x"])
    return outputs


@dataclass(kw_only=True)
class Case:
    """One stream and how it is consumed."""

    name: str
    count: int = 200
    epochs: int = 2
    batch_size: int = 8
    pool: int = 40
    actors: int | tuple[int, int] = 1
    stale: Any = 0
    selector: Any = field(default_factory=lambda: SelectiveBackprop(beta=1.0, history=64))
    iterate: dict[str, Any] = field(default_factory=dict)
    forward: Any = field(default_factory=lambda: inputs("x"))
    adjust: Any = None
    readers: int = 1
    training: dict[str, Any] = field(default_factory=dict)  # strategy and what goes with it

    def stream(self, **options: Any) -> SelectiveStream:
        """The stream, with its name."""
        from raysb.source.settings import Data

        return SelectiveStream(
            rows(self.count),
            model=build_net,
            forward=self.forward,
            loss=cross_entropy("label"),
            selector=self.selector,
            adjust=self.adjust,
            scoring=Scoring(
                num_actors=self.actors,
                batch_size=self.pool,
                num_cpus=0.1,
                max_staleness_steps=self.stale,
            ),
            data=Data(inputs=("x",), num_readers=self.readers),
            name=self.name,
            **options,
        )


def consume(case: Case, folder: str) -> dict[str, Any]:
    """In a worker: train on the stream from its beginning to its end."""
    stream = get_stream(case.name)
    stream._on_step = Audit(f"{folder}/{case.name}")
    model = stream.task.build(stream.spec.seed)
    training = Training(
        batch_size=case.batch_size,
        num_workers=ray.train.get_context().get_world_size(),
        **case.training,
    )
    optimizer = partial(torch.optim.SGD, lr=0.1, momentum=0.9)
    learner = Learner.build(stream.task, model, training, [stream.device], optimizer)
    batches = stream.iter_batches(
        batch_size=case.batch_size, epochs=case.epochs, model=learner.module, **case.iterate
    )
    shapes = set()
    for batch in batches:
        shapes.add(tuple(batch["x"].shape))
        learner.step(stream, batch, 1.0)
    whole = learner.parallel.whole()
    return {
        "parameters": torch.cat([p.detach().flatten() for p in whole.parameters()]).numpy(),
        "steps": stream.num_steps,
        "backpropped": stream.num_backpropped,
        "scored": stream.num_scored,
        "max_age": stream.max_age,
        "promised_age": stream._limits.max_age,
        "shapes": shapes,
    }


def loop(config: dict[str, Any]) -> None:
    """The worker loop: case after case; worker 0 leaves what each gave."""
    for case in config["cases"]:
        result = consume(case, config["folder"])
        if ray.train.get_context().get_world_rank() == 0:
            np.savez(
                f"{config['folder']}/{case.name}.npz",
                **{k: v for k, v in result.items() if v is not None and k != "shapes"},
            )


@dataclass(frozen=True)
class Outcome:
    """What a case left behind."""

    numbers: Any
    audit: pa.Table
    handle: Any


def run(
    cases: list[Case], folder: Path, *, workers: int, max_failures: int = 0
) -> dict[str, Outcome]:
    """Run all cases in one worker group."""
    streams = [case.stream() for case in cases]
    trainer = Trainer(
        loop,
        train_loop_config={"cases": cases, "folder": str(folder)},
        scaling_config=ScalingConfig(num_workers=workers, resources_per_worker={"CPU": 0.5}),
        run_config=RunConfig(
            storage_path=str(folder / "ray"),
            name="run",
            failure_config=FailureConfig(max_failures=max_failures),
        ),
        **streams[0].trainer_kwargs(*streams[1:]),
    )
    trainer.fit()
    return {
        case.name: Outcome(
            dict(np.load(folder / f"{case.name}.npz")),
            read_audit(folder / case.name),
            stream.start(),
        )
        for case, stream in zip(cases, streams, strict=True)
    }


def run_locally(case: Case, folder: Path, *, workers: int) -> Outcome:
    """The oracle: the same in this process, the workers' batches as one."""
    from raysb.local import LocalStream

    stream = LocalStream(case.stream().spec, on_step=Audit(str(folder / case.name)))
    model = stream.task.build(stream.spec.seed)
    learner = Learner(stream.task, model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9))
    batches = stream.iter_batches(
        batch_size=case.batch_size * workers, epochs=case.epochs, model=model, **case.iterate
    )
    for batch in batches:
        learner.step(stream, batch, 1.0)
    numbers = {
        "parameters": torch.cat([p.detach().flatten() for p in model.parameters()]).numpy(),
        "steps": stream.num_steps,
        "backpropped": stream.num_backpropped,
        "scored": stream.num_scored,
    }
    return Outcome(numbers, read_audit(folder / case.name), stream)
