"""Which parts of a model a pattern names."""

import pytest

from raysb.nn.patterns import chosen, parts

NAMES = ["stem.0.weight", "stages.0.0.conv1.weight", "stages.1.0.norm1.bias", "head.weight"]


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        ([], []),
        (["stem"], [0]),
        (["stem.*"], [0]),
        (["stages"], [1, 2]),
        (["stages.0"], [1]),
        (["stages.[12]"], [2]),
        (["stages.?.0"], [1, 2]),
        (["*.norm1"], [2]),
        (["*.weight"], [0, 1, 3]),
        (["head", "stem"], [0, 3]),
        (["*"], [0, 1, 2, 3]),
    ],
)
def test_a_pattern_means_a_name_or_all_below_a_module(patterns, expected) -> None:
    assert chosen(NAMES, patterns, "key") == {NAMES[i] for i in expected}


@pytest.mark.parametrize("pattern", ["steem", "stem.", "STEM", "stem.0.weigh", "ead"])
def test_a_pattern_without_a_match_is_refused_with_the_parts_there_are(pattern) -> None:
    with pytest.raises(ValueError, match=r"^model\.freeze='.*': matches no part") as caught:
        chosen(NAMES, ["head", pattern], "model.freeze")
    assert f"{pattern!r}" in str(caught.value)
    assert "its parts: stem, stages, head" in str(caught.value)


def test_the_nearest_part_is_named() -> None:
    with pytest.raises(ValueError, match=r"did you mean 'stages\.1\.0\.norm1'\?"):
        chosen(NAMES, ["stages.1.0.norm2.*"], "model.freeze")


def test_a_name_lies_in_every_module_above_it() -> None:
    assert parts("a.b.weight") == ["a", "a.b", "a.b.weight"]
