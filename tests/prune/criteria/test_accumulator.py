"""Terms of single rows come out of one backward pass, and the model is as it was after."""

import gc
import weakref

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from raysb.errors import ModelError
from raysb.prune.criteria import (
    Accumulator,
    Statistics,
    inverse_probability,
    row_gradients,
)

ALL = {"activation", "gradient", "per_sample_gradient"}


def observed(case, needs=ALL, weights=None, scale=None, **args) -> Statistics:
    """One backward pass over the whole batch, scaled row by row."""
    accumulator = Accumulator(case.model, needs=needs, **args)
    factor = torch.ones(len(case.batch["label"])) if scale is None else scale
    with accumulator.observe(weights, scale=factor):
        losses = case.loss(case.model(case.batch["x"]), case.batch)
        (losses * factor).sum().backward()
    return accumulator.statistics


@pytest.mark.parametrize("name", ["conv1", "conv2", "fc"])
def test_terms_of_rows_are_those_of_autograd_whatever_each_loss_was_scaled_by(case, name) -> None:
    weights = torch.rand(24, dtype=torch.float64) + 0.1
    scale = torch.rand(24, dtype=torch.float64) + 0.1
    found = observed(case, weights=weights, scale=scale)[name]
    share = weights / weights.sum()
    terms, gradients = case.row_terms(name), case.row_gradients(name)
    weight = dict(case.model.named_modules())[name].weight.detach()
    filters = (gradients * weight).flatten(2).sum(2)
    positions = {"conv1": 64, "conv2": 9, "fc": 1}[name]
    expected = {
        "taylor": share @ (terms / positions).abs(),
        "gate": share @ terms,
        "gate_squared": share @ terms.square(),
        "filter_squared": share @ filters.square(),
        "filter_batch": (share @ filters).square(),
        "gradient": torch.einsum("n,n...->...", share, gradients),
        "gradient_squared": torch.einsum("n,n...->...", share, gradients.square()),
    }
    for key, value in expected.items():
        assert torch.allclose(found.mean(key), value, rtol=1e-9, atol=1e-14), key
    kept, u = found.gradients.rows()
    assert torch.allclose(kept, gradients, atol=1e-12)
    assert torch.equal(u, weights)
    assert found.positions == positions
    assert found.effective_rows == pytest.approx(float(1 / share.square().sum()))


def test_rows_of_weight_0_count_nothing_even_where_they_are_nan(case) -> None:
    weights = torch.ones(24)
    weights[3] = weights[20] = 0
    rows = weights.nonzero().flatten()
    part = {k: v[rows] for k, v in case.batch.items()}
    case.batch["x"][3] = torch.nan
    found = observed(case, weights=weights)
    case.batch = part
    alone = observed(case)
    for name in case.layers:
        assert found[name].rows == 22
        for key in alone[name].sums:
            assert torch.allclose(found[name].mean(key), alone[name].mean(key), atol=1e-12)


def test_a_layer_that_runs_twice_adds_up_its_runs() -> None:
    torch.manual_seed(0)
    layer, head = nn.Linear(4, 4).double(), nn.Linear(4, 2).double()
    x, y = torch.randn(9, 4, dtype=torch.float64), torch.randn(9, 2, dtype=torch.float64)
    model = nn.ModuleDict({"a": layer, "head": head})

    def run(w: torch.Tensor, gate: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        for _ in range(2):
            x = F.relu(F.linear(x, w, layer.bias)) * gate
        return head(x)

    accumulator = Accumulator(model, ["a"], needs={"gradient", "per_sample_gradient"})
    with accumulator.observe():
        h = layer(x).relu()
        (head(layer(h).relu()) - y).square().sum().backward()
    found = accumulator.statistics["a"]

    def one(w, gate, x, y):
        return (run(w, gate, x) - y).square().sum()

    both = torch.func.vmap(torch.func.grad(one, (0, 1)), (None, None, 0, 0))
    by_weight, by_gate = both(layer.weight.detach(), torch.ones(4, dtype=torch.float64), x, y)
    assert torch.allclose(found.mean("gate"), by_gate.mean(0), atol=1e-12)
    assert torch.allclose(found.mean("taylor"), (by_gate / 2).abs().mean(0), atol=1e-12)
    assert torch.allclose(found.mean("gradient_squared"), by_weight.square().mean(0), atol=1e-12)
    terms = (by_weight * layer.weight.detach()).sum(2)
    assert torch.allclose(found.mean("filter_squared"), terms.square().mean(0), atol=1e-12)


def test_activations_of_a_layer_that_runs_twice_are_averaged() -> None:
    torch.manual_seed(0)
    layer, x = nn.Linear(4, 4), torch.randn(9, 4)
    accumulator = Accumulator(nn.ModuleDict({"a": layer}), needs={"activation"})
    with accumulator.observe():
        first = layer(x).relu()
        second = layer(first).relu()
    found = accumulator.statistics["a"]
    both = torch.stack([first, second]).double()
    assert torch.allclose(found.mean("zeros"), both.eq(0).double().mean((0, 1)))
    assert torch.allclose(found.pooled.rows()[0].double(), both.mean(0), atol=1e-6)


def test_gradients_of_rows_in_chunks_keep_their_weights(case, monkeypatch) -> None:
    weights = torch.arange(24.0)
    whole = observed(case, weights=weights)
    monkeypatch.setattr(row_gradients, "_CHUNK", 500)
    parts = observed(case, weights=weights)
    for name in case.layers:
        for key in ("gradient", "gradient_squared"):
            assert torch.allclose(parts[name].mean(key), whole[name].mean(key), atol=1e-14)
        for mine, other in zip(
            parts[name].gradients.rows(), whole[name].gradients.rows(), strict=True
        ):
            assert torch.allclose(mine, other, atol=1e-14)


@pytest.mark.parametrize("slope", [0.0, 0.3])
def test_a_layer_whose_output_is_overwritten_by_its_activation_has_the_same_terms(slope) -> None:
    """Conv - LeakyReLU(inplace): when the gradient comes, the output is gone and recomputed."""
    found = []
    for inplace in (False, True):
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(2, 4, 3), nn.LeakyReLU(slope, inplace), nn.Flatten(), nn.Linear(144, 3)
        )
        accumulator = Accumulator(model, needs={"gradient", "activation"})
        with accumulator.observe():
            model(torch.randn(6, 2, 8, 8)).square().sum().backward()
        found.append(accumulator.statistics["0"])
    for key in ("filter_squared", "taylor", "zeros"):
        assert torch.allclose(found[0].mean(key), found[1].mean(key), rtol=1e-5)


def test_parts_of_a_batch_and_other_processes_add_up_to_the_whole(case) -> None:
    whole = observed(case)
    batch, parts = case.batch, []
    for rows in (slice(0, 10), slice(10, 24)):
        case.batch = {k: v[rows] for k, v in batch.items()}
        parts.append(observed(case))
    parts[0].merge(parts[1])
    for name in case.layers:
        a, b = parts[0][name], whole[name]
        assert (a.rows, a.weight, a.positions) == (b.rows, b.weight, b.positions)
        for key in set(a.sums) - {"filter_batch"}:
            assert torch.allclose(a.sums[key], b.sums[key], atol=1e-12)
        assert torch.allclose(a.pooled.rows()[0], b.pooled.rows()[0])
        assert torch.allclose(a.gradients.rows()[0], b.gradients.rows()[0])
        assert a.batches == 2


def test_the_newest_rows_are_kept(case) -> None:
    accumulator = Accumulator(case.model, ["fc"], needs={"activation"}, pooled_rows=10)
    outputs = []
    for batch in case.batches:
        with torch.no_grad(), accumulator.observe():
            outputs.append(case.model(batch["x"]))
    values, weights = accumulator.statistics["fc"].pooled.rows()
    assert torch.allclose(values.double(), torch.cat(outputs)[-10:], atol=1e-6)
    assert len(weights) == 10


def test_statistics_are_saved_without_pickle_and_go_on(case, tmp_path) -> None:
    first = observed(case)
    torch.save(first.state_dict(), tmp_path / "s.pt")
    again = Statistics.from_state(torch.load(tmp_path / "s.pt", weights_only=True))
    assert again.needs == first.needs
    for other in (first, again):
        other.merge(observed(case))
    for name in case.layers:
        assert again[name].rows == 48
        for key, value in first[name].sums.items():
            assert torch.equal(again[name].sums[key], value)
        assert torch.equal(again[name].gradients.rows()[0], first[name].gradients.rows()[0])


def test_scoring_between_two_training_passes_is_not_looked_at(case) -> None:
    accumulator = Accumulator(case.model, needs={"gradient"})
    with accumulator.observe():
        with torch.no_grad():
            case.model(case.batch["x"][:5])
        case.loss(case.model(case.batch["x"]), case.batch).sum().backward()
    assert accumulator.statistics["conv1"].rows == 24


def test_the_gradients_of_the_training_pass_are_bit_for_bit_the_same(case) -> None:
    def gradients() -> list[torch.Tensor]:
        case.model.zero_grad()
        case.loss(case.model(case.batch["x"]), case.batch).sum().backward()
        return [p.grad.clone() for p in case.model.parameters()]

    plain = gradients()
    with Accumulator(case.model, needs=ALL).observe():
        watched = gradients()
    assert all(map(torch.equal, plain, watched))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in case.model.modules())


def test_memory_of_a_batch_is_free_after_it_without_the_collector(case) -> None:
    """A hook that refers to the tensor it hangs on is a cycle through C++ that nothing frees."""
    gc.collect()
    gc.disable()
    try:
        alive = []
        accumulator = Accumulator(case.model, needs=ALL)
        with accumulator.observe():
            hidden = case.model.conv1(case.batch["x"])
            alive += [weakref.ref(hidden)]
            hidden = hidden.relu()
            alive += [weakref.ref(hidden)]
            hidden.square().sum().backward()
            del hidden
        assert [ref() for ref in alive] == [None, None]
    finally:
        gc.enable()


def test_an_exception_leaves_the_statistics_as_they_were(case) -> None:
    accumulator = Accumulator(case.model, needs={"activation"})
    with pytest.raises(KeyError), accumulator.observe():
        {}[case.model(case.batch["x"])]
    assert accumulator.statistics.rows == 0
    with accumulator.observe():
        case.model(case.batch["x"])
    assert accumulator.statistics.rows == 24


def test_a_loss_that_a_layer_is_no_part_of_is_no_error(case) -> None:
    accumulator = Accumulator(case.model, needs={"gradient", "per_sample_gradient"})
    with accumulator.observe():
        case.model(case.batch["x"])
        case.model.fc(torch.ones(24, 6, dtype=torch.float64)).sum().backward()
    assert accumulator.statistics["conv1"].mean("taylor").eq(0).all()
    assert accumulator.statistics["conv1"].mean("gradient_squared").eq(0).all()


def test_a_pass_without_backward_is_an_error(case) -> None:
    with (
        pytest.raises(ModelError, match="no gradient came back"),
        Accumulator(case.model, needs={"gradient"}).observe(),
    ):
        case.model(case.batch["x"])


def test_a_frozen_layer_is_an_error(case) -> None:
    case.model.conv1.requires_grad_(False)
    with (
        pytest.raises(ModelError, match="'conv1': no gradient is recorded"),
        Accumulator(case.model, needs={"gradient"}).observe(),
    ):
        case.model(case.batch["x"]).sum().backward()


def test_an_activation_that_is_overwritten_is_an_error() -> None:
    model = nn.Sequential(nn.Linear(3, 4))
    with (
        pytest.raises(ModelError, match="changed in place"),
        Accumulator(model, needs={"gradient"}).observe(),
    ):
        F.silu(model(torch.ones(2, 3))).mul_(2).sum().backward()


@pytest.mark.parametrize(
    ("weights", "scale", "match"),
    [
        (torch.ones(5), 1.0, "gave 24 entries for 5 rows"),
        (-torch.ones(24), 1.0, "weights.*at least 0"),
        (torch.full((24,), torch.inf), 1.0, "weights.*finite"),
        (torch.ones(24), 0.0, "scale.*0 where weights are not"),
        (None, -1.0, "scale.*at least 0"),
    ],
)
def test_weights_that_make_no_sense_are_errors(case, weights, scale, match) -> None:
    with (
        pytest.raises((ValueError, ModelError), match=match),
        Accumulator(case.model, needs={"activation"}).observe(weights, scale=scale),
    ):
        case.model(case.batch["x"])


def test_a_layer_that_mixes_rows_into_positions_is_an_error() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Flatten(0, 1), nn.ReLU(), nn.Linear(4, 2))
    with (
        pytest.raises(ModelError, match="'3' gave 10 entries for 2 rows"),
        Accumulator(model, needs={"activation"}).observe(),
    ):
        model(torch.ones(2, 5, 3))


def test_what_accumulators_cannot_do_is_told_before_anything_runs(case) -> None:
    with pytest.raises(ValueError, match=r"no layer 'conv3'.*did you mean 'conv"):
        Accumulator(case.model, ["conv3"], needs={"activation"})
    with pytest.raises(ValueError, match="'norm1' is GroupNorm; only linear layers and conv"):
        Accumulator(case.model, ["norm1"], needs={"activation"})
    with pytest.raises(ValueError, match="did you mean 'gradient'"):
        Accumulator(case.model, needs={"gradients"})
    with pytest.raises(ValueError, match="at least one layer's name"):
        Accumulator(case.model, [], needs={"activation"})
    with pytest.raises(ValueError, match="pooled_rows=0"):
        Accumulator(case.model, needs={"activation"}, pooled_rows=0)
    accumulator = Accumulator(case.model, needs={"activation"})
    with (
        accumulator.observe(),
        pytest.raises(ValueError, match="within another"),
        accumulator.observe(),
    ):
        pass
    with pytest.raises(ValueError, match="cannot be added"):
        accumulator.statistics.merge(Accumulator(case.model, needs={"gradient"}).statistics)
    with pytest.raises(ValueError, match="version=7"):
        Statistics.from_state({"version": 7})


def test_inverse_probability_leaves_padding_out() -> None:
    batch = {
        "probability": torch.tensor([0.5, 0.25, 1.0, 0.1]),
        "weight": torch.tensor([1, 2, 1, 0]),
    }
    assert inverse_probability(batch).tolist() == [2, 4, 1, 0]
    with pytest.raises(ValueError, match="no column 'probability'"):
        inverse_probability({"weight": torch.ones(2)})
    with pytest.raises(ValueError, match=r"must be in \(0, 1\]"):
        inverse_probability({"weight": torch.ones(1), "probability": torch.zeros(1)})
