"""APoZ by hand."""

import torch
from torch import nn

from raysb.prune.criteria import collect, find_criterion


def test_shares_of_zeros_worked_out_by_hand() -> None:
    """Two rows of four pixels; channels: x, -x, and one that is never active."""
    model = nn.Sequential(nn.Conv2d(1, 3, 1), nn.ReLU())
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([1.0, -1.0, 0.0]).view(3, 1, 1, 1))
        model[0].bias.copy_(torch.tensor([0.0, 0.0, -1.0]))
    x = torch.tensor([[1.0, 2.0, 3.0, -4.0], [0.0, -1.0, -1.0, 5.0]]).view(2, 1, 2, 2)
    found = collect(model, lambda m, b: m(b), None, [x[:1], x[1:]], {"activation"})
    # positive 4 of 8, negative 3 of 8, never
    expected = [4 / 8, 3 / 8, 0.0]
    assert find_criterion("apoz").importance(model, ["0"], found)["0"].tolist() == expected


def test_rows_count_by_their_weight() -> None:
    model = nn.Sequential(nn.Linear(1, 1, bias=False), nn.ReLU())
    with torch.no_grad():
        model[0].weight.fill_(1.0)
    x = torch.tensor([[1.0], [-1.0], [-2.0]])
    found = collect(model, lambda m, b: m(b), None, [x], {"activation"},
                    row_weights=lambda b: torch.tensor([3.0, 1.0, 1.0]))  # fmt: skip
    share = find_criterion("apoz").importance(model, ["0"], found)["0"].item()
    assert abs(share - 3 / 5) < 1e-12
