"""What a run directory may not decide by itself, since anybody may have written it.

Which code of somebody's own is imported, and which cluster is joined, the command line must name:
both run what others have prepared. `SECURITY.md` says what is trusted, and why.
"""

from collections.abc import Sequence

from raysb.config import Config, load
from raysb.errors import ModelError, ResourceError
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


def refuse_foreign_cluster(config: Config, flags: Sequence[str]) -> None:
    """A cluster is joined by an address that the caller gives, never by one that lies in a file.

    Whoever runs a cluster sends objects to the processes that join it, and those are unpickled.

    Args:
        config: Of the run, with the flags.
        flags: Settings as they stand on the command line.

    Raises:
        ResourceError: The run names a cluster that is not of this machine, and no flag does.
    """
    here = config.address in (None, "local", "auto")
    if config.engine == "ray" and not here and config.address != load(None, flags).address:
        raise ResourceError(
            f"address={config.address} (config.toml of the run): a cluster is joined only where "
            f"the command line names it; add --address {config.address}, or --address local for "
            "one of your own"
        )
