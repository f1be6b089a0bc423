"""`pipeline`: every worker is a stage; micro-batches of the rows of all workers pass through.

Each worker draws its B rows of a step from the stream as under `ddp`. All workers' rows are then
brought together: the first stage takes the inputs of the W x B rows, the last computes their
losses, and every worker is told those of its own rows, which the stream counts and records. So a
step trains the same rows with the same gradient as `ddp` does, and a checkpoint of one goes on
under the other.
"""

import copy
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.pipelining import PipelineStage, Schedule1F1B, ScheduleGPipe

from raysb.errors import ModelError
from raysb.schema import WEIGHT
from raysb.task import TensorBatch, describe
from raysb.training.parallel import Gathered, StepLoss, micro_batches, weighted_sum
from raysb.training.staged import layers_of, stages
from raysb.training.strategies import PIPELINE, SCHEDULES

_SCHEDULES: dict[str, Any] = {"1f1b": Schedule1F1B, "gpipe": ScheduleGPipe}


class Pipelined(Gathered):
    """A model whose layers lie on the workers of the process group, in order of their ranks.

    Args:
        module: The whole model, on the CPU; it stays there, and `gather` fills it.
        device: Of this worker's stage.
        parts: Micro-batches of a step.
        schedule: `1f1b` holds activations of at most W micro-batches, `gpipe` of all.
        split: Layers at which the second and each further stage begins.

    Raises:
        RuntimeError: There is no process group of at least two.
        ModelError: The model cannot be cut, or a tensor belongs to two stages.
    """

    def __init__(
        self,
        module: nn.Module,
        device: torch.device,
        *,
        parts: int,
        schedule: str = SCHEDULES[0],
        split: Sequence[int] | None = None,
    ) -> None:
        if not dist.is_initialized() or dist.get_world_size() < 2:
            raise RuntimeError("train.strategy=pipeline: needs a process group of at least two")
        self._rank, self._world = dist.get_rank(), dist.get_world_size()
        whole = [nn.Sequential(*s) for s in stages(layers_of(module, PIPELINE), self._world, split)]
        _check_apart(module, whole)
        self._whole = whole
        mine = copy.deepcopy(whole[self._rank]).to(device)
        if not self._last:
            mine.append(_Contiguous())
        super().__init__(module, mine, device)
        self._mine = _tensors(mine)
        self._schedule_of = partial(
            _SCHEDULES[schedule],
            n_microbatches=parts,
            loss_fn=self._loss,  # on every stage: without one there is no backward
            scale_grads=False,
        )
        self._schedule: Any = None  # made with the first batch, which tells the shapes
        self._shapes: dict[str, Any] = {}

    @property
    def _last(self) -> bool:
        return self._rank == self._world - 1

    def backward(self, step: StepLoss, batch: TensorBatch, parts: int) -> None:
        """Leave the gradient of the step, over the rows of all workers, in this stage."""
        rows = len(batch[WEIGHT])
        self._step, self._rows = step, self._rows_of_all(batch)
        self._losses = torch.zeros(rows * self._world, dtype=torch.float64, device=self.device)
        if self._schedule is None:
            self._schedule = self._schedule_of(self._stage(next(micro_batches(self._rows, parts))))
        if self._rank == 0:
            self._schedule.step(*_inputs(step, self._rows))
        elif self._last:
            numbers = torch.arange(rows * self._world, device=self.device)
            self._schedule.step(target=numbers, losses=[])
        else:
            self._schedule.step()
        dist.broadcast(self._losses, src=self._world - 1)
        mine = self._losses[self._rank * rows : (self._rank + 1) * rows]
        step.reduce(mine.float(), batch)  # counts and records rows; the gradient is there already

    def clip(self, max_norm: float) -> None:
        """Bound the norm of the gradient over all stages."""
        parameters = [p for p in self.model.parameters() if p.grad is not None]
        mine = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        squared = mine.to(self.device, torch.float64) ** 2
        dist.all_reduce(squared)
        nn.utils.clip_grads_with_norm_(parameters, max_norm, squared.sqrt())

    @torch.no_grad()
    def gather(self) -> None:
        """Copy every stage's weights and buffers into the whole model. Collective."""
        for rank, whole in enumerate(self._whole):
            for number, into in enumerate(_tensors(whole)):
                sent = self._mine[number] if rank == self._rank else into.to(self.device)
                sent = sent.detach().clone(memory_format=torch.contiguous_format)
                dist.broadcast(sent, src=rank)
                into.copy_(sent)

    def optimizer_state(self, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        """As of the whole model: the stages' states one after the other. Collective."""
        everyone: list[Any] = [None] * self._world
        dist.all_gather_object(everyone, optimizer.state_dict())
        merged: dict[str, Any] = {"state": {}, "param_groups": []}
        number = 0
        for groups in zip(*(one["param_groups"] for one in everyone), strict=True):
            first = number
            for one, group in zip(everyone, groups, strict=True):
                for own in group["params"]:
                    if own in one["state"]:
                        merged["state"][number] = one["state"][own]
                    number += 1
            merged["param_groups"].append({**groups[0], "params": list(range(first, number))})
        return merged

    def load_optimizer_state(self, optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
        """Take this stage's part of the state of the whole model's optimizer. Collective."""
        present = optimizer.state_dict()["param_groups"]
        counts: list[Any] = [None] * self._world
        dist.all_gather_object(counts, [len(group["params"]) for group in present])
        mine: dict[str, Any] = {"state": {}, "param_groups": []}
        for at, (group, own) in enumerate(zip(state["param_groups"], present, strict=True)):
            before = sum(count[at] for count in counts[: self._rank])
            taken = group["params"][before : before + len(own["params"])]
            for saved, number in zip(taken, own["params"], strict=True):
                if saved in state["state"]:
                    mine["state"][number] = state["state"][saved]
            mine["param_groups"].append({**group, "params": own["params"]})
        optimizer.load_state_dict(mine)

    def _rows_of_all(self, batch: TensorBatch) -> TensorBatch:
        """The rows of all workers, by rank. [W B]"""
        shapes = {name: (tuple(t.shape), str(t.dtype)) for name, t in batch.items()}
        if not self._shapes:
            everyone: list[Any] = [None] * self._world
            dist.all_gather_object(everyone, shapes)
            self._shapes = everyone[0]
            if any(each != everyone[0] for each in everyone):
                raise ModelError(_SHAPES.format(everyone))
        elif shapes != self._shapes:
            raise ModelError(_SHAPES.format(f"{self._shapes}, then {describe(batch)}"))
        gathered = {}
        for name, column in batch.items():
            parts = [torch.empty_like(column.contiguous()) for _ in range(self._world)]
            dist.all_gather(parts, column.contiguous())
            gathered[name] = torch.cat(parts)
        return gathered

    def _loss(self, outputs: Any, numbers: torch.Tensor) -> torch.Tensor:
        """On the last stage, of one micro-batch; `numbers` are those of its rows."""
        rows = {name: column[numbers] for name, column in self._rows.items()}
        losses = self._step.losses(_Given(outputs), rows)
        self._losses[numbers] = losses.detach().double()
        return weighted_sum(losses, rows) * self._step.share

    def _stage(self, rows: TensorBatch) -> PipelineStage:
        """This worker's stage for micro-batches such as this.

        What passes from stage to stage is found with a copy that has shapes and no values: without
        it torch would run the stages once more, and batch statistics would move.
        """
        passing = tuple(each.to("meta") for each in _inputs(self._step, rows))
        for number, stage in enumerate(self._whole[: self._rank + 1]):
            taken = tuple(each.requires_grad_(number > 0) for each in passing)
            passing = (copy.deepcopy(stage).to("meta")(*taken).contiguous(),)
        return PipelineStage(
            self.model, self._rank, self._world, self.device, input_args=taken, output_args=passing
        )


_SHAPES = (
    "train.strategy=pipeline: every batch must have the same shapes on every worker and at every "
    "step, and these have {}; pad to one length (raysb.pad with a fixed length), or take another "
    "strategy"
)


class _Contiguous(nn.Module):
    """Where a stage ends: only contiguous tensors can be sent, and images are channels_last."""

    def forward(self, passing: torch.Tensor) -> torch.Tensor:
        """The same, in the usual layout."""
        return passing.contiguous()


class _Reached(Exception):
    """The way out of a user's forward, once the model's inputs are known."""

    def __init__(self, args: tuple[Any, ...]) -> None:
        self.inputs = args


class _Stop(nn.Module):
    """In place of the model: notes what it is called with, and goes no further."""

    def forward(self, *args: Any, **named: Any) -> Any:
        """Leave by `_Reached`."""
        if named or not all(isinstance(each, torch.Tensor) for each in args):
            raise ModelError(
                f"train.strategy=pipeline: the model is called with {sorted(named) or args}; only "
                "tensors by position pass through stages (raysb.inputs without by_name)"
            )
        raise _Reached(args)


class _Given(nn.Module):
    """In place of the model: gives what the last stage has computed."""

    def __init__(self, outputs: Any) -> None:
        super().__init__()
        self._outputs = outputs

    def forward(self, *_: Any) -> Any:
        """What was given."""
        return self._outputs


def _inputs(step: StepLoss, rows: TensorBatch) -> tuple[torch.Tensor, ...]:
    """What the model is called with for these rows."""
    try:
        step.losses(_Stop(), rows)
    except _Reached as reached:
        inputs: tuple[torch.Tensor, ...] = reached.inputs
        return inputs
    raise ModelError("train.strategy=pipeline: the loss is computed without a call of the model")


def _tensors(stage: nn.Module) -> list[torch.Tensor]:
    return [*stage.parameters(), *stage.buffers()]


def _check_apart(module: nn.Module, whole: Sequence[nn.Module]) -> None:
    """Every parameter in exactly one stage, in the order of the model's own."""
    order = [id(p) for stage in whole for p in stage.parameters()]
    if order != [id(p) for p in module.parameters()]:
        raise ModelError(
            f"train.strategy=pipeline: the parameters of {type(module).__name__}'s stages are not "
            "those of the model, each once and in its order: one is tied across stages, or lies "
            "outside sequence()"
        )
