import subprocess
import sys
from typing import Any

import pytest

from raysb import schema
from raysb.source import settings
from raysb.source.augment import augment
from raysb.source.settings import Data


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"num_readers": -1}, "data.num_readers=-1"),
        ({"shuffle_window": -1}, "data.shuffle_window=-1"),
        ({"test_fraction": 1.0}, "data.test_fraction=1.0"),
        ({"test_fraction": float("nan")}, "data.test_fraction=nan"),
        ({"test_fraction": 0.1, "test": "x"}, "Leave one of the two out"),
        ({"augment": "crop"}, "did you mean 'crop_flip'"),
        ({"inputs": ()}, "data.inputs=()"),
        ({"inputs": ("a", "a")}, "named twice"),
        ({"inputs": ("loss",)}, "Rename yours"),
        ({"target": "id"}, "Rename yours"),
        ({"image_size": (32,)}, "data.image_size=[32]"),
        ({"image_size": (32, 32, 2)}, "data.image_size=[32, 32, 2]"),
        ({"image_size": (0, 32)}, "data.image_size=[0, 32]"),
        ({"mean": (0.5,)}, "data.std is not"),
        ({"std": (0.5,)}, "data.mean is not"),
        ({"mean": (0.5,), "std": (0.5, 0.5)}, "one number per channel"),
        ({"mean": (0.5,), "std": (0.0,)}, "above 0"),
        ({"train": ""}, "data.train=''"),
    ],
)
def test_values_out_of_range_are_refused_by_their_key(values: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=r"data") as caught:
        Data(**values)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    "values",
    [
        {"inputs": "image"},
        {"train": None},
        {"test": 3},
        {"num_readers": 1.5},
        {"num_readers": True},
    ],
)
def test_wrong_types_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match=r"data\."):
        Data(**values)


def test_lists_from_a_file_become_tuples() -> None:
    data = Data(inputs=["a", "b"], image_size=[8, 8], mean=[0.5], std=[0.5])  # type: ignore[arg-type]
    assert (data.inputs, data.image_size, data.mean) == (("a", "b"), (8, 8), (0.5,))


def test_names_repeated_here_are_those_of_their_owners() -> None:
    assert settings.RESERVED == schema.STREAM_COLUMNS
    assert all(callable(augment(name)) for name in settings.AUGMENTATIONS)


def test_settings_load_without_numpy() -> None:
    code = "import sys, raysb.source.settings; sys.exit('numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
