"""What the help says of training."""

import re

from torch import nn

from raysb.config import settings
from raysb.losses import LOSSES


def test_the_help_names_every_loss_that_is_not_of_torch() -> None:
    own = {name for name in LOSSES if not hasattr(nn, name)}
    assert own <= set(re.findall(r"\w+", settings()["train.loss"].help))
    assert len(own) >= 4
