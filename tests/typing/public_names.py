"""What type checkers are told of the public names: `mypy raysb tests/typing`, never run."""

from pathlib import Path
from typing import Any, assert_type

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch import nn

import raysb
from raysb.schema import Floats, Ids


def build() -> nn.Module:
    return nn.Linear(2, 2)


def check_selectors(ids: Ids, losses: Floats) -> None:
    selector = raysb.SelectiveBackprop(beta=2.0)
    distribution = raysb.LossDistribution.merged(losses, losses, selector.history)
    assert_type(distribution, raysb.LossDistribution)
    assert_type(distribution.cdf(losses), npt.NDArray[np.float64])
    chosen = selector.select(ids, losses, distribution, raysb.Draws(seed=0, epoch=0))
    assert_type(chosen, raysb.Selection)
    assert_type(chosen.probability, Floats)
    everything: raysb.Selector = raysb.Uniform()
    assert_type(everything.select(ids, None, None, raysb.Draws()), raysb.Selection)


def check_trainer() -> None:
    trainer = raysb.SelectiveTrainer(
        model=build,
        loss=raysb.losses.cross_entropy("label"),
        datasets={"train": "rows.parquet"},
        data=raysb.Data(inputs=("x",)),
        training=raysb.Training(epochs=1),
        evaluation=raysb.Evaluation(every=10),
        scoring=raysb.Scoring(max_staleness_steps="auto"),
        history=raysb.History(num_shards=2),
    )
    assert_type(trainer.engine, str)
    stream = raysb.SelectiveStream("rows.parquet", model=build, loss=lambda out, batch: out)
    assert_type(stream.trainer_kwargs(stream), dict[str, Any])


def check_loop(model: nn.Module) -> None:
    stream = raysb.get_stream("train")
    for batch in stream.iter_batches(batch_size=8, epochs=1, model=model):
        assert_type(batch, dict[str, torch.Tensor])
        assert_type(stream.reduce(torch.zeros(8), batch), torch.Tensor)
    assert_type(stream.num_steps, int)
    assert_type(stream.state_dict(), dict[str, Any])


def check_loader(model: nn.Module) -> None:
    loader = raysb.SelectiveLoader(
        "rows.parquet",
        model=model,
        loss=raysb.losses.sequence_cross_entropy("tokens", shift=True),
        batch_size=8,
        collate=raysb.pad("tokens", multiple_of=64, value={"tokens": 0}),
    )
    for batch in loader:
        assert_type(batch, dict[str, torch.Tensor])
        assert_type(raysb.losses.lowest_k(batch["loss"], 0.5), torch.Tensor)
    assert_type((loader.epoch, loader.num_steps), tuple[int, int])
    loader.load_state_dict(loader.state_dict())


def check_results(run: Path) -> None:
    assert_type(raysb.load_model(run), nn.Module)
    assert_type(raysb.read_metrics(run), list[dict[str, Any]])
    assert_type(raysb.read_audit(run), pa.Table)
    try:
        raysb.load_model("runs/cnn-1")
    except raysb.DataError as error:
        assert_type(error, raysb.DataError)
        broad: raysb.RaysbError = error
        value: ValueError = error
        del broad, value


def check_optimizers(model: nn.Module) -> None:
    groups = raysb.optim.gc_param_groups(model)
    assert_type(groups, list[dict[str, Any]])
    optimizer = raysb.optim.Ranger(groups, lr=1e-3, betas=(0.9, 0.99), k=5, foreach=True)
    assert_type(optimizer.step(), None)
    assert_type(optimizer.step(lambda: 0.5), float)
    sgd = raysb.optim.centralize_gradients(torch.optim.SGD(groups, lr=0.1))
    assert_type(sgd, torch.optim.SGD)
    assert_type(raysb.optim.centralize_gradient(torch.zeros(2, 3), dim=1), torch.Tensor)
    raysb.optim.FlatCosineLR(sgd, total_steps=10, flat=0.5).step()


def check_inputs(source: raysb.Source) -> None:
    forward = raysb.inputs("image", mean=(0.5,), std=(0.5,))
    assert_type(forward.columns, tuple[str, ...])
    assert_type(source.num_rows, int)
    assert_type(raysb.__version__, str)
