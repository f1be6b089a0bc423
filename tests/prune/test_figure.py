"""Pictures are written with what they show; how they look is for people to judge."""

import pytest

pytest.importorskip("matplotlib")

from raysb.prune.figure import draw_importance, draw_rebirth
from raysb.prune.rebirth import Gain, Outcome


def test_every_layer_has_a_panel_with_its_name_and_number_of_channels(tmp_path) -> None:
    layers = {f"stages.{i}": [3.0, 2.0, 1.0][: i + 1] for i in range(3)} | {
        f"conv{i}": [1.0, -0.5] for i in range(3)
    }
    file = tmp_path / "new" / "importance.svg"
    draw_importance(layers, "a run", str(file))
    text = file.read_text()
    assert all(f"{name}: {len(values)} channels" in text for name, values in layers.items())
    assert "a run" in text


def test_criteria_are_told_with_their_errors_and_the_parents(tmp_path) -> None:
    file = tmp_path / "rebirth.svg"
    one = Outcome(0.01, (0.4, 0.5), (0.015, 0.016), (0.99, 0.98), None, Gain(4, 3, 2))
    none = Outcome(0.01, (), (), (), 0.4, Gain(1, 1, 1))
    draw_rebirth({"l1": [one, one], "sum": [none], "taylor_act": [one, none]}, 0.2, str(file))
    text = file.read_text()
    told = ("l1", "sum", "taylor_act", "before rebirth", "parent", "0.2 points more")
    assert all(word in text for word in told)


def test_an_ending_that_is_no_format_is_told(tmp_path) -> None:
    with pytest.raises(ValueError, match="bmpx"):
        draw_importance({"a": [1.0]}, "a run", str(tmp_path / "a.bmpx"))
