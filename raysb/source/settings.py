"""Settings of the source stage: what `data.*` means and which values it takes."""

import difflib
from dataclasses import dataclass

AUGMENTATIONS = ("none", "shift", "crop_flip")

# schema.STREAM_COLUMNS, repeated because the settings load without numpy; a test compares the two.
RESERVED = (
    "id",
    "pool",
    "loss",
    "correct",
    "score",
    "weights_step",
    "num_scored",
    "probability",
    "weight",
)


@dataclass(frozen=True, kw_only=True)
class Data:
    """Which rows a run is made of and how their columns are read.

    Args:
        train: `mnist5k`, `digits`, or parquet: a file, a folder, a glob, or a URI of any
            `pyarrow.fs` file system (`s3://bucket/train/*.parquet`).
        test: The same for the test set; None holds rows out by `test_fraction`, or trains without
            one. The demo names hold out a fifth of their own rows.
        inputs: Columns that the model sees, in the order in which it takes them.
        target: Column with the right answer; None for rows without one.
        also: Further columns to read and pass on, e.g. for a loss or a score of one's own.
        irreducible: Parquet file with the columns `id` and `loss`, as `raysb score` writes it, for
            the score `reducible_loss`; none where the data have a column `irreducible_loss`.
        id: Integer column that names a row for good; None takes the integer column `id` if there
            is one, else numbers rows by (file, row).
        image_size: (H, W) or (H, W, C) in pixels. Encoded images are resized to it; raw bytes are
            read as this shape. None keeps images as they are.
        mean: Mean per channel of pixels in [0, 1]; None measures it on the first rows.
        std: Standard deviation per channel of pixels in [0, 1], above 0; None measures it.
        augment: `none`, `shift` (crop after a border of 2 zeros, for digits) or `crop_flip` (crop
            after a reflected border of 4, and a horizontal flip).
        test_fraction: Share of rows in [0, 1) held out by a hash of their id when there is no
            `test`.
        num_readers: Processes that turn pool numbers into rows; 0: scorers read for themselves,
            which saves a hop where decoding is light.
        shuffle_window: Row groups of a parquet file that are shuffled together, at least 1. A
            reader holds two windows in memory.

    Raises:
        ValueError: A value is out of range.
        TypeError: A value has the wrong type.
    """

    train: str = "mnist5k"
    test: str | None = None
    inputs: tuple[str, ...] = ("image",)
    target: str | None = "label"
    also: tuple[str, ...] = ()
    irreducible: str | None = None
    id: str | None = None
    image_size: tuple[int, ...] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    augment: str = "none"
    test_fraction: float = 0.0
    num_readers: int = 2
    shuffle_window: int = 4

    def __post_init__(self) -> None:
        for name in ("inputs", "also", "image_size", "mean", "std"):
            _make_tuple(self, name)
        _check_names(self)
        _check_columns(self)
        _check_image_size(self.image_size)
        _check_normalisation(self.mean, self.std)
        _check_test(self)
        _check_count("num_readers", self.num_readers, "0 lets the scorers read", least=0)
        _check_count("shuffle_window", self.shuffle_window, "no row group would be read")


def nearest(word: str, known: list[str] | tuple[str, ...]) -> str:
    """A sentence part that names the nearest known word and all of them."""
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"{hint}there are: {', '.join(known) or 'none'}"


def _make_tuple(data: Data, name: str) -> None:
    """Lists, as TOML gives them, become tuples; a lone value is an error, not its letters."""
    value = getattr(data, name)
    if isinstance(value, list):
        object.__setattr__(data, name, tuple(value))
    elif value is not None and not isinstance(value, tuple):
        raise TypeError(f"data.{name}={value!r}: a list is needed. Write [{value!r}] instead.")


def _check_names(data: Data) -> None:
    for name in ("train", "test", "target", "irreducible", "id"):
        value = getattr(data, name)
        optional = name != "train"
        if not (isinstance(value, str) or (optional and value is None)):
            raise TypeError(
                f"data.{name}={value!r}: a string is needed, not {type(value).__name__}."
            )
        if value == "":
            raise ValueError(f"data.{name}='': the name is empty. Leave the key out or name one.")
    if data.augment not in AUGMENTATIONS:
        raise ValueError(
            f"data.augment={data.augment!r}: no such augmentation; "
            f"{nearest(str(data.augment), AUGMENTATIONS)}."
        )


def _check_columns(data: Data) -> None:
    if not data.inputs or not all(isinstance(name, str) and name for name in data.inputs):
        raise ValueError(
            f"data.inputs={data.inputs!r}: at least one column name is needed, "
            "else the model would see nothing."
        )
    if len(set(data.inputs)) < len(data.inputs):
        raise ValueError(f"data.inputs={data.inputs!r}: a column is named twice. Name it once.")
    for name in (*data.inputs, data.target, *data.also):
        if name in RESERVED:
            raise ValueError(
                f"data: the column {name!r} cannot be one of the data's, because the stream "
                f"writes its own column of that name ({', '.join(RESERVED)}). Rename yours."
            )


def _check_image_size(size: tuple[int, ...] | None) -> None:
    if size is None:
        return
    whole = all(isinstance(side, int) and side >= 1 for side in size)
    if not whole or len(size) not in (2, 3) or (len(size) == 3 and size[2] not in (1, 3)):
        raise ValueError(
            f"data.image_size={list(size)!r}: pixels as [height, width], or [height, width, "
            "channels] with 1 (grey) or 3 (RGB) channels, are needed."
        )


def _check_normalisation(mean: tuple[float, ...] | None, std: tuple[float, ...] | None) -> None:
    if (mean is None) != (std is None):
        given, lacking = ("std", "mean") if mean is None else ("mean", "std")
        raise ValueError(
            f"data.{given} is given and data.{lacking} is not: one without the other would shift "
            "pixels without scaling them. Give both, or neither to have them measured."
        )
    if mean is None or std is None:
        return
    if not mean or len(mean) != len(std):
        raise ValueError(
            f"data.mean={list(mean)!r}, data.std={list(std)!r}: one number per channel is needed "
            "in each."
        )
    if not all(value > 0 for value in std):
        raise ValueError(
            f"data.std={list(std)!r}: every value must be above 0, else pixels would become "
            "infinite. Use 1 for a channel that should not be scaled."
        )


def _check_test(data: Data) -> None:
    if not 0 <= data.test_fraction < 1:
        raise ValueError(
            f"data.test_fraction={data.test_fraction!r}: a share in [0, 1) is needed; at 1 no row "
            "would be left to train on."
        )
    if data.test is not None and data.test_fraction > 0:
        raise ValueError(
            f"data.test_fraction={data.test_fraction!r} beside data.test={data.test!r}: a fraction "
            "is held out only when no test set is named. Leave one of the two out."
        )


def _check_count(name: str, value: int, consequence: str, *, least: int = 1) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"data.{name}={value!r}: a whole number is needed.")
    if value < least:
        raise ValueError(
            f"data.{name}={value}: at least {least} is needed; {consequence}. Set "
            f"data.{name}={least} or more."
        )
