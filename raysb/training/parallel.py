"""How a model is spread over workers and devices: `train.strategy`, and the one place that knows.

strategy        processes  what each holds, and what it does with a step
single          1          the model
ddp             W          a copy; gradients are averaged (DistributedDataParallel)
fsdp            W          a share of every tensor, gathered block by block (fully_shard)
pipeline        W          some layers; micro-batches of the rows of all pass through
data_parallel   1          the model; every GPU gets a share of the batch (nn.DataParallel)
model_parallel  1          the model, its stages on several devices

Whatever it is, the gradient of a step is that of the weighted mean over the rows of all workers,

    (1 / N) sum_i w_i grad l_i,        N rows of all workers and micro-batches,

divided once, by N: neither the split over workers nor that into micro-batches changes it.

Two modules matter to the rest: `model`, which training calls, and `module`, the whole and plain
one, which is published, evaluated and saved. Where they are not the same tensors, `gather` brings
the second up to date; all workers call it together.
"""

import copy
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from raysb.errors import ModelError
from raysb.schema import WEIGHT
from raysb.task import TensorBatch
from raysb.training.settings import Training
from raysb.training.strategies import DATA_PARALLEL, DDP, FSDP, MODEL_PARALLEL, PIPELINE

_UNFINISHED = "Expected to have finished reduction in the prior iteration"


@dataclass(frozen=True)
class StepLoss:
    """What a step differentiates, in the two halves between which a pipeline has to cut.

    Args:
        losses: `(model, rows) -> [b]`, one loss per row.
        reduce: `(losses, rows) -> scalar` to differentiate on this worker; each row once, in order.
        share: Weight of a row of weight 1 in the step's mean, 1 / N.
        watch: `(rows) -> context` around the forward and backward pass of a micro-batch; only for
            `single` and `ddp`.
    """

    losses: Callable[[nn.Module, TensorBatch], torch.Tensor]
    reduce: Callable[[torch.Tensor, TensorBatch], torch.Tensor]
    share: float
    watch: Callable[[TensorBatch], AbstractContextManager[None]] = field(
        default=lambda rows: nullcontext()
    )


class Parallel:
    """A model as one worker trains it; this class itself is `single`.

    Args:
        module: The whole model: what is published, evaluated and saved.
        model: What training calls, where that is something else, e.g. its wrapper.

    Attributes:
        module: As given.
        model: As given.
    """

    def __init__(self, module: nn.Module, model: nn.Module | None = None) -> None:
        self.module = module
        self.model = module if model is None else model

    @property
    def trained(self) -> nn.Module:
        """What the optimizer of this worker is built for."""
        return self.module

    def backward(self, step: StepLoss, batch: TensorBatch, parts: int) -> None:
        """Leave the gradient of the step in the parameters.

        Args:
            step: Its loss.
            batch: This worker's rows.
            parts: Micro-batches that they are trained in, of one size.
        """
        for number, part in enumerate(micro_batches(batch, parts), 1):
            with self._synced(last=number == parts), step.watch(part):
                loss = step.reduce(step.losses(self.model, part), part)
                loss.backward()  # type: ignore[no-untyped-call]

    def clip(self, max_norm: float) -> None:
        """Bound the norm of the gradient of all parameters, those of other workers included."""
        nn.utils.clip_grad_norm_(self.model.parameters(), max_norm)

    def gather(self) -> None:
        """Bring `module` up to date. Collective."""

    def whole(self) -> nn.Module:
        """The whole model, up to date and where batches are. Collective."""
        self.gather()
        return self.module

    def optimizer_state(self, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        """The state of an optimizer of the whole model, on every worker. Collective."""
        return optimizer.state_dict()

    def load_optimizer_state(self, optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
        """Take over what `optimizer_state` gave, under whatever strategy. Collective."""
        optimizer.load_state_dict(state)

    def _synced(self, *, last: bool) -> AbstractContextManager[Any]:
        """Workers talk about gradients once a step, with its last micro-batch."""
        if isinstance(self.model, DistributedDataParallel) and not last:
            return self.model.no_sync()
        return nullcontext()


class Gathered(Parallel):
    """Of those that hold a part of the model: beside it the whole one on the CPU, for `gather`.

    Args:
        module: The whole model, on the CPU.
        model: This worker's part, on its device.
        device: Of the part.
    """

    def __init__(self, module: nn.Module, model: nn.Module, device: torch.device) -> None:
        super().__init__(module, model)
        self.device = device

    @property
    def trained(self) -> nn.Module:
        """This worker's part."""
        return self.model

    def whole(self) -> nn.Module:
        """The whole model; on a GPU a copy of it, for as long as somebody holds it. Collective."""
        self.gather()
        on_cpu = self.device.type == "cpu"
        return self.module if on_cpu else copy.deepcopy(self.module).to(self.device)


class Replicated(Parallel):
    """`ddp`: a copy on every worker.

    Args:
        module: The model, on its device.
        find_unused: Search every step for parameters that have no part in the loss.
    """

    model: DistributedDataParallel

    def __init__(self, module: nn.Module, *, find_unused: bool = False) -> None:
        device = next(module.parameters()).device
        wrapped = DistributedDataParallel(
            module,
            device_ids=[device.index] if device.type == "cuda" else None,
            find_unused_parameters=find_unused,
        )
        super().__init__(module, wrapped)
        self._named = [(n, p) for n, p in module.named_parameters() if p.requires_grad]
        self._find_unused = find_unused

    def backward(self, step: StepLoss, batch: TensorBatch, parts: int) -> None:
        """As of any; refuses a parameter without a gradient, whose bucket nobody averages.

        Raises:
            ModelError: A parameter has no part in the loss, and nobody searches for such.
        """
        try:
            super().backward(step, batch, parts)
        except (RuntimeError, ModelError) as error:
            if _UNFINISHED in str(error):
                raise ModelError(self._unused(_said_by_ddp(str(error), self._named))) from error
            raise
        if self._find_unused:
            return
        if without := [name for name, parameter in self._named if parameter.grad is None]:
            raise ModelError(self._unused(without))

    @staticmethod
    def _unused(names: Sequence[str]) -> str:
        named = ", ".join(repr(name) for name in names[:4]) or "a parameter"
        more = f" and {len(names) - 4} more" if len(names) > 4 else ""
        return (
            f"{named}{more} had no part in the loss: the other workers wait for the gradient, and "
            "DistributedDataParallel would train on gradients that nobody has averaged. Set "
            "train.find_unused_parameters=true, which searches at every step; where the part is "
            "never used, leave it out of the model or freeze it (model.freeze)"
        )


def _said_by_ddp(message: str, named: Sequence[tuple[str, nn.Parameter]]) -> list[str]:
    """Names of the parameters whose numbers DDP's own error lists."""
    found = re.search(r"did not receive grad for rank \d+: ([\d ]+)", message)
    numbers = [int(number) for number in found[1].split()] if found else []
    return [named[number][0] for number in numbers if number < len(named)]


def parallelize(module: nn.Module, training: Training, devices: Sequence[torch.device]) -> Parallel:
    """Spread a model as `train.strategy` says; the optimizer is built after, of `trained`.

    Args:
        module: On the CPU, with the weights to begin with.
        training: The strategy and its arguments.
        devices: Of this process, at least one; only data_parallel and model_parallel use several.

    Returns:
        The model as this worker trains it. Where there is but one worker, `ddp` is `single`.

    Raises:
        ModelError: The model cannot be spread in this way.
    """
    name, first = training.strategy, devices[0]
    if name == FSDP:
        from raysb.training.sharded import Sharded

        return Sharded(module, first)
    if name == PIPELINE:
        from raysb.training.pipelined import Pipelined

        return Pipelined(module, first, parts=training.accumulate, **training.strategy_args)
    if name == MODEL_PARALLEL:
        from raysb.training.staged import place

        return Parallel(place(module, devices, **training.strategy_args))
    module = module.to(first)
    if name == DDP and _world_size() > 1:
        return Replicated(module, find_unused=training.find_unused_parameters)
    if name == DATA_PARALLEL:
        return Parallel(module, _data_parallel(module, devices))
    return Parallel(module)


def devices_of(device: torch.device) -> list[torch.device]:
    """All devices of a kind in this process, where no one else has a share of them."""
    if device.type != "cuda":
        return [device]
    return [torch.device("cuda", index) for index in range(torch.cuda.device_count())]


def _world_size() -> int:
    there = torch.distributed.is_available() and torch.distributed.is_initialized()
    return torch.distributed.get_world_size() if there else 1


def _data_parallel(module: nn.Module, devices: Sequence[torch.device]) -> nn.Module:
    gpus = [device.index for device in devices if device.type == "cuda"]
    if len(gpus) < 2:
        warnings.warn(
            f"train.strategy=data_parallel: this process has {len(gpus)} GPUs, so nn.DataParallel "
            "passes every batch through as it is; several GPUs: train.num_gpus",
            stacklevel=3,
        )
    wrapped: nn.Module = nn.DataParallel(module, device_ids=gpus or None)
    return wrapped


def micro_batches(batch: TensorBatch, parts: int) -> Iterator[TensorBatch]:
    """A batch in so many parts of one size, in the order of its rows.

    Raises:
        ValueError: The rows cannot be divided by `parts`.
    """
    if parts == 1:
        yield batch
        return
    rows = len(next(iter(batch.values())))
    if parts < 1 or rows % parts:
        raise ValueError(f"micro_batches(parts={parts}): {rows} rows cannot be split into as many")
    size = rows // parts
    for start in range(0, rows, size):
        yield {name: column[start : start + size] for name, column in batch.items()}


def weighted_sum(losses: torch.Tensor, batch: TensorBatch) -> torch.Tensor:
    """The sum of w l; a row of weight 0 counts 0 also where its loss is not finite."""
    weight = batch[WEIGHT].to(losses.dtype)
    return torch.where(weight > 0, losses * weight, torch.zeros_like(losses)).sum()
