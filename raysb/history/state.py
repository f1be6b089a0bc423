"""What a saved state must hold before any of it is loaded."""

from collections.abc import Iterable, Mapping
from typing import Any

VERSION = 1


def check_state(owner: str, state: Mapping[str, Any], keys: Iterable[str]) -> None:
    """Refuse a state with other keys than `version` and the given ones, or of another version.

    Args:
        owner: Name of the class that loads it, for the message.
        state: What `state_dict` returned once.
        keys: The keys that `owner` saves, without `version`.

    Raises:
        ValueError: Keys are missing or unknown, or the version is not 1. Nothing was loaded.
    """
    wanted = {"version", *keys}
    if state.keys() != wanted:
        raise ValueError(
            f"{owner}.load_state_dict: the state has no {sorted(wanted - state.keys())} and has "
            f"unknown {sorted(state.keys() - wanted)}; {owner} saves {sorted(wanted)}. Nothing was "
            "loaded: the state is of another class or of another release"
        )
    if state["version"] != VERSION:
        raise ValueError(
            f"{owner}.load_state_dict: the state has version {state['version']!r}, this release "
            f"reads version {VERSION}. Nothing was loaded"
        )
