"""One optimizer step: the same for the local engine, for one worker and for many."""

from collections.abc import Sequence
from functools import reduce
from typing import Any

import numpy as np
import torch
from torch import nn

from raysb.errors import ModelError
from raysb.nn.freeze import state_bytes
from raysb.optim.registry import OptimizerFactory, build_optimizer
from raysb.schema import WEIGHT
from raysb.task import Task, TensorBatch
from raysb.training.autocast import training_losses
from raysb.training.batch_stream import BatchStream, unwrap
from raysb.training.channel_statistics import STATISTICS, ChannelStatistics
from raysb.training.compiled import compiled
from raysb.training.ema import Average
from raysb.training.parallel import Parallel, StepLoss, parallelize
from raysb.training.schedule import base_lrs, set_lr
from raysb.training.settings import FLOAT32, Training
from raysb.training.strategies import ROWS, WEIGHTS


class Learner:
    """A model with its optimizer.

    Args:
        task: Gives the training loss.
        model: What `parallelize` gave, or a module on its device, in DistributedDataParallel or
            not.
        optimizer: Over the parameters of `Parallel.trained`.
        clip_norm: Largest norm of the gradient of all parameters, or `None`.
        accumulate: Micro-batches of one size that the rows of a step are trained in.
        normalize: What the sum of weighted losses is divided by: `rows`, or `weights`, their sum.
        dtype: Of the forward pass, `float32` or `bfloat16`.
        ema: Decay of an average of the weights; `None`: there is none.
        compile: Pass the forward pass through torch.compile.
        statistics: What is added up of the steps, for pruning.

    Attributes:
        parallel: How the model is spread.
        average: Of the weights, or `None`.
        base_lrs: Learning rates of the optimizer's groups before the schedule.
    """

    def __init__(
        self,
        task: Task,
        model: nn.Module | Parallel,
        optimizer: torch.optim.Optimizer,
        clip_norm: float | None = None,
        *,
        accumulate: int = 1,
        normalize: str = ROWS,
        dtype: str = FLOAT32,
        ema: float | None = None,
        compile: bool = False,
        statistics: ChannelStatistics | None = None,
    ) -> None:
        self.task = task
        self.parallel = model if isinstance(model, Parallel) else Parallel(unwrap(model), model)
        self.optimizer = optimizer
        self.base_lrs = base_lrs(optimizer)
        self._built = _settings(optimizer)
        self._clip_norm = clip_norm
        self._accumulate = accumulate
        self._normalize = normalize
        self._dtype = dtype
        self.average = None if ema is None else Average(self.module, ema)
        self.model.train()
        self._compiled = compiled(self.model) if compile else None
        self._statistics = statistics

    @classmethod
    def build(
        cls,
        task: Task,
        module: nn.Module,
        training: Training,
        devices: Sequence[torch.device],
        optimizer: OptimizerFactory | None = None,
    ) -> "Learner":
        """Spread a model as the settings say, and build its optimizer. Collective.

        Args:
            task: Gives the training loss.
            module: On the CPU, with the weights to begin with.
            training: Strategy, optimizer, micro-batches.
            devices: Of this process; see `parallelize`.
            optimizer: As given to the trainer.
        """
        parallel = parallelize(module, training, devices)
        kinds, every = training.statistics, training.statistics_every
        return cls(
            task,
            parallel,
            build_optimizer(parallel.trained, training, optimizer),
            training.clip_norm,
            accumulate=training.accumulate,
            normalize=training.normalize,
            dtype=training.dtype,
            ema=training.ema,
            compile=training.compile,
            statistics=ChannelStatistics(parallel.module, kinds, every) if kinds else None,
        )

    @property
    def model(self) -> nn.Module:
        """What training calls."""
        return self.parallel.model

    @property
    def module(self) -> nn.Module:
        """The whole model without a wrapper; up to date after `Parallel.gather`."""
        return self.parallel.module

    def judged(self) -> nn.Module:
        """The whole model that is evaluated: with the average of the weights, if any. Collective"""
        return self.parallel.whole() if self.average is None else self.average.module

    def state_bytes(self) -> dict[str, int]:
        """Bytes of the weights that are published and checkpointed, and of all there are."""
        return state_bytes(self.module)

    def step(self, stream: BatchStream, batch: TensorBatch, lr_factor: float) -> None:
        """Forward, backward, update; tells the stream. Collective."""
        set_lr(self.optimizer, self.base_lrs, lr_factor)
        self.optimizer.zero_grad(set_to_none=True)
        loss = self._loss(stream, batch)
        if self._statistics is not None:
            known = (stream.num_steps, stream.epoch, stream.exchange.world_size)
            loss = self._statistics.observing(loss, *known)
        self.parallel.backward(loss, batch, self._accumulate)
        if self._clip_norm is not None:
            self.parallel.clip(self._clip_norm)
        self.optimizer.step()
        if self.average is not None:
            self.average.update(self.module)
        if stream.publishes():
            self.parallel.gather()
        stream.step(self.module)

    def state_dict(self) -> dict[str, Any]:
        """Optimizer, base rates, average; the model's weights are saved apart. Collective."""
        return {
            "optimizer": self.parallel.optimizer_state(self.optimizer),
            "kind": type(self.optimizer).__name__,
            "groups": self._built,
            **(self.average.state_dict() if self.average is not None else {}),
        }

    def statistics(self, stream: BatchStream) -> dict[str, Any]:
        """What a checkpoint holds beside, where something is added up of the steps. Collective."""
        if self._statistics is None:
            return {}
        return {STATISTICS: self._statistics.state_dict(stream.epoch, stream.exchange)}

    def load_state_dict(self, state: dict[str, Any], rank: int = 0) -> None:
        """Take over a checkpoint's optimizer, of whatever strategy. Collective."""
        kind = type(self.optimizer).__name__
        if state["kind"] != kind or len(state["groups"]) != len(self._built):
            raise ModelError(
                f"the checkpoint's optimizer is {state['kind']} with {len(state['groups'])} groups "
                f"of parameters, this one {kind} with {len(self._built)}: leave train.optimizer as "
                "it was, or start a new run with model.init=RUN_DIR/model.safetensors"
            )
        self.parallel.load_optimizer_state(self.optimizer, state["optimizer"])
        groups = zip(self.optimizer.param_groups, self._built, state["groups"], strict=True)
        for group, now, then in groups:  # what is set otherwise now than at that run's start wins
            group.update({k: v for k, v in now.items() if k not in then or then[k] != v})
        if self.average is not None:
            self.average.load_state_dict(state)
        if self._statistics is not None and STATISTICS in state:
            self._statistics.load_state_dict(state[STATISTICS], rank)

    def _loss(self, stream: BatchStream, batch: TensorBatch) -> StepLoss:
        if self._normalize == WEIGHTS:
            mine = np.array([float(batch[WEIGHT].double().sum())])
            total = float(stream.exchange.sum(mine)[0]) or 1.0
            scale = stream.global_rows / total
            return StepLoss(
                self._losses,
                lambda losses, rows: stream.reduce(losses, rows) * scale,
                1.0 / total,
            )
        return StepLoss(self._losses, stream.reduce, 1.0 / stream.global_rows)

    def _losses(self, model: nn.Module, rows: TensorBatch) -> torch.Tensor:
        called = model if self._compiled is None else self._compiled
        terms = training_losses(self.task, called, rows, self._dtype)
        return reduce(torch.add, terms.values())


def _settings(optimizer: torch.optim.Optimizer) -> list[dict[str, Any]]:
    """What each group of parameters was given."""
    return [
        {key: value for key, value in group.items() if key != "params"}
        for group in optimizer.param_groups
    ]
