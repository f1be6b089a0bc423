"""The loader is the local engine with the loop turned inside out."""

import io
import subprocess
import sys
from copy import deepcopy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import Dataset, IterableDataset, TensorDataset

import raysb
from raysb.local import LocalStream
from raysb.scoring.proxy import Proxy
from raysb.seeding import generator
from raysb.source.arrays import ArraySource
from raysb.task import Task, inputs
from raysb.training.spec import StreamSpec

DATA = raysb.Data(inputs=("x",), target="label")
COLUMNS = ("id", "pool", "probability", "weight")


def digits(rows=900):
    images, labels = load_digits(return_X_y=True)
    return {"x": (images[:rows] / 16).astype(np.float32), "label": labels[:rows]}


def net(seed=3, dropout=0.0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(64, 16), nn.ReLU(), nn.Dropout(dropout), nn.Linear(16, 10))


def per_sample(outputs, batch):
    return F.cross_entropy(outputs, batch["label"], reduction="none")


def loader_of(model, rows=None, **args):
    settings = {
        "loss": per_sample,
        "batch_size": 32,
        "scoring": raysb.Scoring(batch_size=100),
        "data": DATA,
        "seed": 7,
    }
    return raysb.SelectiveLoader(digits() if rows is None else rows, model=model, **settings | args)


def sgd(model):
    return torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)


def update(model, optimizer, batch):
    losses = per_sample(model(batch["x"]), batch)
    loss = (losses * batch["weight"]).sum() / (batch["id"] >= 0).sum()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def train(loader, model, optimizer, epochs):
    """Batches of the epochs, as numpy, with the weights of `loss` and `weights_step`."""
    seen = []
    for _ in range(epochs):
        for batch in loader:
            update(model, optimizer, batch)
            seen.append({name: column.numpy() for name, column in batch.items()})
    return seen


def local_batches(model, optimizer, epochs, selector):
    spec = StreamSpec(
        source=ArraySource(digits(), seed=7),
        task=Task(model=net, forward=inputs("x"), loss=per_sample),
        selector=selector,
        scoring=raysb.Scoring(batch_size=100),
        seed=7,
        inputs=("x",),
    )
    stream, seen = LocalStream(spec), []
    for batch in stream.iter_batches(batch_size=32, epochs=epochs, model=model):
        losses = per_sample(model(batch["x"]), batch)
        loss = stream.reduce(losses, batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        stream.step(model)
        seen.append({name: column.numpy() for name, column in batch.items()})
    return seen


def assert_same_batches(first, second):
    assert len(first) == len(second) > 0
    for one, other in zip(first, second, strict=True):
        assert one.keys() == other.keys()
        for name, column in one.items():
            np.testing.assert_array_equal(column, other[name], err_msg=name)


@pytest.mark.parametrize("selector", [raysb.SelectiveBackprop(beta=2.0), raysb.Uniform()])
def test_its_batches_and_weights_are_those_of_the_local_engine(selector) -> None:
    mine, theirs = net(), net()
    got = train(loader_of(mine, selector=selector, epochs=3), mine, sgd(mine), 3)
    expected = local_batches(theirs, sgd(theirs), 3, selector)
    assert_same_batches(got, expected)
    for p, q in zip(mine.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6)


def test_every_batch_has_exactly_b_rows_and_only_the_last_one_is_filled_up() -> None:
    model = net()
    seen = train(loader_of(model, epochs=2), model, sgd(model), 2)
    assert {len(batch["id"]) for batch in seen} == {32}
    true = [(batch["id"] >= 0) for batch in seen]
    assert all(rows.all() for rows in true[:-1])
    np.testing.assert_array_equal(true[-1], seen[-1]["weight"] > 0)


def test_a_row_is_scored_with_the_weights_of_the_moment() -> None:
    """`loss` of each selected row, against a forward pass of the very model of that step."""
    model = net(dropout=0.5)
    optimizer, history = sgd(model), {0: deepcopy(model)}
    loader = loader_of(model)
    for batch in loader:
        step = int(batch["weights_step"].max())
        fresh = batch["weights_step"] == step
        with torch.no_grad():
            expected = per_sample(history[step].eval()(batch["x"]), batch)
        torch.testing.assert_close(batch["loss"][fresh], expected[fresh])
        update(model, optimizer, batch)
        history[loader.num_steps] = deepcopy(model)
    assert loader.num_steps > 5


@pytest.mark.parametrize("rows", [900, 64, 20])
def test_uniform_covers_every_row_once_an_epoch(rows) -> None:
    model = net()
    loader = loader_of(model, digits(rows), selector=raysb.Uniform(), epochs=3)
    seen = train(loader, model, sgd(model), 3)
    ids = np.concatenate([batch["id"] for batch in seen])
    ids = ids[ids >= 0]
    order = [generator(7, "order", epoch).permutation(rows) for epoch in range(3)]
    np.testing.assert_array_equal(ids, np.concatenate(order))
    assert (loader.num_backpropped, loader.num_scored, loader.epoch) == (3 * rows, 0, 3)


def test_what_an_epoch_leaves_over_comes_first_in_the_next() -> None:
    model = net()
    loader = loader_of(model, digits(100), selector=raysb.Uniform())
    first, second = list(loader), list(loader)
    assert [len(first), len(second)] == [100 // 32, 200 // 32 - 100 // 32]
    left = generator(7, "order", 0).permutation(100)[96:]
    np.testing.assert_array_equal(second[0]["id"][:4], left)


@pytest.mark.parametrize("selector", [raysb.SelectiveBackprop(), raysb.Uniform()])
@pytest.mark.parametrize("stop", [1, 4, 13, 20])
def test_a_resumed_run_equals_one_that_was_never_stopped(stop, selector) -> None:
    model = net()
    expected = train(loader_of(model, selector=selector), model, sgd(model), 2)

    first = net()
    optimizer, loader, seen = sgd(first), loader_of(first, selector=selector), []
    while len(seen) < stop:
        for batch in loader:
            update(first, optimizer, batch)
            seen.append({name: column.numpy() for name, column in batch.items()})
            if len(seen) == stop:
                break
    file = io.BytesIO()
    torch.save([first.state_dict(), optimizer.state_dict(), loader.state_dict()], file)

    second = net(seed=99)
    optimizer, loader = sgd(second), loader_of(second, selector=selector)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    for part, state in zip((second, optimizer, loader), saved, strict=True):
        part.load_state_dict(state)
    assert (loader.num_steps, loader.num_backpropped) == (stop, 32 * stop)
    seen += train(loader, second, optimizer, 2 - loader.epoch)
    assert_same_batches(seen, expected)
    for p, q in zip(model.parameters(), second.parameters(), strict=True):
        assert torch.equal(p, q)


def test_what_is_remembered_of_pools_does_not_grow_with_the_epochs() -> None:
    loader = loader_of(net())
    for _ in range(3):
        list(loader)
        assert loader.state_dict()["ledger"]["sums"] == []


def test_rows_scored_are_those_of_the_epochs_also_where_the_last_pool_is_smaller() -> None:
    loader = loader_of(net(), digits(250))  # pools of 100, 100 and 50
    for epoch in (1, 2, 3):
        list(loader)
        assert loader.num_scored == 250 * epoch


def test_saving_a_state_changes_nothing() -> None:
    model, other = net(), net()
    optimizer, loader, seen = sgd(model), loader_of(model), []
    for batch in loader:
        update(model, optimizer, batch)
        loader.state_dict()
        seen.append({name: column.numpy() for name, column in batch.items()})
    assert_same_batches(seen, train(loader_of(other), other, sgd(other), 1))


def test_an_iteration_broken_off_goes_on_where_it_stopped() -> None:
    model, other = net(), net()
    loader, optimizer, seen = loader_of(model), sgd(model), []
    while loader.epoch == 0:
        for batch in loader:
            update(model, optimizer, batch)
            seen.append({name: column.numpy() for name, column in batch.items()})
            break
    expected = train(loader_of(other), other, sgd(other), 1)
    assert_same_batches(seen[: len(expected)], expected)


def test_the_state_of_another_loader_is_refused() -> None:
    state = loader_of(net()).state_dict()
    for other in ({"batch_size": 16}, {"seed": 8}, {"selector": raysb.Uniform()}):
        with pytest.raises(ValueError, match="state was saved with"):
            loader_of(net(), **other).load_state_dict(state)


def test_more_epochs_than_were_named_are_an_error() -> None:
    model = net()
    loader = loader_of(model, digits(100), epochs=1)
    list(loader)
    with pytest.raises(raysb.StreamOrderError, match="all its epochs are over"):
        list(loader)


def test_scoring_leaves_the_model_as_it_was() -> None:
    model = net(dropout=0.5)
    model[2].eval()
    before, modes = deepcopy(model.state_dict()), [m.training for m in model.modules()]
    torch.manual_seed(11)
    random = torch.get_rng_state()
    list(loader_of(model))
    assert [m.training for m in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), random)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_trying_the_first_rows_leaves_the_layout_of_the_model_as_it_was() -> None:
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.Flatten(), nn.Linear(4 * 36, 2))
    strides = [p.stride() for p in model.parameters()]
    rows = {"x": np.zeros((40, 2, 8, 8), np.float32), "label": np.arange(40) % 2}
    list(loader_of(model, rows, batch_size=4))
    assert [p.stride() for p in model.parameters()] == strides


class Items(Dataset):
    def __init__(self, kind):
        self.kind, self.columns = kind, digits()

    def __len__(self):
        return len(self.columns["x"])

    def __getitem__(self, i):
        x, label = torch.from_numpy(self.columns["x"][i]), int(self.columns["label"][i])
        return {"x": x, "label": label} if self.kind == "dict" else (x, label)


@pytest.mark.parametrize("rows", ["dict", "tuple", "tensors", "arrays"])
def test_any_kind_of_rows_gives_the_same_batches(rows) -> None:
    columns = digits()
    kinds = {
        "dict": Items("dict"),
        "tuple": Items("tuple"),
        "tensors": TensorDataset(*map(torch.from_numpy, columns.values())),
        "arrays": (columns["x"], columns["label"]),
    }
    model, other = net(), net()
    got = train(loader_of(model, kinds[rows]), model, sgd(model), 1)
    assert_same_batches(got, train(loader_of(other), other, sgd(other), 1))


def test_text_of_different_lengths_is_padded_for_scorer_and_step_alike() -> None:
    rng = np.random.default_rng(0)
    tokens = np.empty(200, object)
    tokens[:] = [rng.integers(1, 20, rng.integers(3, 30)) for _ in range(200)]
    loss = raysb.losses.sequence_cross_entropy("tokens", ignore_index=0, shift=True)
    torch.manual_seed(0)
    from raysb.nn.gpt import GPT

    model = GPT(1, 20, width=16, depth=1)
    loader = raysb.SelectiveLoader(
        {"tokens": tokens},
        model=model,
        loss=loss,
        batch_size=16,
        data=raysb.Data(inputs=("tokens",), target=None),
        collate=raysb.pad("tokens", multiple_of=8),
    )
    shapes = set()
    for batch in loader:
        shapes.add(batch["tokens"].shape[1])
        losses = loss(model(batch["tokens"]), batch)
        torch.testing.assert_close(losses, batch["loss"], rtol=1e-5, atol=1e-5)
    assert shapes <= {8, 16, 24, 32}


def test_rows_that_cannot_be_found_again_are_refused() -> None:
    class Endless(IterableDataset):
        def __iter__(self):
            yield from ()

    with pytest.raises(TypeError, match="IterableDataset has no row numbers"):
        loader_of(net(), Endless())
    with pytest.raises(TypeError, match="rows cannot be read"):
        loader_of(net(), 3)


@pytest.mark.parametrize(
    ("args", "error", "message"),
    [
        ({"batch_size": 0}, ValueError, r"SelectiveLoader\(batch_size=0\)"),
        ({"epochs": 0}, ValueError, r"SelectiveLoader\(epochs=0\)"),
        ({"data": raysb.Data(inputs=("y",))}, raysb.DataError, "no column 'y'"),
        ({"loss": lambda out, batch: out.mean()}, raysb.ModelError, "one loss per sample"),
        ({"forward": lambda model, b: model(b["x"][:, :3])}, raysb.ModelError, "does not accept"),
    ],
)
def test_what_can_be_known_is_refused_at_construction(args, error, message) -> None:
    with pytest.raises(error, match=message):
        loader_of(net(), **args)


def test_a_data_set_whose_items_do_not_fit_the_columns_is_refused() -> None:
    three = TensorDataset(torch.zeros(4, 2), torch.zeros(4), torch.zeros(4))
    with pytest.raises(raysb.DataError, match="3 values for the columns x, label"):
        loader_of(net(), three)


def test_rows_whose_loss_is_nan_are_never_handed_out_and_past_the_limit_end_the_run() -> None:
    columns = digits()
    columns["x"][:5] = np.nan
    loader = loader_of(net(), columns)
    ids = np.concatenate([batch["id"].numpy() for batch in loader])
    assert not set(ids.tolist()) & set(range(5))
    columns["x"][:300] = np.nan
    with pytest.raises(raysb.NonFiniteError, match="NaN or infinite"):
        list(loader_of(net(), columns))


def test_a_loader_needs_no_ray() -> None:
    code = (
        "import sys, numpy as np, torch, raysb\n"
        "x = np.random.default_rng(0).normal(size=(64, 4)).astype('f')\n"
        "loader = raysb.SelectiveLoader((x, np.arange(64) % 2), model=torch.nn.Linear(4, 2),"
        " loss=raysb.losses.cross_entropy(), batch_size=8, data=raysb.Data(inputs=('x',)))\n"
        "assert len(list(loader))\n"
        "assert 'ray' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.gloo
def test_several_processes_are_refused() -> None:
    code = (
        "import os, sys, torch, raysb, numpy as np\n"
        "torch.distributed.init_process_group('gloo', init_method=sys.argv[1],"
        " rank=int(sys.argv[2]), world_size=2)\n"
        "x = np.zeros((64, 4), 'f')\n"
        "loader = raysb.SelectiveLoader((x, np.arange(64) % 2), model=torch.nn.Linear(4, 2),"
        " loss=raysb.losses.cross_entropy(), batch_size=8, data=raysb.Data(inputs=('x',)))\n"
        "try:\n"
        "    list(loader)\n"
        "except ValueError as error:\n"
        "    assert '2 processes train together' in str(error)\n"
        "    sys.exit(3)\n"
    )
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        store = f"file://{folder}/store"
        started = [
            subprocess.Popen([sys.executable, "-c", code, store, str(rank)]) for rank in range(2)
        ]
        assert [process.wait() for process in started] == [3, 3]


@pytest.mark.parametrize("call", [raysb.SelectiveLoader, raysb.SelectiveStream])
def test_rows_that_are_none_are_an_error_and_not_the_demo(call) -> None:
    options = {"batch_size": 4, "model": nn.Linear(1, 1)} if call is raysb.SelectiveLoader else {}
    with pytest.raises(TypeError, match=rf"{call.__name__}\(rows\): the rows are None"):
        call(None, **{"model": nn.Identity, "loss": raysb.losses.cross_entropy("label"), **options})


def test_what_cheap_scores_agree_is_told_and_a_fallback_is_warned_of(monkeypatch) -> None:
    other = net(8)
    monkeypatch.setattr("raysb.training.spec.find_proxy", lambda name, live: Proxy(other))
    model = net()
    scoring = raysb.Scoring(batch_size=300, proxy="another")  # 3 pools an epoch
    loader = loader_of(model, scoring=scoring)
    assert loader.agreement == {}
    with pytest.warns(UserWarning, match=r"scoring\.min_agreement=0\.8.*the model scores"):
        train(loader, model, sgd(model), 4)  # pools 3, 6 and 9 decide
    assert loader.agreement["agreement"] < 0.8
    assert loader.agreement["fallback"] == 1
    assert loader_of(net()).agreement == {}
