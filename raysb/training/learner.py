"""One optimizer step: the same for the local engine, for DDP on CPUs and on GPUs."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from raysb.nn.freeze import state_bytes
from raysb.task import Task, TensorBatch
from raysb.training.batch_stream import BatchStream, unwrap
from raysb.training.schedule import base_lrs, set_lr


@dataclass
class Learner:
    """A model with its optimizer.

    Args:
        task: Gives the training loss.
        model: Module, or its DistributedDataParallel wrapper, on its device.
        optimizer: Over the model's parameters.
        clip_norm: Largest norm of the gradient of all parameters, or `None`.
    """

    task: Task
    model: nn.Module
    optimizer: torch.optim.Optimizer
    clip_norm: float | None = None

    def __post_init__(self) -> None:
        self.base_lrs = base_lrs(self.optimizer)
        self.model.train()

    @property
    def module(self) -> nn.Module:
        """The model without its wrapper."""
        return unwrap(self.model)

    def state_bytes(self) -> dict[str, int]:
        """Bytes of the weights that are published and checkpointed, and of all there are."""
        return state_bytes(self.module)

    def step(self, stream: BatchStream, batch: TensorBatch, lr_factor: float) -> None:
        """Forward, backward, update; tells the stream."""
        set_lr(self.optimizer, self.base_lrs, lr_factor)
        terms = self.task.training_losses(self.model, batch)
        loss = stream.reduce(torch.stack(list(terms.values())).sum(dim=0), batch)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        if self.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.clip_norm)
        self.optimizer.step()
        stream.step(self.model)

    def state_dict(self) -> dict[str, Any]:
        """Optimizer and base rates; the model's weights are saved apart, as safetensors."""
        return {"optimizer": self.optimizer.state_dict(), "base_lrs": self.base_lrs}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a checkpoint's optimizer."""
        self.optimizer.load_state_dict(state["optimizer"])
        self.base_lrs = list(state["base_lrs"])
