"""What is wanted of a history."""

from dataclasses import dataclass

from raysb.inspect_history.order import SUSPICION
from raysb.scan.file import check_out

MOST_PICTURES = 500
TABLES, PICTURES = (".parquet", ".csv"), (".png",)


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What to make of a history.

    Args:
        top: Samples in the short list, at least 1.
        by: Its order, a key of `raysb.inspect_history.order.ORDERS`.
        export: File to write all samples to, `.parquet` or `.csv`; None: none.
        images: PNG to draw the pictures of the short list to; None: none.
        origin: Whether to say file, row and label of each sample, for which the data are opened.
        overwrite: Whether files of these names may be replaced.

    Raises:
        ValueError: A value is out of range, or a file cannot be written.
    """

    top: int = 20
    by: str = SUSPICION
    export: str | None = None
    images: str | None = None
    origin: bool = True
    overwrite: bool = False

    def __post_init__(self) -> None:
        if self.top < 1:
            raise ValueError(f"top={self.top}: must be at least 1; nothing would be shown")
        if self.images is not None and self.top > MOST_PICTURES:
            raise ValueError(
                f"top={self.top}: a sheet has at most {MOST_PICTURES} pictures, one of more could "
                "not be looked at; ask for fewer"
            )
        if self.images is not None and not self.origin:
            raise ValueError(
                f"images={self.images}: pictures lie in the data, which are not opened with "
                "--no-origin; leave out one of the two"
            )
        if self.export is not None:
            check_out(self.export, overwrite=self.overwrite, key="export", endings=TABLES)
        if self.images is not None:
            check_out(self.images, overwrite=self.overwrite, key="images", endings=PICTURES)
