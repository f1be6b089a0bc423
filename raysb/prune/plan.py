"""A pruning plan: which channels every module keeps, as plain tensors.

A plan is data. It is saved without pickle, sent wherever tensors go, and replayed on a fresh model
of the same class, which then takes the pruned weights with a strict `load_state_dict`.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from raysb.errors import ModelError

if TYPE_CHECKING:  # models are loaded with plans, and few of them are traced
    from raysb.prune.graph import ChannelGraph, Layer

FORMAT = {"format": "raysb.prune", "version": "1"}
PLAN = "plan.safetensors"  # in the directory of a pruned run
_PARTS = ("outputs", "inputs", "sizes")


@dataclass(frozen=True)
class Kept:
    """What one module keeps.

    Args:
        outputs: Output channels that stay, or channels of a norm, ascending. int64 [kept]
        inputs: Input channels that stay, columns of a linear layer. int64 [kept]; of a norm [0].
        sizes: Channels out, channels in, groups before, groups after; groups are 1 where the
            module has none. int64 [4]
    """

    outputs: torch.Tensor
    inputs: torch.Tensor
    sizes: torch.Tensor

    @property
    def changes(self) -> bool:
        """Whether anything goes."""
        out, into = self.sizes[:2].tolist()
        return bool(len(self.outputs) < out or len(self.inputs) < into)

    def wrong(self) -> str:
        """What cannot be a choice of channels, beginning with the part; "" where all can.

        Equally many channels must stay in each group of which any stay, as norms and convolutions
        in groups need it, and these groups are those after.
        """
        if self.sizes.shape != (4,) or self.sizes.dtype != torch.int64:
            return f"sizes: must be 4 numbers of int64, not {_kind(self.sizes)}"
        out, into, before, after = self.sizes.tolist()
        if min(out, before, after) < 1 or into < 0 or out % before or into % before:
            return f"sizes: {self.sizes.tolist()} cannot be channels out, in, groups before, after"
        homes = []
        for part, size in (("outputs", out), ("inputs", into)):
            kept: torch.Tensor = getattr(self, part)
            if told := _not_ascending(kept, size):
                return f"{part}: {told}"
            if size:
                homes.append((kept // (size // before)).unique(return_counts=True))
            if size and (len(homes[-1][0]) != after or len(homes[-1][1].unique()) > 1):
                return f"{part}: must be as many in each of {after} groups, of {before} before"
        if not all(torch.equal(home, homes[0][0]) for home, _ in homes):
            return "inputs: must be of the same groups as the outputs"
        return ""

    def then(self, later: "Kept") -> "Kept":
        """Both, one after the other."""
        sizes = torch.stack([*self.sizes[:3], later.sizes[3]])
        return Kept(self.outputs[later.outputs], self.inputs[later.inputs], sizes)


def _not_ascending(kept: torch.Tensor, size: int) -> str:
    """What keeps a tensor from being some of the places below a size, in order."""
    if kept.dim() != 1 or kept.dtype != torch.int64:
        return f"must be one row of int64, not {_kind(kept)}"
    if bool(size) != bool(len(kept)):
        return f"{len(kept)} of {size} channels stay; at least one must" if size else "must be none"
    if len(kept) and not (0 <= int(kept.min()) and int(kept.max()) < size):
        return f"must be from 0 to {size - 1}, not {int(kept.min())} to {int(kept.max())}"
    return "" if bool((kept.diff() > 0).all()) else "must rise, each channel once"


def _kind(tensor: torch.Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"


@dataclass(frozen=True)
class PruningPlan:
    """What every module keeps that loses channels.

    Args:
        modules: By name, as in `named_modules`.
    """

    modules: Mapping[str, Kept] = field(default_factory=dict)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a safetensors file: `<module>.outputs`, `.inputs` and `.sizes` of each module."""
        tensors = {
            f"{name}.{part}": getattr(kept, part).clone()
            for name, kept in self.modules.items()
            for part in _PARTS
        }
        save_file(tensors, os.fspath(path), metadata=FORMAT)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "PruningPlan":
        """Read what `save` wrote.

        Raises:
            FileNotFoundError: There is no such file.
            ModelError: It is no plan, or a damaged one; names the tensor.
        """
        if not Path(path).is_file():
            raise FileNotFoundError(f"PruningPlan.load({os.fspath(path)!r}): no such file")
        try:
            with safe_open(os.fspath(path), framework="pt") as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}
        except SafetensorError as error:
            raise ModelError(f"{path}: is no safetensors file ({error})") from error
        if metadata != FORMAT:
            raise ModelError(
                f"{path}: is no pruning plan, or one of another version ({metadata}); "
                "PruningPlan.save writes them"
            )
        return cls(_modules(tensors, os.fspath(path)))

    def then(self, later: "PruningPlan") -> "PruningPlan":
        """The plan that does both: `later` is one of the net that this plan leaves."""
        both = dict(self.modules)
        for name, kept in later.modules.items():
            both[name] = self.modules[name].then(kept) if name in self.modules else kept
        return PruningPlan(both)


def _modules(tensors: Mapping[str, torch.Tensor], path: str) -> dict[str, Kept]:
    """What a file's tensors say of each module, all of it checked."""
    found: dict[str, Kept] = {}
    for name in sorted({each.rpartition(".")[0] for each in tensors}):
        wanted = [f"{name}.{part}" for part in _PARTS]
        if missing := [each for each in wanted if each not in tensors]:
            raise ModelError(f"{path}: is a damaged pruning plan: has no tensor {missing[0]!r}")
        found[name] = Kept(*(tensors[each] for each in wanted))
        if wrong := found[name].wrong():
            raise ModelError(f"{path}: is a damaged pruning plan: tensor {name}.{wrong}")
    known = {f"{name}.{part}" for name in found for part in _PARTS}
    if strange := sorted(tensors.keys() - known):
        raise ModelError(f"{path}: is a damaged pruning plan: {strange[0]!r} is no part of one")
    return found


def plan_for(graph: "ChannelGraph", kept: torch.Tensor) -> PruningPlan:
    """The plan that keeps some channels of a graph.

    Args:
        graph: Of the model.
        kept: Whether each channel id stays. bool [graph.num_ids]

    Raises:
        ValueError: A layer would be left without channels.
    """
    modules = {name: _layer(layer, kept) for name, layer in graph.layers.items()}
    for name, ids in graph.norms.items():
        outputs = kept[ids].nonzero().flatten()
        before = graph.norm_groups.get(name, 1)
        after = len(outputs) if before == len(ids) else before
        sizes = torch.tensor([len(ids), 0, before, after])
        modules[name] = Kept(outputs, torch.zeros(0, dtype=torch.int64), sizes)
    for name, each in modules.items():
        if not len(each.outputs) or (name in graph.layers and not len(each.inputs)):
            raise ValueError(f"{name}: would be left without channels; keep one at least")
    return PruningPlan({name: each for name, each in modules.items() if each.changes})


def _layer(layer: "Layer", kept: torch.Tensor) -> Kept:
    outputs, inputs = (kept[ids].nonzero().flatten() for ids in (layer.outputs, layer.inputs))
    after = len(inputs) if layer.depthwise else layer.groups
    sizes = torch.tensor([len(layer.outputs), len(layer.inputs), layer.groups, after])
    return Kept(outputs, inputs, sizes)
