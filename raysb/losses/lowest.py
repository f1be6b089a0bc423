"""The rows that are learned already: what noisy labels leave over."""

import torch


def lowest_k(losses: torch.Tensor, fraction: float = 0.6) -> torch.Tensor:
    """The r smallest of B losses, on the graph; their mean is the trimmed loss.

    r = min(max(round(fraction B), 1), B), with Python's `round` (half to even). Shah et al. 2020,
    *Choosing the Sample with Lowest Loss makes SGD Robust*, <https://arxiv.org/abs/2001.03316>.

        lowest_k(losses).mean().backward()      # the gradient of the mean over these rows alone

    Of equal losses the first rows are taken. NaN ranks as the largest, so that it is taken only
    where fewer than r losses are numbers. Nothing is saved but the noise: all B rows went through
    the forward pass, and go through the backward pass too.

    Args:
        losses: One per row, [B], B at least 1.
        fraction: Share of the rows to keep, in (0, 1].

    Returns:
        [r], ascending.

    Raises:
        ValueError: `losses` is no vector or empty, or `fraction` is out of range.
    """
    if losses.dim() != 1 or not len(losses):
        raise ValueError(
            f"lowest_k(losses of shape {list(losses.shape)}): one loss per row is needed, [B] with "
            "B at least 1. Use reduction='none', and average what is left of each row"
        )
    if not 0.0 < fraction <= 1.0:
        raise ValueError(f"lowest_k(fraction={fraction!r}): must be in (0, 1]")
    kept = max(round(fraction * len(losses)), 1)
    order = losses.detach().argsort(stable=True)  # topk would break ties differently per device
    return losses[order[:kept]]
