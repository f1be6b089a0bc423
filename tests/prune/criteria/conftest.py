"""A net with a norm between convolution and ReLU, and its rows, in double precision."""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

ROWS, CLASSES = 24, 3
LAYERS = ["conv1", "conv2", "fc"]


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(2, 4, 3, padding=1)
        self.norm1 = nn.GroupNorm(2, 4)
        self.conv2 = nn.Conv2d(4, 6, 3, stride=2, bias=False)
        self.norm2 = nn.BatchNorm2d(6)
        self.fc = nn.Linear(6, CLASSES)

    def gated(self, x: torch.Tensor, gates: dict[str, torch.Tensor]) -> torch.Tensor:
        """The forward pass with a gate on each channel's activation, [B, C] or [C]."""

        def gate(name: str, a: torch.Tensor) -> torch.Tensor:
            return a * gates[name][..., None, None] if name in gates else a

        h = gate("conv1", F.relu(self.norm1(self.conv1(x))))
        h = gate("conv2", F.relu(self.norm2(self.conv2(h))))
        z = self.fc(h.mean((2, 3)))
        return z * gates["fc"] if "fc" in gates else z

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.gated(x, {})


def forward(model: nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    return model(batch["x"])


def loss(outputs: torch.Tensor, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    return F.cross_entropy(outputs, batch["label"], reduction="none")


def batches_of(batch: dict[str, torch.Tensor], size: int) -> list[dict[str, torch.Tensor]]:
    return [{k: v[i : i + size] for k, v in batch.items()} for i in range(0, ROWS, size)]


@pytest.fixture
def case() -> SimpleNamespace:
    torch.manual_seed(0)
    model = Net().double()
    with torch.no_grad():
        for p in model.parameters():  # off the values that norms and biases start at
            p.add_(0.3 * torch.randn_like(p))
        model.norm2.running_mean.uniform_(-0.5, 0.5)
        model.norm2.running_var.uniform_(0.5, 2)
    batch = {
        "x": torch.randn(ROWS, 2, 8, 8, dtype=torch.float64),
        "label": torch.randint(0, CLASSES, (ROWS,)),
    }
    return SimpleNamespace(
        model=model.eval(),
        batch=batch,
        batches=batches_of(batch, 8),
        forward=forward,
        loss=loss,
        layers=LAYERS,
        row_terms=lambda name: row_terms(model, batch, name),
        row_gradients=lambda name: row_gradients(model, batch, name),
        mean_gradients=lambda: mean_gradients(model, batch),
    )


def row_terms(model: Net, batch: dict[str, torch.Tensor], name: str) -> torch.Tensor:
    """dl_n/d gate_nj by autograd with explicit gates. [B, C]"""
    channels = dict(model.named_modules())[name].weight.shape[0]
    gate = torch.ones(ROWS, channels, dtype=torch.float64, requires_grad=True)
    losses = loss(model.gated(batch["x"], {name: gate}), batch)
    (found,) = torch.autograd.grad(losses.sum(), gate)
    return found


def row_gradients(model: Net, batch: dict[str, torch.Tensor], name: str) -> torch.Tensor:
    """dl_n/dW of each row, by torch.func. [B, *W.shape]"""
    key = f"{name}.weight"
    fixed = {k: v.detach() for k, v in model.state_dict().items()}

    def one(weight: torch.Tensor, x: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        out = torch.func.functional_call(model, fixed | {key: weight}, (x[None],))
        return F.cross_entropy(out, label[None])

    return torch.func.vmap(torch.func.grad(one), (None, 0, 0))(
        fixed[key], batch["x"], batch["label"]
    )


def mean_gradients(model: Net, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """dL/dW of the mean loss, by backward()."""
    weights = {name: dict(model.named_modules())[name].weight for name in LAYERS}
    losses = loss(model(batch["x"]), batch)
    found = torch.autograd.grad(losses.mean(), list(weights.values()))
    return dict(zip(weights, found, strict=True))
