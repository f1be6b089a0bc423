"""What `import raysb` offers, and what it costs."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import raysb

MODULES = {name for name, home in raysb._HOMES.items() if home == f"raysb.{name}"}


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


def test_type_checkers_are_told_of_the_same_names_at_the_same_places() -> None:
    told = {}
    for node in ast.walk(ast.parse(Path(raysb.__file__).read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("raysb"):
            told |= {alias.asname: node.module for alias in node.names}
    assert {told.pop(name) for name in MODULES} == {"raysb"}
    assert told == {name: home for name, home in raysb._HOMES.items() if name not in MODULES}


@pytest.mark.parametrize("name", raysb.__all__)
def test_every_public_name_can_be_imported(name: str) -> None:
    assert getattr(raysb, name) is not None
    assert name in dir(raysb)


@pytest.mark.parametrize("name", sorted(set(raysb._HOMES) - MODULES))
def test_a_public_name_is_the_object_of_its_module(name: str) -> None:
    home = importlib.import_module(raysb._HOMES[name])
    assert getattr(raysb, name) is vars(home)[name]


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'SelectiveTrain'"):
        _ = raysb.SelectiveTrain


def test_importing_raysb_loads_no_library() -> None:
    assert not loaded_after("import raysb") & {"numpy", "torch", "ray", "pyarrow", "pandas"}


@pytest.mark.parametrize("name", sorted(set(raysb._HOMES) - MODULES))
def test_every_public_name_says_what_it_is(name: str) -> None:
    assert getattr(raysb, name).__doc__


def test_every_error_of_the_tree_is_public() -> None:
    from raysb import errors

    assert set(errors.__all__) <= set(raysb.__all__)


def test_settings_and_selectors_load_neither_torch_nor_ray() -> None:
    code = "import raysb; raysb.Data, raysb.Training, raysb.SelectiveBackprop, raysb.read_metrics"
    assert not loaded_after(code) & {"torch", "ray", "pyarrow"}
