"""Ranger against torch, pytorch_optimizer and a transcription of its equations."""

import copy
import io
import itertools
import warnings

import numpy as np
import pytest
import torch
from torch import nn

from raysb.optim import Ranger
from raysb.scoring.limits import Limits


def make_model(dtype=torch.float32):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 5, 3, bias=False), nn.Tanh(), nn.Flatten(), nn.Linear(20, 7), nn.Linear(7, 3)
    )
    return model.to(dtype)


def train(model, optimizer, steps, *, start=0):
    """Steps on data that differ from step to step; the weights after each."""
    history = []
    for step in range(start, start + steps):
        generator = torch.Generator().manual_seed(step)
        dtype = next(model.parameters()).dtype
        x, y = (torch.randn(4, n, generator=generator, dtype=dtype) for n in (32, 3))
        optimizer.zero_grad()
        (model(x.reshape(4, 2, 4, 4)) - y).square().sum().backward()
        optimizer.step()
        history.append([p.detach().clone() for p in model.parameters()])
    return history


def histories(*makers, steps=40, dtype=torch.float32):
    """The weights after each step with each of several optimizers."""
    models = [make_model(dtype) for _ in makers]
    pairs = zip(models, makers, strict=True)
    return [train(model, make(model.parameters()), steps) for model, make in pairs]


def assert_equal(first, second):
    for step, (a, b) in enumerate(zip(first, second, strict=True), 1):
        assert all(torch.equal(p, q) for p, q in zip(a, b, strict=True)), f"step {step}"


def largest_difference(first, second):
    return max(
        float((p - q).abs().max())
        for a, b in zip(first, second, strict=True)
        for p, q in zip(a, b, strict=True)
    )


SHARED = {"lr": 3e-3, "weight_decay": 0.02}


@pytest.mark.parametrize("foreach", [False, True, None])
@pytest.mark.parametrize("off", [{"k": 0}, {"alpha": 1.0}])
@pytest.mark.parametrize("maximize", [False, True])
def test_without_centring_and_lookahead_it_is_torchs_radam_to_the_bit(foreach, off, maximize):
    same = {**SHARED, "betas": (0.9, 0.99), "eps": 1e-7, "foreach": foreach, "maximize": maximize}
    ours, torchs = histories(
        lambda p: Ranger(p, use_gc=False, **off, **same),
        lambda p: torch.optim.RAdam(p, decoupled_weight_decay=True, **same),
    )
    assert_equal(ours, torchs)


@pytest.mark.parametrize("foreach", [False, True])
def test_without_rectification_as_well_it_is_torchs_adamw_to_the_bit(foreach):
    same = {**SHARED, "betas": (0.9, 0.99), "eps": 1e-7, "foreach": foreach}
    ours, torchs = histories(
        lambda p: Ranger(p, use_gc=False, k=0, rectify=False, **same),
        lambda p: torch.optim.AdamW(p, **same),
    )
    assert_equal(ours, torchs)


@pytest.mark.parametrize("args", [{}, {"gc_conv_only": True}, {"k": 5, "alpha": 0.8}])
@pytest.mark.parametrize("weight_decay", [0.0, 0.02])
def test_it_equals_pytorch_optimizers_ranger(args, weight_decay):
    """With `degenerated_to_sgd=True`: its default goes uphill for the first five steps."""
    theirs = pytest.importorskip("pytorch_optimizer").Ranger
    same = {"lr": 3e-3, "weight_decay": weight_decay, **args}
    a, b = histories(
        lambda p: Ranger(p, **same),
        lambda p: theirs(p, degenerated_to_sgd=True, **same),
        steps=60,
    )
    assert largest_difference(a, b) < 1e-6


def transcribed(weights, gradients, *, lr, b1, b2, eps, decay, alpha, k):
    """The equations of the docstring for one weight [out, in], one line each."""
    p, slow = weights.copy(), weights.copy()
    m, v = np.zeros_like(p), np.zeros_like(p)
    found = []
    for t, gradient in enumerate(gradients, 1):
        g = gradient - gradient.mean(axis=1, keepdims=True)
        v = b2 * v + (1 - b2) * g * g
        m = b1 * m + (1 - b1) * g
        rho_inf = 2 / (1 - b2) - 1
        rho = rho_inf - 2 * t * b2**t / (1 - b2**t)
        p = p * (1 - lr * decay)
        if rho > 5:
            above = (rho - 4) * (rho - 2) * rho_inf
            r = np.sqrt(above / ((rho_inf - 4) * (rho_inf - 2) * rho))
            p = p - lr * r * np.sqrt(1 - b2**t) / (1 - b1**t) * m / (np.sqrt(v) + eps)
        else:
            p = p - lr / (1 - b1**t) * m
        if t % k == 0:
            slow = slow + alpha * (p - slow)
            p = slow.copy()
        found.append(p)
    return found


@pytest.mark.parametrize("foreach", [False, True])
def test_it_is_its_equations(foreach):
    rng = np.random.default_rng(0)
    weights, gradients = rng.normal(size=(3, 4)), rng.normal(size=(40, 3, 4))
    numbers = {"lr": 0.01, "eps": 1e-5, "alpha": 0.3, "k": 4}
    p = nn.Parameter(torch.tensor(weights))
    optimizer = Ranger([p], betas=(0.95, 0.999), weight_decay=0.1, foreach=foreach, **numbers)
    expected = transcribed(weights, gradients, b1=0.95, b2=0.999, decay=0.1, **numbers)
    for gradient, wanted in zip(gradients, expected, strict=True):
        p.grad = torch.tensor(gradient)
        optimizer.step()
        np.testing.assert_allclose(p.detach().numpy(), wanted, rtol=0, atol=1e-13)


def test_foreach_and_one_tensor_at_a_time_agree():
    one, many = histories(
        lambda p: Ranger(p, foreach=False, **SHARED), lambda p: Ranger(p, foreach=True, **SHARED)
    )
    assert largest_difference(one, many) < 1e-6


@pytest.mark.parametrize("stop", [1, 4, 6, 9])  # before, in and at the ends of cycles of k=6
def test_a_run_that_is_stopped_within_a_cycle_goes_on_to_the_bit(stop):
    (whole,) = histories(lambda p: Ranger(p, **SHARED), steps=20)
    model = make_model()
    first = Ranger(model.parameters(), **SHARED)
    train(model, first, stop)
    file = io.BytesIO()
    torch.save({"model": model.state_dict(), "optimizer": first.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    again = make_model()
    again.load_state_dict(saved["model"])
    second = Ranger(again.parameters(), lr=1.0, k=3)  # what was saved wins
    second.load_state_dict(saved["optimizer"])
    assert_equal(train(again, second, 20 - stop, start=stop), whole[stop:])


def test_a_copy_goes_on_as_the_original():
    model = make_model()
    optimizer = Ranger(model.parameters())
    train(model, optimizer, 4)
    both = copy.deepcopy((model, optimizer))
    assert_equal(train(*both, 10, start=4), train(model, optimizer, 10, start=4))


def test_a_checkpoint_of_radam_goes_on_as_rangers():
    model = make_model()
    before = torch.optim.RAdam(model.parameters(), lr=1e-3, decoupled_weight_decay=True)
    train(model, before, 7)
    after = Ranger(model.parameters(), k=4, use_gc=False)
    after.load_state_dict(before.state_dict())
    weights = [p.detach().clone() for p in model.parameters()]
    history = train(model, after, 1, start=7)  # the 8th step: a pull half-way back
    radam = make_model()
    torchs = torch.optim.RAdam(radam.parameters(), lr=1e-3, decoupled_weight_decay=True)
    expected = [a.lerp(b, 0.5) for a, b in zip(weights, train(radam, torchs, 8)[-1], strict=True)]
    assert largest_difference(history, [expected]) < 1e-7


def test_groups_have_their_own_options():
    torch.manual_seed(0)
    weights = [nn.Parameter(torch.randn(3, 4)) for _ in range(3)]
    gradients = [torch.randn(3, 4) for _ in range(12)]
    options = [{"k": 0, "use_gc": False}, {"k": 4, "lr": 0.1}, {"weight_decay": 0.1, "alpha": 0.9}]
    alone = [nn.Parameter(p.detach().clone()) for p in weights]
    together = Ranger(
        [{"params": [p], **each} for p, each in zip(weights, options, strict=True)], lr=0.01
    )
    apart = [Ranger([p], **{"lr": 0.01, **each}) for p, each in zip(alone, options, strict=True)]
    for gradient in gradients:
        for p in (*weights, *alone):
            p.grad = gradient.clone()
        for optimizer in (together, *apart):
            optimizer.step()
    assert_equal([weights], [alone])


def test_a_tensor_without_a_gradient_rests_and_counts_its_own_steps():
    p, q = (nn.Parameter(torch.ones(2, 3)) for _ in range(2))
    optimizer = Ranger([p, q], lr=0.1, k=2, use_gc=False)
    p.grad = torch.ones(2, 3)
    optimizer.step()
    assert torch.equal(q, torch.ones(2, 3))
    assert q not in optimizer.state
    q.grad, p.grad = torch.ones(2, 3), None
    optimizer.step()
    assert q.tolist() == p.tolist() == [[pytest.approx(0.9)] * 3] * 2  # first steps: no pull
    optimizer.step()
    assert q.tolist() == [[pytest.approx(0.9)] * 3] * 2  # 1 -> .9 -> .8, half-way back to 1
    p.grad = torch.ones(2, 3)
    optimizer.step()
    assert p.tolist() == [[pytest.approx(0.9)] * 3] * 2  # its second step, though the third call


def test_gradients_are_left_as_they_were():
    model = make_model()
    optimizer = Ranger(model.parameters())
    train(model, optimizer, 1)
    kept = [p.grad.clone() for p in model.parameters()]
    before = [p.grad for p in model.parameters()]
    optimizer.step()
    for p, same, value in zip(model.parameters(), before, kept, strict=True):
        assert p.grad is same
        assert torch.equal(same, value)


def test_a_closure_is_called_once_with_gradients_on():
    p = nn.Parameter(torch.tensor([[1.0, 3.0]]))
    optimizer, calls = Ranger([p], lr=0.1), []

    def closure():
        optimizer.zero_grad()
        loss = (p * torch.tensor([[1.0, 2.0]])).sum()
        loss.backward()
        calls.append(torch.is_grad_enabled())
        return loss

    assert optimizer.step(closure).item() == 7.0
    assert calls == [True]
    assert p.tolist() == [[pytest.approx(1.05), pytest.approx(2.95)]]  # gradient -.5, .5
    assert optimizer.step() is None


def test_hooks_are_called_once_a_step_even_beside_an_radam():
    """Once any RAdam existed, a step that called `super().step()` ran every hook twice."""
    p = nn.Parameter(torch.ones(2, 2))
    torch.optim.RAdam([p])
    optimizer, calls = Ranger([p]), []
    optimizer.register_step_pre_hook(lambda *given: calls.append("pre"))
    optimizer.register_step_post_hook(lambda *given: calls.append("post"))
    p.grad = torch.ones(2, 2)
    optimizer.step()
    assert calls == ["pre", "post"]


@pytest.mark.parametrize("foreach", [False, True])
def test_a_tensor_as_rate_may_change_in_place(foreach):
    def scheduled(parameters, rate):
        return Ranger(parameters, lr=rate, foreach=foreach)

    rate = torch.tensor(1e-3)
    tensors, floats = make_model(), make_model()
    ours, plain = scheduled(tensors.parameters(), rate), scheduled(floats.parameters(), 1e-3)
    a, b = train(tensors, ours, 8), train(floats, plain, 8)
    rate.fill_(1e-2)
    plain.param_groups[0]["lr"] = 1e-2
    a += train(tensors, ours, 8, start=8)
    b += train(floats, plain, 8, start=8)
    assert largest_difference(a, b) < 1e-6


@pytest.mark.parametrize("foreach", [False, True])
def test_complex_weights_go_as_their_two_real_parts_would(foreach):
    torch.manual_seed(0)
    start = torch.randn(3, 4, dtype=torch.complex128)
    z = nn.Parameter(start.clone())
    parts = [nn.Parameter(part.clone()) for part in (start.real, start.imag)]
    optimizers = [Ranger([z], lr=0.1, foreach=foreach), Ranger(parts, lr=0.1, foreach=foreach)]
    for _ in range(13):
        z.grad = torch.randn(3, 4, dtype=torch.complex128)
        parts[0].grad, parts[1].grad = z.grad.real.clone(), z.grad.imag.clone()
        for optimizer in optimizers:
            optimizer.step()
    torch.testing.assert_close(z.detach(), torch.complex(parts[0].detach(), parts[1].detach()))


def test_half_precision_keeps_its_dtype():
    (history,) = histories(Ranger, steps=7, dtype=torch.bfloat16)
    assert {p.dtype for p in history[-1]} == {torch.bfloat16}
    assert all(p.isfinite().all() for p in history[-1])


def test_it_goes_downhill_from_the_first_step():
    """Another Ranger took its first five steps uphill: 1, 1.2, 1.42, ... on x^2."""
    x = nn.Parameter(torch.ones(()))
    optimizer, seen = Ranger([x], lr=0.1), [1.0]
    for _ in range(5):
        optimizer.zero_grad()
        x.square().backward()
        optimizer.step()
        seen.append(x.item())
    assert all(after < before for before, after in itertools.pairwise(seen))
    assert seen[1] == pytest.approx(0.8)


def test_without_lookahead_no_third_copy_is_kept():
    model = make_model()
    kept = {}
    for k in (0, 6):
        optimizer = Ranger(model.parameters(), k=k)
        train(model, optimizer, 1)
        kept[k] = set(next(iter(optimizer.state.values())))
    assert kept == {0: {"step", "exp_avg", "exp_avg_sq"}, 6: kept[0] | {"slow"}}


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"lr": -1.0}, "Invalid learning rate: -1.0"),
        ({"lr": torch.ones(2)}, "Tensor lr must be 1-element"),
        ({"betas": (0.9, 1.0)}, r"Invalid betas: \(0.9, 1.0\)"),
        ({"eps": -1e-8}, "Invalid eps value"),
        ({"weight_decay": -0.1}, "Invalid weight_decay value"),
        ({"alpha": 0.0}, r"Invalid alpha: 0.0; must be in \(0, 1\], and k=0"),
        ({"k": -1}, "Invalid k: -1"),
        ({"k": 2.5}, "Invalid k: 2.5"),
        ({"capturable": True}, r"capturable=True.*not supported: Lookahead counts"),
        ({"differentiable": True}, r"differentiable=True.*not supported"),
    ],
)
def test_what_has_no_meaning_is_refused_for_all_and_for_a_group(args, message):
    p = nn.Parameter(torch.zeros(1))
    with pytest.raises(ValueError, match=message):
        Ranger([p], **args)
    with pytest.raises(ValueError, match=message):
        Ranger([{"params": [p], **args}])


def test_a_group_with_another_layout_of_weights_is_checked():
    with pytest.raises(ValueError, match=r"gc_dim=2, gc_groups=1: must be 0 and 1, or 1"):
        Ranger([{"params": [nn.Parameter(torch.zeros(2, 2))], "gc_dim": 2}])


def test_sparse_gradients_are_refused():
    embedding = nn.Embedding(4, 2, sparse=True)
    optimizer = Ranger(embedding.parameters())
    embedding(torch.tensor([1])).sum().backward()
    with pytest.raises(RuntimeError, match="Ranger does not support sparse gradients"):
        optimizer.step()


def test_a_scheduler_of_torch_and_the_scaler_of_amp_take_it():
    model = make_model()
    optimizer = Ranger(model.parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    scaler.scale(model(torch.ones(1, 2, 4, 4)).sum()).backward()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scaler.step(optimizer)
        scheduler.step()
    assert optimizer.param_groups[0]["lr"] == 0.05


@pytest.mark.parametrize("every", [6, 12])
def test_scorers_get_pulled_back_weights_only_where_k_divides_publish_every(every):
    model, limits = make_model(), Limits(global_batch=1, publish_every=every)
    optimizer, last, published = Ranger(model.parameters(), lr=0.01, k=6), 0, []
    for step in range(1, 31):
        train(model, optimizer, 1, start=step)
        if limits.due(step, last):
            last = step
            states = [(p, optimizer.state[p]["slow"]) for p in model.parameters()]
            assert all(torch.equal(p, slow) for p, slow in states), step
            published.append(step)
    assert published == list(range(every, 31, every))
    train(model, optimizer, 1)
    weight = next(model.parameters())
    assert not torch.equal(weight, optimizer.state[weight]["slow"])  # at any other step
