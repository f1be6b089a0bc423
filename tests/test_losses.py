from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from raysb import losses
from raysb.errors import ModelError

B, C, T = 6, 5, 7


def numbers(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def classes(*shape, seed=1):
    return torch.randint(0, C, shape, generator=torch.Generator().manual_seed(seed))


def my_loss(outputs, batch, *, scale=1.0):
    return scale * outputs.sum(1)


class MyLoss:
    def __init__(self, power=1):
        self.power = power

    def __call__(self, outputs, batch):
        return outputs.sum(1) ** self.power


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64])
def test_cross_entropy_equals_torch(smoothing, dtype):
    z, y = numbers(B, C), classes(B)
    got = losses.cross_entropy("y", label_smoothing=smoothing)(z, {"y": y.to(dtype)})
    expected = F.cross_entropy(z, y, reduction="none", label_smoothing=smoothing)
    assert torch.equal(got, expected)
    assert got.shape == (B,)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_lifted_to_float32_before_the_softmax(dtype):
    z, y = numbers(B, C, dtype=dtype), classes(B)
    got = losses.cross_entropy("y")(z, {"y": y})
    assert got.dtype == torch.float32
    assert torch.equal(got, F.cross_entropy(z.float(), y, reduction="none"))


def test_float64_stays_float64():
    z, y = numbers(B, C, dtype=torch.float64), classes(B)
    assert losses.cross_entropy("y")(z, {"y": y}).dtype == torch.float64


def test_cross_entropy_takes_probabilities():
    z, q = numbers(B, C), numbers(B, C, seed=3).softmax(1)
    expected = -(q * z.log_softmax(1)).sum(1)
    torch.testing.assert_close(losses.cross_entropy("q")(z, {"q": q}), expected)
    right = losses.cross_entropy("q").correct(z, {"q": q})
    assert torch.equal(right, (z.argmax(1) == q.argmax(1)).to(torch.uint8))


def test_dense_labels_give_the_mean_over_positions():
    z, y = numbers(B, C, 3, 4), classes(B, 3, 4)
    expected = torch.stack([F.cross_entropy(z[i : i + 1], y[i : i + 1]) for i in range(B)])
    torch.testing.assert_close(losses.cross_entropy("y")(z, {"y": y}), expected)
    y[0] = z[0].argmax(0)
    right = losses.cross_entropy("y").correct(z, {"y": y})
    assert right.tolist() == [1, *[0] * (B - 1)]


def test_correct_is_one_where_the_largest_logit_is_the_labels():
    z = torch.tensor([[0.0, 2.0, 1.0], [3.0, 0.0, 1.0]])
    right = losses.cross_entropy().correct(z, {"label": torch.tensor([1, 2])})
    assert right.tolist() == [1, 0]
    assert right.dtype == torch.uint8


@pytest.mark.parametrize("wrong", [5, 200, -1, -100])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_a_label_outside_the_classes_is_named_and_never_ignored(wrong, smoothing):
    y = torch.tensor([0, 1, wrong, 2])
    message = (
        rf"label {wrong} in row 2 of column 'y' is outside the 5 classes \[0, 5\).*data\.target"
    )
    with pytest.raises(ModelError, match=message):
        losses.cross_entropy("y", smoothing)(numbers(4, C), {"y": y})
    with pytest.raises(ModelError, match=message):
        losses.check_labels(y.numpy(), C, "y")


def test_check_labels_says_how_many_classes_would_do():
    with pytest.raises(ModelError, match=r"label 12 in row 1.*set model\.num_classes=21"):
        losses.check_labels(np.array([3, 12, 20], np.uint8), 10)
    losses.check_labels(np.arange(10, dtype=np.int16), 10)
    losses.check_labels(np.zeros(0, np.int64), 10)


@pytest.mark.parametrize("dense", [False, True])
def test_a_label_outside_the_classes_is_told_with_the_id_of_its_sample(dense):
    """A pool is shuffled: of row 2 of a batch nobody could find the file."""
    y, z = torch.tensor([0, 1, 9, 2]), numbers(4, C)
    if dense:
        y, z = y[:, None, None].repeat(1, 3, 2), z[:, :, None, None].repeat(1, 1, 3, 2)
    batch = {"y": y, "id": torch.tensor([11, 12, 13_000_000_007, 14])}
    with pytest.raises(ModelError, match="label 9 of the sample with id 13000000007, row 2 of"):
        losses.cross_entropy("y")(z, batch)


def test_a_token_is_told_with_the_id_of_its_sequence_whatever_is_padded():
    z, y = sequences()
    y[0, :2], y[3, 1] = -100, 77
    batch = {"y": y, "id": torch.arange(40, 40 + len(y))}
    with pytest.raises(ModelError, match="label 77 of the sample with id 43, row 3 of column 'y'"):
        losses.sequence_cross_entropy("y")(z, batch)


def test_what_is_no_distribution_is_told_with_the_id_of_its_sample():
    batch = {"y": torch.tensor([[0.5, 0.5], [0.9, 0.9]]), "id": torch.tensor([70, 71])}
    with pytest.raises(ModelError, match=r"row 1 of the batch \(the sample with id 71\)"):
        losses.soft_cross_entropy("y")(torch.zeros(2, 2), batch)


@pytest.mark.parametrize("labels", [np.array([1.5, 2.0]), np.array(["cat", "dog"])])
def test_labels_that_are_no_integers_are_refused(labels):
    with pytest.raises(ModelError, match=r"'label' is .*wants integers.*train\.loss=mse"):
        losses.check_labels(labels, 10)


def test_floating_labels_are_refused_by_the_loss_too():
    with pytest.raises(ModelError, match=r"torch\.float32; cross-entropy wants integers"):
        losses.cross_entropy("y")(numbers(B, C), {"y": numbers(B)})


@pytest.mark.parametrize("shape", [(B,), (B, 1), (B, 3), (B, 3, 4)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_mse_is_the_mean_over_all_but_the_rows(shape, dtype):
    z, y = numbers(*shape, dtype=dtype), numbers(*shape, seed=2)
    expected = torch.stack([F.mse_loss(z[i].float(), y[i]) for i in range(B)])
    torch.testing.assert_close(losses.mse("y")(z, {"y": y}), expected)


def test_a_vector_of_values_fits_a_column_of_outputs_without_broadcasting():
    """[B, 1] - [B] would be [B, B], whose mean over rows is wrong without a word."""
    z, y = numbers(B, 1), classes(B)
    expected = (z[:, 0] - y) ** 2
    torch.testing.assert_close(losses.mse("y")(z, {"y": y}), expected)
    torch.testing.assert_close(losses.torch_loss("MSELoss", "y")(z, {"y": y}), expected)


@pytest.mark.parametrize("shape", [(B, 2), (1,), (2, B)])
def test_shapes_that_differ_are_refused_instead_of_broadcast(shape):
    with pytest.raises(ModelError, match=r"column 'y' has shape .*model\.num_classes"):
        losses.mse("y")(numbers(B, 1), {"y": numbers(*shape)})


def sequences():
    y = classes(B, T)
    for row in range(B):
        y[row, row + 1 :] = -100  # row r has r + 1 tokens
    return numbers(B, T, C), y


def test_sequence_loss_equals_a_loop_over_the_sequences():
    z, y = sequences()
    expected = [F.cross_entropy(z[i, : i + 1], y[i, : i + 1]) for i in range(B)]
    got = losses.sequence_cross_entropy("y")(z, {"y": y})
    torch.testing.assert_close(got, torch.stack(expected))


def test_padding_changes_neither_the_loss_nor_the_gradient():
    z, y = sequences()
    z.requires_grad_()
    losses.sequence_cross_entropy("y")(z, {"y": y}).sum().backward()
    for row in range(B):
        assert torch.equal(z.grad[row, row + 1 :], torch.zeros(T - row - 1, C))
    longer = F.pad(z.detach(), (0, 0, 0, 3)), F.pad(y, (0, 3), value=-100)
    torch.testing.assert_close(
        losses.sequence_cross_entropy("y")(longer[0], {"y": longer[1]}),
        losses.sequence_cross_entropy("y")(z.detach(), {"y": y}),
    )


def test_a_sequence_of_padding_only_has_loss_zero():
    z, y = sequences()
    y[2] = -100
    assert losses.sequence_cross_entropy("y")(z, {"y": y})[2].item() == 0.0


def test_another_value_may_mark_padding():
    z, y = sequences()
    zero = torch.where(y == -100, 0, y)
    expected = [F.cross_entropy(z[i][zero[i] != 0], zero[i][zero[i] != 0]) for i in range(1, B)]
    got = losses.sequence_cross_entropy("y", ignore_index=0)(z, {"y": zero})
    torch.testing.assert_close(got[1:], torch.stack(expected))


def test_a_sequence_is_correct_when_every_token_is():
    z, y = sequences()
    best = torch.where(y == -100, -100, z.argmax(-1))
    best[3, 0] = (best[3, 0] + 1) % C
    right = losses.sequence_cross_entropy("y").correct(z, {"y": best})
    assert right.tolist() == [1, 1, 1, 0, 1, 1]


def test_a_token_outside_the_vocabulary_is_named():
    z, y = sequences()
    y[0, 0] = 77
    with pytest.raises(ModelError, match=r"label 77 .*outside the 5 classes"):
        losses.sequence_cross_entropy("y")(z, {"y": y})


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("L1Loss", {}),
        ("MSELoss", {}),
        ("SmoothL1Loss", {"beta": 0.5}),
        ("HuberLoss", {"delta": 2.0}),
        ("SoftMarginLoss", {}),
        ("BCEWithLogitsLoss", {"pos_weight": [1.0, 2.0, 3.0]}),
        ("PoissonNLLLoss", {"log_input": True}),
        ("KLDivLoss", {"log_target": True}),
    ],
)
def test_any_elementwise_loss_of_torch_is_averaged_within_the_row(name, args):
    z, y = numbers(B, 3), numbers(B, 3, seed=2).abs()
    tensors = {k: torch.tensor(v) if isinstance(v, list) else v for k, v in args.items()}
    module = getattr(nn, name)(reduction="none", **tensors)
    expected = torch.stack([module(z[i], y[i]).mean() for i in range(B)])
    torch.testing.assert_close(losses.torch_loss(name, "y", **args)(z, {"y": y}), expected)


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("CrossEntropyLoss", {"weight": [1.0, 2.0, 3.0, 4.0, 5.0]}),
        ("MultiMarginLoss", {"margin": 0.5}),
        ("NLLLoss", {}),
    ],
)
def test_class_losses_of_torch_take_any_integer_and_know_what_is_correct(name, args):
    z, y = numbers(B, C), classes(B)
    tensors = {k: torch.tensor(v) if isinstance(v, list) else v for k, v in args.items()}
    loss = losses.torch_loss(name, "y", **args)
    expected = getattr(nn, name)(reduction="none", **tensors)(z, y)
    torch.testing.assert_close(loss(z, {"y": y.to(torch.uint8)}), expected)
    assert torch.equal(loss.correct(z, {"y": y}), (z.argmax(1) == y).to(torch.uint8))


def test_elementwise_losses_know_no_correct_answer():
    assert not hasattr(losses.torch_loss("L1Loss", "y"), "correct")
    assert not hasattr(losses.mse("y"), "correct")


@pytest.mark.parametrize("name", ["TripletMarginLoss", "CTCLoss", "GaussianNLLLoss"])
def test_losses_of_more_than_one_target_ask_for_a_function(name):
    with pytest.raises(ValueError, match=rf"train\.loss='{name}'.*\(outputs, batch\) -> \[B\]"):
        losses.torch_loss(name, "y")


@pytest.mark.parametrize("name", ["reduction", "reduce", "size_average"])
def test_a_reduction_is_refused(name):
    with pytest.raises(ValueError, match=rf"train\.loss_args\.{name}="):
        losses.torch_loss("L1Loss", "y", **{name: "mean"})


@dataclass
class Output:
    logits: torch.Tensor
    loss: torch.Tensor | None = None


@pytest.mark.parametrize(
    "wrap", [lambda z: z, Output, lambda z: {"logits": z}, lambda z: SimpleNamespace(logits=z)]
)
def test_outputs_may_be_a_tensor_or_hold_logits(wrap):
    z, y = numbers(B, C), classes(B)
    got = losses.cross_entropy("y")(wrap(z), {"y": y})
    assert torch.equal(got, F.cross_entropy(z, y, reduction="none"))


@pytest.mark.parametrize("outputs", [{"scores": torch.zeros(2)}, (torch.zeros(2),), Output(None)])
def test_outputs_without_logits_are_refused(outputs):
    with pytest.raises(ModelError, match=r"the model returned .*logits.*forward="):
        losses.logits_of(outputs)


def test_a_missing_column_names_those_there_are():
    with pytest.raises(ModelError, match=r"no numeric column 'label'.*image, y.*data\.target"):
        losses.cross_entropy()(numbers(B, C), {"image": numbers(B), "y": classes(B)})


def test_build_loss_gives_what_the_name_says():
    assert losses.build_loss("cross_entropy", "y", {"label_smoothing": 0.1}) == (
        losses.CrossEntropy("y", 0.1)
    )
    assert losses.build_loss("mse", "y") == losses.MSE("y")
    assert losses.build_loss("sequence_cross_entropy", "y", {"ignore_index": 0}) == (
        losses.SequenceCrossEntropy("y", 0)
    )
    huber = losses.build_loss("HuberLoss", "y", {"delta": 2.0})
    assert huber == losses.torch_loss("HuberLoss", "y", delta=2.0)


def test_build_loss_follows_an_import_path():
    z = numbers(B, C)
    scaled = losses.build_loss(f"{__name__}:my_loss", None, {"scale": 2.0})
    assert torch.equal(scaled(z, {}), 2.0 * z.sum(1))
    powered = losses.build_loss(f"{__name__}:MyLoss", None, {"power": 2})
    assert torch.equal(powered(z, {}), z.sum(1) ** 2)


@pytest.mark.parametrize(
    ("name", "target", "args", "message"),
    [
        (
            "cros_entropy",
            "y",
            {},
            r"train\.loss='cros_entropy': unknown; did you mean 'cross_entropy'",
        ),
        ("HuberLos", "y", {}, r"train\.loss='HuberLos': unknown; did you mean 'HuberLoss'"),
        ("mse", None, {}, r"train\.loss='mse': .*data\.target"),
        (
            "cross_entropy",
            "y",
            {"smoothing": 0.1},
            r"train\.loss_args\.smoothing=0\.1.*label_smoothing",
        ),
        ("cross_entropy", "y", {"label_smoothing": 1.5}, r"train\.loss_args\.label_smoothing=1\.5"),
        ("HuberLoss", "y", {"beta": 1.0}, r"train\.loss_args.*delta"),
    ],
)
def test_what_cannot_be_built_is_refused_with_its_key(name, target, args, message):
    with pytest.raises(ValueError, match=message):
        losses.build_loss(name, target, args)(numbers(B), {"y": numbers(B)})


def test_an_import_path_that_cannot_be_called_is_a_type_error():
    with pytest.raises(TypeError, match=r"train\.loss='math:pi'"):
        losses.build_loss("math:pi", None)


def test_an_unnamed_target_is_refused():
    for build in (losses.cross_entropy, losses.mse, losses.sequence_cross_entropy):
        with pytest.raises(ValueError, match=r"must be the name of a column"):
            build("")


# --- sequences with a shift -------------------------------------------------------------------


def test_a_shift_compares_each_position_with_the_token_that_follows_in_float64() -> None:
    z, y = numbers(B, T, C, dtype=torch.float64), sequences()[1]
    logp = z.numpy() - np.log(np.exp(z.numpy()).sum(-1, keepdims=True))
    expected = []
    for i in range(B):
        pairs = [(t, int(y[i, t + 1])) for t in range(T - 1) if y[i, t + 1] != -100]
        expected.append(np.mean([-logp[i, t, c] for t, c in pairs]) if pairs else 0.0)
    got = losses.sequence_cross_entropy("y", shift=True)(z, {"y": y})
    np.testing.assert_allclose(got, expected, rtol=1e-12)


def test_a_shift_in_the_loss_equals_one_in_the_data() -> None:
    z, y = numbers(B, T, C), sequences()[1]
    moved = torch.cat([y[:, 1:], torch.full((B, 1), -100)], 1)
    inside, outside = (losses.sequence_cross_entropy("y", shift=s) for s in (True, False))
    torch.testing.assert_close(inside(z, {"y": y}), outside(z, {"y": moved}))
    assert torch.equal(inside.correct(z, {"y": y}), outside.correct(z, {"y": moved}))


def test_nothing_follows_a_single_token() -> None:
    with pytest.raises(ModelError, match=r"1 tokens a row and shift=True"):
        losses.sequence_cross_entropy("y", shift=True)(numbers(B, 1, C), {"y": classes(B, 1)})


def test_outputs_without_a_vocabulary_are_refused() -> None:
    with pytest.raises(ModelError, match=r"shape \[6, 5\].*rows, tokens, vocabulary"):
        losses.sequence_cross_entropy("y")(numbers(B, C), {"y": classes(B)})


# --- distributions ----------------------------------------------------------------------------


def distributions(*shape, seed=4):
    return numbers(*shape, seed=seed, dtype=torch.float64).softmax(1)


@pytest.mark.parametrize("shape", [(B, C), (B, C, 3)])
def test_soft_cross_entropy_is_the_sum_over_classes_in_float64(shape) -> None:
    z, q = numbers(*shape, dtype=torch.float64), distributions(*shape)
    logp = z.numpy() - np.log(np.exp(z.numpy()).sum(1, keepdims=True))
    expected = -(q.numpy() * logp).sum(1)
    expected = expected.reshape(B, -1).mean(1)
    got = losses.soft_cross_entropy("q")(z, {"q": q})
    np.testing.assert_allclose(got, expected, rtol=1e-12)


def test_one_hot_distributions_give_the_cross_entropy_and_its_gradient() -> None:
    z, y = numbers(B, C).requires_grad_(), classes(B)
    q = F.one_hot(y, C).float()
    soft = losses.soft_cross_entropy("q")(z, {"q": q})
    hard = F.cross_entropy(z, y, reduction="none")
    torch.testing.assert_close(soft, hard)
    first, second = (torch.autograd.grad(each.sum(), z)[0] for each in (soft, hard))
    torch.testing.assert_close(first, second)
    right = losses.soft_cross_entropy("q").correct(z, {"q": q})
    assert torch.equal(right, (z.argmax(1) == y).to(torch.uint8))


def test_a_class_without_probability_adds_nothing_where_its_logit_is_minus_infinity() -> None:
    z = torch.tensor([[0.0, 1.0, -torch.inf]], requires_grad=True)
    q = torch.tensor([[0.25, 0.75, 0.0]])
    loss = losses.soft_cross_entropy("q")(z, {"q": q})
    expected = F.cross_entropy(z[:, :2], q[:, :2], reduction="none")
    torch.testing.assert_close(loss, expected)
    loss.sum().backward()
    assert torch.isfinite(z.grad).all()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (torch.full((B, C), 0.5), "row 0 of the batch.*must have the sum 1"),
        (torch.tensor([[1.5, -0.5, 0, 0, 0]] * B), "must not be negative"),
        (torch.full((B, C), torch.nan), "no distribution"),
        (torch.ones(B, dtype=torch.int64), "cross_entropy"),
        (torch.ones(B, C + 1), "wants probabilities of the logits' shape"),
    ],
)
def test_what_is_no_distribution_is_refused(wrong, message) -> None:
    with pytest.raises(ModelError, match=message):
        losses.soft_cross_entropy("q")(numbers(B, C), {"q": wrong})


def test_distributions_in_half_precision_are_taken_at_their_rounded_sum() -> None:
    q = distributions(B, C)
    got = losses.soft_cross_entropy("q")(numbers(B, C), {"q": q.half()})
    torch.testing.assert_close(
        got, losses.soft_cross_entropy("q")(numbers(B, C), {"q": q}), rtol=2e-3, atol=2e-3
    )


# --- the lowest -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "fraction", "kept"),
    # round is half to even: 2.5 -> 2, 3.5 -> 4
    [(10, 0.6, 6), (5, 0.5, 2), (7, 0.5, 4), (1, 0.6, 1), (3, 0.1, 1), (4, 1.0, 4), (128, 0.6, 77)],
)
def test_lowest_k_keeps_as_many_rows_as_the_rule_says(rows, fraction, kept) -> None:
    values = numbers(rows)
    got = losses.lowest_k(values, fraction)
    assert got.tolist() == sorted(values.tolist())[:kept]


def test_the_gradient_is_that_of_the_mean_over_exactly_the_lowest_rows() -> None:
    weight, x = numbers(3, dtype=torch.float64), numbers(20, 3, seed=5, dtype=torch.float64)

    def per_row(w):
        return torch.exp(x @ w)

    order = np.argsort(per_row(weight).numpy())[:12]
    got = torch.func.grad(lambda w: losses.lowest_k(per_row(w)).mean())(weight)
    expected = torch.func.grad(lambda w: per_row(w)[order].mean())(weight)
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=0)


def test_of_equal_losses_the_first_rows_are_taken() -> None:
    values = torch.tensor([2.0, 1.0, 1.0, 1.0, 1.0], requires_grad=True)
    losses.lowest_k(values, 0.4).sum().backward()
    assert values.grad.tolist() == [0, 1, 1, 0, 0]


def test_nan_ranks_as_the_largest() -> None:
    values = torch.tensor([torch.nan, 3.0, 1.0, torch.inf, 2.0])
    assert losses.lowest_k(values, 0.6).tolist() == [1.0, 2.0, 3.0]


@pytest.mark.parametrize("fraction", [0.0, -0.1, 1.1, float("nan")])
def test_a_fraction_outside_0_to_1_is_refused(fraction) -> None:
    with pytest.raises(ValueError, match=r"lowest_k\(fraction="):
        losses.lowest_k(numbers(4), fraction)


@pytest.mark.parametrize("shape", [(), (0,), (4, 2)])
def test_lowest_k_wants_one_loss_a_row(shape) -> None:
    with pytest.raises(ValueError, match=r"lowest_k\(losses of shape"):
        losses.lowest_k(torch.zeros(shape))


# --- all of torch.nn --------------------------------------------------------------------------


@pytest.mark.parametrize("name", [n for n in dir(nn) if n.endswith("Loss")])
def test_every_loss_class_of_torch_gives_one_loss_a_row_or_asks_for_a_function(name) -> None:
    try:
        loss = losses.torch_loss(name, "y")
    except ValueError as error:
        assert "(outputs, batch) -> [B]" in str(error) or "cannot be called" in str(error)  # noqa: PT017
        return
    z = numbers(B, C).log_softmax(1).sigmoid()
    y = classes(B) if loss.__class__ is losses.TorchClassLoss else classes(B, C) % 2
    got = loss(z, {"y": y})
    assert got.shape == (B,)
    alone = torch.cat([loss(z[i : i + 1], {"y": y[i : i + 1]}) for i in range(B)])
    torch.testing.assert_close(got, alone)
