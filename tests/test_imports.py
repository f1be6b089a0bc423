import functools
import math
import os.path
import subprocess
import sys

import pytest

from raysb.imports import call, resolve, takes, unknown

TABLE = {"cosine": math.cos, "constant": 1}


def test_a_known_name_wins():
    assert resolve("cosine", TABLE, "train.schedule") is math.cos


@pytest.mark.parametrize(
    ("spec", "found"),
    [
        ("math:sin", math.sin),
        ("math.sin", math.sin),
        ("os.path:join", os.path.join),
        ("os.path.join", os.path.join),
        ("builtins:str.upper", str.upper),
    ],
)
def test_an_import_path_gives_what_python_finds_there(spec, found):
    assert resolve(spec, TABLE, "train.loss") is found


@pytest.mark.parametrize("spec", ["cosin", "COSINE", "coszine"])
def test_an_unknown_name_names_the_nearest_and_all_others(spec):
    message = rf"train\.schedule='{spec}': unknown; did you mean 'cosine'\? known: constant, cosine"
    with pytest.raises(ValueError, match=message):
        resolve(spec, TABLE, "train.schedule")


@pytest.mark.parametrize("spec", ["", ":", "math:", ":sin", "zzz"])
def test_half_an_import_path_is_an_unknown_name(spec):
    with pytest.raises(ValueError, match=r"unknown;.* known: .*'package\.module:attribute'"):
        resolve(spec, TABLE, "model.name")


def test_a_missing_module_says_what_was_tried():
    with pytest.raises(
        ValueError, match=r"model\.name='nowhere\.at_all:fn': tried to import.*PYTHONPATH"
    ):
        resolve("nowhere.at_all:fn", {}, "model.name")


def test_a_missing_attribute_names_the_nearest_in_the_module():
    with pytest.raises(ValueError, match=r"'math' was imported.*no 'sinn'.*did you mean 'sinh?'"):
        resolve("math:sinn", {}, "model.name")


def test_a_module_that_fails_says_how(tmp_path, monkeypatch):
    (tmp_path / "broken_module.py").write_text("raise RuntimeError('no luck')")
    (tmp_path / "needy_module.py").write_text("import surely_not_installed")
    (tmp_path / "shy_module.py").write_text("raise ModuleNotFoundError('no names')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match=r"'broken_module' failed: RuntimeError: no luck"):
        resolve("broken_module:fn", {}, "model.name")
    with pytest.raises(ValueError, match=r"was found, but needs another.*surely_not_installed"):
        resolve("needy_module:fn", {}, "model.name")
    with pytest.raises(ValueError, match=r"was found, but needs another: no names"):
        resolve("shy_module:fn", {}, "model.name")


def test_what_is_no_string_is_a_type_error():
    with pytest.raises(TypeError, match=r"model\.name=3"):
        resolve(3, {}, "model.name")


def build(model, *, width=1, depth=2):
    if width < 0:
        raise ValueError("width is negative")
    return (model, width, depth)


def test_call_passes_arguments_on():
    assert call(build, ("m",), {"width": 3}, "model.args") == ("m", 3, 2)


def test_a_wrong_argument_is_named_with_the_allowed_ones():
    with pytest.raises(
        ValueError, match=r"model\.args\.widht=3.*did you mean 'width'\? known: depth, width$"
    ):
        call(build, ("m",), {"widht": 3}, "model.args")


def test_a_missing_argument_is_named():
    with pytest.raises(ValueError, match=r"model\.args=\{\}: build cannot be called.*'model'"):
        call(build, (), {}, "model.args")


def test_a_refused_value_is_told_with_key_and_function():
    with pytest.raises(
        ValueError, match=r"model\.args=\{'width': -1\}: build says: width is negative"
    ):
        call(functools.partial(build, depth=1), ("m",), {"width": -1}, "model.args")


def test_takes_looks_through_partials_and_open_keywords():
    assert takes(build, "width")
    assert takes(functools.partial(build, depth=1), "width")
    assert not takes(build, "lr")
    assert takes(lambda **rest: rest, "lr")


def test_unknown_without_a_near_name_only_lists():
    assert unknown("xyz", ["b", "a"]) == "unknown; known: a, b"


def test_settings_and_imports_load_neither_torch_nor_ray():
    code = (
        "import sys, raysb.imports, raysb.training.schedule, raysb.training.settings, "
        "raysb.nn.settings, raysb.scoring.settings; "
        "sys.exit(' '.join({'torch', 'ray', 'numpy'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
