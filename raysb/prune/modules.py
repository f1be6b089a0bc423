"""What each kind of module does to channels; the rules are those of `raysb.prune.rules`."""

from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from raysb.prune.channels import Flow
from raysb.prune.rules import elementwise, reshape, spatial
from raysb.prune.walk import Equal, Rule, Step, Value, Walk

_ACTIVATIONS = (
    *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish),
    *(nn.Softplus, nn.Softsign, nn.Sigmoid, nn.Tanh, nn.Tanhshrink, nn.Hardtanh, nn.Hardswish),
    *(nn.Hardsigmoid, nn.LogSigmoid, nn.Threshold, nn.Hardshrink, nn.Softshrink, nn.Identity),
    *(nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout),
)
_WINDOWS = (
    *(nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d),
    *(nn.LPPool1d, nn.LPPool2d, nn.LPPool3d),
    *(nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d),
    *(nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d),
    *(nn.Upsample, nn.UpsamplingNearest2d, nn.UpsamplingBilinear2d),
    *(nn.ZeroPad1d, nn.ZeroPad2d, nn.ZeroPad3d, nn.ConstantPad1d, nn.ConstantPad2d),
    *(nn.ReflectionPad1d, nn.ReflectionPad2d, nn.ReplicationPad1d, nn.ReplicationPad2d),
)


def module_rule(module: nn.Module) -> Rule:
    """The rule for a module; subclasses of torch's own go by what they extend."""
    for kinds, rule in _RULES:
        if isinstance(module, kinds):
            return rule
    return _unknown


def _conv(walk: Walk, step: Step) -> Value:
    name, module = _module(walk, step)
    spatial_dims = len(module.kernel_size)
    dim = len(step.before) - spatial_dims - 1
    flow = _at(walk, step, dim)
    transposed = isinstance(module, _ConvTransposeNd)
    if transposed and module.groups > 1:
        walk.demand(step, "transposed convolutions in groups are not cut")
        flow = None
    inputs = walk.ids.new(module.in_channels, fixed=True) if flow is None else flow.ids
    groups = module.groups
    if 1 < groups == module.in_channels and flow is not None:  # depthwise
        outputs = inputs.repeat_interleave(module.out_channels // groups)
    else:
        known = walk.outputs.get(name)
        stays = name in walk.protect or (transposed and groups > 1)
        outputs = walk.ids.new(module.out_channels, fixed=stays) if known is None else known
        if groups > 1:
            walk.constraints += [Equal(inputs, groups), Equal(outputs, groups)]
    return _layer(walk, step, inputs, outputs, dim)


def _linear(walk: Walk, step: Step) -> Value:
    name, module = _module(walk, step)
    dim, flow = len(step.before) - 1, step.flow
    passes = flow is not None and flow.dim != dim  # the channels are rows of this layer
    known = walk.outputs.get(name)
    stays = passes or name in walk.protect
    outputs = walk.ids.new(module.out_features, fixed=stays) if known is None else known
    inputs = walk.ids.new(module.in_features, fixed=True)
    result = _layer(walk, step, inputs if passes or flow is None else flow.ids, outputs, dim)
    if passes:
        walk.ids.fix(outputs)
    return flow if passes else result


def _layer(walk: Walk, step: Step, inputs: Any, outputs: Any, dim: int) -> Value:
    name = str(step.node.target)
    walk.register(walk.inputs, name, inputs)
    walk.register(walk.outputs, name, outputs)
    walk.calls.setdefault(name, []).append((step.before, step.shape))
    if name in walk.protect:
        walk.ids.fix(outputs)
    return Flow(dim, outputs)


def _per_channel(walk: Walk, step: Step) -> Value:
    """A number or more for each channel, in dimension 1."""
    name, _ = _module(walk, step)
    flow = _at(walk, step, 1)
    if flow is not None:
        walk.register(walk.norms, name, flow.ids)
    return flow


def _group_norm(walk: Walk, step: Step) -> Value:
    _, module = _module(walk, step)
    flow = _per_channel(walk, step)
    if isinstance(flow, Flow) and 1 < module.num_groups < module.num_channels:
        walk.constraints.append(Equal(flow.ids, module.num_groups))
    return flow


def _last_dims(walk: Walk, step: Step) -> Value:
    """Layer norm and its like, over the last dimensions."""
    name, module = _module(walk, step)
    flow, width = step.flow, len(module.normalized_shape)
    if flow is None or flow.dim < len(step.before) - width:
        return flow
    if width > 1:
        walk.demand(step, "it normalises over channels and pixels with a weight for each")
        return None
    walk.register(walk.norms, name, flow.ids)
    return flow


def _prelu(walk: Walk, step: Step) -> Value:
    _, module = _module(walk, step)
    return elementwise(walk, step) if module.num_parameters == 1 else _per_channel(walk, step)


def _softmax(walk: Walk, step: Step) -> Value:
    _, module = _module(walk, step)
    flow = step.flow
    if flow is not None and (module.dim is None or module.dim % len(step.before) == flow.dim):
        walk.demand(step, "it normalises over the channels")
        return None
    return flow


def _flatten(walk: Walk, step: Step) -> Value:
    return None if step.flow is None else reshape(walk, step)


def _windows(walk: Walk, step: Step) -> Value:
    _, module = _module(walk, step)
    return spatial(walk, step, type(module).__name__)


def _elementwise(walk: Walk, step: Step) -> Value:
    return step.flow


def _unknown(walk: Walk, step: Step) -> Value:
    walk.demand(
        step,
        f"{type(walk.modules[str(step.node.target)]).__name__} is a module that "
        "pruning does not know",
    )
    return None


def _at(walk: Walk, step: Step, dim: int) -> Flow | None:
    """The channels of the input, if they are where the module looks for them."""
    flow = step.flow
    if flow is None or flow.dim == dim:
        return flow
    walk.demand(step, f"its channels are dimension {dim}, but those that reach it {flow.dim}")
    return None


def _module(walk: Walk, step: Step) -> tuple[str, Any]:
    name = str(step.node.target)
    return name, walk.modules[name]


_RULES: tuple[tuple[Any, Rule], ...] = (
    (_ConvNd, _conv),
    (nn.Linear, _linear),
    (_NormBase, _per_channel),
    (nn.GroupNorm, _group_norm),
    ((nn.LayerNorm, nn.RMSNorm), _last_dims),
    (nn.PReLU, _prelu),
    (_ACTIVATIONS, _elementwise),
    (_WINDOWS, _windows),
    (nn.Flatten, _flatten),
    ((nn.Softmax, nn.LogSoftmax), _softmax),
)
