"""Errors of code end a run; deaths, however they are told, do not."""

import pytest
import ray.exceptions
import torch
import torch.distributed as dist

from raysb.errors import DataError, ModelError, NonFiniteError
from raysb.training.faults import failure_of, telling


def raised(function):
    try:
        function()
    except Exception as error:
        return error
    raise AssertionError


def wrong_loss():
    return None + 1


def chained(outer, inner):
    def both():
        try:
            raise inner
        except type(inner) as error:
            raise outer from error

    return raised(both)


def test_code_that_raises_is_told_with_its_kind_its_words_and_its_place():
    told = failure_of(raised(wrong_loss))
    assert told.startswith("ModelError: the run's own code raised TypeError: unsupported operand")
    assert f"({__file__}:" in told
    assert "in wrong_loss)" in told
    for error in (RuntimeError("mat1 and mat2 shapes"), KeyError("x"), torch.OutOfMemoryError("m")):
        assert type(error).__name__ in failure_of(error)


def test_an_error_of_raysbs_own_keeps_its_kind_and_words():
    assert failure_of(NonFiniteError("7 losses")) == "NonFiniteError: 7 losses"
    assert failure_of(chained(ModelError("columns: x"), TypeError("f"))) == "ModelError: columns: x"
    # a damaged picture is the data's fault, though pillow calls it one of the operating system
    damaged = chained(DataError("a.parquet row 7"), OSError("image file is truncated"))
    assert failure_of(damaged) == "DataError: a.parquet row 7"


GLOO = "[/x/third_party/gloo/gloo/transport/tcp/pair.cc:553] Connection closed by peer"


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError(GLOO),
        dist.DistBackendError("NCCL error"),
        dist.DistNetworkError("closed"),
        torch.AcceleratorError("CUDA error: uncorrectable ECC error"),
        ray.exceptions.ActorDiedError(),
        ray.exceptions.ObjectLostError("0" * 56, None, ""),
        ConnectionResetError("reset by peer"),
        OSError(28, "No space left on device"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_death_is_no_failure_of_the_run(error):
    assert failure_of(error) is None


def test_a_death_in_the_models_forward_is_not_taken_for_a_model_that_does_not_fit():
    """DDP sends buffers in its forward pass, where a peer's death looks like the model's error."""
    assert failure_of(chained(ModelError("does not accept the batch"), RuntimeError(GLOO))) is None


DEATH = """
from raysb.training.exchange import Exchange
from raysb.training.faults import failure_of

model = nn.parallel.DistributedDataParallel(nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)))
exchange = Exchange()
calls = {
    "gather": lambda: exchange.gather(np.zeros(2)),
    "objects": lambda: exchange.gather_objects({}),
    "backward": lambda: model(torch.ones(4, 3)).sum().backward(),
}
if rank == 1:
    exchange.gather_objects(None)
    os.kill(os.getpid(), signal.SIGKILL)
exchange.gather_objects(None)
found = {}
for name, call in calls.items():
    try:
        call()
    except Exception as error:
        found[name] = [type(error).__name__, failure_of(error)]
"""


@pytest.mark.gloo
def test_the_worker_that_survives_another_says_of_no_call_that_it_failed(gloo):
    survivor, dead = gloo(DEATH, workers=2, killed={1})
    assert dead is None
    assert sorted(survivor) == ["backward", "gather", "objects"]  # each did raise
    assert all(failure is None for _, failure in survivor.values()), survivor


class Ledger:
    told: str | None = None

    def fail(self, message: str) -> None:
        self.told = message


def test_the_ledger_is_told_of_code_that_raises_and_the_error_goes_on():
    for error, told in ((TypeError("x"), "raised TypeError: x"), (RuntimeError(GLOO), None)):
        ledger = Ledger()
        with pytest.raises(type(error)) as caught, telling(ledger):
            raise error
        assert caught.value is error
        assert ledger.told is None if told is None else told in ledger.told
