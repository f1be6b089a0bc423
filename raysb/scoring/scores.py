"""What the outputs of a model say of a row beside its loss: how sure it is, and of what.

A `Score` is what a selector ranks; those that have a name are in `raysb.scoring.registry`.

From logits z, with p = softmax(z) and classes in the order p_(1) >= p_(2) >= ...:

prediction    argmax_c z_c
margin        p_(1) - p_(2), in [0, 1]: 0 where two classes tie, 1 where one is certain. The margin
              of active learning (Scheffer, Decomain, Wrobel 2001; "margin sampling" in Settles
              2009), which asks for the smallest. Needs no label
label_margin  p_y - max_{c != y} p_c, in [-1, 1]: above 0 where the prediction is the label, below
              where it is another class. The margin of an example of boosting (Schapire et al.
              1998); Pleiss et al. 2020 take it on logits (AUM), Northcutt et al. 2021 rescale it
              to [0, 1] ("normalized margin"). The smallest are suspected of a wrong label
entropy       H = -sum_c p_c ln p_c in nats, in [0, ln C]
el2n          ||p - onehot(y)||_2, in [0, sqrt 2] (Paul et al. 2021)

All are computed where the logits are, in float32 at least, and to the relative precision of float32
also where one class is nearly certain: ln p_(1) is -log1p(sum of the others' e^(z_c - z_(1))), in
which what is left beside 1 is not rounded away; a difference of probabilities is p (1 - e^d).

Dimensions in comments: B rows, C classes.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import nn
from torch.linalg import vector_norm

from raysb.errors import ModelError
from raysb.losses import MSE, TorchClassLoss, TorchLoss, logits_of
from raysb.schema import CORRECT, LOSS
from raysb.task import Task, TensorBatch, describe

MARGIN = "margin"
LABEL_MARGIN = "label_margin"
ENTROPY = "entropy"
PREDICTION = "prediction"
EL2N = "el2n"

Column: TypeAlias = Callable[[Any, TensorBatch], torch.Tensor]
# (task, outputs, losses [B], batch) -> [B]
Ranking: TypeAlias = Callable[[Task, Any, torch.Tensor, TensorBatch], torch.Tensor]


class Measured(NamedTuple):
    """A forward pass and what the rows are ranked by."""

    outputs: Any
    losses: torch.Tensor  # [B]
    scores: torch.Tensor  # [B]; the very same tensor where losses are ranked


@dataclass(frozen=True, kw_only=True)
class Score(ABC):
    """What a selector ranks: one value per row, the higher the more worth a backward pass.

    Args:
        name: For people, and as the label of scores that may be compared with each other.
        columns: Of the batch that it needs, whatever `collate` leaves of them.
    """

    name: str
    columns: tuple[str, ...] = ()

    @abstractmethod
    def measure(self, task: Task, model: nn.Module, batch: TensorBatch) -> Measured:
        """Run the model on a batch and rank its rows; no gradient is recorded around the call.

        Raises:
            ModelError: The model, its outputs or the batch do not go with the score.
        """


@dataclass(frozen=True, kw_only=True)
class OutputScore(Score):
    """A score that is computed from the model's outputs.

    Args:
        rank: `(task, outputs, losses, batch) -> float [B]`.
    """

    rank: Ranking

    def measure(self, task: Task, model: nn.Module, batch: TensorBatch) -> Measured:
        """Run the model on a batch and rank its rows."""
        outputs = task.outputs(model, batch)
        losses = task.losses(outputs, batch)
        scores = self.rank(task, outputs, losses, batch)
        return Measured(outputs, losses, check_scores(scores, len(losses), self.name))


def check_scores(scores: Any, rows: int, name: str) -> torch.Tensor:
    """Return the scores if there is one per row."""
    if isinstance(scores, torch.Tensor) and scores.shape == (rows,):
        return scores
    got = f"shape {tuple(scores.shape)}" if isinstance(scores, torch.Tensor) else type(scores)
    raise ModelError(
        f"the score {name} is {got} for a batch of {rows} rows; one value per row is needed, "
        f"shape ({rows},), the higher the more worth training"
    )


def log_probabilities(logits: torch.Tensor) -> torch.Tensor:
    """Logarithms of softmax(z), exact to relative precision for the largest too. float [B, C]."""
    z = logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits
    largest, where = z.max(1, keepdim=True)
    rest = (z - largest).exp().scatter(1, where, 0.0).sum(1, keepdim=True)
    return z - largest - rest.log1p()


def prediction(logits: torch.Tensor) -> torch.Tensor:
    """The class of the largest logit; the first of equal ones. int64 [B]."""
    return logits.argmax(1)


def entropy(logits: torch.Tensor) -> torch.Tensor:
    """-sum_c p_c ln p_c in nats; a class of probability 0 adds 0. float [B]."""
    log_p = log_probabilities(logits)
    p = log_p.exp()
    return -torch.where(p == 0, 0.0, p * log_p).sum(1)


def margin(logits: torch.Tensor) -> torch.Tensor:
    """p_(1) - p_(2), in [0, 1]. float [B]."""
    first, second = log_probabilities(logits).topk(2, dim=1).values.unbind(1)
    return -first.exp() * torch.expm1(second - first)


def label_margin(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """p_y - max_{c != y} p_c, in [-1, 1], for labels of any integer type [B]. float [B]."""
    log_p = log_probabilities(logits)
    index = labels.long().unsqueeze(1)
    own = log_p.gather(1, index).squeeze(1)
    other = log_p.scatter(1, index, -torch.inf).amax(1)
    difference = -torch.maximum(own, other).exp() * torch.expm1(-(own - other).abs())
    return torch.where(own >= other, difference, -difference)


def el2n(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """||softmax(z) - onehot(y)||_2, for labels of any integer type [B]. float [B]."""
    distance: torch.Tensor = vector_norm(beside_label(logits, labels), dim=1)
    return distance


def beside_label(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """softmax(z) - onehot(y), to relative precision where p_y is nearly 1 too.

    Args:
        logits: [B, C] or [B, C, ...].
        labels: Of any integer type, [B] or [B, ...].
    """
    log_p = log_probabilities(logits)
    index = labels.long().unsqueeze(1)
    return log_p.exp().scatter(1, index, torch.expm1(log_p.gather(1, index)))


def class_logits(task: Task, outputs: Any, name: str) -> torch.Tensor:
    """Logits of classes [B, C], for a score that asks for them.

    Raises:
        ModelError: The outputs are no such thing, or the loss says that they are not.
    """
    shape = _shape(outputs)
    if len(shape) == 2 and shape[1] > 1 and _has_classes(task.loss, True, True):
        return logits_of(outputs)
    raise ModelError(
        f"the score {name} needs logits [B, C] of classes; here the model's outputs are "
        f"{list(shape) or type(outputs).__name__} and the loss is {task.loss!r}: rank by loss or "
        "gradient_norm_bound, or give a function (outputs, batch) -> [B]"
    )


def columns_of(
    task: Task, outputs: Any, batch: TensorBatch, *, target: str | None, classes: bool = True
) -> dict[str, Column]:
    """Which scores make sense for such outputs, by name, and how each is computed.

    ```
    logits [B, C], C >= 2           margin, entropy, prediction int64; label_margin for labels [B]
    values [B], [B, 1] or [B, D]    prediction float32 [B] or [B, D]
    anything else, e.g. [B, T, C]   none of these
    ```

    Unless the task's loss is `no_loss` there are also `loss` and, where it can tell, `correct`.

    Args:
        task: How the outputs came about, and the loss.
        outputs: What the model gave for the batch.
        batch: As the model saw it.
        target: Column with the right answers; `None`: rows without.
        classes: Whether [B, C] are logits where no loss tells.
    """
    columns: dict[str, Column] = {}
    labels = target if target is not None and _is_label(batch.get(target)) else None
    if task.loss is not no_loss:
        columns[LOSS] = task.losses
        if task.correctness(outputs, batch) is not None:
            columns[CORRECT] = partial(_correctness, task)
    shape = _shape(outputs)
    if len(shape) == 2 and shape[1] > 1 and _has_classes(task.loss, labels is not None, classes):
        columns |= {name: partial(_of_logits, score) for name, score in _SCORES.items()}
        if labels is not None:
            columns[LABEL_MARGIN] = partial(_label_margin, labels)
    elif len(shape) in (1, 2):
        columns[PREDICTION] = _values
    return columns


_SCORES: Mapping[str, Callable[[torch.Tensor], torch.Tensor]] = {
    MARGIN: margin,
    ENTROPY: entropy,
    PREDICTION: prediction,
}


def rank_loss(task: Task, outputs: Any, losses: torch.Tensor, batch: TensorBatch) -> torch.Tensor:
    """The loss itself. [B]"""
    return losses


def rank_entropy(
    task: Task, outputs: Any, losses: torch.Tensor, batch: TensorBatch
) -> torch.Tensor:
    """The least decided first. [B] in [0, ln C]"""
    return entropy(class_logits(task, outputs, ENTROPY))


def rank_margin(task: Task, outputs: Any, losses: torch.Tensor, batch: TensorBatch) -> torch.Tensor:
    """Minus the margin: two classes that tie come first. [B] in [-1, 0]"""
    return -margin(class_logits(task, outputs, MARGIN))


def rank_el2n(task: Task, outputs: Any, losses: torch.Tensor, batch: TensorBatch) -> torch.Tensor:
    """The distance from the label. [B] in [0, sqrt 2]"""
    logits, name = class_logits(task, outputs, EL2N), getattr(task.loss, "target", None)
    labels = batch.get(name) if isinstance(name, str) else None
    if labels is not None and _is_label(labels):
        return el2n(logits, labels)
    if labels is not None and labels.shape == logits.shape:  # a distribution over the classes
        distance: torch.Tensor = vector_norm(log_probabilities(logits).exp() - labels, dim=1)
        return distance
    raise ModelError(
        f"the score {EL2N} needs the label of each row, and the loss {task.loss!r} names no column "
        f"with one class a row; columns: {describe(batch)}. Use a loss with a target, e.g. "
        "raysb.losses.cross_entropy('label'), or a function (outputs, batch) -> [B] as the score"
    )


LOSS_SCORE = OutputScore(name=LOSS, rank=rank_loss)


def no_loss(outputs: Any, batch: TensorBatch) -> torch.Tensor:
    """In place of a loss where rows have no right answer; never to be computed."""
    raise ModelError(
        "a loss is asked for, and the task has none: give loss=(outputs, batch) -> [B]"
    )


def _has_classes(loss: Any, labelled: bool, otherwise: bool) -> bool:
    """Whether [B, C] are logits of classes: what the loss says, else whether labels are integers.

    A loss of one's own that knows right from wrong is one over classes.
    """
    if loss is no_loss:
        return otherwise
    if isinstance(loss, MSE | TorchLoss):
        return isinstance(loss, TorchClassLoss)
    return labelled or callable(getattr(loss, "correct", None))


def _is_label(column: torch.Tensor | None) -> bool:
    return column is not None and column.dim() == 1 and not column.is_floating_point()


def _shape(outputs: Any) -> tuple[int, ...]:
    try:
        return tuple(logits_of(outputs).shape)
    except ModelError:  # outputs that only the loss understands
        return ()


def _correctness(task: Task, outputs: Any, batch: TensorBatch) -> torch.Tensor:
    correct = task.correctness(outputs, batch)
    if correct is None:
        raise ModelError("the task told right from wrong for the first rows, and now does not")
    return correct.bool()


def _of_logits(
    score: Callable[[torch.Tensor], torch.Tensor], outputs: Any, batch: TensorBatch
) -> torch.Tensor:
    return score(logits_of(outputs))


def _label_margin(target: str, outputs: Any, batch: TensorBatch) -> torch.Tensor:
    return label_margin(logits_of(outputs), batch[target])


def _values(outputs: Any, batch: TensorBatch) -> torch.Tensor:
    values = logits_of(outputs).float()
    return values.squeeze(1) if values.dim() == 2 and values.shape[1] == 1 else values
