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
