"""Ranger against SGD with momentum, AdamW and RAdam, each at the best of the same five rates.

    python pipelines/ranger.py [--mnist FOLDER] [--cifar10 FOLDER] [--epochs 1] [--record NAME]

`cnn` of 16, 32, 64 channels on all rows, batch 64, the rate flat for 75 %, then a cosine. The rate
with the least error on seed 0, then seeds 1 to 3; medians after one epoch, long runs not measured:
CIFAR-10 Ranger 38.2 %, RAdam 43.4, AdamW 43.9, SGD 46.7, each +-1.3; MNIST no gain, 1.22, 1.19,
1.26, 1.37, +-.17. On an AMD EPYC. FOLDER: train.parquet and test.parquet; without one mnist5k.
"""

import argparse
import sys
import tempfile
from functools import partial
from pathlib import Path

import matplotlib.pyplot as plt
from ray.train import RunConfig
from torch.optim import SGD, AdamW, RAdam

import raysb
from raysb.nn.cnn import ConvNet
from raysb.optim import Ranger

sys.path.append(str(Path(__file__).parent / "benchmarks"))
from bench import records
from bench.measures import Measure, text_table

RATES, SEEDS = (0.001, 0.004, 0.016, 0.064, 0.256), (1, 2, 3)
OPTIMIZERS = {"Ranger": Ranger, "SGD": partial(SGD, momentum=0.9), "AdamW": AdamW, "RAdam": RAdam}


def error(name: str, folder: str, epochs: int, make, rate: float, seed: int) -> float:
    """Test error in percent after training with one optimizer."""
    files = {"train": f"{folder}/train.parquet", "eval": f"{folder}/test.parquet"}
    with tempfile.TemporaryDirectory() as out:
        trainer = raysb.SelectiveTrainer(
            model=partial(ConvNet, 3 if name == "cifar10" else 1, 10, channels=(16, 32, 64)),
            loss=raysb.losses.cross_entropy("label"),
            datasets=files if folder else {"train": name, "eval": name},
            optimizer=partial(make, lr=rate),
            training=raysb.Training(epochs=epochs, schedule="flat_cosine", num_threads=1),
            run_config=RunConfig(storage_path=out, name="run"),
            **{"selector": raysb.Uniform(), "engine": "local", "seed": seed},
        )
        return 100 * trainer.fit().metrics["eval/error"]


def compare(name: str, folder: str, epochs: int, axis: plt.Axes) -> list[Measure]:
    """Errors of each optimizer on the seeds, at its best rate of seed 0; draws them all."""
    measures, part = [], "b" if name == "cifar10" else "a"
    for title, make in OPTIMIZERS.items():
        tried = [error(name, folder, epochs, make, rate, 0) for rate in RATES]
        best = RATES[tried.index(min(tried))]
        values = [error(name, folder, epochs, make, best, seed) for seed in SEEDS]
        note = f"test error [%], {name}; seed 0 at {RATES}: {' '.join(f'{e:.2f}' for e in tried)}"
        measures.append(Measure(part=part, values=values, note=note, name=f"{title}, lr {best}"))
        axis.loglog(RATES, tried, label=f"{title}: {measures[-1].value:.2f}")
        axis.plot([best] * len(SEEDS), values, "o", color=axis.lines[-1].get_color())
    axis.set(title=name, xlabel="learning rate (line: seed 0, dots: 1-3)", ylabel="test error [%]")
    axis.legend(title="median of seeds 1-3")
    return measures


if __name__ == "__main__":
    parser, context = argparse.ArgumentParser(description=__doc__), records.context(sys.argv[1:])
    for option, default in (("mnist", ""), ("cifar10", ""), ("epochs", 1), ("record", "")):
        parser.add_argument(f"--{option}", type=type(default), default=default)
    given = vars(parser.parse_args())
    sets = {name: given[name] for name in ("mnist", "cifar10") if given[name]} or {"mnist5k": ""}
    plt.rcParams["axes.formatter.min_exponent"] = 4  # 40, not 4 x 10^1
    figure, axes = plt.subplots(1, len(sets), squeeze=False, figsize=(9, 4), layout="tight")
    pairs = zip(sets.items(), axes[0], strict=True)
    found = [m for one, axis in pairs for m in compare(*one, given["epochs"], axis)]
    print(text_table(found))
    if title := given["record"]:
        context["command"] = context["command"].replace("benchmarks/throughput", "ranger")
        folder = records.ROOT / "pipelines" / "records"
        page = records.write(folder, title, found, context, quick=False)[1]
        figure.savefig(page.with_suffix(".png"), dpi=110)
