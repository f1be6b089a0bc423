"""Frozen parts of a model, and what is left to train, publish and save.

A frozen parameter requires no gradient. A module whose own parameters are all frozen, or whose
buffers are where it has no parameters, stays in evaluation mode whatever the model's mode is: a
frozen batch norm normalises with the statistics that it came with, and these do not move. Modules
that hold nothing, dropout among them, follow the model's mode.

What is frozen is the same in every process that builds the model, so it neither travels to the
scorers nor goes into checkpoints.
"""

from collections.abc import Collection, Iterable, Iterator

import torch
from torch import nn

from raysb.nn.patterns import chosen

State = dict[str, torch.Tensor]


def freeze(model: nn.Module, patterns: Iterable[str], *, key: str = "model.freeze") -> None:
    """Freeze the parts of a model whose names match.

    Args:
        model: Changed in place.
        patterns: Globs of names of modules, parameters or buffers: `stem`, `stages.[01]`,
            `*.norm1.*`. A module means all that is below it.
        key: The setting that they were given for, for messages.

    Raises:
        ValueError: A pattern matches nothing, or nothing would be left to train.
    """
    patterns = tuple(patterns)
    names = state_names(model)
    frozen = chosen(names, patterns, key)
    free = [
        name
        for name, parameter in model.named_parameters(remove_duplicate=False)
        if parameter.requires_grad and name not in frozen
    ]
    if not free:
        raise ValueError(
            f"{key}={list(patterns)!r}: freezes every parameter of {type(model).__name__}, and "
            "nothing would be trained; leave a part out, e.g. the last layer"
        )
    freeze_named(model, frozen)


def freeze_named(model: nn.Module, frozen: Collection[str]) -> None:
    """Freeze parameters and buffers by their full names; a tied one by any of its names."""
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if name in frozen:
            parameter.requires_grad_(False)
    for prefix, module in model.named_modules():
        own = [name for name, _ in module.named_parameters(recurse=False)]
        own = own or [name for name, _ in module.named_buffers(recurse=False)]
        whole = own and all(join(prefix, name) in frozen for name in own)
        if whole and not is_held(module):
            module.register_forward_pre_hook(_evaluate)


def is_held(module: nn.Module) -> bool:
    """Whether a module stays in evaluation mode because it is frozen."""
    return _evaluate in module._forward_pre_hooks.values()


def _evaluate(module: nn.Module, _: object) -> None:
    # `train()` of the whole model sets every module's mode, so the mode is set at each call
    module.training = False


def state_names(model: nn.Module) -> list[str]:
    """Full names of all parameters and buffers, each name of a tied one too."""
    tensors = (model.named_parameters, model.named_buffers)
    return [name for named in tensors for name, _ in named(remove_duplicate=False)]


def trained_state(model: nn.Module) -> State:
    """What training changes: parameters that require a gradient, and persistent buffers.

    Tensors are detached and share the model's memory. A tied parameter appears once.
    """
    held = _held_buffers(model)
    state = {k: p.detach() for k, p in model.named_parameters() if p.requires_grad}
    state.update({k: b for k, b in _persistent_buffers(model) if k not in held})
    return {k: tensor for k, tensor in state.items() if tensor.numel()}


def frozen_state(model: nn.Module) -> State:
    """The rest of the model's state, in the same form."""
    held = _held_buffers(model)
    state = {k: p.detach() for k, p in model.named_parameters() if not p.requires_grad}
    state.update({k: b for k, b in _persistent_buffers(model) if k in held})
    return {k: tensor for k, tensor in state.items() if tensor.numel()}


def state_bytes(model: nn.Module) -> dict[str, int]:
    """Bytes of what is published and checkpointed of a model, and of its whole state."""
    trained, frozen = _bytes(trained_state(model)), _bytes(frozen_state(model))
    return {"weights/published_bytes": trained, "weights/total_bytes": trained + frozen}


def _bytes(state: State) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in state.values())


def _persistent_buffers(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    kept = model.state_dict().keys()
    return ((name, buffer) for name, buffer in model.named_buffers() if name in kept)


def _held_buffers(model: nn.Module) -> set[str]:
    return {
        join(prefix, name)
        for prefix, module in model.named_modules()
        if is_held(module)
        for name, _ in module.named_buffers(recurse=False)
    }


def join(prefix: str, name: str) -> str:
    """The full name of what a module holds."""
    return f"{prefix}.{name}" if prefix else name
