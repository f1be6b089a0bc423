"""Settings of the model."""

from dataclasses import dataclass, field
from numbers import Integral
from typing import Any

NORMS = ("group", "batch", "none")


@dataclass(frozen=True, kw_only=True)
class Model:
    """Which model is trained.

    Args:
        name: mlp, cnn, resnet18, resnet34, wide_resnet28_2, or `package.module:function`.
        args: Arguments of the model's builder, by name.
        norm: Norm layers: group, batch or none. Batch statistics and sample selection do not mix.
        num_classes: Outputs of the model; `none` counts the classes of the training data.
        init: File of initial weights (safetensors); `none` draws them.
    """

    name: str = "cnn"
    args: dict[str, Any] = field(default_factory=dict)
    norm: str = "group"
    num_classes: int | None = None
    init: str | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise ValueError(f"model.name={self.name!r}: must be a name or an import path")
        if not isinstance(self.args, dict):
            raise TypeError(f"model.args={self.args!r}: must be a table of arguments by name")
        if self.norm not in NORMS:
            raise ValueError(f"model.norm={self.norm!r}: must be one of {', '.join(NORMS)}")
        classes = self.num_classes
        whole = isinstance(classes, Integral) and not isinstance(classes, bool)
        if classes is not None and not (whole and classes >= 1):
            raise ValueError(
                f"model.num_classes={classes!r}: must be a whole number of at least 1, or none"
            )
        if self.init is not None and not isinstance(self.init, str):
            raise TypeError(f"model.init={self.init!r}: must be the path of a file, or none")
