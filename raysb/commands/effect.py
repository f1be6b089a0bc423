"""Settings without effect on a command are refused: one would be taken to have changed something.

The commands that read few of the settings list those, and say so in their help.
"""

import typing
from collections.abc import Collection, Sequence

from raysb.commands.options import UsageError


def refuse_without_effect(flags: Sequence[str], effective: Sequence[str], what: str) -> None:
    """Refuse settings that a command does not read; unknown ones are for `config.load` to refuse.

    Args:
        flags: Settings as they stand on the command line.
        effective: Keys of those that are read.
        what: The command in words, as in `has no effect on scoring`.

    Raises:
        UsageError: A setting has no effect.
        SettingError: A `ValueError` for words that are no settings.
    """
    from raysb.config import settings
    from raysb.settings_io import read_flags

    known = settings()
    switches = {k for k, each in known.items() if bool in (each.hint, *typing.get_args(each.hint))}
    for given in read_flags(flags, switches.__contains__):
        if _setting(given.key, known) not in {None, *effective}:
            raise UsageError(
                f"{given.key} has no effect on {what}; settings that have one: "
                f"{', '.join(effective)}"
            )


def _setting(key: str, known: Collection[str]) -> str | None:
    """The setting behind a key: `train.loss_args` of `train.loss_args.reduction`."""
    while key and key not in known:
        key = key.rpartition(".")[0]
    return key or None
