"""Selective-Backprop in a plain PyTorch loop: one process, no Ray.

    python pipelines/loader_plain.py [epochs]

Shows the loader's use, with a checkpoint after each epoch. No claim about the method is made.
"""

import sys
import tempfile
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import TensorDataset

import raysb


def digits() -> tuple[TensorDataset, TensorDataset]:
    """The 1,797 digits that ship with scikit-learn, 8x8; a fifth of them is the test set."""
    images, labels = (torch.from_numpy(part) for part in load_digits(return_X_y=True))
    images, test = images.float() / 16, torch.arange(len(labels)) % 5 == 0
    return TensorDataset(images[~test], labels[~test]), TensorDataset(images[test], labels[test])


def main(epochs: int = 5) -> None:
    """Train, save after each epoch, and say what was reached."""
    torch.manual_seed(0)
    train, test = digits()
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2, momentum=0.9)
    per_sample = raysb.losses.cross_entropy("label")
    loader = raysb.SelectiveLoader(
        train,
        model=model,  # scored as it is whenever rows are needed
        loss=per_sample,
        selector=raysb.SelectiveBackprop(beta=1.0),
        batch_size=32,
        data=raysb.Data(inputs=("image",), target="label"),  # names for the items' values
    )
    checkpoint = Path(tempfile.mkdtemp()) / "checkpoint.pt"
    while loader.epoch < epochs:
        epoch = loader.epoch
        for batch in loader:  # exactly 32 rows
            losses = per_sample(model(batch["image"]), batch)
            optimizer.zero_grad()
            (losses * batch["weight"]).mean().backward()
            optimizer.step()
        parts = {"model": model, "optimizer": optimizer, "loader": loader}  # load_state_dict back
        torch.save({name: part.state_dict() for name, part in parts.items()}, checkpoint)
        images, labels = test.tensors
        error = (model(images).argmax(1) != labels).float().mean()
        kept = loader.num_backpropped / loader.num_scored
        print(f"epoch {epoch + 1}: {loader.num_steps} steps, kept {kept:.0%}, error {error:.2%}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
