"""Code that is not raysb's own: which of it may be imported for a run that lies on the disk."""

from collections.abc import Sequence

from raysb.config import Config, load
from raysb.errors import ModelError
from raysb.losses import LOSSES
from raysb.nn.registry import MODELS


def refuse_foreign_code(config: Config, flags: Sequence[str]) -> None:
    """Code is imported by a name that the caller gives, never by one that lies in a file.

    Args:
        config: Of the run, with the flags.
        flags: Settings as they stand on the command line.

    Raises:
        ModelError: Model or loss are the user's own code and no flag names them.
    """
    named = load(None, flags)
    for key, known, value, on_line in (
        ("model.name", MODELS, config.model.name, named.model.name),
        ("train.loss", LOSSES, config.train.loss, named.train.loss),
    ):
        if value not in known and value != on_line:
            raise ModelError(
                f"{key}={value} (config.toml of the run): this is code of yours, which is imported "
                f"only where the command line names it; add --{key} {value}"
            )
