"""Settings of dataclasses, and the words of a command line."""

from dataclasses import dataclass, field

import pytest

from raysb.settings_io import (
    Given,
    SettingError,
    argument_docs,
    explain,
    nearest,
    read_flags,
    settings_of,
)


@dataclass(kw_only=True)
class Oven:
    """How bread is baked.

    Args:
        heat: Degrees, e.g. 220. Above 300 it burns.
        minutes (int): How long, over
            two lines.
        tray: Which one.

    Raises:
        ValueError: Too hot.
    """

    heat: float = 220.0
    minutes: int = 40
    tray: list[str] = field(default_factory=lambda: ["low"])


def words(*flags: str) -> list[tuple[str, object]]:
    return [(each.key, each.raw) for each in read_flags(flags, lambda key: key == "train.audit")]


def test_settings_are_the_fields_with_defaults_and_the_first_sentence_on_each() -> None:
    found = settings_of(Oven, "oven")
    assert list(found) == ["oven.heat", "oven.minutes", "oven.tray"]
    assert [each.default for each in found.values()] == [220.0, 40, ["low"]]
    assert [each.hint for each in found.values()] == [float, int, list[str]]
    assert found["oven.heat"].help == "Degrees, e.g. 220."


def test_argument_docs_join_lines_and_end_with_the_block() -> None:
    docs = argument_docs(Oven)
    assert docs["minutes"] == "How long, over two lines."
    assert docs.keys() == {"heat", "minutes", "tray"}


def test_the_three_forms_of_a_flag_say_the_same() -> None:
    for flags in (["--train.lr", "0.1"], ["--train.lr=0.1"], ["train.lr=0.1"]):
        assert words(*flags) == [("train.lr", "0.1")]


def test_hyphens_and_underscores_are_equal_in_keys_only() -> None:
    assert words("--train.batch-size", "a-b") == [("train.batch_size", "a-b")]


def test_only_the_first_equals_sign_separates() -> None:
    assert words("data.train=s3://b?a=1") == [("data.train", "s3://b?a=1")]


def test_a_negative_number_is_a_value() -> None:
    assert words("--train.max_failures", "-1") == [("train.max_failures", "-1")]


@pytest.mark.parametrize("rest", [[], ["--run.seed", "3"], ["run.seed=3"]])
def test_a_switch_alone_is_true(rest: list[str]) -> None:
    assert words("--train.audit", *rest)[0] == ("train.audit", "true")
    assert len(words("--train.audit", *rest)) == 1 + bool(rest)


def test_a_switch_takes_the_value_that_follows_it() -> None:
    assert words("--train.audit", "false") == [("train.audit", "false")]


@pytest.mark.parametrize("flags", [["--train.lr"], ["--train.lr", "--run.seed", "3"]])
def test_a_key_without_its_value_is_an_error(flags: list[str]) -> None:
    with pytest.raises(SettingError, match=r"--train\.lr .* needs a value"):
        words(*flags)


@pytest.mark.parametrize("word", ["mnist", "-x", "-x=3", "--", "--=3", "=3", "---a=1"])
def test_a_word_of_another_form_is_an_error(word: str) -> None:
    with pytest.raises(SettingError, match="unexpected argument"):
        words(word)


def test_nearest_prefers_the_same_name_in_another_section() -> None:
    known = ["train.optimizer", "train.lr", "train.loss", "scoring.batch_size", "train.batch_size"]
    assert nearest("lr", known) == "train.lr"
    assert nearest("optimizer.lr", known) == "train.lr"
    assert nearest("train.batchsize", known) == "train.batch_size"
    assert nearest("loos", known) == "train.loss"
    assert nearest("zebra", known) is None


def test_explain_blames_the_key_that_the_message_names() -> None:
    given = {
        "lr": Given(key="train.lr", raw=0.1, origin="a.toml", text=False),
        "epochs": Given(key="train.epochs", raw="0", origin="command line", text=True),
    }
    said = explain("train.epochs=0: must be at least 1", "train", given)
    assert said == "train.epochs=0 (command line): must be at least 1"
    said = explain("Oven(lr=0.1): too hot", "train", given)
    assert said == "train.lr=0.1 (a.toml): Oven(lr=0.1): too hot"
    said = explain("train.lr=0.1: too large for train.epochs=0", "train", given)
    assert said == "train.lr=0.1 (a.toml): too large for train.epochs=0"
    assert explain("no idea", "train", given) == (
        "no idea\n  given: train.lr=0.1 (a.toml)\n  given: train.epochs=0 (command line)"
    )
