"""What a worker says of its GPU."""

import pytest
import torch

from raysb.training.gpu import GPU_TOTAL, GPU_USE, GPU_USED, gpu_metrics


def test_a_cpu_has_no_figures_of_a_gpu() -> None:
    assert gpu_metrics(torch.device("cpu")) == {}


def test_memory_is_that_of_all_processes_and_use_is_left_out_without_nvml(monkeypatch) -> None:
    """`torch.cuda` stands in for a GPU: 30 of 80 bytes are free."""

    def no_nvml(device: torch.device) -> int:
        raise ModuleNotFoundError("nvidia-ml-py does not seem to be installed")

    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (30, 80))
    monkeypatch.setattr(torch.cuda, "utilization", no_nvml)
    device = torch.device("cuda", 0)
    assert gpu_metrics(device) == {GPU_USED: 50.0, GPU_TOTAL: 80.0}
    monkeypatch.setattr(torch.cuda, "utilization", lambda device: 87)
    assert gpu_metrics(device)[GPU_USE] == pytest.approx(0.87)


@pytest.mark.gpu
def test_a_gpu_says_its_memory() -> None:
    figures = gpu_metrics(torch.device("cuda", 0))
    total = torch.cuda.get_device_properties(0).total_memory
    assert 0 < figures[GPU_USED] <= figures[GPU_TOTAL]
    assert figures[GPU_TOTAL] == pytest.approx(total, rel=0.05)
