"""In which epochs there is selection, and in which every row is trained."""

from raysb.selection.checks import is_whole


def check_schedule(owner: str, start: int, end: int | None, whole_every: int) -> None:
    """Refuse epochs in which nothing could ever be selected.

    Raises:
        ValueError: `start_epoch`, `end_epoch` or `whole_every` is out of its range.
    """
    if not is_whole(start, 0):
        raise ValueError(f"{owner}(start_epoch={start!r}): must be a whole number of at least 0")
    if end is not None and not is_whole(end, start + 1):
        raise ValueError(
            f"{owner}(end_epoch={end!r}): must be a whole number above start_epoch={start}, or "
            "none; else every epoch would be trained whole"
        )
    if not is_whole(whole_every, 0) or whole_every == 1:
        raise ValueError(
            f"{owner}(whole_every={whole_every!r}): must be a whole number, 0 for never or at "
            "least 2; with 1 every epoch would be trained whole"
        )


def selects_in(epoch: int, start: int, end: int | None, whole_every: int) -> bool:
    """Whether rows are selected in an epoch; if not, every row is trained.

    They are from epoch `start` on and before epoch `end`, but for every `whole_every`-th epoch of
    these: with 2 the second, fourth, ...; with 0 in all of them.
    """
    if epoch < start or (end is not None and epoch >= end):
        return False
    return not whole_every or (epoch - start + 1) % whole_every != 0
