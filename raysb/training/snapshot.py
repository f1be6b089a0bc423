"""What a checkpoint knows of each sample, for a shard that was started again."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from raysb.training.folder import Token


@dataclass(frozen=True, kw_only=True)
class NewestHistory:
    """Reads the history of the newest checkpoint when it is called.

    A shard needs no torch, which would be a second of its start: only who calls it loads that.

    Args:
        folder: See `Checkpoints`.
        token: See `Checkpoints`.
    """

    folder: str
    token: Token | None = None

    def __call__(self) -> Mapping[str, Any] | None:
        """What is known of each sample there; `None` where there is no checkpoint."""
        from raysb.training.checkpoints import Checkpoints

        checkpoints = Checkpoints(folder=self.folder, token=self.token)
        entry = checkpoints.newest()
        return None if entry is None else checkpoints.load_stream(entry)["history"]
