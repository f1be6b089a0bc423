"""Functions and methods of torch by what they do to channels; both go by their names."""

ELEMENTWISE = (
    *("relu", "relu_", "relu6", "leaky_relu", "leaky_relu_", "elu", "elu_", "selu", "celu", "gelu"),
    *("silu", "mish", "softplus", "softsign", "sigmoid", "sigmoid_", "tanh", "tanh_", "hardtanh"),
    *("hardswish", "hardsigmoid", "logsigmoid", "threshold", "clamp", "clamp_", "clamp_min"),
    *("abs", "neg", "exp", "log", "log1p", "sqrt", "rsqrt", "square", "pow", "reciprocal", "sign"),
    *("dropout", "dropout1d", "dropout2d", "dropout3d", "feature_dropout", "alpha_dropout"),
    *("add", "add_", "iadd", "sub", "sub_", "isub", "mul", "mul_", "imul", "div", "div_"),
    *("truediv", "itruediv", "maximum", "minimum", "where", "multiply", "subtract", "divide"),
    *("gt", "lt", "ge", "le", "eq", "ne", "expand_as"),
    *("contiguous", "clone", "detach", "float", "half", "bfloat16", "double", "to", "type_as"),
)
"""The result at a place depends on its operands at that place, which are broadcast."""

SPATIAL = (
    *(f"{kind}_pool{n}d" for kind in ("max", "avg", "lp") for n in (1, 2, 3)),
    *(f"adaptive_{kind}_pool{n}d" for kind in ("max", "avg") for n in (1, 2, 3)),
    *("interpolate", "upsample"),
)
"""Each channel by itself, over the last dimensions."""

REDUCTIONS = ("mean", "sum", "amax", "amin", "std", "var", "logsumexp")

SIZED = ("view", "reshape", "unflatten")
"""These take sizes as arguments, and their rule looks at each."""

SHAPE_ONLY = ("size", "dim", "ndimension", "numel", "get_device", "is_floating_point")
