"""Full float32 for a while, and nothing left behind."""

import contextlib
from types import SimpleNamespace

import pytest
import torch

from raysb.scoring.settings import Scoring
from raysb.training.precision import full_float32
from raysb.training.stream import RayStream

SWITCHES = {
    "all": torch.backends.cudnn,
    "conv": torch.backends.cudnn.conv,
    "matmul": torch.backends.cuda.matmul,
}


def settings() -> dict[str, str]:
    # what torch's own kernels ask, recurrent cells among them
    kinds = ("all", "conv", "rnn", "matmul")
    return {kind: torch._C._get_fp32_precision_getter("cuda", kind) for kind in kinds}


@pytest.fixture(autouse=True)
def as_before():
    before = {name: switch.fp32_precision for name, switch in SWITCHES.items()}
    yield
    for name, switch in SWITCHES.items():
        switch.fp32_precision = before[name]


@pytest.mark.parametrize("given", [{}, {"matmul": "tf32"}, {"conv": "tf32"}, {"all": "tf32"}])
def test_nothing_of_cuda_is_in_tf32_within_and_all_is_as_before_after(given) -> None:
    """torch's default is TF32 for convolutions; a loop may set any of them."""
    for name, value in given.items():
        SWITCHES[name].fp32_precision = value
    before = settings()
    assert "tf32" in before.values()
    with full_float32():
        assert set(settings().values()) == {"ieee"}
    assert settings() == before
    with contextlib.suppress(ZeroDivisionError), full_float32():
        raise ZeroDivisionError
    assert settings() == before


@pytest.mark.parametrize(
    ("device", "num_gpus", "full"), [("cuda", 0, True), ("cuda", 0.5, False), ("cpu", 0, False)]
)
def test_the_first_batch_is_compared_in_what_the_scorers_compute_in(device, num_gpus, full) -> None:
    """TF32 on the worker's GPU alone made a sound run's first losses differ from a CPU's."""
    stream = object.__new__(RayStream)  # without a cluster: two of its fields decide
    stream.device = torch.device(device)
    stream.spec = SimpleNamespace(scoring=Scoring(num_gpus=num_gpus))
    with stream._precision():
        assert ("tf32" not in settings().values()) == full


def test_settings_by_the_older_names_are_as_before_after() -> None:
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    with full_float32():
        pass
    assert (torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32) == before


@pytest.mark.gpu
def test_a_convolution_on_a_gpu_is_that_of_a_cpu() -> None:
    torch.manual_seed(0)
    net, x = torch.nn.Conv2d(64, 64, 3), torch.randn(8, 64, 16, 16)
    with torch.no_grad():
        expected = net(x)
        net, x = net.cuda(), x.cuda()
        rounded = net(x).cpu()
        with full_float32():
            found = net(x).cpu()
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert (rounded - expected).abs().max() > 10 * (found - expected).abs().max()
