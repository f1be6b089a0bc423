"""The classic net on MNIST with nn.DataParallel: one process, a share of each batch on every GPU.

    python pipelines/mnist_data_parallel.py [--data FOLDER] [--epochs 3]

On a machine without GPUs, or with one, it says so and is the same as one process. PyTorch advises
`mnist_ddp.py` in its place: here the model is copied to every GPU at each step, and one process
drives them all.

An epoch of the 60,000 rows on two quiet cores, `--epochs 1 train.num_threads=1`, n = 1: test error
3.30 % at 1,032 rows/s, to the digit that of one process (995 and 1,038 rows/s). On several GPUs it
has not been run.
"""

from collections.abc import Sequence

from mnist_classic import BATCH, fit, parse


def main(words: Sequence[str] | None = None) -> float:
    """Train in this process; returns the test error."""
    args, more = parse(__doc__, words)
    strategy = ["engine=local", "train.strategy=data_parallel", f"train.batch_size={BATCH}"]
    return fit(args, strategy, more)


if __name__ == "__main__":
    main()
