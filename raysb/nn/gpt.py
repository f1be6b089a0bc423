"""A small causal transformer, for sequences of tokens.

Dimensions in comments: B rows, T tokens, D width, C words of the vocabulary.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn

_STD = 0.02  # of initial weights, Radford et al. 2019


class GPT(nn.Module):
    """Pre-norm blocks (Radford et al. 2019) with sinusoidal positions (Vaswani et al. 2017).

    Logits at t depend on the tokens up to t only, so padding on the right changes nothing to its
    left. Positions have no parameters: sequences may be of any length, and be longer later on.

    Args:
        num_tokens: Tokens in a row of the first batch; any other number will do too.
        num_classes: C, words of the vocabulary; tokens are integers in [0, C).
        norm: `group` (a layer norm is a group norm of one group); no other is there.
        width: D, a multiple of `2 * heads`.
        depth: Blocks.
        heads: Attention heads of a block.

    Raises:
        ValueError: A number is out of range, or `norm` another.
    """

    def __init__(
        self,
        num_tokens: int,
        num_classes: int,
        *,
        norm: str = "group",
        width: int = 64,
        depth: int = 2,
        heads: int = 2,
    ) -> None:
        super().__init__()
        if norm != "group":
            raise ValueError(f"model.norm={norm!r}: gpt has layer norm only; set model.norm=group")
        if min(width, depth, heads) < 1 or width % (2 * heads):
            raise ValueError(
                f"model.args.width={width}, heads={heads}, depth={depth}: at least 1 each, and "
                "width a multiple of 2 * heads"
            )
        self.embed = nn.Embedding(num_classes, width)
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, num_classes, bias=False)
        for name, parameter in self.named_parameters():
            if parameter.dim() > 1:
                ends = name.endswith(("out.weight", "down.weight"))
                nn.init.normal_(parameter, std=_STD / math.sqrt(2 * depth) if ends else _STD)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Tokens [B, T] to logits [B, T, C] of the token that follows."""
        words: torch.Tensor = self.embed(tokens.long())
        positions = sinusoids(words.shape[1], words.shape[2], words.device)
        logits: torch.Tensor = self.head(self.norm(self.blocks(words + _STD * positions)))
        return logits


class Block(nn.Module):
    """x + attention(norm(x)), then x + MLP(norm(x)).

    Args:
        width: D.
        heads: Attention heads.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.before_attention = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.before_mlp = nn.LayerNorm(width)
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, T, D] to [B, T, D]."""
        qkv = self.qkv(self.before_attention(x)).unflatten(-1, (3, self.heads, -1))
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each [B, heads, T, D / heads]
        seen = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(seen.transpose(1, 2).flatten(2))
        result: torch.Tensor = x + self.down(F.gelu(self.up(self.before_mlp(x))))
        return result


def sinusoids(length: int, width: int, device: torch.device | str = "cpu") -> torch.Tensor:
    """p[t, i] = sin(t w_i) and p[t, D/2 + i] = cos(t w_i), w_i = 10000^(-2i/D). float32 [T, D]."""
    rates = 10_000.0 ** (-torch.arange(0, width, 2, device=device) / width)
    angles = torch.arange(length, device=device)[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], dim=1)
