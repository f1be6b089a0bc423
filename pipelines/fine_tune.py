"""Fine-tuning: a cnn that knows the digits 0 to 4 learns 5 to 9, with few of its weights trained.

    python pipelines/fine_tune.py [--engine ray] [--epochs 6]

The frozen part is built from one file by every process, and neither published nor checkpointed; the
run's `model.safetensors` is a plain model all the same. One run, 2,000 training and 500 test rows:
    all, anew 374,164 bytes (100.0 %), error 6.4 %      all, from 0-4 374,164 (100.0 %), 3.6 %
    lora, from 0-4 20,132 bytes (5.1 %), error 8.8 %    head, from 0-4  2,580   (0.7 %), 14.4 %
"""

import argparse
from functools import partial
from pathlib import Path

import numpy as np
from torch import nn

import raysb
from raysb.nn.cnn import ConvNet
from raysb.nn.freeze import freeze
from raysb.nn.lora import add_lora
from raysb.nn.pretrained import load_weights
from raysb.source.demo import DEMOS


def build(init: Path | None = None, trained: str = "all") -> nn.Module:
    """A cnn for five digits; with `init` a new head on the features of that file."""
    model = ConvNet(1, 5)
    if init is not None:
        load_weights(model, init, exclude=["head"])
    if trained == "head":
        freeze(model, ["stages"])
    elif trained == "lora":
        add_lora(model, rank=4, modules_to_save=["head"])
    return model


def digits(first: int) -> dict[str, dict[str, np.ndarray]]:
    """Five digits of MNIST-5k, every fifth row held out."""
    columns = DEMOS["mnist5k"]()
    label = columns["label"].astype(np.int64)
    rows = np.flatnonzero((label >= first) & (label < first + 5))
    test = np.arange(len(rows)) % 5 == 0
    return {
        name: {"image": columns["image"][part], "label": label[part] - first}
        for name, part in (("train", rows[~test]), ("eval", rows[test]))
    }


def fit(model, datasets, args: argparse.Namespace) -> tuple[dict, Path]:
    """One run; its last metrics, and where it lies."""
    result = raysb.SelectiveTrainer(
        model=model,
        loss=raysb.losses.cross_entropy("label"),
        datasets=datasets,
        training=raysb.Training(epochs=args.epochs, batch_size=32, lr=0.05, use_gpu=False),
        engine=args.engine,
    ).fit()
    return result.metrics, Path(result.path)


def main() -> None:
    """Train on one half of the digits, fine-tune on the other in four ways."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--engine", default="local")
    parser.add_argument("--epochs", type=int, default=6)
    args = parser.parse_args()
    _, first = fit(build, digits(0), args)
    print("trained  published and saved [bytes]  of all  test error")
    weights = first / "model.safetensors"
    for trained, init in (("all", None), ("all", weights), ("lora", weights), ("head", weights)):
        metrics, run = fit(partial(build, init, trained), digits(5), args)
        published, total = (metrics[f"weights/{name}_bytes"] for name in ("published", "total"))
        name = f"{trained} {'from 0-4' if init else 'anew'}"
        error = f"{published / total:>14.1%} {metrics['eval/error']:>10.1%}"
        print(f"{name:14} {published:>15,} {error}  {run}")


if __name__ == "__main__":
    main()
