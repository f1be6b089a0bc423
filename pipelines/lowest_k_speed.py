"""Why is training on the lowest 60 % of the losses no faster? Its backward pass takes every row.

    python pipelines/lowest_k_speed.py      # 2 minutes of CPU; writes pipelines/records/

Not for its batch norm. On the graph of the full batch any share s costs .98 to 1.02 of a full step
f + b. Scored, gathered and forwarded again: f + s(f + b) with f = .26 to .34, at s = .6 .86 to .94;
measured (batch, group norm): DenseNet .76 .71, ResNet .94 .99; n=15, medians +-.12, an AMD EPYC
"""

import random
import sys
import time
from functools import partial
from pathlib import Path
from statistics import median

import torch
from matplotlib import pyplot
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from raysb.losses import lowest_k
from raysb.nn.densenet import DenseNet
from raysb.nn.resnet import ResNet

sys.path.append(str(Path(__file__).parent / "benchmarks"))
from bench import records
from bench.measures import Measure, text_table


def _on_the_graph(model: nn.Module, x: Tensor, y: Tensor, kept: float) -> None:
    lowest_k(cross_entropy(model.train()(x), y, reduction="none"), kept).mean().backward()


def _gathered(model: nn.Module, x: Tensor, y: Tensor, kept: float) -> None:
    with torch.no_grad():
        losses = cross_entropy(model.eval()(x), y, reduction="none")
    if len(rows := losses.argsort(stable=True)[: round(kept * len(x))]):
        _on_the_graph(model, x[rows], y[rows], 1.0)


NETS = {"DenseNet-22": partial(DenseNet, depth=22), "ResNet-18/16": partial(ResNet, width=16)}
WAYS, KEPT = {"on the graph": _on_the_graph, "gathered": _gathered}, (0, 0.2, 0.4, 0.6, 0.8, 1)
ARMS = [(way, k) for way in WAYS for k in KEPT if way == "gathered" or k]


def measure(net: str, norm: str, rounds: int = 15, rows: int = 64) -> list[Measure]:
    """CPU time of each arm over that of a full step; a round takes all, in an order of its own."""
    model = NETS[net](3, 10, norm=norm).to(memory_format=torch.channels_last)
    x = torch.randn(rows, 3, 32, 32).to(memory_format=torch.channels_last)
    y, times = torch.randint(10, (rows,)), {arm: [] for arm in ARMS}
    for number in range(rounds + 1):
        for way, kept in random.Random(number).sample(ARMS, len(ARMS)):
            start = time.process_time()
            WAYS[way](model, x, y, kept)
            times[way, kept] += [time.process_time() - start] if number else []  # 0 warms up
    full, part = median(times["on the graph", 1]), f"{net}, {norm} norm"
    f = median(times["gathered", 0]) / full
    notes = {"on the graph": f"full step {1e3 * full:.0f} ms", "gathered": "f + s(f + b) = {:.2f}"}
    ratios = {arm: [each / full for each in times[arm]] for arm in ARMS}
    given = [(f"{w}, kept {k}", ratios[w, k], notes[w].format(f + k)) for w, k in ARMS]
    return [Measure(part=part, name=n, values=v, note=note) for n, v, note in given]


if __name__ == "__main__":
    context = records.context([]) | {"command": "python pipelines/lowest_k_speed.py"}
    torch.set_num_threads(1)
    cases = [measure(net, norm) for net in NETS for norm in ("batch", "group")]
    figure, axes = pyplot.subplots(1, 4, figsize=(13, 3.4), sharey=True, layout="constrained")
    for axis, case in zip(axes, cases, strict=True):
        graph, again = [[m.value for m in case if m.name.startswith(way)] for way in WAYS]
        model = (again[0], again[0] + 1)
        axis.plot(KEPT[1:], graph, "o-", KEPT, again, "o-", (0, 1), model, "k:")
        axis.set(title=case[0].part, xlabel="s, share of the rows kept", xticks=KEPT, ylim=(0, 1.5))
    axes[0].set_ylabel("CPU time of a step / full step")
    axes[-1].legend([*WAYS, "f + s(f + b)"], loc="lower right")
    found, folder = [m for case in cases for m in case], records.ROOT / "pipelines" / "records"
    file = records.write(folder, "lowest_k_speed", found, context, quick=False)[0]
    figure.savefig(file.with_suffix(".png"), dpi=110)
    print(text_table(found))
