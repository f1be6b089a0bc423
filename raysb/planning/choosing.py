"""What a selector takes by itself: choosing among the scores of a pool."""

import time
from statistics import median

import numpy as np

from raysb.seeding import Draws
from raysb.selection import LossDistribution, SelectiveBackprop, Selector

WARM, SELECTIONS = 3, 20  # pools


def plain() -> Selector:
    """The selector that the others are compared with: scores every row, trains half of them."""
    return SelectiveBackprop()


def select_seconds(selector: Selector, rows: int) -> float:
    """CPU seconds a row that choosing among a pool's scores takes, the median of some pools."""
    rng, ids = np.random.default_rng(0), np.arange(rows)
    window = rng.exponential(size=max(selector.history, rows)).astype(np.float32)
    window[-rows:] = scores = rng.exponential(size=rows).astype(np.float32)
    state, seconds = selector.state_dict(), []
    for epoch in range(WARM + SELECTIONS):  # the first ones warm up
        start = time.process_time()
        seen = LossDistribution(window)
        selector.select(ids, scores, seen, Draws(seed=0, epoch=WARM + epoch))
        seconds.append((time.process_time() - start) / rows)
    selector.load_state_dict(state)  # it counts what it is offered
    return median(seconds[WARM:])
