"""The worker's forward pass through torch.compile: `train.compile`."""

import os
import shutil
from typing import cast

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from raysb.errors import ResourceError

_COMPILERS = ("g++", "clang++", "c++")


def compiled(model: nn.Module) -> nn.Module:
    """A compiled callable around a model, which itself stays as it is.

    Of DistributedDataParallel it is the module inside that is compiled, and the wrapper returned:
    torch 2.13 does not look into the forward of the wrapper, and compiles nothing of it.

    The model is what is published, scored with, evaluated and saved, under its own names; scoring
    passes, of other sizes and in evaluation mode, do not go through the compiled code. Batches have
    one shape, the padded last ones too, so that nothing is compiled twice; where a `collate` pads
    to the longest row, torch compiles once more, for shapes that vary.

    Args:
        model: On its device, what training calls.

    Raises:
        ResourceError: The model is on a CPU, and this machine has no C++ compiler.
    """
    device = next(model.parameters()).device
    if device.type == "cpu" and not _has_compiler():
        raise ResourceError(
            "train.compile=true: torch.compile turns a model on a CPU into C++, and there is no "
            f"compiler on this machine (CXX, {', '.join(_COMPILERS)}); install one, or leave "
            "train.compile out"
        )
    if isinstance(model, DistributedDataParallel):
        model.module = torch.compile(model.module)
        return model
    return cast(nn.Module, torch.compile(model))


def _has_compiler() -> bool:
    wanted = [name for name in (os.environ.get("CXX"), *_COMPILERS) if name]
    return any(shutil.which(name) for name in wanted)
