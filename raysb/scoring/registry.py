"""Scores by name: what a selector may rank. The higher, the more worth a backward pass.

name                 value                                          range
loss                 l, the task's loss                             as the loss
gradient_norm_bound  || d l / d z || at the last layer's output z   [0, inf)
entropy              -sum_c p_c ln p_c                              [0, ln C]
margin               p_(2) - p_(1), minus the margin: ties first    [-1, 0]
el2n                 ||p - onehot(y)||                              [0, sqrt 2]
reducible_loss       l - the column `irreducible_loss`              as the loss

A function `(outputs, batch) -> float [B]` of one's own is a score too.

References:
    M. Paul, S. Ganguli, G. K. Dziugaite: Deep Learning on a Data Diet, 2021.
    https://arxiv.org/abs/2107.07075 (EL2N)
    S. Mindermann et al.: Prioritized Training on Points that are Learnable, Worth Learning, and Not
    Yet Learnt, 2022. https://arxiv.org/abs/2206.07137 (reducible holdout loss)
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from raysb.errors import ModelError
from raysb.imports import describe as name_of
from raysb.imports import resolve
from raysb.schema import LOSS
from raysb.scoring.gradient_norm import GRADIENT_NORM_BOUND, GradientNormBound
from raysb.scoring.scores import (
    EL2N,
    ENTROPY,
    LOSS_SCORE,
    MARGIN,
    Column,
    OutputScore,
    Score,
    rank_el2n,
    rank_entropy,
    rank_margin,
)
from raysb.source.irreducible import IRREDUCIBLE_LOSS
from raysb.task import Task, TensorBatch, describe

REDUCIBLE_LOSS = "reducible_loss"


def rank_reducible(
    task: Task, outputs: Any, losses: torch.Tensor, batch: TensorBatch
) -> torch.Tensor:
    """The loss beyond what a model that is done with learning has on the row. [B]"""
    known = batch.get(IRREDUCIBLE_LOSS)
    if known is None or known.shape != losses.shape:
        raise ModelError(
            f"the score {REDUCIBLE_LOSS} needs a column {IRREDUCIBLE_LOSS!r} of one number a row; "
            f"columns: {describe(batch)}. Add it to the data, or name a file with the columns id "
            "and loss, as `raysb score` writes it"
        )
    return losses - known.to(losses.dtype)


SCORES: Mapping[str, Score] = {
    LOSS: LOSS_SCORE,
    GRADIENT_NORM_BOUND: GradientNormBound(),
    ENTROPY: OutputScore(name=ENTROPY, rank=rank_entropy),
    MARGIN: OutputScore(name=MARGIN, rank=rank_margin),
    EL2N: OutputScore(name=EL2N, rank=rank_el2n),
    REDUCIBLE_LOSS: OutputScore(
        name=REDUCIBLE_LOSS, rank=rank_reducible, columns=(IRREDUCIBLE_LOSS,)
    ),
}


def find_score(by: str | Score | Column, *, at: str | None = None, key: str = "score") -> Score:
    """The score that a name, an import path or a function stands for.

    Args:
        by: One of `SCORES`, `package.module:function`, or a function `(outputs, batch) -> [B]`.
        at: Module of `gradient_norm_bound`.
        key: Where `by` was given, for messages.

    Raises:
        ValueError: The name is unknown (the nearest right one is named), or `at` was given for
            another score.
        TypeError: It cannot be called.
    """
    found = resolve(by, SCORES, key) if isinstance(by, str) else by
    if not isinstance(found, Score):
        if not callable(found):
            raise TypeError(f"{key}={by!r}: cannot be called with (outputs, batch)")
        name = by if isinstance(by, str) else name_of(found)
        found = OutputScore(name=name, rank=partial(_own, found))
    if at is None:
        return found
    if not isinstance(found, GradientNormBound):
        raise ValueError(f"{key}={found.name}, at={at!r}: only {GRADIENT_NORM_BOUND} has a module")
    return replace(found, at=at)


def _own(
    function: Column, task: Task, outputs: Any, losses: torch.Tensor, batch: TensorBatch
) -> torch.Tensor:
    return function(outputs, batch)
