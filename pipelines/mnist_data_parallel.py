"""The classic net on MNIST with nn.DataParallel: one process, a share of each batch on every GPU.

    python pipelines/mnist_data_parallel.py [--data FOLDER] [--epochs 3]

On a machine without GPUs, or with one, it says so and is the same as one process. PyTorch advises
`mnist_ddp.py` in its place: here the model is copied to every GPU at each step, and one process
drives them all.

On two cores that other work kept busy (load 17 to 28; the same process did 143 to 365 rows/s), 150
steps on the 60,000 rows, `train.max_steps=150 eval.every=150 train.num_threads=1`: test error
9.89 % at 307 rows/s, to the digit that of one process. On several GPUs it has not been run.
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
