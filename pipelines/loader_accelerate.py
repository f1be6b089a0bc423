"""Selective-Backprop under Accelerate: it prepares model and optimizer, the loader stays as it is.

    pip install accelerate && python pipelines/loader_accelerate.py [epochs]

For one process: under `accelerate launch` with more, the loader refuses and names the stream to
use. No claim about the method is made.
"""

import sys

try:
    from accelerate import Accelerator
except ImportError:
    print("skipped: accelerate is not installed (pip install accelerate)")
    sys.exit(0)

import torch
from loader_plain import digits
from torch import nn

import raysb


def main(epochs: int = 5) -> None:
    """Train and say what was reached."""
    torch.manual_seed(0)
    train, test = digits()
    accelerator = Accelerator()
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2, momentum=0.9)
    model, optimizer = accelerator.prepare(model, optimizer)
    per_sample = raysb.losses.cross_entropy("label")
    loader = raysb.SelectiveLoader(
        train,
        model=model,  # the prepared one: its weights are those that train
        loss=per_sample,
        batch_size=32,
        data=raysb.Data(inputs=("image",)),
    )
    accelerator.register_for_checkpointing(loader)  # accelerator.save_state(folder) holds it too
    for _ in range(epochs):
        for batch in loader:  # on the model's device
            losses = per_sample(model(batch["image"]), batch)
            optimizer.zero_grad()
            accelerator.backward((losses * batch["weight"]).mean())
            optimizer.step()
    images, labels = (column.to(accelerator.device) for column in test.tensors)
    error = (model(images).argmax(1) != labels).float().mean()
    kept = loader.num_backpropped / loader.num_scored
    print(f"{epochs} epochs: {loader.num_steps} steps, kept {kept:.0%}, error {error:.2%}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
