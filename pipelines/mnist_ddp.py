"""The classic net on MNIST with DistributedDataParallel: every worker trains a share of each step.

    python pipelines/mnist_ddp.py [--data FOLDER] [--workers 2] [--epochs 3]
    ... train.strategy=fsdp          # sharded; also train.accumulate=2, train.clip_norm=1.0, ...

64 rows a step over all workers, whatever their number: the gradient is that of one process with the
same rows, but for rounding and the draws of dropout. `mnist_classic.py` is one process.

On two cores that other work kept busy (load 17 to 28; the same process did 143 to 365 rows/s), 150
steps on the 60,000 rows, `train.max_steps=150 eval.every=150 train.num_threads=1`: test error
9.4 % at 941 rows/s with two workers, 9.9 % at 365 rows/s in one process. Which rows come first
differs, and the rates were not taken on a quiet machine.
"""

from collections.abc import Sequence

from mnist_classic import BATCH, fit, parse


def main(words: Sequence[str] | None = None) -> float:
    """Train on workers of Ray; returns the test error."""
    args, more = parse(__doc__, words)
    if BATCH % args.workers:
        raise SystemExit(f"--workers {args.workers}: must divide the {BATCH} rows of a step")
    strategy = ["train.strategy=ddp", f"train.num_workers={args.workers}"]
    strategy += [f"train.batch_size={BATCH // args.workers}", "data.num_readers=1"]
    return fit(args, strategy, more)


if __name__ == "__main__":
    main()
