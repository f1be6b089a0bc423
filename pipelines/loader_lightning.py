"""Selective-Backprop under Lightning: `python pipelines/loader_lightning.py [epochs]`.

Lightning asks for one batch ahead: rows are scored with weights one step older than in a plain
loop, and only a checkpoint at the end of an epoch goes on exactly. No claim about the method.
"""

import sys
import tempfile

try:
    import lightning
except ImportError:
    print("skipped: lightning is not installed (pip install lightning)")
    sys.exit(0)

import torch
from loader_plain import digits
from torch import nn

import raysb

PER_SAMPLE = raysb.losses.cross_entropy("label")


class Classifier(lightning.LightningModule):
    """A model, and the loader that scores with it."""

    def __init__(self, **loader) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
        args = {"batch_size": 32, "data": raysb.Data(inputs=("image",))} | loader
        self.loader = raysb.SelectiveLoader(digits()[0], model=self.net, loss=PER_SAMPLE, **args)

    def training_step(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:  # noqa: D102
        return (PER_SAMPLE(self.net(batch["image"]), batch) * batch["weight"]).mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:  # noqa: D102
        return torch.optim.SGD(self.parameters(), lr=0.2, momentum=0.9)

    def on_save_checkpoint(self, checkpoint: dict) -> None:  # noqa: D102
        checkpoint["loader"] = self.loader.state_dict()

    def on_load_checkpoint(self, checkpoint: dict) -> None:  # noqa: D102
        self.loader.load_state_dict(checkpoint["loader"])


def main(epochs: int = 5) -> None:
    """Train and say what was reached."""
    lightning.seed_everything(0, verbose=False)
    model, folder = Classifier(), tempfile.mkdtemp()  # of its checkpoints
    trainer = lightning.Trainer(max_epochs=epochs, devices=1, default_root_dir=folder, logger=False)
    trainer.fit(model, model.loader)
    images, labels = digits()[1].tensors
    kept = model.loader.num_backpropped / model.loader.num_scored
    error = (model.cpu().net(images).argmax(1) != labels).float().mean()
    print(f"{epochs} epochs: {trainer.global_step} steps, kept {kept:.0%}, error {error:.2%}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
