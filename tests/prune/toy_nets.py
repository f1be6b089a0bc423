"""Small nets for the tests of pruning, and the oracle: the full net with what goes masked."""

import copy

import torch
import torch.nn.functional as F
from torch import nn

from raysb.prune.surgery import apply


class Plain(nn.Module):
    """The paper-size net of the issue, smaller: convolutions, flatten, two linear layers."""

    def __init__(self, norm=nn.BatchNorm2d):
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(3, 8, 3, padding=1), norm(8)
        self.conv2 = nn.Conv2d(8, 12, 3, padding=1)
        self.fc1, self.fc2 = nn.Linear(12 * 4, 16), nn.Linear(16, 5)

    def forward(self, x):
        x = F.max_pool2d(torch.relu(self.norm1(self.conv1(x))), 2)
        x = F.adaptive_avg_pool2d(torch.sigmoid(self.conv2(x)), 2)
        return self.fc2(torch.relu(self.fc1(x.reshape(x.size(0), -1))))


class Residual(nn.Module):
    """Two branches and a shortcut that are added."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.a, self.na = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.b, self.nb = nn.Conv2d(8, 16, 3, 2, padding=1), nn.BatchNorm2d(16)
        self.short = nn.Conv2d(8, 16, 1, 2)
        self.head = nn.Linear(16, 5)

    def forward(self, x):
        x = self.stem(x)
        x = x + torch.relu(self.na(self.a(x)))
        x = F.relu(self.nb(self.b(x)) + self.short(x))
        return self.head(x.mean((2, 3)))


class Dense(nn.Module):
    """Concatenation: every layer reads all before it."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.n1, self.c1 = nn.BatchNorm2d(6), nn.Conv2d(6, 4, 3, padding=1)
        self.n2, self.c2 = nn.BatchNorm2d(10), nn.Conv2d(10, 4, 3, padding=1)
        self.n3, self.head = nn.BatchNorm2d(14), nn.Linear(14, 5)

    def forward(self, x):
        x = self.stem(x)
        x = torch.cat([x, self.c1(torch.relu(self.n1(x)))], dim=1)
        x = torch.cat([x, self.c2(torch.relu(self.n2(x)))], 1)
        return self.head(F.adaptive_avg_pool2d(torch.relu(self.n3(x)), 1).flatten(1))


class Separable(nn.Module):
    """Depthwise convolutions between pointwise ones, with two outputs a channel once."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.depth1, self.point1 = nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.Conv2d(8, 12, 1)
        self.depth2, self.point2 = nn.Conv2d(12, 24, 3, padding=1, groups=12), nn.Conv2d(24, 6, 1)
        self.head = nn.Linear(6, 5)

    def forward(self, x):
        x = F.relu6(self.depth1(torch.relu(self.stem(x))))
        x = F.relu6(self.depth2(torch.relu(self.point1(x))))
        return self.head(self.point2(x).mean((-2, -1)))


class Grouped(nn.Module):
    """A convolution in 4 groups between dense ones."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.mid, self.norm = nn.Conv2d(8, 16, 3, padding=1, groups=4), nn.BatchNorm2d(16)
        self.last, self.head = nn.Conv2d(16, 8, 1), nn.Linear(8, 5)

    def forward(self, x):
        x = torch.relu(self.norm(self.mid(torch.relu(self.stem(x)))))
        return self.head(self.last(x).amax((2, 3)))


class GroupNormed(nn.Module):
    """Group norm over a convolution, over a sum and over a concatenation; layer norm at the end."""

    def __init__(self):
        super().__init__()
        self.stem, self.n1 = nn.Conv2d(3, 12, 3, padding=1), nn.GroupNorm(3, 12)
        self.a, self.n2 = nn.Conv2d(12, 12, 3, padding=1), nn.GroupNorm(2, 12)
        self.b, self.n3 = nn.Conv2d(12, 4, 3, padding=1), nn.GroupNorm(4, 16)
        self.fc, self.n4 = nn.Linear(16, 10), nn.LayerNorm(10)
        self.head = nn.Linear(10, 5)

    def forward(self, x):
        x = torch.relu(self.n1(self.stem(x)))
        x = self.n2(x + self.a(x))
        x = self.n3(torch.cat([self.b(x), x], 1))
        return self.head(F.gelu(self.n4(self.fc(x.mean((2, 3))))))


class Gated(nn.Module):
    """Squeeze and excite, and a gated linear unit."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.squeeze, self.excite = nn.Conv2d(8, 4, 1), nn.Conv2d(4, 8, 1)
        self.glu, self.head = nn.Conv2d(8, 12, 1), nn.Linear(6, 5)

    def forward(self, x):
        x = torch.relu(self.stem(x))
        x = x * torch.sigmoid(self.excite(torch.relu(self.squeeze(x.mean((2, 3), keepdim=True)))))
        value, gate = self.glu(x).chunk(2, dim=1)
        return self.head((value * torch.sigmoid(gate)).mean((2, 3)))


class UpDown(nn.Module):
    """A transposed convolution, a layer that is called twice, PReLU, instance norm."""

    def __init__(self):
        super().__init__()
        self.down, self.act = nn.Conv2d(3, 8, 3, 2, padding=1), nn.PReLU(8)
        self.same, self.norm = nn.Conv2d(8, 8, 3, padding=1), nn.InstanceNorm2d(8, affine=True)
        self.up, self.head = nn.ConvTranspose2d(8, 6, 2, 2), nn.Linear(6, 5)

    def forward(self, x):
        x = self.act(self.down(x))
        x = self.norm(self.same(self.same(x)))
        return self.head(torch.relu(self.up(x)).permute(0, 2, 3, 1).mean((1, 2)))


NETS = [Plain, Residual, Dense, Separable, Grouped, GroupNormed, Gated, UpDown]


def lively(model, seed=0):
    """The model in evaluation mode with weights, norms and statistics that are all drawn."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if tensor.is_floating_point():
                drawn = torch.randn(tensor.shape, generator=generator)
                fan = max(tensor[0].numel(), 1) if tensor.dim() > 1 else 1
                tensor.copy_(drawn.abs() + 0.5 if name.endswith("var") else drawn / fan**0.5)
    return model.eval()


def l1(model, graph):
    """|W[j]|_1 of every prunable layer, by the weight's output dimension."""
    found = {}
    for name in graph.prunable:
        layer = model.get_submodule(name)
        weight = layer.weight.transpose(0, 1) if getattr(layer, "transposed", 0) else layer.weight
        found[name] = weight.detach().abs().flatten(1).sum(1)
    return found


def masked(model, plan):
    """The full net whose layers do not see what the plan removes, and whose norms neither.

    Nothing is cut: columns of weights are zero, and norms over several channels run on those that
    stay, in a hook.
    """
    model = copy.deepcopy(model)
    for name, kept in plan.modules.items():
        module = model.get_submodule(name)
        if isinstance(module, nn.GroupNorm | nn.LayerNorm):
            module.register_forward_hook(_norm_of_kept(kept))
        elif len(kept.inputs):
            _blind(module, kept)
    return model


def _blind(module, kept):
    """Zero the weights of input channels that go."""
    seen = torch.zeros(int(kept.sizes[1]))
    seen[kept.inputs] = 1
    with torch.no_grad():
        if getattr(module, "transposed", False):
            module.weight.mul_(seen.view(-1, 1, 1, 1))
            return
        groups = getattr(module, "groups", 1)
        by_group = seen.view(groups, -1).repeat_interleave(len(module.weight) // groups, 0)
        module.weight.mul_(by_group.view(*by_group.shape, *[1] * (module.weight.dim() - 2)))


def _norm_of_kept(kept):
    def hook(module, args, output):
        index, x = kept.outputs, args[0]
        found = torch.zeros_like(output)
        if isinstance(module, nn.LayerNorm):
            scale = (module.weight[index], module.bias[index])
            found[..., index] = F.layer_norm(x[..., index], (len(index),), *scale, module.eps)
        else:
            scale = (module.weight[index], module.bias[index])
            found[:, index] = F.group_norm(x[:, index], int(kept.sizes[3]), *scale, module.eps)
        return found

    return hook


def pruned(model, plan):
    """The small net; the model stays whole."""
    return apply(plan, copy.deepcopy(model))
