"""A fixed share of every pool: the rows from which most is still to be learned."""

from dataclasses import dataclass
from typing import ClassVar

from raysb.selection.highest_k import HighestK


@dataclass(kw_only=True)
class ReducibleLoss(HighestK):
    """Selects the rows of a pool with the highest reducible losses.

        k = max(round(f n), 1) of n rows, by l_i - IL_i

    IL is the irreducible loss: what a model trained on other rows (a holdout set) has on row i. A
    wrong label has a high loss under both models, a row that is learned a low one under both; what
    is left are rows that are learnable and not yet learnt. `scores` are the differences: of the
    stream, by the score `reducible_loss` with a column `irreducible_loss`.

    Args:
        fraction: f, the share of a pool that is kept, above 0 and at most 1. The source keeps 32 of
            320.

    Raises:
        ValueError: An argument is out of its range.

    References:
        S. Mindermann, J. Brauner, M. Razzak, M. Sharma, A. Kirsch, W. Xu, B. Hoeltgen, A. Gomez,
        A. Morisot, S. Farquhar, Y. Gal: Prioritized Training on Points that are Learnable, Worth
        Learning, and Not Yet Learnt, 2022. https://arxiv.org/abs/2206.07137
    """

    score: ClassVar[str] = "reducible_loss"

    fraction: float = 0.1
