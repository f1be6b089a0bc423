"""Two kinds of errors in a worker: code that raises, and machines or processes that die.

Another try helps against the second only. A worker sees the death of another one as an error of its
own, in whatever call it was: of gloo, of NCCL, of Ray. Nothing here imports torch, as readers need
none.
"""

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from raysb.errors import ModelError, RaysbError

_TORCHS_DEATHS = ("DistError", "AcceleratorError")
_GLOO = "/gloo/"  # its errors are plain RuntimeErrors that begin with the place in its source


class Failing(Protocol):
    """The part of the ledger that ends a run."""

    def fail(self, message: str) -> None:
        """End the run with an error that the driver raises."""


@contextmanager
def telling(ledger: Failing) -> Iterator[None]:
    """Tell the ledger of code that raises in the block, where it is still known what it was.

    What passes through Ray Data or Ray Train on its way to the driver loses its cause.
    """
    try:
        yield
    except Exception as error:
        if (failure := failure_of(error)) is not None:
            ledger.fail(failure)
        raise


def failure_of(error: BaseException) -> str | None:
    """What to tell of code that raised, as `Kind: message`; `None` where something died.

    An error of raysb's own, or of the user's code in a worker or a scorer, comes back with every
    further try. One that was raised because of a death (`raise ... from`) counts as the death, and
    so does one of the operating system that nobody has explained: a disk or a network that fails.
    """
    chain = _chain(error)
    root = chain[-1]
    if _is_death(root):
        return None
    for link in chain:
        if isinstance(link, RaysbError):
            return f"{type(link).__name__}: {link}"
    return None if isinstance(root, OSError) else _told(root)


def _told(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({frames[-1].filename}:{frames[-1].lineno}, in {frames[-1].name})" if frames else ""
    return (
        f"{ModelError.__name__}: the run's own code raised {type(error).__name__}: {error}{place}. "
        "No machine is at fault, so it is not tried again"
    )


def _chain(error: BaseException) -> list[BaseException]:
    """The error and what it was raised from, down to the first cause, also through Ray."""
    chain = [error]
    while True:
        last = chain[-1]
        cause = getattr(last, "cause", None)  # Ray's errors of remote code
        if not isinstance(cause, BaseException):
            cause = last.__cause__ or (last.__context__ if _is_rays(last) else None)
        if cause is None or cause in chain:
            return chain
        chain.append(cause)


def _is_death(error: BaseException) -> bool:
    torchs = any(
        cls.__name__ in _TORCHS_DEATHS and cls.__module__.startswith("torch")
        for cls in type(error).__mro__
    )
    return torchs or _is_rays(error) or _GLOO in str(error)


def _is_rays(error: BaseException) -> bool:
    return type(error).__module__.split(".")[0] == "ray"
