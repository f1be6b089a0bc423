"""The feedback edge from training to scoring: weights as one flat array, published and fetched.

One array goes through the object store (a state_dict of torch tensors is copied on arrival, which
takes 74 ms for 11 million parameters; a flat numpy array is mapped in .5 ms), and only what
training changes is in it: parameters that require a gradient, and persistent buffers of modules
that are not frozen. Scorers build the frozen part themselves, as the worker does.
"""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import ray
import torch
from torch import nn

from raysb.nn.freeze import trained_state
from raysb.schema import Published

_ALIGN = 64  # bytes: a cache line, and enough for every dtype's view


class FlatState:
    """The trained part of a model's state as one array of bytes, and back.

    Args:
        model: Module whose state is laid out; the layout depends on names, shapes and dtypes only,
            so two builds of the same model agree.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._slices: dict[str, slice] = {}
        offset = 0
        for name, tensor in trained_state(model).items():
            size = tensor.numel() * tensor.element_size()
            self._slices[name] = slice(offset, offset + size)
            offset += -(-size // _ALIGN) * _ALIGN
        self.nbytes = offset

    def pack(self) -> npt.NDArray[np.uint8]:
        """Copy the model's present state into a new array. uint8 [nbytes]"""
        flat = np.zeros(self.nbytes, np.uint8)
        for name, tensor in self._tensors():
            self._view(flat, name, tensor).copy_(tensor)
        return flat

    def unpack(self, flat: npt.NDArray[np.uint8]) -> None:
        """Copy an array made by `pack` into the model."""
        if len(flat) != self.nbytes:
            raise ValueError(
                f"weights of {len(flat)} bytes do not fit a model of {self.nbytes} bytes: "
                "the model's builder gives different modules in different processes"
            )
        for name, tensor in self._tensors():
            tensor.copy_(self._view(flat, name, tensor))

    def _tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        """As the model has them now: a forward pass may put another tensor in a buffer's place."""
        state = trained_state(self._model)
        return ((name, state[name]) for name in self._slices)

    def _view(self, flat: npt.NDArray[np.uint8], name: str, tensor: torch.Tensor) -> torch.Tensor:
        part = flat[self._slices[name]]
        if not part.flags.writeable:
            part = part.copy()  # torch wraps no read-only memory; the copy is of one tensor
        return torch.from_numpy(part).view(tensor.dtype).view(tensor.shape)


class WeightStore:
    """Publishes named sets of weights, and brings a model to them.

    A publication goes to the ledger, and from there into the grants: whoever may score a pool holds
    the weights to score it with, and weights of an earlier generation are never handed out.

    Args:
        states: The modules behind each name, at the publisher or at the scorer.
    """

    def __init__(self, **states: FlatState) -> None:
        self._states = states
        self._step = -1

    def publish(
        self, step: int, packed: dict[str, npt.NDArray[np.uint8]] | None = None
    ) -> Published:
        """Put the weights into the object store.

        Args:
            step: Optimizer steps behind them.
            packed: What `pack` gave at that step; `None` packs now.
        """
        arrays = self.pack() if packed is None else packed
        return Published(step, {name: ray.put(array) for name, array in arrays.items()})

    def pack(self) -> dict[str, npt.NDArray[np.uint8]]:
        """Copy the present weights of every set."""
        return {name: state.pack() for name, state in self._states.items()}

    def fetch(self, published: Published) -> int:
        """Bring the models to published weights; returns their step."""
        if published.step != self._step:
            for name, state in self._states.items():
                state.unpack(ray.get(published.sets[name]))
            self._step = published.step
        return self._step
