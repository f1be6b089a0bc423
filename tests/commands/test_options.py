"""What the words of a command line are."""

import pytest

from raysb.commands.options import CONFIG, JSON, VERBOSE, UsageError, read_config, take_options

KNOWN = {"config": CONFIG, "verbose": VERBOSE, "json": JSON}


def test_options_are_taken_out_and_the_rest_keeps_its_order() -> None:
    words = take_options(["out", "--json", "--a.b", "1", "--config=f", "-v", "c=2"], KNOWN)
    assert words.options == {"json": "", "config": "f", "verbose": ""}
    assert words.rest == ("out", "--a.b", "1", "c=2")
    assert words.has("json")
    assert words.get("config") == "f"
    assert words.get("other") is None


@pytest.mark.parametrize("words", [[], ["--data.test", "x"], ["-x"]])
def test_a_missing_positional_word_is_named(words) -> None:
    with pytest.raises(UsageError, match="RUN_DIR must come first"):
        take_options(words, KNOWN).positional("RUN_DIR")


def test_positional_words_come_before_the_settings() -> None:
    given = take_options(["out", "--data.test", "x", "--json"], KNOWN)
    assert given.positional("RUN_DIR") == (["out"], ["--data.test", "x"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--json=yes"], "--json takes no value, but was given 'yes'"),
        (["--config"], "--config needs the name of a file: --config FILE"),
        (["--config", "a", "--config=b"], "--config was given twice; the first was a"),
    ],
)
def test_a_wrong_option_is_told(words, message) -> None:
    with pytest.raises(UsageError, match=message):
        take_options(words, KNOWN)


def test_a_missing_configuration_file_is_wrong_usage() -> None:
    with pytest.raises(UsageError, match=r"no configuration file gone\.toml"):
        read_config("gone.toml", [])
