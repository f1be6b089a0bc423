import math
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from raysb.nn.gpt import GPT, sinusoids
from raysb.nn.pretrained import prepare
from raysb.nn.registry import build_model
from raysb.nn.settings import Model


def gpt(seed=0, **args):
    torch.manual_seed(seed)
    return GPT(1, 50, **{"width": 32, "depth": 2, "heads": 4} | args)


def tokens(*shape):
    return torch.randint(0, 50, shape, generator=torch.Generator().manual_seed(1))


def test_logits_depend_on_no_later_token() -> None:
    model, first = gpt(), tokens(3, 12)
    second = first.clone()
    second[:, 7:] = tokens(5)
    assert not torch.equal(first, second)
    before, after = model(first), model(second)
    torch.testing.assert_close(before[:, :7], after[:, :7])
    assert (before[:, 7:] != after[:, 7:]).any()


def test_logits_depend_on_the_order_of_the_tokens_before() -> None:
    # one block alone: below a second one the causal mask tells positions apart as well
    model, first = gpt(depth=1), tokens(1, 12)
    moved = first[:, [1, 0, *range(2, 12)]]
    assert (model(first)[:, -1] - model(moved)[:, -1]).abs().max() > 1e-5


def test_a_block_is_that_of_torch_with_the_same_weights() -> None:
    model = gpt(depth=1).eval()
    ours = model.blocks[0]
    theirs = nn.TransformerEncoderLayer(
        32, 4, 128, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
    ).eval()
    names = {
        "self_attn.in_proj_weight": ours.qkv.weight,
        "self_attn.in_proj_bias": ours.qkv.bias,
        "self_attn.out_proj.weight": ours.out.weight,
        "self_attn.out_proj.bias": ours.out.bias,
        "linear1.weight": ours.up.weight,
        "linear1.bias": ours.up.bias,
        "linear2.weight": ours.down.weight,
        "linear2.bias": ours.down.bias,
        "norm1.weight": ours.before_attention.weight,
        "norm1.bias": ours.before_attention.bias,
        "norm2.weight": ours.before_mlp.weight,
        "norm2.bias": ours.before_mlp.bias,
    }
    theirs.load_state_dict(names)
    x = torch.randn(2, 9, 32, generator=torch.Generator().manual_seed(3))
    mask = nn.Transformer.generate_square_subsequent_mask(9)
    torch.testing.assert_close(ours(x), theirs(x, src_mask=mask), rtol=1e-5, atol=1e-5)


def test_positions_are_those_of_the_formula() -> None:
    p = sinusoids(7, 8)
    for t in range(7):
        for i in range(4):
            assert p[t, i].item() == pytest.approx(math.sin(t * 10_000 ** (-2 * i / 8)), abs=1e-5)
            assert p[t, 4 + i].item() == pytest.approx(
                math.cos(t * 10_000 ** (-2 * i / 8)), abs=1e-5
            )


def test_first_losses_lie_near_those_of_a_guess() -> None:
    x = tokens(16, 32)
    loss = nn.functional.cross_entropy(gpt()(x[:, :-1]).flatten(0, 1), x[:, 1:].flatten())
    assert loss.item() == pytest.approx(math.log(50), rel=0.05)


def test_the_number_of_parameters_is_that_of_the_formula() -> None:
    width, vocabulary, depth = 32, 50, 2
    block = 12 * width**2 + 13 * width  # attention 4 D^2 + 4 D, MLP 8 D^2 + 5 D, norms 4 D
    expected = 2 * vocabulary * width + depth * block + 2 * width
    assert sum(p.numel() for p in gpt().parameters()) == expected


def test_any_integer_and_any_length_will_do_and_it_is_built_by_name(tmp_path) -> None:
    settings = Model(name="gpt", args={"width": 16, "depth": 1})
    model = build_model(settings, num_features=12, num_classes=50)
    save_file(model.state_dict(), tmp_path / "weights.safetensors")
    settings = replace(settings, init=str(tmp_path / "weights.safetensors"))
    again = prepare(build_model(settings, num_features=1, num_classes=50), settings)
    x = tokens(2, 40)
    assert torch.equal(model(x), again(x.to(torch.uint8)))


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"width": 30}, "width a multiple of 2"),
        ({"depth": 0}, "at least 1 each"),
        ({"heads": 0}, "at least 1 each"),
        ({"norm": "batch"}, "gpt has layer norm only"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(args, message) -> None:
    with pytest.raises(ValueError, match=message):
        gpt(**args)
