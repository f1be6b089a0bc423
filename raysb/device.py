"""The device of a model in this process."""

from typing import Literal

import torch

from raysb.errors import ResourceError


def device_here(use_gpu: bool | Literal["auto"]) -> torch.device:
    """Where `train.use_gpu` puts a model without Ray: `auto` takes a GPU where there is one.

    Raises:
        ResourceError: A GPU is asked for, and there is none that torch can use.
    """
    there = torch.cuda.is_available()
    if use_gpu is True and not there:
        raise ResourceError(
            "train.use_gpu=true: torch finds no GPU in this process; set train.use_gpu to false or "
            "auto, or install a torch that is built for this machine's GPU"
        )
    return torch.device("cuda" if use_gpu and there else "cpu")
