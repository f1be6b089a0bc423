"""What `import raysb` offers, and what it costs."""

import importlib
import subprocess
import sys

import pytest

import raysb


def loaded_after(code: str) -> set[str]:
    """Top-level modules that a fresh interpreter holds after running some code."""
    report = "import sys; print(*sorted({name.split('.')[0] for name in sys.modules}))"
    command = [sys.executable, "-c", f"{code}\n{report}"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split())


def test_all_is_sorted_without_duplicates() -> None:
    assert raysb.__all__ == sorted(set(raysb.__all__))


def test_all_and_the_lazy_names_are_the_same() -> None:
    assert set(raysb.__all__) == set(raysb._HOMES) | {"__version__"}


@pytest.mark.parametrize("name", raysb.__all__)
def test_every_public_name_can_be_imported(name: str) -> None:
    assert getattr(raysb, name) is not None
    assert name in dir(raysb)


@pytest.mark.parametrize("name", sorted(set(raysb._HOMES) - {"losses"}))
def test_a_public_name_is_the_object_of_its_module(name: str) -> None:
    home = importlib.import_module(raysb._HOMES[name])
    assert getattr(raysb, name) is vars(home)[name]


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'SelectiveTrain'"):
        _ = raysb.SelectiveTrain


def test_importing_raysb_loads_no_library() -> None:
    assert not loaded_after("import raysb") & {"numpy", "torch", "ray", "pyarrow", "pandas"}


def test_settings_and_selectors_load_neither_torch_nor_ray() -> None:
    code = "import raysb; raysb.Data, raysb.Training, raysb.SelectiveBackprop, raysb.read_metrics"
    assert not loaded_after(code) & {"torch", "ray", "pyarrow"}
