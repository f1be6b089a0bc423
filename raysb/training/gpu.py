"""What a worker's GPU says of itself, for its lines of metrics."""

import torch

GPU_USED, GPU_TOTAL, GPU_USE = "gpu/memory_used", "gpu/memory_total", "gpu/utilization"


def gpu_metrics(device: torch.device) -> dict[str, float]:
    """Memory in bytes, of all processes on the GPU, and its use in [0, 1]; nothing on a CPU.

    The use is what NVML says of the last second or less, where torch finds NVML's Python package
    (`nvidia-ml-py`); without it the key is left out.
    """
    if device.type != "cuda":
        return {}
    free, total = torch.cuda.mem_get_info(device)
    return {GPU_USED: float(total - free), GPU_TOTAL: float(total), **_use(device)}


def _use(device: torch.device) -> dict[str, float]:
    try:
        return {GPU_USE: torch.cuda.utilization(device) / 100}
    except Exception:  # no package, or an NVML that refuses: a figure less, never a run less
        return {}
