"""What the help says of the model."""

import re

from raysb.config import settings
from raysb.nn.registry import MODELS


def test_the_help_names_every_model() -> None:
    assert set(MODELS) <= set(re.findall(r"\w+", settings()["model.name"].help))
