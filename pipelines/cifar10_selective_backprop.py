"""CIFAR-10 with the recipe of Selective-Backprop's early write-up.

    python pipelines/cifar10_selective_backprop.py TRAIN.parquet TEST.parquet [--image-size 224]
    ... --quick                      # the cnn, 3 epochs
    ... --uniform                    # the same without selection, to compare with
    ... engine=local train.lr=.01    # any setting of `raysb train`

Every pool of 128 rows is scored, a row of loss l is kept with chance max(.3, CDF(l)^.9), ranked
among the last 3,000 losses, and every 32 kept rows are one step of SGD. Training accuracy and mean
loss over all rows come from the scoring forward and cost nothing more; the run's folder holds them
in `metrics.jsonl` and `curves.png`, with `run.log` and the weights.

What it can save: the recipe keeps .5636 of the rows (`kept_fraction`). With a backward pass at the
cost of two forward passes, an epoch takes 1 + 3 x .5636 = 2.69 forward passes a row, where uniform
training takes 3: .897 of the work, a tenth less at best. The trainer does .5636 of its own work, so
with scorers on other hardware an epoch can be 1.77 times as fast.

One departure: group norm in place of batch norm, whose statistics selection biases;
`model.norm=batch` brings it back. How many epochs the write-up took is not known; 100 is ours.

`--quick` shows that it runs, and no gain. One run each, on two cores that other work shared: test
error 54.9 % with selection (kept .559, cost 2.68 epochs of uniform training), 44.3 % with
`--uniform` (cost 3.00): pipelines/records/cifar10_selective_backprop_quick.json. Why is not known.
The resnet34 has not been trained here.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import raysb
from raysb.config import Config, load
from raysb.run import train
from raysb.values import toml_value

RECIPE: dict[str, Any] = {
    "data.mean": [0.5, 0.5, 0.5],  # pixels in (-1, 1)
    "data.std": [0.5, 0.5, 0.5],
    "model.name": "resnet34",
    "model.num_classes": 10,
    "selector.kind": "selective_backprop",
    "selector.beta": 0.9,
    "selector.min_probability": 0.3,
    "selector.history": 3000,
    "scoring.batch_size": 128,
    "train.loss": "cross_entropy",
    "train.batch_size": 32,
    "train.optimizer": "sgd",
    "train.lr": 0.001,
    "train.optimizer_args.momentum": 0.9,
    "train.optimizer_args.nesterov": False,
    "train.optimizer_args.weight_decay": 1e-4,
    "train.schedule": "step",
    "train.schedule_args.gamma": 0.96,
}
DECAY_EPOCHS = 8  # between two factors of gamma
EPOCHS = 100


def parse(words: Sequence[str] | None = None) -> tuple[argparse.Namespace, list[str]]:
    """Options of this script, and settings of `raysb train`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("train", help="parquet of the training rows: image, label")
    parser.add_argument("test", help="parquet of the test rows")
    parser.add_argument("--epochs", type=int, default=None, help=f"default {EPOCHS}")
    parser.add_argument("--image-size", type=int, help="resize pictures to so many pixels a side")
    parser.add_argument("--out", default="runs/cifar10_selective_backprop", help="a new folder")
    parser.add_argument("--quick", action="store_true", help="the cnn, 3 epochs")
    parser.add_argument("--uniform", action="store_true", help="train on every row")
    return parser.parse_known_args(words)


def configure(args: argparse.Namespace, more: Sequence[str] = ()) -> Config:
    """The recipe as the configuration of a run."""
    epochs = args.epochs or (3 if args.quick else EPOCHS)
    recipe = RECIPE | {
        "data.train": args.train,
        "data.test": args.test,
        "train.epochs": epochs,
        "train.schedule_args.every": min(1.0, DECAY_EPOCHS / epochs),  # as a share of the run
        "run.dir": args.out,
    }
    if args.image_size:
        recipe["data.image_size"] = [args.image_size, args.image_size]
    if args.quick:
        recipe["model.name"] = "cnn"
    if args.uniform:
        recipe = {key: value for key, value in recipe.items() if not key.startswith("selector.")}
        recipe["selector.kind"] = "uniform"
    return load(None, [*(f"{key}={written(value)}" for key, value in recipe.items()), *more])


def written(value: Any) -> str:
    """A value as the command line takes it."""
    return value if isinstance(value, str) else toml_value(value)


def kept_fraction(beta: float, floor: float) -> float:
    """Mean of max(floor, u^beta) over u uniform in [0, 1], as ranks of continuous losses are."""
    edge = floor ** (1 / beta)
    return floor * edge + (1 - edge ** (beta + 1)) / (beta + 1)


def draw(run: Path) -> None:
    """Loss and accuracy over the epochs: of all training rows as they were scored, and held out."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    lines = [line for line in raysb.read_metrics(run) if line["kind"] == "epoch"]
    figure, axes = pyplot.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    names = {"score": "training, all rows, from scoring", "eval": "test"}
    for axis, what in zip(axes, ("loss", "error"), strict=True):
        for source, name in names.items():
            known = [line for line in lines if f"{source}/{what}" in line]
            values = [line[f"{source}/{what}"] for line in known]
            if what == "error":
                values = [100 * (1 - value) for value in values]
            axis.plot([line["epoch"] + 1 for line in known], values, marker="o", label=name)
        axis.set(xlabel="epoch", ylabel="mean loss" if what == "loss" else "accuracy [%]")
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.grid(alpha=0.3)
    axes[0].legend()
    figure.savefig(run / "curves.png", dpi=110)
    pyplot.close(figure)


def main(words: Sequence[str] | None = None) -> None:
    """Train, draw the curves, and say what selection kept against what it was to keep."""
    args, more = parse(words)
    config = configure(args, more)
    end = train(config)
    draw(Path(args.out))
    if end["num_scored"]:
        selector: Any = config.selector
        kept = kept_fraction(selector.beta, selector.min_probability)
        print(
            f"kept {end['num_backpropped'] / end['num_scored']:.4f} of the rows (in theory "
            f"{kept:.4f}), work per epoch {end['cost'] / config.train.epochs:.3f} of uniform's "
            f"(in theory {1 / 3 + kept:.3f})"
        )


if __name__ == "__main__":
    main()
