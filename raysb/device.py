"""The device of a model in this process."""

from typing import Literal

import torch


def device_here(use_gpu: bool | Literal["auto"]) -> torch.device:
    """Where `train.use_gpu` puts a model without Ray: `auto` takes a GPU where there is one."""
    wanted = torch.cuda.is_available() if use_gpu == "auto" else use_gpu
    return torch.device("cuda" if wanted else "cpu")
