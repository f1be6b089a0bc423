"""Where training stands between its start (0) and its end (1), and the learning rate there.

Pure functions of one number, progress, so that a resumed run, a run of other batch size and a run
that selects less all follow the same course. What progress counts is `train.schedule_axis`.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from raysb.imports import check_arguments, unknown

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from raysb.training.settings import Training

_ROUNDING = 1e-9  # progress is a quotient: .3 / .1 must count as three


def factor(progress: float, kind: str, *, warmup: float = 0.0, **args: Any) -> float:
    """Return the factor on the learning rate.

    `warmup` rises linearly from 0 to 1 over that share of the run; what follows is scaled to the
    rest, r = (progress - warmup) / (1 - warmup), except for `step`, whose fractions are of the run:

    | kind | factor | arguments |
    |---|---|---|
    | constant | 1 | |
    | linear | 1 + (final - 1) r | final=0 |
    | cosine | final + (1 - final) (1 + cos(pi r)) / 2 | final=0 |
    | flat_cosine | cosine of max(0, (r - flat) / (1 - flat)) | flat=.75, final=0 |
    | step | gamma ** (milestones passed) | gamma=.1, milestones=(.5, .75) or every |

    Args:
        progress: Share of the run that is over; taken as 0 below 0 and as 1 above 1.
        kind: `constant`, `linear`, `cosine`, `flat_cosine` or `step`.
        warmup: Share of the run, in [0, 1).
        **args: Arguments of the kind.

    Returns:
        A number that the base learning rate is to be multiplied with.
    """
    progress = min(max(progress, 0.0), 1.0)
    if progress < warmup:
        return progress / warmup
    if kind == "step":
        return step(progress, **args)
    return _OVER_THE_REST[kind]((progress - warmup) / (1.0 - warmup), **args)


def constant(rest: float) -> float:
    """Return 1 throughout."""
    return 1.0


def linear(rest: float, *, final: float = 0.0) -> float:
    """From 1 to `final` in a straight line."""
    return 1.0 + (final - 1.0) * rest


def cosine(rest: float, *, final: float = 0.0) -> float:
    """From 1 to `final` along half a cosine (Loshchilov & Hutter 2017, arXiv:1608.03983, eq. 5)."""
    return final + (1.0 - final) * (1.0 + math.cos(math.pi * rest)) / 2.0


def flat_cosine(rest: float, *, flat: float = 0.75, final: float = 0.0) -> float:
    """1 for the share `flat`, then half a cosine to `final`.

    Advised for Ranger by its author, with a share of 72 to 75 %; `raysb.optim.FlatCosineLR` is the
    same for a training loop of one's own.
    """
    return cosine(max(0.0, (rest - flat) / (1.0 - flat)), final=final)


def step(
    progress: float,
    *,
    gamma: float = 0.1,
    milestones: Sequence[float] = (0.5, 0.75),
    every: float | None = None,
) -> float:
    """Times `gamma` at each milestone, or after `every` such share of the run.

    The defaults are those of He et al. 2016 (arXiv:1512.03385) on CIFAR-10.
    """
    if every is not None:
        passed = math.floor(progress / every + _ROUNDING)
    else:
        passed = sum(progress >= milestone - _ROUNDING for milestone in milestones)
    return float(gamma**passed)


_OVER_THE_REST: dict[str, Callable[..., float]] = {
    "constant": constant,
    "linear": linear,
    "cosine": cosine,
    "flat_cosine": flat_cosine,
}
SCHEDULES: dict[str, Callable[..., float]] = {**_OVER_THE_REST, "step": step}


def check_schedule(kind: str, args: Mapping[str, Any]) -> None:
    """Raise `ValueError` if `factor` does not take this kind with these arguments."""
    if not isinstance(kind, str) or kind not in SCHEDULES:
        raise ValueError(f"train.schedule={kind!r}: {unknown(str(kind), SCHEDULES)}")
    own = {name: value for name, value in args.items() if name != "warmup"}
    _check_names(kind, own)
    for name in ("warmup", "flat"):
        _check_share(name, args.get(name, 0.0), one=False)
    for name in ("final", "gamma"):
        if not _is_number(args.get(name, 0.0)) or args.get(name, 0.0) < 0:
            _refuse(name, args[name], "must be a number of at least 0")
    if args.get("every") is not None:
        _check_share("every", args["every"], zero=False)
        if "milestones" in args:
            _refuse("every", args["every"], "give either every or milestones")
    milestones = args.get("milestones", ())
    if isinstance(milestones, str) or not isinstance(milestones, Sequence):
        _refuse("milestones", milestones, "must be a list of shares of the run, e.g. [0.5, 0.75]")
    for milestone in milestones:
        _check_share("milestones", milestone, zero=False)


def _check_names(kind: str, own: Mapping[str, Any]) -> None:
    try:
        check_arguments(SCHEDULES[kind], (0.0,), own, "train.schedule_args")
    except ValueError as error:
        raise ValueError(f"{error} (and warmup)") from None


def _check_share(name: str, value: Any, *, zero: bool = True, one: bool = True) -> None:
    low, high = "[" if zero else "(", "]" if one else ")"
    inside = _is_number(value) and 0 <= value <= 1
    if not inside or (value == 0 and not zero) or (value == 1 and not one):
        _refuse(name, value, f"must be a share of the run, in {low}0, 1{high}")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _refuse(name: str, value: Any, why: str) -> None:
    raise ValueError(f"train.schedule_args.{name}={value!r}: {why}")


def base_lrs(optimizer: "Optimizer") -> list[float]:
    """Learning rates of an optimizer's groups, to be taken before the first `set_lr`."""
    return [float(group["lr"]) for group in optimizer.param_groups]


def set_lr(optimizer: "Optimizer", base: Sequence[float], scale: float) -> None:
    """Set each parameter group's learning rate to `scale` times its base.

    Args:
        optimizer: Optimizer whose groups are changed.
        base: One learning rate a group, from `base_lrs`.
        scale: What `factor` returned.
    """
    for group, lr in zip(optimizer.param_groups, base, strict=True):
        if isinstance(group["lr"], float | int):
            group["lr"] = lr * scale
        else:
            group["lr"].fill_(lr * scale)  # a tensor, which a captured graph reads in place


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What training has cost so far, and how much of it is over.

    Args:
        training: Limits, axis and course of the learning rate.
        rows_per_epoch: Rows of the training data, at least 1.
    """

    training: "Training"
    rows_per_epoch: int

    def __post_init__(self) -> None:
        if self.rows_per_epoch < 1:
            raise ValueError(f"Budget(rows_per_epoch={self.rows_per_epoch}): must be at least 1")

    def cost(self, *, num_scored: int, num_backpropped: int) -> float:
        """Cost in epochs of uniform training.

        cost = (num_backpropped + scoring_cost * num_scored) / N

        Args:
            num_scored: Rows scored so far.
            num_backpropped: Rows trained on so far.
        """
        paid = num_backpropped + self.training.scoring_cost * num_scored
        return paid / self.rows_per_epoch

    def progress(
        self, *, epochs: float, step: int, num_scored: int = 0, num_backpropped: int = 0
    ) -> float:
        """Share of the run that is over, on the axis of the schedule. In [0, 1].

        Args:
            epochs: Passes over the data that are done, with their fraction.
            step: Optimizer steps done.
            num_scored: Rows scored so far.
            num_backpropped: Rows trained on so far.
        """
        if self.training.schedule_axis == "cost":
            spent = self.cost(num_scored=num_scored, num_backpropped=num_backpropped)
            done, whole = spent, self.training.max_cost
        elif self.training.schedule_axis == "steps":
            done, whole = float(step), self.training.max_steps
        else:
            done, whole = epochs, self.training.epochs
        if whole is None:  # Training refuses this at construction
            raise ValueError(f"train.schedule_axis={self.training.schedule_axis!r}: has no end")
        return min(max(done / whole, 0.0), 1.0)

    def factor(self, progress: float) -> float:
        """Factor on the learning rate at that progress."""
        return factor(progress, self.training.schedule, **self.training.schedule_args)
