"""SNIP is its definition: the derivative of the loss by a gate on each weight."""

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import prune

from raysb.prune.criteria import collect, find_criterion


def test_it_is_the_normalised_derivative_by_a_gate_on_each_connection() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3)).double()
    batch = {"x": torch.randn(20, 5).double(), "label": torch.randint(0, 3, (20,))}
    weights = {name: model.get_submodule(name).weight.detach() for name in ("0", "2")}
    gates = {name: torch.ones_like(w).requires_grad_() for name, w in weights.items()}
    gated = {f"{name}.weight": gates[name] * w for name, w in weights.items()}
    out = torch.func.functional_call(model, gated, (batch["x"],))
    F.cross_entropy(out, batch["label"]).backward()
    total = sum(gate.grad.abs().sum() for gate in gates.values())

    def loss(outputs, batch):
        return F.cross_entropy(outputs, batch["label"], reduction="none")

    found = collect(model, lambda m, b: m(b["x"]), loss, [batch], {"per_sample_gradient"})
    snip = find_criterion("snip")
    layers = {name: model.get_submodule(name) for name in weights}
    scores = snip.weight_scores(layers, found)
    importance = snip.importance(model, list(weights), found)
    for name, gate in gates.items():
        assert torch.allclose(scores[name], gate.grad.abs() / total, rtol=1e-9)
        assert torch.allclose(importance[name], scores[name].sum(1), rtol=1e-9)

    masks = snip.masks(model, 0.6, list(weights), found)
    pairs = [(layer, "weight") for layer in layers.values()]
    prune.global_unstructured(
        pairs,
        prune.L1Unstructured,
        amount=0.6,
        importance_scores={
            (layer, "weight"): gates[name].grad.abs() for name, layer in layers.items()
        },
    )
    for name, layer in layers.items():
        assert torch.equal(masks[name], layer.weight_mask.bool())
