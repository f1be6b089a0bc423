"""What a checkpoint is made of, for the tests that write some."""

from typing import Any

import numpy as np
import torch
from torch import nn

from raysb.history.ring import LossRing
from raysb.history.table import LossTable
from raysb.scoring.cursor import Cursor, Waiting
from raysb.scoring.ledger import Ledger
from raysb.scoring.totals import Totals
from raysb.training.generators import rng_state


def parts(value: float = 0.0) -> dict[str, Any]:
    """What a run saves; of its very classes, but for the loop's few numbers."""
    model = nn.Linear(3, 2)
    nn.init.constant_(model.weight, value)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    nn.init.constant_(model.weight, value)
    table, ring = LossTable(), LossRing(8)
    losses = np.ones(5, np.float32)
    kept = {"correct": None, "selected": losses > 0, "weights_step": 1, "epoch": 0}
    table.record(np.arange(5), losses, **kept)
    ring.record(0, losses)
    rows = {"id": np.arange(2), "loss": losses[:2]}
    waiting = {4: Waiting(2, rows), 5: Waiting(1)}
    totals = {"0": vars(Totals()).copy()}
    counted = {"step": 5, "num_backpropped": 5, "cost": 1.5, "wall_time_s": 2.0}
    made = {"num_rows": 5}
    return {
        "model": model,
        "learner": {
            "optimizer": optimizer.state_dict(),
            "kind": "AdamW",
            "groups": [{"lr": 0.001}],
            "rngs": [rng_state()],
        },
        "stream": {
            "cursor": Cursor(3, (6,), waiting).state_dict(),
            "counters": {
                "made_with": made,
                **{"num_steps": 5, "num_backpropped": 5, "num_scored": 5, "max_age": 0},
                "sums": [[1.0, 5.0, 0, 0]],
            },
            "ledger": Ledger(ring=ring).state_dict()
            | {
                "epochs": totals,
                "sums": [[4, [5, 5, 2, 0, 0, 1.0, 0], [3]]],
                "nonfinite": {"3": 1},
            },
            "outlooks": {"0": None, "1": {"ids": np.arange(2), "columns": {"loss": losses[:2]}}},
            "loop": {
                **{"epoch": 0, "evaluated_at": -1, "num_lines": 2, "last": counted},
                **{"seconds": 2.5, "stopping": {"best": None, "num_since": 0}},
            },
        },
        "history": table.state_dict(),
    }
