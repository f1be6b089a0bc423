"""Prune a net, let it be reborn by Selective-Backprop at a small rate, repeat; by each criterion.

    python pipelines/prune_rebirth.py --data FOLDER [--net mnist|resnet20] [--parent FILE]
        [--criteria NAME,...] [--rounds 3] [--amount .3 | --macs SHARE] [--record LETTER]

CLAIM
`none` is the control: the parent, trained on as long. A round after which fewer than --agreement of
the test rows have the parent's class is undone. FOLDER: train.parquet, test.parquet.
"""

import argparse
import sys
from copy import deepcopy
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from ray.train import RunConfig
from safetensors.torch import load_file
from torch import nn

import raysb
from raysb.nn.resnet import ResNet
from raysb.prune.criteria import CRITERIA
from raysb.prune.figure import draw_rebirth
from raysb.prune.rebirth import gain, prune_and_rebirth
from raysb.pruning import Wanted, arguments_of, prune_model

sys.path.append(str(Path(__file__).parent / "benchmarks"))
from bench import records
from bench.measures import Measure, text_table


def mnist() -> nn.Module:
    """Convolutions of 16, 32, 32 channels, linear layers of 128, 256, 10."""
    convs = [(nn.Conv2d(i, o, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)) for i, o in CONVS]
    linears = [(nn.Linear(i, o), nn.ReLU()) for i, o in ((288, 128), (128, 256))]
    return nn.Sequential(*sum(convs, ()), nn.Flatten(), *sum(linears, ()), nn.Linear(256, 10))


LOSSES = ("fisher", "taylor", "obd", "obs")  # changes of the loss: comparable between layers
CONVS = ((1, 16), (16, 32), (32, 32))
NETS = {"mnist": mnist, "resnet20": partial(ResNet, 3, 10, blocks=(3, 3, 3), width=16)}


def trainer(build, given, selector, lr: float, epochs: int, out: str = "."):
    """A run on one thread, in this process."""
    return raysb.SelectiveTrainer(
        model=build,
        loss=raysb.losses.cross_entropy("label"),
        datasets={"train": f"{given.data}/train.parquet", "eval": f"{given.data}/test.parquet"},
        data=raysb.Data(augment="none" if given.net == "mnist" else "crop_flip"),
        selector=selector,
        training=raysb.Training(epochs=epochs, batch_size=128, lr=lr, num_threads=1),
        run_config=RunConfig(storage_path=out, name="run"),
        engine="local",
    )


def trained(given, selector, lr: float, epochs: int, model: nn.Module) -> nn.Module:
    """A trained copy."""
    copy = deepcopy(model)
    with TemporaryDirectory() as out:
        result = trainer(partial(deepcopy, model), given, selector, lr, epochs, out).fit()
        copy.load_state_dict(load_file(f"{result.path}/model.safetensors"))
    return copy.eval()


@torch.no_grad()
def classes(task, rows, model: nn.Module) -> torch.Tensor:
    """The class of every test row."""
    read = (rows.read(None, i, min(i + 500, rows.num_rows)) for i in range(0, rows.num_rows, 500))
    return torch.cat([task.outputs(model, task.tensors(batch)).argmax(1) for batch in read])


def judged(name: str, found, parent: nn.Module, x: torch.Tensor, error, measure) -> list[Measure]:
    """Error, size, work and time of the last net."""
    if not found.rounds:
        return [measure(name=f"{name}: undone", note=f"agreement {found.undone.agreement:.3f}")]
    errors = [[error(each.small), error(each.reborn)] for each in found.rounds]
    last, told = found.rounds[-1], " ".join(f"{b:.2f} to {a:.2f}" for b, a in errors)
    note, less = f"by round {told}, agreement {last.agreement:.3f}", gain(parent, last.reborn, x)
    return [
        measure(name=f"{name}: test error before rebirth [%]", values=[errors[-1][0]]),
        measure(name=f"{name}: test error [%]", values=[errors[-1][1]], note=note),
        measure(name=f"{name}: times smaller", values=[less.parameters]),
        measure(name=f"{name}: times fewer MACs", values=[less.macs]),
        measure(name=f"{name}: times faster", values=[less.seconds], note=f"{len(x)} rows at once"),
    ]


def record(measures: list[Measure], context: dict, part: str) -> None:
    """Write what was measured so far, and its picture."""
    folder, context = records.ROOT / "pipelines" / "records", dict(context)
    context["command"] = context["command"].replace("benchmarks/throughput", "prune_rebirth")
    page = records.write(folder, "prune_rebirth", measures, context, quick=False)[1]
    values = {m.name.partition(": ")[::2]: m.value for m in measures}
    ends = ("test error before rebirth [%]", "test error [%]")
    shown = {n: [values[n, e] for e in ends] for n, e in values if e == ends[0]}
    draw_rebirth(shown, measures[0].value, str(page.with_name(f"{page.stem}_{part}.png")))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    numbers = {"rounds": 3, "epochs": 1, "amount": 0.3, "macs": 0.0, "agreement": 0.95, "lr": 0.05}
    numbers["round_to"] = 1
    texts = dict.fromkeys(("data", "parent", "criteria", "record"), "") | {"net": "mnist"}
    for name, default in (texts | numbers).items():
        parser.add_argument(f"--{name}", type=type(default), default=default)
    given, context = parser.parse_args(), records.context(sys.argv[1:])
    torch.manual_seed(0)
    parent = NETS[given.net]().to(memory_format=torch.channels_last)
    if given.parent:
        parent.load_state_dict(load_file(given.parent))
    else:
        parent = trained(given, raysb.Uniform(), given.lr, 6, parent)
    job = trainer(partial(deepcopy, parent), given, None, given.lr, 1).job
    task, rows, parent = job.spec.task, job.held_out, parent.eval()
    labels = torch.from_numpy(rows.read(None, 0, rows.num_rows)["label"])
    source = job.spec.source
    starts = range(0, min(2048, source.num_rows - 255), 256)
    batches = [task.tensors(source.read(None, i, i + 256)) for i in starts]
    predict, measure = partial(classes, task, rows), partial(Measure, part=given.record or "-")
    error = lambda model: 100 * float((predict(model) != labels).float().mean())  # noqa: E731
    measures = [measure(name="parent: test error [%]", values=[error(parent)])]
    share = {"amount": given.amount, "scope": "layer"}
    share = {"budget": ("macs", given.macs)} if given.macs else share
    share["round_to"] = given.round_to
    train = partial(trained, given, raysb.SelectiveBackprop(), given.lr / 10, given.epochs)
    for name in given.criteria.split(",") if given.criteria else ["none", *CRITERIA]:
        how = {"criterion": "l1" if name == "none" else name, "normalize": name not in LOSSES}
        wanted = Wanted(repair=True, **how, **share)
        smaller = lambda model, wanted=wanted: prune_model(model, task, batches, wanted).module  # noqa: E731
        bounds = {"rounds": given.rounds, "agreement": given.agreement}
        cut = deepcopy if name == "none" else smaller
        found = prune_and_rebirth(parent, cut, train, predict, **bounds)
        x = arguments_of(parent, task, batches[0])[0]
        measures += judged(name, found, parent, x, error, measure)
        print(text_table(measures), flush=True)
        if given.record:
            record(measures, context, given.record)
