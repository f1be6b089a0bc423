"""The classic net on MNIST in one process: what the other `mnist_*.py` are compared with.

    python pipelines/mnist_classic.py                    # 5,000 pictures of the extra `demo`
    python pipelines/mnist_classic.py --data FOLDER      # train.parquet and test.parquet in it
    ... selector.kind=selective_backprop train.lr=1e-3   # any setting of `raysb train`

Convolutions 1-32-64, dropout, 9216-128-10; Adam at 1e-4, times .7 after every epoch; 64 rows a
step; every row is trained on. Test loss, accuracy and rows per second are shown epoch by epoch.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import raysb
from raysb.config import load
from raysb.run import train

BATCH = 64  # rows of a step, over all workers
RECIPE = (
    *("model.name=classic", "model.norm=none", "model.num_classes=10"),
    *("train.optimizer=adam", "train.lr=1e-4", "train.schedule=step"),
    *("train.schedule_args.gamma=0.7", "selector.kind=uniform"),
)


def parse(about: str, words: Sequence[str] | None) -> tuple[argparse.Namespace, list[str]]:
    """Options of these scripts, and settings of `raysb train`."""
    parser = argparse.ArgumentParser(description=about.splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder of train.parquet and test.parquet")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2, help="train workers, where there are any")
    parser.add_argument("--pipeline", action="store_true", help="stages on workers, not on devices")
    parser.add_argument("--out", type=Path, help="run directory, new; by default runs/mnist-...")
    return parser.parse_known_args(words)


def fit(args: argparse.Namespace, strategy: Sequence[str], more: Sequence[str] = ()) -> float:
    """Train, print a line per epoch, and return the last test error."""
    data = [f"data.{part}={args.data / part}.parquet" for part in ("train", "test") if args.data]
    where = [f"run.dir={args.out}"] if args.out else []
    epochs = [f"train.epochs={args.epochs}", f"train.schedule_args.every={1 / args.epochs}"]
    config = load(None, [*RECIPE, *data, *where, *epochs, *strategy, *more])
    end = train(config)
    newest = args.out or max(Path("runs").iterdir(), key=lambda run: run.stat().st_mtime)
    before, rows = 0.0, 0
    for line in raysb.read_metrics(newest):
        if line["kind"] == "start":
            before = line["wall_time_s"]
        if line["kind"] not in ("epoch", "eval"):
            continue
        seconds = line["wall_time_s"] - line["eval/seconds"] - before
        rate = (line["num_backpropped"] - rows) / seconds
        before, rows = line["wall_time_s"], line["num_backpropped"]
        accuracy = 1 - line["eval/error"]
        print(
            f"epoch {line['epoch'] + 1}, step {line['step']}: test loss {line['eval/loss']:.4f}, "
            f"accuracy {accuracy:.2%}, {rate:,.0f} rows/s"
        )
    return float(end["eval/error"])


def main(words: Sequence[str] | None = None) -> float:
    """Train in this process."""
    args, more = parse(__doc__, words)
    return fit(args, ["engine=local", "train.strategy=single", f"train.batch_size={BATCH}"], more)


if __name__ == "__main__":
    main()
