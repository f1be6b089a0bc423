"""What a cheap score costs, and how far it ranks rows as the model that is trained does.

    python pipelines/cheap_scorers.py --mnist FOLDER --cifar10 FOLDER  # writes pipelines/records/

A `cnn` after 400 steps of SGD: rank correlation with its own losses in float32 of 2,048 new rows;
medians (ranges), n=3 seeds, AMD EPYC. MNIST, CIFAR-10: distilled half .94 (.93-.94), .97 (.95-.97)
in .7, .6 of the time; half size .27 (.22-.35), .78 (.72-.79); age 10 .72 (.71-.86), .72 (.66-.75)
"""

import argparse
import sys
from copy import deepcopy
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from time import process_time
from timeit import repeat

import torch
from torch.nn.functional import cross_entropy

import raysb
from raysb.nn.registry import MODELS
from raysb.pruning import Wanted, prune_model
from raysb.scoring.agreement import RankAgreement
from raysb.scoring.forward import score

sys.path.append(str(Path(__file__).parent / "benchmarks"))
from bench import records
from bench.measures import Measure, text_table

ARGS = {"bfloat16": {"dtype": "bfloat16"}, "half the height and width": {"image_scale": 0.5}}
STEPS, STALE, SETS = 400, (10, 50, 200), {"mnist": (1, 28 * 28), "cifar10": (3, 3 * 32 * 32)}


def trained(model, task, batches):
    """The model, trained, and copies of what it was some steps before."""
    optimizer, old = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9), {}
    for left, batch in zip(range(len(batches), 0, -1), batches, strict=True):
        old |= {f"stale by {left} steps": deepcopy(model)} if left in STALE else {}
        optimizer.zero_grad()
        task.losses(task.outputs(model, batch), batch).mean().backward()
        optimizer.step()
    return model, old


def compared(channels: int, features: int, file: str, seed: int, rows: int = 2048):
    """Rank correlation, overlap and CPU time [us a row] of each way to score."""
    build = partial(MODELS["cnn"], channels, 10, channels=(16, 32, 64))
    data = {"loss": raysb.losses.cross_entropy("label"), "datasets": {"train": file}, "seed": seed}
    spec = raysb.SelectiveTrainer(model=build, engine="local", **data).job.spec
    task, read, last = spec.task, partial(spec.source.read, 0), spec.source.num_rows
    unseen, batches = read(last - rows, last), [read(64 * i, 64 * i + 64) for i in range(STEPS)]
    live, old = trained(task.build(seed), task, batches := [*map(task.tensors, batches)])
    pruned = prune_model(live, task, batches[:16], Wanted(amount=0.5, scope="layer")).module
    soft = lambda x: task.outputs(live, x).detach().softmax(1)  # noqa: E731
    kl = replace(task, loss=lambda z, x: cross_entropy(z, soft(x), reduction="none"))
    models = {"float32": live, **dict.fromkeys(ARGS, live), **old, "half the channels": pruned}
    models["the same, distilled"] = trained(deepcopy(pruned), kl, batches[STEPS // 2 :])[0]
    models["mlp of 64"] = trained(MODELS["mlp"](features, 10, hidden=(64,)), task, batches)[0]
    act = {w: partial(score, task, m, unseen, **ARGS.get(w, {})) for w, m in models.items()}
    time = partial(repeat, number=1, repeat=3, timer=process_time)
    us = {w: 1e6 / rows * min(time(act[w])) for w in act}
    return {w: (*RankAgreement.of(act[w]().losses, act["float32"]().losses), us[w]) for w in act}


if __name__ == "__main__":
    context = records.context([]) | {"command": __doc__.split("  ")[2].strip()}
    parser, found = argparse.ArgumentParser(description=__doc__), []
    _ = [parser.add_argument(f"--{name}", required=True) for name in SETS]
    torch.set_num_threads(1)
    for name, folder in vars(parser.parse_args()).items():
        seeds = [compared(*SETS[name], f"{folder}/train.parquet", seed) for seed in range(3)]
        for way in seeds[0]:
            rho, overlap, us = zip(*(seed[way] for seed in seeds), strict=True)
            note = f"overlap {median(overlap):.2f}, {median(us):.1f} us of CPU a row"
            found.append(Measure(part=name, name=way, values=[*rho], note=note))
    print(text_table(found))
    records.write(records.ROOT / "pipelines/records", "cheap_scorers", found, context, quick=False)
