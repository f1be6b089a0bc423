"""t-SNE in torch beside scikit-learn's, exact and Barnes-Hut, on the same rows.

    python pipelines/benchmarks/tsne_speed.py [--repeats 5] [--out pipelines/records]

Rows drawn from `digits` (64 features, float64), others in each repeat, PCA start, perplexity 30,
1,000 iterations. Seconds are of CPU, in one thread; the arms alternate; medians, least and most.
KL is the divergence that each reports of its map, in nats; "same points" the share of raysb's
coordinates that are those of the arm to the bit.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # before numpy and torch are loaded
sys.path.insert(0, str(Path(__file__).parents[2]))  # the raysb beside this file
sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
import torch
from bench import records
from sklearn import manifold
from sklearn.datasets import load_digits

from raysb.layout import aligned
from raysb.report import TSNE

ROWS = (300, 500, 1000)
ARMS: dict[str, Callable[[], Any]] = {
    "raysb": TSNE,
    "sklearn exact": lambda: manifold.TSNE(method="exact", random_state=0),
    "sklearn barnes_hut": lambda: manifold.TSNE(random_state=0),
}
HEAD = ("rows", "arm", "seconds", "least", "most", "KL", "KL / raysb's", "same points")


def measure(rows: int, repeats: int) -> Iterator[dict[str, Any]]:
    """Fit every arm in turn, again and again."""
    features = load_digits().data
    lines = [{"rows": rows, "arm": arm, "seconds": [], "kl": [], "same": []} for arm in ARMS]
    for repeat in range(repeats):
        drawn = features[np.random.default_rng(repeat).permutation(len(features))[:rows]]
        ours = None
        for line, make in zip(lines, ARMS.values(), strict=True):
            start = time.process_time()
            found = make().fit(drawn)
            line["seconds"].append(time.process_time() - start)
            line["kl"].append(float(found.kl_divergence_))
            ours = found.embedding_ if ours is None else ours
            line["same"].append(float((ours == found.embedding_).mean()))
    yield from lines


def cells(line: dict[str, Any], ours: dict[str, Any]) -> tuple[str, ...]:
    """A line of the table as text."""
    times = line["seconds"]
    ratios = [theirs / own for theirs, own in zip(line["kl"], ours["kl"], strict=True)]
    return (
        str(line["rows"]),
        line["arm"],
        *(f"{n:.2f}" for n in (median(times), min(times), max(times))),
        f"{median(line['kl']):.4f}",
        f"{min(ratios):.4f} to {max(ratios):.4f}",
        f"{min(line['same']):.0%}",
    )


def write(folder: Path, lines: list[dict[str, Any]], table: list[tuple[str, ...]]) -> list[Path]:
    """The figures as JSON and as Markdown."""
    hardware, context = records.hardware(), records.context(sys.argv[1:])
    context["command"] = context["command"].replace("throughput", "tsne_speed")
    stem = f"tsne_speed_{hardware['cores']}cpu_{datetime.now(UTC):%Y-%m}"
    path = folder / f"{stem}.json"
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"hardware": hardware, **context, "lines": lines}, indent=1) + "\n")
    head = f"`{context['command']}`, {hardware['cores']} cores of {hardware['cpu']}, commit "
    head += f"{context['commit']}, {context['date']}, load {context['load_before']}."
    text = "\n".join(f"| {' | '.join(row)} |" for row in (HEAD, ("---",) * len(HEAD), *table))
    about = (__doc__ or "").split("\n\n")[2].strip()
    (page := path.with_suffix(".md")).write_text(f"# tsne_speed\n\n{head}\n\n{about}\n\n{text}\n")
    return [path, page]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, default=records.ROOT / "pipelines" / "records")
    given = parser.parse_args()
    torch.set_num_threads(1)
    lines, table = [], []
    for rows in ROWS:
        measured = list(measure(rows, given.repeats))
        lines += measured
        table += [cells(line, measured[0]) for line in measured]
    print("\n".join(aligned([HEAD, *table], right=(0, 2, 3, 4, 5, 7))))
    for path in write(given.out, lines, table):
        print(f"written: {path.name}")
