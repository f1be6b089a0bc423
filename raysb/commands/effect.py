"""Settings without effect on a command are refused: one would be taken to have changed something.

The commands that read few of the settings list those, and say so in their help.
"""

import typing
from collections.abc import Collection, Mapping, Sequence

from raysb.commands.options import Option, UsageError, Words, take_options

OF_A_RUN = (  # its rows, its model and its loss
    *("data.test", "data.train", "data.test_fraction", "data.inputs", "data.target", "data.id"),
    *("data.image_size", "data.mean", "data.std", "model.name", "model.args", "model.norm"),
    *("model.num_classes", "train.loss", "train.loss_args"),
)
DEVICE = ("train.use_gpu", "train.num_threads")


def take_run(
    words: Sequence[str], options: Mapping[str, Option], effective: Sequence[str], what: str
) -> tuple[Words, str, list[str]]:
    """Take apart the words of a command on a run: its own options, RUN_DIR, and the settings.

    Args:
        words: The command line after the command.
        options: The command's own, by name.
        effective: Keys of the settings that it reads.
        what: The command in words, as in `has no effect on scoring`.

    Raises:
        UsageError: RUN_DIR is missing, or an option is unknown, or a setting has no effect.
        SettingError: A `ValueError` for words that are no settings.
    """
    given = take_options(words, options)
    (folder,), flags = given.positional("RUN_DIR")
    refuse_without_effect(flags, effective, what)
    if wrong := [word for word in flags if word.startswith("--") and "." not in word]:
        if wrong[0].startswith("--config"):
            raise UsageError(
                f"{wrong[0]}: the configuration is that of the run, {folder}/config.toml"
            )
        known = ", ".join(f"--{name}" for name in options)
        raise UsageError(f"unknown option {wrong[0]}; there are: {known}")
    return given, folder, flags


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
