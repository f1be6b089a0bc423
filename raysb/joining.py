"""Joining a cluster that somebody else has started: with its token, and only if it answers."""

import contextlib
import os
from typing import Any

from raysb.errors import ResourceError

IN_A_JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # in the environment where a submitted job runs
ANSWER_LIMIT_S = 20.0


def use_token() -> None:
    """Authenticate at a cluster with this machine's token, if it has one, as `ray start` does.

    Ray itself would not where an address is given. What the user says in RAY_AUTH_MODE stays, and
    in a job, what the cluster says by it.
    """
    if IN_A_JOB in os.environ:
        return
    with contextlib.suppress(ImportError):  # private
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

    actor: Any = ray.remote(num_cpus=0)(Probe)
    try:
        ray.get(actor.remote().answer.remote(), timeout=ANSWER_LIMIT_S)
    except ray.exceptions.GetTimeoutError:
        return  # it is busy: whatever else is wrong will be told
    except ray.exceptions.RayActorError as error:
        mode = os.environ.get("RAY_AUTH_MODE", "not set")
        raise ResourceError(
            f"joined {address}, but no process on it could answer (RAY_AUTH_MODE here: {mode}): "
            f"{' '.join(str(error).split())}. A cluster that was started without token "
            "authentication is joined with RAY_AUTH_MODE=disabled, any other with its own token "
            "in ~/.ray/auth_token"
        ) from error
