"""`fsdp`: every worker holds a share of each tensor, of its gradient and of the optimizer's state.

Blocks of the model are gathered when they are needed and let go after. Beside its share a worker
keeps the whole model on the CPU, without gradients: what is published, evaluated and saved.
"""

import copy
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from raysb.training.parallel import Gathered


class Sharded(Gathered):
    """A model sharded by FSDP2 over all workers of the process group.

    Args:
        module: The whole model, on the CPU; it stays there, and `gather` fills it.
        device: Of this worker's share.

    Raises:
        RuntimeError: There is no process group.
    """

    def __init__(self, module: nn.Module, device: torch.device) -> None:
        if not dist.is_initialized():
            raise RuntimeError("train.strategy=fsdp: there is no process group to shard over")
        sharded = copy.deepcopy(module).to(device)
        for parameter in sharded.parameters():
            parameter.data = parameter.data.contiguous()  # FSDP2 shards no other memory format
        mesh = init_device_mesh(device.type, (dist.get_world_size(),))
        for block in blocks(sharded):
            fully_shard(block, mesh=mesh)
        fully_shard(sharded, mesh=mesh)  # in place: its class is a subclass of FSDPModule now
        super().__init__(module, sharded, device)

    @torch.no_grad()
    def gather(self) -> None:
        """Copy the sharded weights and the buffers into the whole model. Collective."""
        for into, part in zip(self.module.parameters(), self.model.parameters(), strict=True):
            into.copy_(whole_tensor(part))
        for buffer, own in zip(self.module.buffers(), self.model.buffers(), strict=True):
            buffer.copy_(own)

    def optimizer_state(self, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        """As of the whole model: every tensor gathered, on the CPU. Collective."""
        state: dict[str, Any] = each_tensor(optimizer.state_dict(), on_cpu)
        return state

    def load_optimizer_state(self, optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
        """Take this worker's share of every tensor that has a parameter's shape."""
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        shares = {
            number: each_tensor(kept, partial(_share, parameters[number]))
            for number, kept in state["state"].items()
        }
        optimizer.load_state_dict({**state, "state": shares})

    def _synced(self, *, last: bool) -> AbstractContextManager[Any]:
        if isinstance(self.model, FSDPModule):
            self.model.set_requires_gradient_sync(last)
        return nullcontext()


def blocks(module: nn.Module) -> Iterator[nn.Module]:
    """The modules to shard one by one: elements of the innermost lists that hold whole layers.

    A list of blocks gives its blocks; a list of lists of blocks, as of a ResNet, the same; a list
    of plain layers, each layer with parameters.
    """
    for child in module.children():
        if next(child.parameters(), None) is None:
            continue
        listed = isinstance(module, nn.ModuleList | nn.Sequential)
        nested = isinstance(child, nn.ModuleList | nn.Sequential)
        if listed and not nested:
            yield child
        else:
            yield from blocks(child)


def whole_tensor(tensor: torch.Tensor) -> torch.Tensor:
    """All of a tensor of which this worker has a share; any other as it is. Collective."""
    if isinstance(tensor, DTensor):
        whole: torch.Tensor = tensor.full_tensor()
        return whole
    return tensor


def on_cpu(tensor: torch.Tensor) -> torch.Tensor:
    """All of a tensor, on the CPU. Collective."""
    return whole_tensor(tensor).cpu()


def each_tensor(tree: Any, change: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """Nested dicts and lists with every tensor changed, in their order."""
    if isinstance(tree, torch.Tensor):
        return change(tree)
    if isinstance(tree, dict):
        return {key: each_tensor(value, change) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return type(tree)(each_tensor(value, change) for value in tree)
    return tree


def _share(like: torch.Tensor, tensor: torch.Tensor) -> torch.Tensor:
    """This worker's share of a whole tensor; every worker has all of it, so nothing is sent."""
    if not isinstance(like, DTensor) or tensor.shape != like.shape:
        return tensor
    return distribute_tensor(
        tensor.to(like.device), like.device_mesh, like.placements, src_data_rank=None
    )
