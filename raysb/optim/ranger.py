"""Ranger: RAdam, Lookahead and gradient centralization in one optimizer."""

from collections.abc import Callable, Mapping
from typing import Any, overload

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.adam import adam
from torch.optim.optimizer import ParamsT, _default_to_fused_or_foreach
from torch.optim.radam import radam

from raysb.optim.centralize import centred, check_layout


class Ranger(Optimizer):
    r"""RAdam on centred gradients, pulled back to a slow copy of the weights every `k` steps.

    Step t = 1, 2, ... of a weight p with gradient g; slow starts as p before its first step:

        g    <- g - mean over each output's weights          centralization, see `gc_param_groups`
        v    <- b2 v + (1 - b2) g^2,   m <- b1 m + (1 - b1) g
        p    <- (1 - lr weight_decay) p                      decoupled, not centred
        rho  =  rho_inf - 2 t b2^t / (1 - b2^t),   rho_inf = 2 / (1 - b2) - 1
        p    <- p - lr r sqrt(1 - b2^t) / (1 - b1^t) m / (sqrt(v) + eps)        if rho > 5
        p    <- p - lr / (1 - b1^t) m                                           else
        slow <- slow + alpha (p - slow),   p <- slow                            if t % k == 0
        r    =  sqrt((rho - 4)(rho - 2) rho_inf / ((rho_inf - 4)(rho_inf - 2) rho))

    With b2 = .999 the first five steps are the second line's: momentum SGD whose step grows with
    the gradient. A large `lr` is dangerous there; warm it up.

    Every argument but the first may differ between parameter groups. Each part can be turned off:

    | without | by | is then, to the bit |
    |---|---|---|
    | centralization | `use_gc=False` | |
    | Lookahead | `k=0` | |
    | both | | `torch.optim.RAdam(decoupled_weight_decay=True)` |
    | all three | and `rectify=False` | `torch.optim.AdamW` |

    Args:
        params: Parameters or groups of them; `gc_param_groups(model)` where the model has
            embeddings or transposed convolutions.
        lr: Learning rate, at least 0.
        betas: (b1, b2), each in [0, 1).
        eps: Added to the root of v, at least 0.
        weight_decay: Decoupled weight decay, at least 0.
        alpha: Share of the way that the slow weights go, in (0, 1].
        k: Steps between two pulls, counted for each tensor by the steps that it took part in; 0
            turns Lookahead off and saves its copy of the weights.
        use_gc: Whether gradients are centred.
        gc_conv_only: Centre only weights of more than three dimensions.
        rectify: Whether the variance is rectified; else the middle lines are those of AdamW.
        foreach: Whether all tensors of a group are updated together; `None` does so where torch
            would, on GPUs.
        maximize: Go up instead of down.
        capturable: Refused: the step count, on which Lookahead hangs, is read on the host.
        differentiable: Refused: the weights are updated in place.

    Raises:
        ValueError: For a value out of its range.
        RuntimeError: From `step`, for sparse gradients, or while a CUDA graph is captured.

    References:
        Liu et al., On the Variance of the Adaptive Learning Rate and Beyond, arXiv:1908.03265,
            2019.
        Zhang et al., Lookahead Optimizer: k steps forward, 1 step back, arXiv:1907.08610, 2019.
        Yong et al., Gradient Centralization, arXiv:2004.01461, 2020.
        Wright, Ranger (github.com/lessw2020/Ranger-Deep-Learning-Optimizer), 2019 to 2021.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.95, 0.999),
        eps: float = 1e-5,
        weight_decay: float = 0.0,
        *,
        alpha: float = 0.5,
        k: int = 6,
        use_gc: bool = True,
        gc_conv_only: bool = False,
        rectify: bool = True,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
    ) -> None:
        defaults: dict[str, Any] = {
            **{"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay},
            **{"alpha": alpha, "k": k, "rectify": rectify},
            **{"use_gc": use_gc, "gc_conv_only": gc_conv_only, "gc_dim": 0, "gc_groups": 1},
            **{"foreach": foreach, "maximize": maximize},
            **{"capturable": capturable, "differentiable": differentiable},
        }
        super().__init__(params, defaults)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group of parameters; options that it does not give are the constructor's."""
        _check({**self.defaults, **param_group})
        super().add_param_group(param_group)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take over a state; one of `torch.optim.RAdam` or `Adam` goes on as a Ranger's."""
        super().__setstate__(state)
        for group in self.param_groups:
            for name, value in self.defaults.items():
                group.setdefault(name, value)
            group.update(capturable=False, differentiable=False)

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Update the parameters that have a gradient.

        Args:
            closure: Computes the gradients anew and returns the loss.

        Returns:
            What the closure returned, or `None`.
        """
        self._accelerator_graph_capture_health_check()
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            self._update(group)
        return loss

    def _update(self, group: dict[str, Any]) -> None:
        params = [p for p in group["params"] if p.grad is not None]
        if any(p.grad.is_sparse for p in params):
            raise RuntimeError("Ranger does not support sparse gradients: build with sparse=False")
        states = [self._state_of(p, group) for p in params]
        _adaptive_step(params, centred([p.grad for p in params], group), states, group)
        if group["k"]:
            due = [i for i, s in enumerate(states) if int(s["step"]) % group["k"] == 0]
            _pull_back([params[i] for i in due], [states[i]["slow"] for i in due], group)

    def _state_of(self, p: Tensor, group: dict[str, Any]) -> dict[str, Any]:
        """What is kept of a parameter: 2 tensors of its shape, with Lookahead 3, and a count."""
        state: dict[str, Any] = self.state[p]
        if not state:
            state["step"] = torch.tensor(0.0, dtype=torch.float32)  # exact to 2^24 steps
            state["exp_avg"] = torch.zeros_like(p, memory_format=torch.preserve_format)
            state["exp_avg_sq"] = torch.zeros_like(p, memory_format=torch.preserve_format)
        if group["k"] and "slow" not in state:  # also where k was 0, or the state is of RAdam
            state["slow"] = p.detach().clone(memory_format=torch.preserve_format)
        return state


def _adaptive_step(
    params: list[Tensor], grads: list[Tensor], states: list[dict[str, Any]], group: dict[str, Any]
) -> None:
    """The step of RAdam, or of AdamW, by torch's own function."""
    beta1, beta2 = group["betas"]
    same: dict[str, Any] = {
        **{name: group[name] for name in ("lr", "eps", "weight_decay", "foreach", "maximize")},
        **{"beta1": beta1, "beta2": beta2, "decoupled_weight_decay": True},
        "has_complex": any(torch.is_complex(p) for p in params),
    }
    averages, squares, steps = (
        [state[name] for state in states] for name in ("exp_avg", "exp_avg_sq", "step")
    )
    if group["rectify"]:
        radam(params, grads, averages, squares, steps, **same)
    else:
        adam(params, grads, averages, squares, [], steps, amsgrad=False, **same)


def _pull_back(params: list[Tensor], slow: list[Tensor], group: dict[str, Any]) -> None:
    """Lookahead: slow <- slow + alpha (p - slow), p <- slow."""
    foreach = group["foreach"]
    if foreach is None:
        _, foreach = _default_to_fused_or_foreach(params, differentiable=False)
    if foreach and params:
        torch._foreach_lerp_(slow, params, group["alpha"])
        torch._foreach_lerp_(params, slow, 1.0)  # a copy: DTensors know no _foreach_copy_
        return
    for p, s in zip(params, slow, strict=True):
        p.copy_(s.lerp_(p, group["alpha"]))


def _check(group: Mapping[str, Any]) -> None:
    """Raise `ValueError` for options that have no meaning, in torch's words where it has some."""
    lr, betas, k = group["lr"], group["betas"], group["k"]
    if isinstance(lr, Tensor) and lr.numel() != 1:
        raise ValueError("Tensor lr must be 1-element")
    if not lr >= 0.0:
        raise ValueError(f"Invalid learning rate: {lr}")
    if len(betas) != 2 or not all(0.0 <= beta < 1.0 for beta in betas):
        raise ValueError(f"Invalid betas: {betas}; must be two numbers in [0, 1)")
    for name in ("eps", "weight_decay"):
        if not group[name] >= 0.0:
            raise ValueError(f"Invalid {name} value: {group[name]}")
    if not 0.0 < group["alpha"] <= 1.0:
        raise ValueError(f"Invalid alpha: {group['alpha']}; must be in (0, 1], and k=0 for none")
    if not isinstance(k, int) or isinstance(k, bool) or k < 0:
        raise ValueError(f"Invalid k: {k!r}; must be a whole number of steps, 0 for no Lookahead")
    check_layout(group["gc_dim"], group["gc_groups"])
    _refuse_unsupported(group)


def _refuse_unsupported(group: Mapping[str, Any]) -> None:
    if group["capturable"]:
        raise ValueError(
            "Ranger(capturable=True): not supported: Lookahead counts its steps on the host, and a "
            "captured graph would repeat one step's choice; use k=0 with torch.optim.RAdam"
        )
    if group["differentiable"]:
        raise ValueError(
            "Ranger(differentiable=True): not supported: weights are updated in place, without a "
            "graph; use torch.optim.RAdam(differentiable=True)"
        )
