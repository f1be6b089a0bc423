"""The classic net on MNIST with DistributedDataParallel: every worker trains a share of each step.

    python pipelines/mnist_ddp.py [--data FOLDER] [--workers 2] [--epochs 3]
    ... train.strategy=fsdp          # sharded; also train.accumulate=2, train.clip_norm=1.0, ...

64 rows a step over all workers, whatever their number: the gradient is that of one process with the
same rows, but for rounding and the draws of dropout. `mnist_classic.py` is one process.

An epoch of the 60,000 rows on two quiet cores, `--epochs 1 train.num_threads=1`, n = 1: test error
3.44 % at 1,554 rows/s with two workers, 3.30 % at 995 and 1,038 rows/s in one process, before and
after. Which rows come first differs, and the last steps are one worker's (960, not 938).
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
