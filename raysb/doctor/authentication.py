"""Ray's token authentication, and who can read the token."""

import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path

from raysb.doctor.findings import NOTE, OK, WRONG, Finding


def check_token(env: Mapping[str, str], home: Path, *, joins: str | None) -> Iterator[Finding]:
    """Ray's token authentication, which is on unless RAY_AUTH_MODE says otherwise.

    Ray takes the token from RAY_AUTH_TOKEN, from the file that RAY_AUTH_TOKEN_PATH names, or from
    ~/.ray/auth_token, in this order; a cluster of one's own writes the last where there is none.
    A cluster is joined without, where there is none.

    Args:
        env: The environment.
        home: The home folder.
        joins: Address of the cluster to join, or `None`.
    """
    named = env.get("RAY_AUTH_TOKEN_PATH")
    path = Path(named or home / ".ray" / "auth_token")
    asked = env.get("RAY_AUTH_MODE")
    mode = (asked or "token").lower()
    if mode != "token":
        said = f"off (RAY_AUTH_MODE={mode}): whoever reaches its ports runs code on it"
        yield _authentication(NOTE, said, mode, "unset RAY_AUTH_MODE")
        return
    mend = f"copy the cluster's token to {path}, or name it with RAY_AUTH_TOKEN_PATH"
    if joins and not (asked or named or env.get("RAY_AUTH_TOKEN") or _holds_a_token(path)):
        said = f"off: there is no token in {path}; a cluster that asks for one refuses to connect"
        yield _authentication(NOTE, said, "disabled", mend)
        return
    yield _authentication(OK, "on", mode)
    if env.get("RAY_AUTH_TOKEN"):
        yield _token(OK, "from the environment, RAY_AUTH_TOKEN")
    elif path.exists():
        yield check_token_file(path)
    elif named or joins:
        if not joins:
            mend = f"`ray get-auth-token --generate`, and unset RAY_AUTH_TOKEN_PATH={path}"
        yield _token(WRONG, f"there is no {path}: Ray would refuse to connect", mend)
    else:
        yield _token(OK, f"Ray writes {path} at its first start")


def check_token_file(path: Path) -> Finding:
    """The file of the token: readable, and by nobody but its owner."""
    if not os.access(path, os.R_OK) or not path.is_file():
        return _token(WRONG, f"{path} cannot be read", f"chmod 600 {path}, as its owner")
    if not path.read_text().strip():
        return _token(WRONG, f"{path} is empty", f"remove {path}; Ray writes a new one")
    mode = stat.filemode(path.stat().st_mode)
    if others := readers_besides(path):
        said = f"{path} ({mode}) can be read by {others}, who could run code on the cluster"
        return _token(NOTE, said, f"chmod 600 {path}")
    return _token(OK, f"{path} ({mode}), readable by its owner alone")


def readers_besides(path: Path) -> str:
    """Who but the owner can read a file, folders above it counted: group, others; empty: nobody."""
    found = []
    for who, read, enter in (
        ("its group", stat.S_IRGRP, stat.S_IXGRP),
        ("everybody", stat.S_IROTH, stat.S_IXOTH),
    ):
        open_to = path.stat().st_mode & read
        if open_to and all(above.stat().st_mode & enter for above in path.absolute().parents):
            found.append(who)
    return " and ".join(found)


def _holds_a_token(path: Path) -> bool:
    """Whether Ray would find a token there."""
    try:
        return bool(path.read_text().strip())
    except OSError:
        return path.exists()  # it cannot be read: that is told


def _authentication(status: str, said: str, mode: str, mend: str = "") -> Finding:
    return Finding(
        topic="ray",
        name="token authentication",
        status=status,
        said=said,
        mend=mend,
        data={"on": mode == "token" and status == OK, "mode": mode},
    )


def _token(status: str, said: str, mend: str = "") -> Finding:
    return Finding(topic="ray", name="token", status=status, said=said, mend=mend)
