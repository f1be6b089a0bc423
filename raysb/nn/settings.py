"""Settings of the model."""

from dataclasses import dataclass, field
from numbers import Integral
from typing import Any

NORMS = ("group", "batch", "none")
ADAPTERS = ("lora",)


@dataclass(frozen=True, kw_only=True)
class Model:
    """Which model is trained.

    Args:
        name: mlp, cnn, classic, gpt, resnet18, resnet34, wide_resnet28_2, densenet100_12, or
            `package.module:function`.
        args: Arguments of the model's builder, by name.
        norm: Norm layers: group, batch or none. Batch statistics and sample selection do not mix.
        convert_norm: Replace every batch norm, of any model, by a group norm with its parameters.
        plan: File of a pruning plan (`raysb prune`) that the model is cut down to; `none`: whole.
        num_classes: Outputs of the model; `none` counts the classes of the training data.
        init: File of initial weights (safetensors); `none` draws them.
        init_exclude: Parts that are not loaded from `init` but drawn, by glob patterns of their
            names, e.g. a head of another size.
        freeze: Parts that are not trained, by glob patterns of their names, e.g. stem, stages.0.*
        adapter: lora trains updates of low rank in place of the weights; `none` the weights.
        adapter_args: Arguments of the adapter: rank, alpha, target_modules, modules_to_save.
    """

    name: str = "cnn"
    args: dict[str, Any] = field(default_factory=dict)
    norm: str = "group"
    convert_norm: bool = False
    plan: str | None = None
    num_classes: int | None = None
    init: str | None = None
    init_exclude: tuple[str, ...] = ()
    freeze: tuple[str, ...] = ()
    adapter: str | None = None
    adapter_args: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise ValueError(f"model.name={self.name!r}: must be a name or an import path")
        if not isinstance(self.args, dict):
            raise TypeError(f"model.args={self.args!r}: must be a table of arguments by name")
        if self.norm not in NORMS:
            raise ValueError(f"model.norm={self.norm!r}: must be one of {', '.join(NORMS)}")
        if not isinstance(self.convert_norm, bool):
            raise TypeError(f"model.convert_norm={self.convert_norm!r}: must be true or false")
        classes = self.num_classes
        whole = isinstance(classes, Integral) and not isinstance(classes, bool)
        if classes is not None and not (whole and classes >= 1):
            raise ValueError(
                f"model.num_classes={classes!r}: must be a whole number of at least 1, or none"
            )
        for name in ("init", "plan"):
            path = getattr(self, name)
            if path is not None and not isinstance(path, str):
                raise TypeError(f"model.{name}={path!r}: must be the path of a file, or none")
        for name in ("init_exclude", "freeze"):
            object.__setattr__(self, name, _patterns(f"model.{name}", getattr(self, name)))
        if self.init_exclude and self.init is None:
            raise ValueError(
                f"model.init_exclude={self.init_exclude!r}: says what is not loaded, and nothing "
                "is; set model.init"
            )
        self._check_adapter()

    def _check_adapter(self) -> None:
        if self.adapter is not None and self.adapter not in ADAPTERS:
            raise ValueError(
                f"model.adapter={self.adapter!r}: must be one of {', '.join(ADAPTERS)}, or none"
            )
        if not isinstance(self.adapter_args, dict):
            raise TypeError(
                f"model.adapter_args={self.adapter_args!r}: must be a table of arguments by name"
            )
        if self.adapter_args and self.adapter is None:
            raise ValueError(
                f"model.adapter_args={self.adapter_args!r}: there is no adapter; set model.adapter"
            )
        if self.adapter is not None and self.freeze:
            raise ValueError(
                f"model.freeze={self.freeze!r}: an adapter freezes the whole model already; leave "
                "it out, and name what is to be trained in full in model.adapter_args"
                ".modules_to_save"
            )


def _patterns(key: str, given: Any) -> tuple[str, ...]:
    if not isinstance(given, list | tuple):
        raise TypeError(f"{key}={given!r}: must be a list of patterns, e.g. ['head']")
    if not all(isinstance(each, str) and each for each in given):
        raise ValueError(f"{key}={given!r}: every pattern must be text that is not empty")
    return tuple(given)
