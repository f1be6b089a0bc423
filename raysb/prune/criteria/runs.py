"""One run of a layer in a forward pass, and what was found out about it on the way.

Dimensions in comments: B rows, C channels.
"""

from dataclasses import dataclass

import torch

from raysb.prune.criteria.activations import Call
from raysb.prune.criteria.layers import Layer, channel_dim, cost_positions, num_channels


@dataclass(eq=False, kw_only=True)
class Run(Call):
    """What criteria need of a run; each tensor is [B, C] unless it says otherwise.

    Args:
        module: The layer.
        inputs: What it was given, without graph.
        output: What it returned, without graph.
        version: Of the output when it was returned.
        requires_grad: Whether a gradient can come back to the output.
        positions: How often each weight is used for one row, 1 for [B, C].
        steps: Positions of the activation in one row.
        zeros: Share of positions where the activation is 0.
        pooled: Mean of the activation over positions.
        gate: Sum over positions of activation times gradient.
        filter: Sum over positions of the output, less its bias, times gradient.
        delta: Gradient at the output, in its shape.
    """

    module: Layer
    inputs: torch.Tensor
    output: torch.Tensor
    version: int
    requires_grad: bool
    positions: int
    steps: int = 1
    zeros: torch.Tensor | None = None
    pooled: torch.Tensor | None = None
    gate: torch.Tensor | None = None
    filter: torch.Tensor | None = None
    delta: torch.Tensor | None = None

    @classmethod
    def start(cls, name: str, module: Layer, inputs: torch.Tensor, output: torch.Tensor) -> "Run":
        """The run that just returned; nothing in it refers to the graph that will call it back."""
        dim = channel_dim(module)
        return cls(
            layer=name,
            channels=num_channels(module),
            dim=dim,
            module=module,
            inputs=inputs.detach(),
            output=output.detach(),
            version=output._version,
            requires_grad=output.requires_grad,
            rows=len(output),
            positions=cost_positions(module, inputs, output),
        )

    def forget_values(self) -> None:
        """Let go of inputs and output."""
        self.inputs = self.output = self.output.new_empty(0)

    def value(self) -> torch.Tensor:
        """The output as it was, also where it has been changed in place since."""
        if self.output._version == self.version:
            return self.output
        with torch.no_grad():
            value: torch.Tensor = self.module.forward(self.inputs)
        return value

    def without_bias(self, value: torch.Tensor) -> torch.Tensor:
        """The output less what does not depend on the weights."""
        bias = self.module.bias
        if bias is None:
            return value
        shape = [1] * value.dim()
        shape[self.dim] = -1
        return value - bias.detach().to(value.dtype).view(shape)

    def note_activation(self, values: torch.Tensor, *, statistics: bool) -> None:
        """Take down over how much an activation extends and, if asked, what its values are like."""
        self.steps = max(values[:1].numel() // self.channels, 1)
        if not statistics:
            return
        # into floats at once: by way of bool it takes 8 times as long
        self.zeros = self.summed(torch.eq(values, 0, out=torch.empty_like(values))) / self.steps
        self.pooled = self.summed(values) / self.steps

    def summed(self, values: torch.Tensor) -> torch.Tensor:
        """Sums over positions, of half precision in float32. [B, C]"""
        if values.dtype in (torch.float16, torch.bfloat16):
            values = values.float()
        dims = [d for d in range(1, values.dim()) if d != self.dim % values.dim()]
        return values.sum(dims) if dims else values
