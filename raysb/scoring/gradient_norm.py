"""An upper bound of each row's gradient norm, at little more than the price of its loss.

With z the output of the last layer, before what turns it into a loss, and theta all weights,

    || grad_theta l_i || <= rho G_i,    G_i = || grad_z l_i ||

where rho depends on the weights and the inputs of the layers, not on the loss of row i
(Katharopoulos and Fleuret 2018, eq. 16 to 20). So G ranks and weighs rows much as the norm of their
whole gradient would. For cross-entropy on the logits z it is

    G_i = || softmax(z_i) - q_i ||,    q the wanted distribution over the classes

Otherwise z is made a leaf while the forward pass runs, and only what follows it is differentiated:
no weight gets a gradient, and nothing before z is recorded or runs twice.

References:
    A. Katharopoulos, F. Fleuret: Not All Samples Are Created Equal: Deep Learning with Importance
    Sampling, 2018. https://arxiv.org/abs/1803.00942

Dimensions in comments: B rows, C classes.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn
from torch.linalg import vector_norm
from torch.nn.utils.parametrize import is_parametrized

from raysb.errors import ModelError
from raysb.imports import unknown
from raysb.losses import CrossEntropy, logits_of
from raysb.scoring.scores import Measured, Score, beside_label
from raysb.task import Task, TensorBatch

GRADIENT_NORM_BOUND = "gradient_norm_bound"

# A memo, not state: which module ran last is the same for every process with such a model.
_LAST: WeakKeyDictionary[nn.Module, str] = WeakKeyDictionary()


@dataclass(frozen=True, kw_only=True)
class GradientNormBound(Score):
    """G_i = || d loss_i / d z_i ||, z the output of one module, all its dimensions but B taken in.

    In the general case the gradient is that of the sum of the losses, so rows must not depend on
    each other, as they do not in evaluation mode. Of a module that runs several times in a forward
    pass the squares are added.

    Args:
        at: Name of the module, e.g. `head` or `layers.2`; its output must be one float tensor
            whose first dimension is B. By default the last to run of the modules that have weights
            of their own and no part with weights: `Linear` in Linear-ReLU, whose output is the
            pre-activation. A model without such a module is taken at its output.
    """

    name: str = GRADIENT_NORM_BOUND
    at: str | None = None

    def measure(self, task: Task, model: nn.Module, batch: TensorBatch) -> Measured:
        """Run the model on a batch; the scores are G.

        Raises:
            ModelError: There is no module `at`, it did not run, its output is not one float tensor
                of B rows, or the loss does not depend on it.
        """
        name = last_module(task, model, batch) if self.at is None else self.at
        with torch.no_grad(), _leaves(_find(model, name), name, batch) as leaves:
            outputs = task.outputs(model, batch)
            with torch.enable_grad():
                losses = task.losses(outputs, batch)
                norms = _closed_form(task.loss, outputs, batch, leaves)
                if norms is None:
                    norms = _differentiated(losses, leaves, name)
        return Measured(outputs, losses, norms)


def last_module(task: Task, model: nn.Module, batch: TensorBatch) -> str:
    """Name of the last module to run that has weights and no part with weights; "" for the model.

    Parts whose output is not one float tensor of B rows do not count. Found by one forward pass
    on the first batch that a model is asked about.
    """
    if model not in _LAST:
        _LAST[model] = _tried(task, model, batch)
    return _LAST[model]


def _tried(task: Task, model: nn.Module, batch: TensorBatch) -> str:
    ran = [""]

    def note(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            if _has_rows(output, batch):
                ran.append(name)

        return hook

    devices = {value.device for value in batch.values() if value.device.type == "cuda"}
    with torch.random.fork_rng(devices=devices), torch.no_grad(), ExitStack() as hooks:
        for name, module in _ends(model).items():
            hooks.callback(module.register_forward_hook(note(name)).remove)
        task.outputs(model, batch)
    return ran[-1]


def _ends(model: nn.Module) -> dict[str, nn.Module]:
    """Modules that have weights of their own and no part with weights."""
    weighty = {
        name: module
        for name, module in model.named_modules()
        # the parts of a parametrised module compute weights, not outputs
        if "parametrizations" not in name.split(".")
        and (is_parametrized(module) or next(module.parameters(recurse=False), None) is not None)
    }
    inner = {name[: i + 1] for name in weighty for i, c in enumerate(name) if c == "."}
    inner |= {"."} if set(weighty) - {""} else set()  # the model itself holds all others
    return {name: module for name, module in weighty.items() if f"{name}." not in inner}


def _find(model: nn.Module, name: str) -> nn.Module:
    try:
        return model.get_submodule(name)
    except AttributeError:
        names = [each for each, _ in model.named_modules() if each]
        raise ModelError(
            f"{GRADIENT_NORM_BOUND}(at={name!r}): a module of the model {unknown(name, names)}"
        ) from None


@contextmanager
def _leaves(
    module: nn.Module, name: str, batch: TensorBatch
) -> Iterator[list[tuple[torch.Tensor, torch.Tensor]]]:
    """Each output of the module becomes a leaf, from which on gradients are recorded.

    Yields the pairs (leaf, what the model goes on with). The latter is a copy, because a leaf may
    not be changed in place, as `ReLU(inplace=True)` does.
    """
    pairs: list[tuple[torch.Tensor, torch.Tensor]] = []

    def cut(module: nn.Module, args: Any, output: Any) -> torch.Tensor:
        if not _has_rows(output, batch):
            raise ModelError(_no_leaf(name, module, output, batch))
        leaf = output.detach().requires_grad_()
        torch.set_grad_enabled(True)
        pairs.append((leaf, leaf.clone()))
        return pairs[-1][1]

    handle = module.register_forward_hook(cut)
    try:
        yield pairs
    finally:
        handle.remove()


def _has_rows(output: Any, batch: TensorBatch) -> bool:
    """Whether this is one float tensor with an entry for each row."""
    if not isinstance(output, torch.Tensor) or not output.is_floating_point():
        return False
    return output.shape[:1] == next(iter(batch.values())).shape[:1]


def _closed_form(
    loss: Any,
    outputs: Any,
    batch: TensorBatch,
    leaves: list[tuple[torch.Tensor, torch.Tensor]],
) -> torch.Tensor | None:
    """Of cross-entropy where z is the logits: to float32's relative precision, without autograd.

    q = (1 - a) onehot(y) + a / C; of dense labels the mean over P positions, so G is that of all
    positions over P.
    """
    if type(loss) is not CrossEntropy or len(leaves) != 1 or logits_of(outputs) is not leaves[0][1]:
        return None
    logits, labels = leaves[0][0].detach(), batch[loss.target]
    if labels.is_floating_point():
        return None
    with torch.no_grad():
        away, smooth = beside_label(logits, labels), loss.label_smoothing
        if smooth:
            there = torch.full_like(labels, 1, dtype=away.dtype).unsqueeze(1) * smooth
            away = away.scatter_add(1, labels.long().unsqueeze(1), there) - smooth / away.shape[1]
        norms: torch.Tensor = vector_norm(away.flatten(1), dim=1)
        return norms / max(away[:1, 0].numel(), 1)


def _differentiated(
    losses: torch.Tensor, leaves: list[tuple[torch.Tensor, torch.Tensor]], name: str
) -> torch.Tensor:
    """Norms of the gradient of the summed losses, row by row. float [B]"""
    if not leaves:
        raise ModelError(
            f"{GRADIENT_NORM_BOUND}(at={name!r}): this module does not run in the forward pass, so "
            "it has no output; name one that does, or leave `at` out"
        )
    gradients: tuple[torch.Tensor | None, ...] = (None,)
    if losses.requires_grad:
        gradients = torch.autograd.grad(
            losses.sum(), [leaf for leaf, _ in leaves], allow_unused=True
        )
    found = [each.float().unsqueeze(-1).flatten(1) for each in gradients if each is not None]
    if not found:
        raise ModelError(
            f"{GRADIENT_NORM_BOUND}(at={name!r}): the loss does not depend on the output of this "
            "module, or by way of something that cannot be differentiated; name another module "
            "(at), or rank by loss"
        )
    norms: torch.Tensor = vector_norm(torch.cat(found, dim=1), dim=1)
    return norms


def _no_leaf(name: str, module: nn.Module, output: Any, batch: TensorBatch) -> str:
    rows = len(next(iter(batch.values())))
    tensor = isinstance(output, torch.Tensor)
    got = f"{str(output.dtype)[6:]} {list(output.shape)}" if tensor else type(output).__name__
    return (
        f"{GRADIENT_NORM_BOUND}(at={name!r}): {type(module).__name__} gave {got} for {rows} rows; "
        "one float tensor is needed whose first dimension is the rows: name another module "
        "(scoring's `at`)"
    )
