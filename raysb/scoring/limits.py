"""From the age a score may have to the numbers that keep it: rows and pools in flight.

The age of a trained row is the number of optimizer steps between the weights that scored it and the
weights that it trains. With pools of n rows, W workers and batches of B rows, scoring pool q is
granted when q is within S pools of the oldest unscored one and fewer than K selected rows wait:

- ahead of the last row of q there are at most K - 1 waiting rows and S n rows of ungranted pools;
- pools go whole to the worker that has had the fewest rows, so workers differ by n rows at most,
  and a worker trains the row within ceil((K - 1 + S n + (W - 1) n) / (W B)) steps of the grant;
- weights are at most m - 1 steps old at the grant if every m-th step publishes.

    age <= ceil((K - 1 + (S + W - 1) n) / (W B)) - 1 + (m - 1)

Below K = W (B - 1) + (W - 1) n + 1 a worker could wait for rows that the gate holds back while the
others wait for it in the all-reduce: the smallest K, and with S = 1 the smallest possible age.

While a net still changes with every step, old scores can stall a selector that prefers the hardest
rows: whole classes take turns at being hardest (`pipelines/benchmarks/delayed_scores.py`). For such
a selector `auto` has the smallest K for the first `FRESH_STEPS` steps.
"""

import math
from dataclasses import dataclass

FRESH_STEPS = 200


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What the ledger enforces.

    Args:
        global_batch: Rows of one optimizer step over all workers, W B.
        lockstep: Score a pool only after every step that its predecessors allow, with exactly
            those weights; the rest is then void.
        max_rows: K, or `None` for no gate at all.
        window: S, pools that may be granted ahead of the oldest unscored one.
        publish_every: m, optimizer steps between two publications of the weights.
        max_age: The bound that follows, in steps; `None` where there is none.
        num_actors: Scorers that it is made for.
        first_rows: K for the first `fresh_steps` optimizer steps of a run.
        fresh_steps: 0: K is `max_rows` from the first step on.
    """

    global_batch: int
    lockstep: bool = False
    max_rows: int | None = None
    window: int | None = None
    publish_every: int = 1
    max_age: int | None = None
    num_actors: int = 1
    first_rows: int = 0
    fresh_steps: int = 0

    def rows_at(self, step: int) -> int | None:
        """K after so many optimizer steps; `None` where there is no gate."""
        return self.first_rows if step < self.fresh_steps else self.max_rows

    def due(self, step: int, published: int) -> bool:
        """Whether a step publishes its weights, after the last publication at `published`."""
        return step - published >= self.publish_every

    def at_once(self, pool_rows: int) -> float:
        """Pools of so many rows that can be granted side by side, when no row waits."""
        if self.lockstep:
            return 1
        if self.max_rows is None or self.window is None:
            return math.inf
        return min(self.window, math.ceil(self.max_rows / pool_rows))


def age_bound(
    *,
    max_rows: int,
    window: int,
    pool_rows: int,
    batch_size: int,
    num_workers: int,
    publish_every: int,
) -> int:
    """The largest age in steps that the gate allows; the formula above."""
    rows = max_rows - 1 + (window + num_workers - 1) * pool_rows
    return math.ceil(rows / (num_workers * batch_size)) - 1 + publish_every - 1


def smallest_max_rows(*, pool_rows: int, batch_size: int, num_workers: int) -> int:
    """The smallest K that cannot deadlock."""
    return num_workers * (batch_size - 1) + (num_workers - 1) * pool_rows + 1


def limits_for(
    max_staleness_steps: int | str | None,
    *,
    pool_rows: int,
    batch_size: int,
    num_workers: int,
    num_actors: int,
    publish_every: int = 1,
    starts_fresh: bool = False,
) -> Limits:
    """Turn `scoring.max_staleness_steps` into what the ledger enforces.

    `0` is lockstep, `None` no gate, `"auto"` room enough that neither side waits for the other;
    with `starts_fresh` it begins with as little as can be.

    Raises:
        ValueError: A bound below the smallest that these sizes allow.
    """
    global_batch = num_workers * batch_size
    sizes = {"pool_rows": pool_rows, "batch_size": batch_size, "num_workers": num_workers}
    if max_staleness_steps is None:
        return Limits(global_batch=global_batch, publish_every=publish_every, num_actors=num_actors)
    if max_staleness_steps == 0:
        age = math.ceil(pool_rows / global_batch)
        return Limits(global_batch=global_batch, lockstep=True, max_age=age, num_actors=num_actors)
    least_rows = smallest_max_rows(**sizes)
    wanted_window = 2 * num_actors
    if max_staleness_steps == "auto":
        # every further scorer has two pools in hand, whose rows are reserved until they are scored
        reserved = 2 * (num_actors - 1) * pool_rows
        rows, window = least_rows + 2 * max(global_batch, pool_rows) + reserved, wanted_window
    else:
        rows, window = _fit(
            int(max_staleness_steps), least_rows, wanted_window, publish_every, sizes
        )
    age = age_bound(max_rows=rows, window=window, publish_every=publish_every, **sizes)
    return Limits(
        global_batch=global_batch,
        max_rows=rows,
        window=window,
        publish_every=publish_every,
        max_age=age,
        num_actors=num_actors,
        first_rows=least_rows,
        fresh_steps=FRESH_STEPS if starts_fresh and max_staleness_steps == "auto" else 0,
    )


def limits_as_grown(
    max_staleness_steps: int | str | None,
    *,
    pool_rows: int,
    batch_size: int,
    num_workers: int,
    num_actors: tuple[int, int],
    publish_every: int = 1,
    starts_fresh: bool = False,
) -> tuple[Limits, ...]:
    """The limits of the least scorers, and of one more each, as far as more can score at once.

    A bound on ages may leave no work for more: lockstep for more than one, a small bound for more
    than a few. There the list ends before the most that are allowed.

    Raises:
        ValueError: A bound below the smallest that these sizes allow.
    """
    least, most = num_actors
    found: list[Limits] = []
    for count in range(least, most + 1):
        limits = limits_for(
            max_staleness_steps,
            pool_rows=pool_rows,
            batch_size=batch_size,
            num_workers=num_workers,
            num_actors=count,
            publish_every=publish_every,
            starts_fresh=starts_fresh,
        )
        if found and limits.at_once(pool_rows) < count:
            break
        found.append(limits)
    return tuple(found)


def _fit(
    bound: int, least_rows: int, wanted_window: int, publish_every: int, sizes: dict[str, int]
) -> tuple[int, int]:
    """The widest window up to the wanted one, then the most rows, that keep the bound."""
    n, workers = sizes["pool_rows"], sizes["num_workers"]
    rows = (bound + 2 - publish_every) * workers * sizes["batch_size"]  # K - 1 + (S + W - 1) n
    window = min((rows - (least_rows - 1)) // n - (workers - 1), wanted_window)
    if window >= 1:
        return rows + 1 - (window + workers - 1) * n, window
    least = age_bound(max_rows=least_rows, window=1, publish_every=publish_every, **sizes)
    raise ValueError(
        f"scoring.max_staleness_steps={bound}: with train.num_workers={workers}, train.batch_size="
        f"{sizes['batch_size']}, scoring.batch_size={n} and scoring.publish_every={publish_every} "
        f"the smallest bound is {least} steps, below it the workers would wait for each other for "
        f"ever. Allow {least} or more, make pools smaller (scoring.batch_size), or set 0 for "
        "lockstep"
    )
