"""Blocks of any number of rows in, batches of exactly B rows out, in order."""

from collections import deque

import numpy as np

from raysb.schema import ID, WEIGHT, Batch, concatenate, num_rows, take


class Batcher:
    """Cuts a stream of blocks into batches of exactly B rows.

    Every row pushed comes out once, in the order of arrival. A batch that lies within one block is
    a view of it; only batches across blocks are copied. Rows not yet popped are no part of any
    checkpoint: the cursor counts them as not trained.

    Args:
        batch_size: B, at least 1.

    Raises:
        ValueError: `batch_size` is below 1.
    """

    def __init__(self, batch_size: int) -> None:
        if batch_size < 1:
            raise ValueError(f"Batcher(batch_size={batch_size}): must be at least 1")
        self.batch_size = batch_size
        self._blocks: deque[Batch] = deque()
        self._used = 0  # rows of the first block that are out
        self._rows = 0
        self._template: Batch | None = None

    @property
    def rows(self) -> int:
        """Rows that are in and not out."""
        return self._rows

    @property
    def seen(self) -> bool:
        """Whether a row was ever pushed: whether `flush` can pad without a template."""
        return self._template is not None and num_rows(self._template) > 0

    def push(self, batch: Batch) -> None:
        """Add rows; a block without rows only shows which columns there are.

        Raises:
            ValueError: The columns are not those of the blocks before.
        """
        if self._template is not None and batch.keys() != self._template.keys():
            raise ValueError(
                f"Batcher.push: columns {sorted(batch)} after blocks with columns "
                f"{sorted(self._template)}; rows of one batch must have the same columns"
            )
        if num_rows(batch):
            self._blocks.append(batch)
            self._rows += num_rows(batch)
        if self._template is None or num_rows(batch):
            self._template = batch

    def pop(self) -> Batch | None:
        """Return the next B rows, or `None` while there are fewer."""
        return self._take(self.batch_size) if self._rows >= self.batch_size else None

    def flush(self, padded: bool = True, template: Batch | None = None) -> tuple[Batch, int]:
        """Return the rest, at most B rows, and how many of its rows are true.

        Args:
            padded: Fill up to B rows with copies of the first row (so dtypes and shapes are those
                of real data) that have `id` -1 and `weight` 0.
            template: A batch of the same columns to copy a row from where there is none left; by
                default the last block pushed.

        Raises:
            ValueError: There is no row to fill up with: neither pushed nor in `template`.
        """
        true = min(self._rows, self.batch_size)
        template = template or self._template or {}
        if not padded or true == self.batch_size:
            return (self._take(true) if true else take(template, slice(0))), true
        rows = self._take(true) if true else take(template, slice(1))
        if not num_rows(rows):
            raise ValueError(
                "Batcher.flush: no row was ever pushed and template has none, so nothing tells "
                "what a row that fills the batch looks like; pass template="
            )
        return _padded(rows, true, self.batch_size), true

    def _take(self, count: int) -> Batch:
        parts = []
        self._rows -= count
        while count:
            block = self._blocks[0]
            stop = min(self._used + count, num_rows(block))
            parts.append(take(block, slice(self._used, stop)))
            count -= stop - self._used
            self._used = stop
            if stop == num_rows(block):
                self._blocks.popleft()
                self._used = 0
        return concatenate(parts)


def _padded(rows: Batch, true: int, size: int) -> Batch:
    """The first `true` rows and copies of the first row up to `size`."""
    padding = np.arange(size) >= true
    batch = take(rows, np.where(padding, 0, np.arange(size)))  # a copy
    batch[ID] = np.where(padding, -1, batch[ID])
    weight = batch.get(WEIGHT, np.ones(size, np.float32))
    batch[WEIGHT] = np.where(padding, 0, weight).astype(np.float32)
    return batch
