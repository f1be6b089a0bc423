"""Joining a cluster that somebody else has started: with its token, and only if it answers."""

import contextlib
import os
from typing import Any

from raysb.errors import ResourceError

IN_A_JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # in the environment where a submitted job runs
ANSWER_LIMIT_S = 20.0


def join(address: str, **settings: Any) -> None:
    """Connect to a cluster.

    Args:
        address: Of its head.
        settings: Further arguments of `ray.init`.

    Raises:
        ResourceError: Nobody answers there, it asks for another token than there is here, or for
            none where this process has one.
    """
    import ray

    use_token()
    try:
        ray.init(address=address, **settings)
    except (ConnectionError, ray.exceptions.AuthenticationError) as error:
        raise ResourceError(
            f"--address {address} cannot be joined ({_mode()}): {_short(error)}. Is its head up? A "
            "cluster that asks for a token is joined with that token in ~/.ray/auth_token or "
            "RAY_AUTH_TOKEN, one that asks for none with RAY_AUTH_MODE=disabled, set before this "
            "process starts"
        ) from error
    check_answers(address)


def use_token() -> None:
    """Authenticate with this machine's token, if it has one, as `ray start --head` does.

    Ray itself would not where an address is given. What the user says in RAY_AUTH_MODE stays, and
    in a job, what the cluster says by it.
    """
    if IN_A_JOB in os.environ:
        return
    with contextlib.suppress(ImportError, AttributeError):  # private
        from ray._private.authentication import authentication_token_setup as setup

        setup.maybe_enable_token_auth_if_token_available(warn_if_disabled=False)


def check_answers(address: str) -> None:
    """Refuse a cluster whose processes cannot talk to this one.

    Where this process asks for tokens and they have none, every actor would die before it begins.

    Args:
        address: Of the cluster that was joined.

    Raises:
        ResourceError: An actor on it could not be started.
    """
    import ray

    class Probe:
        def answer(self) -> None:
            """Be there."""

    actor: Any = ray.remote(num_cpus=0, max_restarts=1, max_task_retries=1)(Probe)
    probe = actor.remote()
    try:
        ray.get(probe.answer.remote(), timeout=ANSWER_LIMIT_S)
    except ray.exceptions.GetTimeoutError:
        return  # it is busy: whatever else is wrong will be told
    except ray.exceptions.RayActorError as error:
        raise ResourceError(
            f"--address {address} was joined, but no process there could answer this one "
            f"({_mode()}): {_short(error)}. A run would die as it begins. If the cluster was "
            "started without token authentication, set RAY_AUTH_MODE=disabled before this process "
            "starts; else see whether its machines are well with `ray status`"
        ) from error


def _mode() -> str:
    return f"RAY_AUTH_MODE here: {os.environ.get('RAY_AUTH_MODE', 'not set')}"


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:300].rstrip(".")
