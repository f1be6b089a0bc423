"""Find wrong labels by what a run learned of each sample: its history, against one scoring after.

    python pipelines/find_suspects.py [--data FOLDER] [--epochs 12] [--seeds 3] [--record LETTER]

5 % of the labels are changed, by a seed; `cnn` trains on every row, each scored before it. Share of
flipped ones among the first .8 x flipped by suspicion, mean loss, last loss (chance: .05): MNIST, 4
epochs .999 .999 .999 (n=3); CIFAR-10, 8: .760 .745 .759 (n=2); mnist5k (without FOLDER) .994 .988
.988 (n=3), in 60 epochs, which learn wrong labels by heart, .981 .994 .912. FOLDER: train.parquet.
"""

import argparse
import sys
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from ray.train import RunConfig

import raysb
from raysb.inspect_history.order import order
from raysb.inspect_history.records import read_history
from raysb.nn.cnn import ConvNet
from raysb.source.open import open_sources

sys.path.append(str(Path(__file__).parent / "benchmarks"))
from bench import records
from bench.measures import Measure, text_table

HISTORY = ("suspicion", "mean_loss", "loss", "never", "forgetting")
SCORE = {"loss": -1, "label_margin": 1}  # sign that sorts the suspicious end first


def flip(labels: np.ndarray, rng: np.random.Generator, share: float) -> tuple[np.ndarray, ...]:
    """Labels with a share of them changed to another class, and which were."""
    wrong = np.zeros(len(labels), bool)
    wrong[rng.choice(len(labels), round(share * len(labels)), replace=False)] = True
    other = (labels.astype(np.int64) + rng.integers(1, 10, len(labels))) % 10
    return np.where(wrong, other, labels), wrong


def precision(rows: dict, seed: int, epochs: int, folder: Path) -> dict[str, float]:
    """Flip labels, train, look into the history, score; the share of flipped ones by each order."""
    labels, wrong = flip(rows["label"], np.random.default_rng(seed), 0.05)
    rows, k = {**rows, "label": labels}, round(0.8 * wrong.sum())
    same = {"model": partial(ConvNet, rows["image"].shape[3], 10), "engine": "local"}
    same["loss"] = raysb.losses.cross_entropy("label")
    run = raysb.SelectiveTrainer(
        datasets={"train": rows},
        selector=raysb.SelectiveBackprop(min_probability=1.0),
        optimizer=partial(torch.optim.SGD, lr=0.05, momentum=0.9),
        training=raysb.Training(epochs=epochs, batch_size=64, num_threads=1),
        run_config=RunConfig(storage_path=str(folder), name=f"run-{seed}"),
        seed=seed,
        **same,
    )
    path, out = run.fit().path, folder / f"{seed}.parquet"
    history, by_id = read_history(Path(path)), wrong[np.argsort(rows["id"])]
    found = {f"history by {by}": by_id[order(history, by)[:k]].sum() / k for by in HISTORY}
    raysb.score(weights=path, rows=rows, out=out, **same)
    for name, sign in SCORE.items():
        suspects = np.argsort(sign * pq.read_table(out)[name].to_numpy())[:k]
        found[f"raysb score by {name}"] = wrong[suspects].mean()
    return {f"precision, {name}": float(value) for name, value in found.items()}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    for name, default in (("data", ""), ("epochs", 12), ("seeds", 3), ("record", "")):
        parser.add_argument(f"--{name}", type=type(default), default=default)
    given, context = parser.parse_args(), records.context(sys.argv[1:])
    data = raysb.Data(train=f"{given.data}/train.parquet" if given.data else "mnist5k")
    source = open_sources(data, seed=0).train
    rows = source.read(None, 0, source.num_rows)
    with tempfile.TemporaryDirectory() as out:
        runs = [precision(rows, seed, given.epochs, Path(out)) for seed in range(given.seeds)]
    same = {"part": given.record or "-", "note": f"{len(rows['id']):,} rows, {given.epochs} epochs"}
    measures = [Measure(name=n, values=[run[n] for run in runs], **same) for n in runs[0]]
    print(text_table(measures))
    if given.record:
        context["command"] = context["command"].replace("benchmarks/throughput", "find_suspects")
        folder = records.ROOT / "pipelines" / "records"
        records.write(folder, "find_suspects", measures, context, quick=False)
