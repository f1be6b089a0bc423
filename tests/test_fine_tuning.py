"""Runs that fine-tune: what moves, what is written, and what a scorer builds for itself."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_model

import raysb
from raysb.config import load
from raysb.errors import ModelError
from raysb.job import TrainingJob
from raysb.local import LocalStream
from raysb.models import build_from
from raysb.optim.registry import build_optimizer
from raysb.run import train
from raysb.source.demo import digits
from raysb.training import checkpoint
from raysb.training.learner import Learner

HEAD = ['model.freeze=["stages"]']
LORA = [
    "model.adapter=lora",
    "model.adapter_args.rank=2",
    'model.adapter_args.modules_to_save=["head"]',
]
PARTS = pytest.mark.parametrize("parts", [HEAD, LORA], ids=["head", "lora"])
pytestmark = pytest.mark.filterwarnings("ignore:the model has batch statistics")


@pytest.fixture(autouse=True)
def base(tmp_path, monkeypatch):
    """Weights of a net with a head of another size, and statistics of batch norm of its own."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(8)
    model = build_from(load(None, ["model.norm=batch", "model.num_classes=4"]), (8, 8, 1))()
    model.train()(torch.randn(64, 1, 8, 8))
    save_model(model, "base.safetensors")
    return load_file("base.safetensors")


def config(parts, *flags, init="base.safetensors", exclude='["head"]'):
    always = ["engine=local", "train.use_gpu=false", "train.epochs=1", "data.train=digits"]
    model = [
        "model.norm=batch",
        f"model.init={Path(init).absolute()}",
        f"model.init_exclude={exclude}",
    ]
    return load(None, [*always, *model, *parts, "run.dir=run", *map(str, flags)])


def tune(parts, *flags, **options):
    return train(config(parts, *flags, **options))


def trainer(parts, engine, folder, *flags, selector=None):
    """The same run through the objects, on either engine."""
    settings = config(parts, "model.num_classes=10", "train.audit=true", *flags)
    from ray.train import RunConfig

    return raysb.SelectiveTrainer(
        model=build_from(settings, (8, 8, 1)),
        loss=raysb.losses.cross_entropy("label"),
        datasets={"train": digits()},
        training=settings.train,
        selector=selector,
        scoring=raysb.Scoring(num_cpus=0.1, max_staleness_steps=0),
        data=raysb.Data(num_readers=1),
        engine=engine,
        seed=3,
        run_config=RunConfig(storage_path=str(folder.parent.absolute()), name=folder.name),
    )


def pixels(count=40):
    return torch.from_numpy(digits()["image"][:count])


@PARTS
def test_nothing_frozen_moves_and_the_run_s_file_is_a_whole_plain_model(base, parts) -> None:
    metrics = tune(parts)
    tuned = raysb.load_model("run").module
    plain = build_from(load(None, ["model.norm=batch", "model.num_classes=10"]), (8, 8, 1))()
    assert tuned.state_dict().keys() == plain.state_dict().keys()
    moved = {k for k, v in tuned.state_dict().items() if k in base and not same(v, base[k])}
    convs = {f"stages.{i}.0.weight" for i in range(3)} if parts is LORA else set()
    assert moved == {"head.weight", "head.bias"} | convs
    assert metrics["num_backpropped"] < metrics["num_scored"]


def same(first, second):
    return first.shape == second.shape and torch.equal(first, second)


@PARTS
def test_an_ended_run_loads_without_the_file_that_it_began_from(parts) -> None:
    tune(parts)
    whole = raysb.load_model("run")(pixels())
    Path("base.safetensors").unlink()
    assert torch.equal(raysb.load_model("run")(pixels()), whole)
    assert all(p.requires_grad for p in raysb.load_model("run").parameters())


@PARTS
def test_a_run_that_did_not_end_loads_from_its_checkpoint_and_the_file_it_began_from(parts) -> None:
    tune(parts)
    whole = raysb.load_model("run")(pixels())
    Path("run/model.safetensors").unlink()
    torch.testing.assert_close(raysb.load_model("run")(pixels()), whole, rtol=1e-5, atol=1e-5)
    assert all(p.requires_grad for p in raysb.load_model("run").parameters())
    other = load_file("base.safetensors")
    other["stages.0.0.weight"][0, 0, 0, 0] += 1
    from safetensors.torch import save_file

    save_file(other, "base.safetensors")
    with pytest.raises(ModelError, match=r"frozen part is not the one .*model\.init"):
        raysb.load_model("run")
    Path("base.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"model\.init=.*base"):
        raysb.load_model("run")


@PARTS
def test_the_run_says_how_many_bytes_of_how_many_are_published_and_saved(parts) -> None:
    tune(parts)
    end = raysb.read_metrics("run")[-1]
    file = next(Path("run").glob("checkpoint_*")) / "model.safetensors"
    tensors = load_file(file)
    assert end["weights/published_bytes"] == sum(t.nbytes for t in tensors.values())
    head = (128 * 10 + 10) * 4
    pairs = [(1 * 9, 32), (32 * 9, 64), (64 * 9, 128)] if parts is LORA else []
    assert end["weights/published_bytes"] == head + sum(2 * (k + d) * 4 for k, d in pairs)
    whole = load_file("run/model.safetensors")
    adapters = sum(t.nbytes for name, t in tensors.items() if "lora" in name)
    assert end["weights/total_bytes"] == sum(t.nbytes for t in whole.values()) + adapters


@PARTS
def test_training_resumed_from_a_checkpoint_ends_where_the_whole_run_ends(parts) -> None:
    flags = ["train.checkpoint_every=8", "train.schedule=constant", "train.optimizer=adamw"]
    # two batches make a pool, so a checkpoint of an even step repeats no row
    flags += ["train.batch_size=56", "train.lr=.003"]
    job = trainer(parts, "local", Path("run"), *flags, selector=raysb.Uniform()).job
    whole = fit(job)
    folders = sorted(Path(whole.path).glob("checkpoint_*"))
    middle, last = folders[1], folders[-1]
    spec, training = job.spec, job.training
    model = spec.task.build(spec.seed)
    loaded = checkpoint.load(middle, model=model)
    learner = Learner(spec.task, model, build_optimizer(model, training))
    learner.load_state_dict(loaded["learner"])
    stream = LocalStream(spec)
    stream.load_state_dict({**loaded["stream"], "history": loaded["history"]})
    for batch in stream.iter_batches(batch_size=56, epochs=training.epochs, model=model):
        learner.step(stream, batch, 1.0)
    expected = spec.task.build(spec.seed)
    checkpoint.load(last, model=expected)
    assert stream.num_steps == whole.metrics["step"] > 14
    for name, tensor in expected.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], tensor, rtol=0, atol=0, msg=name)


def fit(job):
    from raysb.local import fit_locally

    Path(job.directory).mkdir(parents=True, exist_ok=True)
    return fit_locally(TrainingJob(**vars(job)))


@pytest.mark.ray
def test_a_scorer_on_ray_builds_the_frozen_part_itself_and_scores_the_same(ray_cluster) -> None:
    """Losses of every trained row and the weights at the end are those of one process."""
    results = [trainer(LORA, engine, Path(engine)).fit() for engine in ("local", "ray")]
    audits = [
        raysb.read_audit(Path(result.path) / "audit").sort_by(
            [("step", "ascending"), ("id", "ascending")]
        )
        for result in results
    ]
    assert audits[0]["id"].to_pylist() == audits[1]["id"].to_pylist()
    first, second = (audit["loss"].to_numpy() for audit in audits)
    np.testing.assert_array_equal(first, second)
    assert len(first) > 600
    ours, theirs = (load_file(Path(result.path) / "model.safetensors") for result in results)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize(
    ("flags", "exclude", "message"),
    [
        (['model.freeze=["stagse"]'], '["head"]', r"model\.freeze='stagse': matches no part"),
        (['model.freeze=["*"]'], '["head"]', "freezes every parameter"),
        (["model.adapter=lora", "model.adapter_args.rank=0"], '["head"]', r"_args\.rank=0"),
        (HEAD, "[]", r"head\.weight: \[10, 128\] in the model, \[4, 128\] in the"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_written(flags, exclude, message) -> None:
    with pytest.raises((ValueError, ModelError), match=message):
        tune(flags, exclude=exclude)
    assert not Path("run").exists()


def test_a_tuned_model_is_the_start_of_the_next() -> None:
    tune(LORA)
    shutil.move("run", "first")
    tune(HEAD, init="first/model.safetensors", exclude="[]")
    first, second = load_file("first/model.safetensors"), load_file("run/model.safetensors")
    assert all(torch.equal(first[k], second[k]) for k in first if k.startswith("stages"))


def test_a_frozen_part_that_was_drawn_is_drawn_again_under_the_run_s_seed() -> None:
    train(
        load(
            None,
            ["engine=local", "train.use_gpu=false", "train.max_steps=3", "data.train=digits",
             'model.freeze=["stages.0"]', "run.dir=run", "run.seed=5"],
        )
    )  # fmt: skip
    whole = raysb.load_model("run")(pixels())
    Path("run/model.safetensors").unlink()
    torch.manual_seed(77)
    assert torch.equal(raysb.load_model("run")(pixels()), whole)
