"""Configuration: file, flags, and what is said about mistakes."""

import re
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raysb.config import SELECTORS, Config, Run, describe, load, sections, to_toml
from raysb.config import settings as known_settings
from raysb.selection import SelectiveBackprop, Uniform
from raysb.settings_io import SettingError

counts = st.integers(1, 10**9)
amounts = st.floats(1e-300, 1e300)
texts = st.text(min_size=1).filter(lambda text: text.strip() and text != "none")
names = st.from_regex(r"[a-z_][a-z0-9_]*", fullmatch=True)
arguments = st.dictionaries(
    names,
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=2),
        max_leaves=4,
    ),
    max_size=3,
)
channels = st.integers(1, 3).flatmap(
    lambda n: st.tuples(*[st.lists(amounts, min_size=n, max_size=n).map(tuple)] * 2)
)
SECTIONS = {
    "data": {
        "train": texts,
        "test": st.none() | texts,
        "target": st.none() | st.sampled_from(["label", "ü\n", 'a"b', "a\\b", "none of them"]),
        "inputs": st.sampled_from([("image",), ("a,b", "c"), ("[x]",)]),
        "image_size": st.none() | st.just((28, 32)),
        "augment": st.sampled_from(["none", "shift"]),
        "num_readers": counts,
    },
    "model": {
        "name": texts,
        "args": arguments,
        "norm": st.sampled_from(["group", "batch", "none"]),
        "num_classes": st.none() | counts,
        "init": st.none() | texts,
    },
    "scoring": {
        "batch_size": counts,
        "max_staleness_steps": st.sampled_from(["auto", None]) | st.integers(0, 99),
        "num_gpus": st.floats(0, 1),
        "dtype": st.sampled_from(["float32", "bfloat16"]),
    },
    "adjust": {"explore": st.floats(0, 1), "max_selected": st.none() | counts},
    "history": {"num_shards": counts},
    "train": {
        "epochs": st.integers(1, 65_535),
        "lr": amounts,
        "optimizer_args": arguments,
        "clip_norm": st.none() | amounts,
        "max_steps": st.none() | counts,
        "max_time_s": st.none() | amounts,
        "use_gpu": st.sampled_from([True, False, "auto"]),
        "max_failures": st.integers(-1, 9),
        "audit": st.booleans(),
    },
    "eval": {"every": st.integers(0, 99), "batch_size": counts},
    "run": {"dir": st.none() | texts, "seed": st.integers(0, 2**63 - 1)},
}
selectors = st.just(Uniform()) | st.builds(
    SelectiveBackprop,
    beta=amounts,
    min_probability=st.floats(0, 1),
    history=counts,
    warmup_epochs=st.integers(0, 9),
    ties=st.sampled_from(["mid", "strict"]),
)


@st.composite
def configs(draw: st.DrawFn) -> Config:
    """Any valid configuration: each key by chance at its default or drawn."""
    parts: dict[str, Any] = {"selector": draw(selectors)}
    for section, cls in sections("uniform").items():
        if section != "selector":
            parts[section] = cls(**draw(st.fixed_dictionaries({}, optional=SECTIONS[section])))
    data, channel_stats = parts["data"], draw(st.none() | channels)
    if channel_stats is not None:
        parts["data"] = replace(data, mean=channel_stats[0], std=channel_stats[1])
    return Config(
        **parts,
        engine=draw(st.sampled_from(["ray", "local"])),
        address=draw(st.none() | texts),
    )


@pytest.fixture
def write(tmp_path: Path) -> Any:
    def write_file(text: str) -> Path:
        path = tmp_path / "run.toml"
        path.write_text(text, encoding="utf-8")
        return path

    return write_file


def refused(*flags: str, file: Path | None = None) -> str:
    """The message of a configuration that is refused."""
    with pytest.raises(SettingError) as caught:
        load(file, flags)
    return str(caught.value)


@given(configs())
@settings(deadline=None)
def test_a_written_configuration_loads_as_an_equal_one(config: Config) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "config.toml"
        path.write_text(to_toml(config), encoding="utf-8", newline="")
        assert load(path) == config


def test_nothing_given_is_the_defaults() -> None:
    assert load() == Config()


def test_the_default_selector_is_selective_backprop_in_file_and_objects() -> None:
    assert load(None, ["selector.kind=selective_backprop"]).selector == Config().selector
    assert Config().selector == SelectiveBackprop()


def test_flags_override_the_file_which_overrides_the_defaults(write: Any) -> None:
    file = write("engine = 'local'\n[train]\nlr = 0.2\nbatch-size = 32\n")
    config = load(file, ["--train.lr", "0.3"])
    assert (config.train.lr, config.train.batch_size, config.engine) == (0.3, 32, "local")
    assert config.train.epochs == Config().train.epochs


def test_the_last_flag_wins_and_lists_grow() -> None:
    assert load(None, ["--train.lr=0.1", "--train.lr=0.2"]).train.lr == 0.2
    assert load(None, ["--data.inputs", "a", "--data.inputs", "b,c"]).data.inputs == ("a", "b", "c")


def test_a_pair_is_a_setting_and_the_last_one_wins(write: Any) -> None:
    assert load(None, ["--scoring.num_actors", "2,8"]).scoring.num_actors == (2, 8)
    file = write("[scoring]\nnum_actors = [1, 4]\n[train]\nnum_workers = 3\n")
    assert load(file, ()).scoring.num_actors == (1, 4)
    for words in (("2,8", "4"), ("4", "2,8"), ("1,2", "2,8")):
        flags = [word for value in words for word in ("--train.num_workers", value)]
        expected = (2, 8) if words[1] == "2,8" else 4
        assert load(file, flags).train.num_workers == expected


def test_a_list_on_the_command_line_replaces_that_of_the_file(write: Any) -> None:
    file = write('[data]\ninputs = ["a", "b"]\n')
    assert load(file, ["--data.inputs", "c"]).data.inputs == ("c",)


def test_a_key_that_a_file_spells_twice_has_its_last_value(write: Any) -> None:
    file = write("[data]\nimage-size = [1, 2]\nimage_size = [3, 4]\n")
    assert load(file).data.image_size == (3, 4)


def test_dotted_flags_set_entries_of_tables(write: Any) -> None:
    file = write("[train.optimizer_args]\nmomentum = 0.5\nnesterov = true\n")
    flags = ["--train.optimizer-args.momentum", "0.9", "--model.args.hidden", "[64,64]"]
    flags += ["--train.optimizer_args.weight-decay", "1e-4", "--model.args.a.b", "relu"]
    config = load(file, flags)
    assert config.train.optimizer_args == {
        "momentum": 0.9,
        "nesterov": True,
        "weight_decay": 1e-4,
    }
    assert config.model.args == {"hidden": [64, 64], "a": {"b": "relu"}}


def test_a_whole_table_on_the_command_line_replaces_that_of_the_file(write: Any) -> None:
    file = write("[model]\nargs = {depth = 3}\n")
    assert load(file, ["--model.args", "{width = 2}"]).model.args == {"width": 2}


def test_setting_entries_leaves_the_default_table_alone() -> None:
    load(None, ["--model.args.depth", "3"])
    assert Config().model.args == {}


def test_none_is_no_value_where_that_is_allowed(write: Any) -> None:
    file = write('[scoring]\nmax_staleness_steps = "none"\n[train]\nmax_steps = 7\n')
    config = load(file, ["--train.max_steps", "none", "--data.augment", "none"])
    assert config.scoring.max_staleness_steps is None
    assert config.train.max_steps is None
    assert config.data.augment == "none"


def test_a_selector_is_built_from_its_kind() -> None:
    assert load(None, ["selector.kind=uniform"]).selector == Uniform()
    assert load(None, ["--selector.beta", "3"]).selector == SelectiveBackprop(beta=3.0)


def test_another_kind_on_the_command_line_starts_from_its_defaults(write: Any) -> None:
    """A file for Selective-Backprop runs its baseline with one flag."""
    file = write("[selector]\nbeta = 2\n")
    assert load(file, ["--selector.kind", "uniform"]).selector == Uniform()
    same_kind = load(file, ["--selector.kind", "selective_backprop"]).selector
    assert same_kind == SelectiveBackprop(beta=2.0)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ["--train.lrr", "3"],
            r"train\.lrr=3 \(command line\): unknown key. Did you mean 'train\.",
        ),
        (["--beta", "3"], r"beta=3 \(command line\): unknown key. Did you mean 'selector.beta'\?"),
        (
            ["--train.num_epochs", "3"],
            r"Did you mean .* \(keys of train: epochs, batch_size, num_w",
        ),
        (["--zebra", "3"], r"zebra=3 .*: unknown key. \(sections: data, model, selector, scoring"),
        (["--train", "3"], r"train=3 .* 'train' is a section; set one of its keys: train.epochs"),
        (["--train.epochs", "1.5"], r"^train\.epochs=1\.5 \(command line\): expected int$"),
        (["--train.max_steps", "x"], r"^train\.max_steps=x .*: expected int\|none$"),
        (["--train.audit", "maybe"], r"^train\.audit=maybe .*: expected true\|false$"),
        (["--train.use_gpu=x"], r"^train\.use_gpu=x .*: expected true\|false\|auto$"),
        (["--engine", "spark"], r"^engine=spark \(command line\): expected ray\|local$"),
        (["--train.lr.x", "3"], r"train\.lr\.x=3 .*: unknown key\. Did you mean 'train\.lr'\?"),
        (["--train.epochs", "0"], r"^train\.epochs=0 \(command line\): must be .* at least 1$"),
        (
            ["--run.seed=-1"],
            r"^run\.seed=-1 \(command line\): must be at least 0 and below 2\*\*63$",
        ),
        (["--selector.beta", "-1"], r"^selector\.beta=-1 \(command line\): .*above 0$"),
        (["--model.args", "3"], r"^model\.args=3 \(command line\): expected table$"),
        (
            ["--selector.kind", "uniform", "--selector.beta", "2"],
            r"^selector\.beta=2 \(command line\): selector\.kind=uniform has no such key; its keys",
        ),
        (
            ["--selector.kind", "unifrom"],
            r"^selector\.kind=unifrom \(command line\): expected selective_backprop\|uniform",
        ),
    ],
)
def test_a_wrong_flag_is_named_with_its_value_and_what_is_allowed(
    flags: list[str], message: str
) -> None:
    assert re.search(message, refused(*flags))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "[train]\nepoch = 3\n",
            r"train\.epoch=3 \(.*run\.toml\).* Did you mean 'train\.epochs'\?",
        ),
        (
            "[trian]\nlr = 3\n",
            r"trian\.lr=3 \(.*run\.toml\): unknown key. Did you mean 'train\.lr'",
        ),
        ("[trian]\n", r"trian=\{\} \(.*run\.toml\): unknown key\."),
        ("lr = 3\n", r"lr=3 \(.*run\.toml\): unknown key. Did you mean 'train\.lr'"),
        ("train = 3\n", r"train=3 \(.*run\.toml\): 'train' is a section"),
        ("[train]\nepochs = '3'\n", r'train\.epochs="3" \(.*run\.toml\): expected int$'),
        ("[train]\nlr = 1979-05-27\n", r"train\.lr=1979-05-27 \(.*run\.toml\): expected float"),
        ("[train]\naudit = 1\n", r"train\.audit=1 \(.*run\.toml\): expected true\|false"),
        ("[data]\ninputs = 'image'\n", r'data\.inputs="image" \(.*\): expected list of str'),
        ("[train]\nepochs = 0\n", r"^train\.epochs=0 \(.*run\.toml\): must be .* at least 1"),
        (
            "[selector]\nkind = 'uniform'\nbeta = 2\n",
            r"selector\.beta=2 .*kind=uniform has no such",
        ),
        ("[train]\nlr =\n", r"run\.toml is not TOML: .*line 2"),
    ],
)
def test_a_wrong_file_is_named_with_key_and_value(write: Any, text: str, message: str) -> None:
    assert re.search(message, refused(file=write(text)))


def test_the_origin_is_that_of_the_value_which_counts(write: Any) -> None:
    file = write("[train]\nepochs = 0\nlr = 0.1\n")
    assert "run.toml" in refused("--train.lr", "0.2", file=file)
    assert "(command line)" in refused("--train.epochs", "-1", file=file)


def test_a_key_of_the_file_is_checked_even_where_the_command_line_replaces_its_selector(
    write: Any,
) -> None:
    file = write("[selector]\nbetta = 2\n")
    assert "'selector.beta'" in refused("--selector.kind", "uniform", file=file)


def test_a_missing_file_is_named() -> None:
    with pytest.raises(FileNotFoundError, match="no configuration file nowhere"):
        load("nowhere.toml")


def test_a_folder_or_bytes_are_no_file(tmp_path: Path) -> None:
    assert "cannot read" in refused(file=tmp_path)
    (tmp_path / "x.toml").write_bytes(b"\xff\xfe")
    assert "cannot read" in refused(file=tmp_path / "x.toml")


def test_an_empty_section_says_nothing_and_a_byte_order_mark_is_skipped(write: Any) -> None:
    assert load(write("\ufeff[train]\n[selector]\n")) == Config()


def test_a_run_is_checked_at_construction() -> None:
    with pytest.raises(ValueError, match=r"run\.seed=-1"):
        Run(seed=-1)
    with pytest.raises(ValueError, match=r"run\.dir=' '"):
        Run(dir=" ")
    with pytest.raises(ValueError, match="engine='spark': must be one of ray, local"):
        Config(engine="spark")  # type: ignore[arg-type]


def test_a_selector_that_no_file_could_name_cannot_be_written() -> None:
    class Mine(Uniform):
        pass

    with pytest.raises(TypeError, match=r"cannot be imported, so no file could name it; .*uniform"):
        to_toml(Config(selector=Mine()))


def test_a_selector_of_ones_own_is_named_by_its_import_path(tmp_path, monkeypatch) -> None:
    (tmp_path / "own_selector.py").write_text(
        "from dataclasses import dataclass\n"
        "from raysb.selection import RandomSubset\n"
        "@dataclass(kw_only=True)\n"
        "class Mine(RandomSubset):\n"
        "    'One of ones own.'\n"
        "    spread: int = 3\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    flags = ["selector.kind=own_selector:Mine", "--selector.spread", "5", "--selector.fraction=.2"]
    config = load(None, flags)
    assert (config.selector.spread, config.selector.fraction) == (5, 0.2)
    assert type(config.selector).__name__ == "Mine"
    (tmp_path / "run.toml").write_text(to_toml(config))
    assert load(tmp_path / "run.toml") == config
    assert "selector.kind=own_selector:Mine has no such key; its keys: kind, fraction, spread" in (
        refused("selector.kind=own_selector:Mine", "--selector.beta", "2")
    )
    assert "no module named 'own_selectr'" in refused("selector.kind=own_selectr:Mine").lower()
    assert "is no dataclass that extends raysb.Selector" in refused("selector.kind=math:sqrt")


def test_help_lists_every_key_exactly_once_with_a_line_on_it() -> None:
    blocks = [re.findall(r"^  --(\S+)", each, re.MULTILINE) for each in describe().split("\n\n")]
    shown = {key for block in blocks for key in block}  # kinds of selectors may share a name
    assert all(len(block) == len(set(block)) for block in blocks)
    assert shown == set(known_settings())
    assert {key.split(".")[0] for key in shown} >= {"data", "selector", "run", "engine"}
    assert not [key for key, each in known_settings().items() if not each.help]


def test_help_fits_a_terminal_of_a_hundred_columns() -> None:
    assert max(map(len, describe().splitlines())) <= 100


def test_every_kind_of_selector_is_a_kind() -> None:
    for kind, cls in SELECTORS.items():
        assert type(load(None, [f"selector.kind={kind}"]).selector) is cls


def test_loading_a_configuration_needs_neither_torch_nor_ray() -> None:
    code = (
        "import sys; from raysb.config import load; load(None, ['train.lr=0.1']);"
        "sys.exit(bool({'torch', 'ray', 'pyarrow'} & sys.modules.keys()))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
