"""The classic net on MNIST in two stages: the convolutions, and the layers behind them.

    python pipelines/mnist_model_parallel.py [--data FOLDER] [--epochs 3]
    python pipelines/mnist_model_parallel.py --pipeline      # a stage on each of two workers

By hand, the stages lie on two GPUs of one process, or both on the CPU, and take turns. With
`--pipeline` they are workers of Ray, and 8 micro-batches of a step keep both busy (1F1B;
`train.strategy_args.schedule=gpipe` is the other order). The gradient is the same.

An epoch of the 60,000 rows on two quiet cores, `--epochs 1 train.num_threads=1`, n = 1: test error
3.30 % at 1,076 rows/s by hand, to the digit that of one process (995 and 1,038 rows/s); 3.55 % at
970 rows/s as a pipeline of two workers. On two GPUs it has not been run.
"""

from collections.abc import Sequence

from mnist_classic import BATCH, fit, parse

HIDDEN = 9  # the number of the layer at which the second stage begins


def main(words: Sequence[str] | None = None) -> float:
    """Train; returns the test error."""
    args, more = parse(__doc__, words)
    split = f"train.strategy_args.split=[{HIDDEN}]"
    if not args.pipeline:
        strategy = ["engine=local", "train.strategy=model_parallel", f"train.batch_size={BATCH}"]
        return fit(args, [*strategy, split], more)
    strategy = ["train.strategy=pipeline", "train.num_workers=2", "train.accumulate=8"]
    strategy += [f"train.batch_size={BATCH // 2}", "data.num_readers=1", split]
    return fit(args, strategy, more)


if __name__ == "__main__":
    main()
