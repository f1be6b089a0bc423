"""What old scores do to Selective-Backprop at the start of a run: an oscillation that stalls it.

    python pipelines/benchmarks/delayed_scores.py [--data FOLDER] [--steps 450]

Selection is a feedback: rows of high loss are trained, which lowers their loss. With scores that
are d steps old it comes d steps late, and while the net still learns something with every step,
whole classes take turns at being hardest. One process, the rows and the net of `frontier.py`
(near-duplicates), pools of 256 rows scored with the weights of d steps before, batches of 64, a
rate that falls linearly to 0. Test error after the steps, by beta, d and steps of warm-up on every
row. Written to `pipelines/records/delayed_scores_*`.
"""

import argparse
import os
import sys
import time
from collections import deque
from pathlib import Path

import numpy as np
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[2]))  # the raysb beside this file
sys.path.insert(0, str(Path(__file__).parent))

from bench import records
from frontier_cells import BATCH, Method, Setup, judge, rows_of, stream_of
from frontier_rows import load, test_rows

from raysb.optim.registry import build_optimizer
from raysb.schema import ID, Batch, concatenate, num_rows, take
from raysb.training.schedule import set_lr
from raysb.training.settings import Training

ROWS, RATE, WINDOW = 30_000, 0.05, 1024
CASES = ((2, 0, 0), (2, 2, 0), (2, 5, 0), (2, 5, 100), (2, 10, 100), (1, 5, 0), (1, 10, 0))


def train(setup: Setup, test: Batch, beta: float, delay: int, warmup: int, steps: int) -> float:
    """Error of one run."""
    rows = rows_of(setup, "near_duplicates")
    spec = stream_of(rows, Method("SelectiveBackprop", {"beta": float(beta)}), 1)
    model, scorer = spec.task.build(1), spec.task.build(1)
    optimizer = build_optimizer(model, Training(lr=RATE))
    plan, window = spec.plan(BATCH, 99), np.empty(0, np.float32)
    past = deque([_copy(model)], maxlen=delay + 1)
    waiting: list[Batch] = []
    pool = step = 0
    while step < steps:
        while sum(map(num_rows, waiting)) < BATCH:
            scorer.load_state_dict(past[0])
            batch, epoch = spec.read(plan, pool), plan.epoch_of(pool)
            scored = spec.pool_scoring(scorer, batch, window=window, weights_step=0, epoch=epoch)
            window = np.concatenate([window, scored.record.losses])[-WINDOW:]
            kept = {name: scored.rows[name] for name in batch}
            waiting.append(batch if step < warmup else kept)
            pool += 1
        ready = concatenate(waiting)
        waiting = [take(ready, slice(BATCH, None))]
        tensors = spec.task.tensors(take(ready, slice(0, BATCH)), torch.device("cpu"))
        losses = torch.stack(list(spec.task.training_losses(model, tensors).values())).sum(0)
        set_lr(optimizer, [RATE], 1 - step / steps)
        optimizer.zero_grad()
        losses.mean().backward()
        optimizer.step()
        past.append(_copy(model))
        step += 1
    return float(judge(spec.task, model, test)["error"])


def _copy(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def main() -> None:
    """Run, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", help="folder with parquet; by default 5,000 digits")
    parser.add_argument("--steps", type=int, default=450)
    parser.add_argument("--out", type=Path, default=Path("pipelines/records"))
    args = parser.parse_args()
    about = records.context(sys.argv[1:], "benchmarks/delayed_scores.py")
    torch.set_num_threads(1)
    setup = Setup(args.data, ROWS, 0.0)
    image, label = test_rows(load(args.data, ROWS))
    test = {"image": image, "label": label, ID: np.arange(len(label))}
    lines = ["| beta | age of the scores | warm-up steps | error |", "|---|---|---|---|"]
    for beta, delay, warmup in CASES:
        error = train(setup, test, beta, delay, warmup, args.steps)
        lines.append(f"| {beta} | {delay} | {warmup} | {error:.2%} |")
        print(lines[-1], flush=True)
    args.out.mkdir(parents=True, exist_ok=True)
    name = args.out / f"delayed_scores_{os.cpu_count()}cpu_{time.strftime('%Y-%m')}.md"
    said = (
        f"# Age of scores and test error\n\n`{about['command']}`, commit {about['commit']}, "
        f"{about['date']}. {args.steps} steps of {BATCH} rows, one seed.\n\n"
    )
    name.write_text(said + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
