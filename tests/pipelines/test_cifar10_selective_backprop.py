"""The recipe of the early write-up: its numbers, and one true step of its resnet34."""

import importlib.util
import io
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save_model
from scipy.integrate import quad
from torch import nn

import raysb
from raysb.nn.norm import num_groups
from raysb.seeding import Draws

PIPELINE = Path(__file__).parents[2] / "pipelines" / "cifar10_selective_backprop.py"


@pytest.fixture(scope="module")
def pipeline():
    spec = importlib.util.spec_from_file_location("cifar10_selective_backprop", PIPELINE)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def data(tmp_path):
    """128 noisy pictures of 10 classes as PNG, and 10 to test on; 16x16, a quarter of the time."""
    rng = np.random.default_rng(0)
    bases = rng.integers(0, 256, size=(10, 16, 16, 3))
    for name, count in (("train", 128), ("test", 10)):
        label = np.arange(count) % 10
        noise = rng.normal(scale=40, size=(count, 16, 16, 3))
        pixels = np.clip(bases[label] + noise, 0, 255).astype(np.uint8)
        np.save(tmp_path / f"{name}.npy", pixels)
        table = {"image": list(map(png, pixels)), "label": label, "id": np.arange(count)}
        pq.write_table(pa.table(table), tmp_path / f"{name}.parquet")
    return tmp_path


def png(pixels) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def config_of(pipeline, data, *words):
    given = [str(data / "train.parquet"), str(data / "test.parquet"), "--out", str(data / "run")]
    args, more = pipeline.parse([*given, *words])
    return pipeline.configure(args, more)


def test_the_defaults_are_the_recipe(pipeline, data) -> None:
    config = config_of(pipeline, data)
    assert config.model.name == "resnet34"
    assert config.selector == raysb.SelectiveBackprop(beta=0.9, min_probability=0.3, history=3000)
    assert (config.scoring.batch_size, config.train.batch_size) == (128, 32)
    assert config.train.optimizer_args == {"momentum": 0.9, "nesterov": False, "weight_decay": 1e-4}
    assert (config.train.lr, config.train.loss) == (0.001, "cross_entropy")
    assert config.data.mean == config.data.std == (0.5, 0.5, 0.5)
    assert config.data.augment == "none"


def test_the_learning_rate_falls_by_four_percent_every_eight_epochs(pipeline, data) -> None:
    from raysb.training.schedule import factor

    training = config_of(pipeline, data, "--epochs", "20").train
    factors = [
        factor(epoch / 20, training.schedule, **training.schedule_args)
        for epoch in (0, 7.99, 8, 15.99, 16, 19.99)
    ]
    assert factors == pytest.approx([1, 1, 0.96, 0.96, 0.96**2, 0.96**2])


def test_it_keeps_what_the_header_says_and_saves_a_tenth(pipeline) -> None:
    kept = pipeline.kept_fraction(0.9, 0.3)
    assert kept == pytest.approx(quad(lambda u: max(0.3, u**0.9), 0, 1, points=[0.2625])[0])
    assert f"{kept:.4f}" == "0.5636"
    header = pipeline.__doc__
    assert ".5636" in header
    assert f"{1 + 3 * kept:.2f} forward" in header
    assert f"{(1 + 3 * kept) / 3:.3f}"[1:] + " of the work" in header
    assert f"{1 / kept:.2f} times" in header


def test_options_change_what_they_name_only(pipeline, data) -> None:
    quick = config_of(pipeline, data, "--quick", "engine=local", "train.lr=0.1")
    assert (quick.model.name, quick.train.epochs) == ("cnn", 3)
    assert (quick.engine, quick.train.lr) == ("local", 0.1)
    assert quick.selector == config_of(pipeline, data).selector
    assert config_of(pipeline, data, "--image-size", "224").data.image_size == (224, 224)
    assert config_of(pipeline, data, "--uniform").selector == raysb.Uniform()


def test_a_short_run_leaves_curves_log_and_weights(pipeline, data, capsys) -> None:
    run = data / "run"
    given = [str(data / "train.parquet"), str(data / "test.parquet"), "--out", str(run)]
    pipeline.main([*given, "--quick", "engine=local", "--train.use_gpu=false"])
    with Image.open(run / "curves.png") as picture:
        assert min(picture.size) > 300
    assert {"run.log", "metrics.jsonl", "model.safetensors", "config.toml"} <= {
        path.name for path in run.iterdir()
    }
    epochs = [line for line in raysb.read_metrics(run) if line["kind"] == "epoch"]
    assert len(epochs) == 3
    assert all({"score/loss", "score/error", "eval/error"} <= line.keys() for line in epochs)
    assert "(in theory 0.5636)" in capsys.readouterr().out
    assert raysb.load_model(run)(torch.zeros(1, 16, 16, 3, dtype=torch.uint8)).shape == (1, 10)


# --- one step, written down again in plain torch --------------------------------------------------


def block(inputs, outputs, stride):
    """Conv, norm, ReLU, conv, norm and the shortcut, as a dict of modules."""

    def norm():
        return nn.GroupNorm(num_groups(outputs), outputs)

    layers = nn.ModuleDict(
        {
            "conv1": nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False),
            "norm1": norm(),
            "conv2": nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False),
            "norm2": norm(),
        }
    )
    if stride != 1 or inputs != outputs:
        layers["shortcut"] = nn.Sequential(
            nn.Conv2d(inputs, outputs, 1, stride, bias=False), norm()
        )
    return layers


class Plain(nn.Module):
    """resnet34 after He et al. 2016, with the stem of CIFAR; names as in raysb's."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.GroupNorm(8, 64))
        shapes, inputs = [(3, 64, 1), (4, 128, 2), (6, 256, 2), (3, 512, 2)], 64
        self.stages = nn.ModuleList()
        for depth, width, stride in shapes:
            blocks = [block(inputs, width, stride)]
            blocks += [block(width, width, 1) for _ in range(depth - 1)]
            self.stages.append(nn.ModuleList(blocks))
            inputs = width
        self.head = nn.Linear(512, 10)

    def forward(self, x):
        x = F.relu(self.stem(x))
        for stage in self.stages:
            for each in stage:
                y = F.relu(each["norm1"](each["conv1"](x)))
                y = each["norm2"](each["conv2"](y))
                x = F.relu(y + (each["shortcut"](x) if "shortcut" in each else x))
        return self.head(x.mean((2, 3)))


def drawn(model):
    """Give every norm values: at the start of a run branches are zero, and have no gradient."""
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        if "norm" in name:
            nn.init.normal_(parameter, 0.5 if name.endswith("weight") else 0, 0.1)
    return model


def test_one_step_of_the_true_resnet34_is_that_of_plain_torch(pipeline, data) -> None:
    """Selected rows, their chances, the losses and the parameters after one step of 32 rows."""
    from raysb.run import train

    model = drawn(Plain())
    save_model(model, str(data / "start.safetensors"))
    config = config_of(
        pipeline, data, "engine=local", "train.max_steps=1", "train.audit=true",
        "train.use_gpu=false", "eval.every=1000", f"model.init={data / 'start.safetensors'}",
    )  # fmt: skip
    train(config)
    audit = raysb.read_audit(data / "run" / "audit")
    pixels = torch.from_numpy(np.load(data / "train.npy")).permute(0, 3, 1, 2).float()
    images, labels = (pixels / 255 - 0.5) / 0.5, torch.arange(128) % 10
    assert images.min() == -1
    assert images.max() == 1
    with torch.no_grad():
        losses = F.cross_entropy(model(images), labels, reduction="none")
    ranks = ((losses[None] < losses[:, None]).sum(1) + 0.5) / 128
    chances = (ranks.double() ** 0.9).clamp(min=0.3).numpy()
    selected = Draws(seed=config.run.seed, epoch=0).uniform(np.arange(128)) < chances
    assert 50 < selected.sum() < 95

    order = raysb_order(config)
    chosen = [i for i in order if selected[i]][:32]
    assert audit["id"].to_pylist() == chosen
    np.testing.assert_allclose(audit["probability"].to_numpy(), chances[chosen], rtol=1e-6)
    np.testing.assert_allclose(audit["loss"].to_numpy(), losses[chosen], rtol=1e-4)

    optimizer = torch.optim.SGD(model.parameters(), 0.001, momentum=0.9, weight_decay=1e-4)
    loss = F.cross_entropy(model(images[chosen]), labels[chosen])
    loss.backward()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    optimizer.step()
    line = next(line for line in raysb.read_metrics(data / "run") if "train/loss" in line)
    assert line["train/loss"] == pytest.approx(loss.item(), rel=1e-5)
    assert line["score/loss"] == pytest.approx(losses.mean().item(), rel=1e-5)
    found = raysb.load_model(data / "run").module.state_dict()
    for name, expected in model.state_dict().items():
        moved = expected - before[name]
        error = (found[name] - expected).norm()
        assert error <= 1e-3 * moved.norm() + 1e-7, name
        assert moved.norm() > 0, name


def raysb_order(config):
    """The rows of the first pool in the order in which the source gives them."""
    from raysb.source.open import open_sources

    source = open_sources(config.data, seed=config.run.seed).train
    return source.read(0, 0, 128)["id"].tolist()
