"""What an epoch without scoring saves: rows a second, decoded and scored rows, by epoch.

    python pipelines/benchmarks/stale_epochs.py [--data FOLDER]  # one thread, two minutes

`StaleSelectiveBackprop(beta=2, refresh_every=3)` on PNG-encoded digits with `cnn` (16-32-64), local
engine. Rows offered per second of CPU time, and how many were decoded, scored and trained, of each
epoch; the median over the three cycles of a run. Written to `pipelines/records/stale_epochs_*`.
"""

import argparse
import io
import sys
import time
from collections import Counter, defaultdict
from functools import partial
from pathlib import Path

import numpy as np
import torch
from bench import records
from bench.measures import Measure, text_table
from frontier_rows import load
from PIL import Image

from raysb.local import LocalStream
from raysb.losses import cross_entropy
from raysb.nn.registry import build_model
from raysb.nn.settings import Model
from raysb.schema import Batch
from raysb.selection import StaleSelectiveBackprop
from raysb.source.arrays import ArraySource
from raysb.source.open import open_sources
from raysb.source.settings import Data
from raysb.training.learner import Learner
from raysb.training.spec import StreamSpec

EPOCHS, BATCH, ROWS = 9, 64, 10_000
FIGURES = {
    "rows_per_s": "rows offered per second of CPU time",
    "decoded": "rows decoded",
    "scored": "rows scored",
    "trained": "rows trained",
}


class Encoded(ArraySource):
    """Digits as PNG in memory, decoded when they are read; counts the rows of each epoch."""

    def __init__(self, columns: dict[str, np.ndarray]) -> None:
        super().__init__(columns, seed=0)
        self.decoded: Counter[int | None] = Counter()

    def read(self, epoch: int | None, start: int, stop: int) -> Batch:
        """All rows of a span, decoded."""
        return self._decode(epoch, super().read(epoch, start, stop))

    def read_some(self, epoch: int | None, start: int, stop: int, rows: np.ndarray) -> Batch:
        """Some rows of a span; no other is decoded."""
        return self._decode(epoch, super().read_some(epoch, start, stop, rows))

    def _decode(self, epoch: int | None, batch: Batch) -> Batch:
        self.decoded[epoch] += len(batch["png"])
        opened = [np.asarray(Image.open(io.BytesIO(png))) for png in batch.pop("png").tolist()]
        image = np.stack(opened) if opened else np.empty((0, 28, 28), np.uint8)
        return {**batch, "image": image[..., None]}


def encode(image: np.ndarray) -> bytes:
    """One digit as PNG."""
    file = io.BytesIO()
    Image.fromarray(image[..., 0]).save(file, "PNG")
    return file.getvalue()


def measure(data: str | None) -> list[dict[str, float]]:
    """One line for each epoch."""
    torch.set_num_threads(1)
    digits = load(data, ROWS)
    png = np.array([encode(image) for image in digits.image], object)
    source = Encoded({"png": png, "label": digits.label})
    sources = open_sources(Data(), seed=0, train=source, num_classes=10)
    spec = StreamSpec.of(
        sources,
        Data(),
        model=partial(
            build_model,
            Model(name="cnn", args={"channels": [16, 32, 64]}),
            image_shape=(28, 28, 1),
            num_classes=10,
        ),
        loss=cross_entropy("label"),
        selector=StaleSelectiveBackprop(beta=2.0, refresh_every=3),
    )
    stream, model = LocalStream(spec), spec.task.build(0)
    learner = Learner(spec.task, model, torch.optim.SGD(model.parameters(), 0.05, momentum=0.9))
    source.decoded.clear()
    seconds, last = dict.fromkeys(range(EPOCHS), 0.0), time.process_time()
    for batch in stream.iter_batches(batch_size=BATCH, epochs=EPOCHS, model=model):
        learner.step(stream, batch, 1.0)
        now = time.process_time()
        seconds[stream.epoch] += now - last
        last = now
    return [
        {
            "epoch": epoch,
            "rows_per_s": sums.num_offered / seconds[epoch],
            "decoded": source.decoded[epoch],
            "scored": sums.num_scored,
            "trained": sums.num_selected,
        }
        for epoch, sums in sorted(stream.ledger.totals.epochs.items())
    ]


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", help="folder with parquet; by default 5,000 digits")
    parser.add_argument("--out", type=Path, default=Path("pipelines/records"))
    args = parser.parse_args()
    about = records.context(sys.argv[1:], "benchmarks/stale_epochs.py")
    lines, kinds = measure(args.data), defaultdict(list)
    for line in lines:
        kinds["epochs that refresh" if line["epoch"] % 3 == 0 else "epochs between"].append(line)
    measures = [
        Measure(part="A", name=f"{kind}: {figure}", values=[line[name] for line in found])
        for kind, found in kinds.items()
        for name, figure in FIGURES.items()
    ]
    records.write(args.out, "stale_epochs", measures, about, quick=False)
    print(text_table(measures))


if __name__ == "__main__":
    main()
