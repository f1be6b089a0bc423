"""What the files of a checkpoint must hold before a run goes on from them.

A digest tells that a file is the one that was written, not that it makes sense: it may have been
edited, or written by another program. Without this look a run would end in a traceback far from
the file, or go on with numbers that were cut. Keys that only some releases write are optional.
"""

import random
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from raysb.errors import RunDirectoryError
from raysb.history.records import COLUMNS
from raysb.schema import ID
from raysb.scoring.totals import PoolSums, Totals
from raysb.training.channel_statistics import STATISTICS
from raysb.training.forms import (
    Form,
    array,
    count,
    duration,
    each,
    integral,
    keys,
    leaf,
    list_of,
    mapping,
    maybe,
    number,
    numeral,
    row,
    shown,
    such_that,
    tensor,
    text,
    truth,
    whole,
)

# --- stream.json -------------------------------------------------------------------------------

_WAITING = such_that(
    keys(
        {"num_rows": count, "rows": maybe(keys({ID: array(np.int64)}))},
        {"trained": array(np.int64)},
        only=True,
    ),
    "have arrays of num_rows entries",
    lambda waiting: all(
        isinstance(column, np.ndarray) and len(column) == waiting["num_rows"]
        for column in (waiting["rows"] or {}).values()
    ),
)
_CURSOR = keys({"low": count, "done": list_of(count), "waiting": each(_WAITING, numeral)})
_COUNTERS = keys(
    {
        "made_with": mapping,
        "num_steps": count,
        "num_backpropped": count,
        "num_scored": count,
        "max_age": count,
        "sums": list_of(row(*[number] * 4), least=1),
    }
)
_RING = such_that(
    keys(
        {
            "version": count,
            "capacity": count,
            "pools": array(np.int64),
            "sizes": array(np.int64),
            "losses": array(np.float32),
        },
        only=True,
    ),
    "have a size for each pool, and as many losses as they add up to",
    lambda ring: (
        len(ring["pools"]) == len(ring["sizes"])
        and (ring["sizes"] >= 0).all()
        and ring["sizes"].sum() == len(ring["losses"])
    ),
)
_AUDITS = keys({"fallen_back": truth, "last": list_of(row(count, number, number))})
_LEDGER = keys(
    {
        "version": count,
        "ring": maybe(_RING),
        "epochs": each(keys(dict.fromkeys(vars(Totals()), number), only=True), numeral),
        "nonfinite": each(count, integral),
        "sums": list_of(row(count, row(*[number] * len(PoolSums._fields)), list_of(whole))),
    },
    {"audits": _AUDITS},
)
_OUTLOOK = such_that(
    keys({"ids": array(np.int64), "columns": each(array())}),
    "have an entry of every column for each id",
    lambda outlook: all(len(c) == len(outlook["ids"]) for c in outlook["columns"].values()),
)
_LOOP = keys(
    {
        "epoch": count,
        "evaluated_at": whole,
        "num_lines": count,
        "last": keys(
            {"step": count, "num_backpropped": count, "cost": number, "wall_time_s": number}
        ),
        "seconds": duration,
        "stopping": keys({"best": maybe(number), "num_since": count}),
    }
)
STREAM = keys(
    {
        "cursor": _CURSOR,
        "counters": _COUNTERS,
        "ledger": _LEDGER,
        "outlooks": each(maybe(_OUTLOOK), numeral),
        "loop": _LOOP,
    }
)

# --- history.npz -------------------------------------------------------------------------------

HISTORY = maybe(
    such_that(
        keys(
            {
                **dict.fromkeys(("version", "num_ignored", "num_nonfinite"), count),
                **{name: array(dtype) for name, (dtype, _) in COLUMNS.items()},
            },
            only=True,
        ),
        "have columns of one length",
        lambda columns: len({len(columns[name]) for name in COLUMNS}) == 1,
    )
)

# --- train.pt ----------------------------------------------------------------------------------


def _of_torch(state: Any) -> bool:
    torch.Generator().set_state(state)  # on none that anybody draws from, as below
    return True


def _of_python(state: Any) -> bool:
    version, internal, gauss = state
    random.Random().setstate((version, tuple(internal), gauss))
    return gauss is None or isinstance(gauss, float)


def _of_numpy(state: Any) -> bool:
    name, words, *rest = state
    if words.dtype != torch.int64 or not ((words >= 0) & (words < 2**32)).all():
        return False
    np.random.RandomState().set_state((name, words.numpy().astype(np.uint32), *rest))
    return name == "MT19937" and len(rest) == 3


_RNG = keys(
    {
        "torch": leaf("a state of torch's generator", _of_torch),
        "python": leaf("a state of Python's generator", _of_python),
        "numpy": leaf("a state of numpy's generator", _of_numpy),
    },
    {"cuda": tensor(torch.uint8)},
)
_OPTIMIZER = such_that(
    keys({"state": mapping, "param_groups": list_of(keys({"params": list_of(count)}))}),
    "have states of its parameters alone, each a dict",
    lambda saved: (
        saved["state"].keys() <= {i for group in saved["param_groups"] for i in group["params"]}
        and all(isinstance(of_one, dict) for of_one in saved["state"].values())
    ),
)
LEARNER = keys(
    {
        "optimizer": _OPTIMIZER,
        "kind": text,
        "groups": list_of(mapping),
        "rngs": list_of(_RNG, least=1),
    },
    {"num_averaged": count, STATISTICS: maybe(mapping)},
)
AVERAGED = such_that(
    LEARNER,
    "have num_averaged where there is an ema.safetensors, and only there",
    lambda learner: ("average" in learner) == ("num_averaged" in learner),
)

# what torch's optimizers and raysb's own keep for each entry of a parameter, in its shape and dtype
ELEMENTWISE = frozenset(
    {
        *("exp_avg", "exp_avg_sq", "max_exp_avg_sq", "exp_inf", "momentum_buffer"),
        *("square_avg", "grad_avg", "acc_delta", "slow"),
    }
)
OWN = frozenset({"Ranger"})  # other kinds than torch's may keep such names in another shape


def check_file(file: str, form: Form, at: str, value: Any) -> None:
    """Compare what was read from a file with a form.

    Raises:
        RunDirectoryError: It has another form; the message names the file and the place.
    """
    try:
        form(at, value)
    except ValueError as error:
        raise RunDirectoryError(
            f"{file}: {error}. It was edited, or another program or release wrote it. Copy the run "
            "directory again, or remove this checkpoint to use the one before"
        ) from error


def fits_model(model: nn.Module) -> Form:
    """The form of an optimizer's state over the trained parameters of a model.

    A group of parameters may be in any order, so that it is known which shapes and dtypes there
    are, and of each how many, not which parameter has which.
    """
    own = Counter(_kind(p) for p in model.parameters() if p.requires_grad)

    def check(at: str, saved: Any) -> None:
        found: dict[str, Counter[str]] = {}
        for i, name, kept in _elementwise(saved["state"]):
            kinds = found.setdefault(name, Counter())
            kinds[_kind(kept)] += 1
            if kinds[_kind(kept)] > own[_kind(kept)]:
                raise ValueError(
                    f"{at}.state[{i}].{name} is {shown(kept)}, must have shape and dtype of a "
                    f"parameter of {type(model).__name__} that is trained"
                )

    return check


def _elementwise(state: Mapping[int, Mapping[str, Any]]) -> Iterator[tuple[int, str, Any]]:
    for i, of_one in state.items():
        for name in sorted(ELEMENTWISE & of_one.keys()):
            if of_one[name] is not None:
                yield i, name, of_one[name]


def _kind(value: Any) -> str:
    return shown(value) if isinstance(value, torch.Tensor) else type(value).__name__


def check_learner(file: str, learner: Mapping[str, Any], model: nn.Module | None = None) -> None:
    """Compare optimizer and random states with what `Learner` and `rng_state` give.

    Args:
        file: To name.
        learner: What was read of it.
        model: Whose trained parameters the optimizer has. `None`: neither model nor average of the
            weights was read.

    Raises:
        RunDirectoryError: It has another form.
    """
    check_file(file, LEARNER if model is None else AVERAGED, "learner", learner)
    kind = learner["kind"]
    if model is not None and (hasattr(torch.optim, kind) or kind in OWN):
        check_file(file, fits_model(model), "learner.optimizer", learner["optimizer"])
