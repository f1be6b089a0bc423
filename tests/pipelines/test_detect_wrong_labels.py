"""What `raysb plan` says of wrong labels: asked of what a run itself would leave, and judged."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from raysb.inspect_history.records import read_history
from raysb.local import fit_locally
from raysb.planning.labels import Labels
from raysb.selection import SelectiveBackprop
from raysb.source import demo


@pytest.fixture(scope="module")
def rows(load):
    """600 digits."""
    digits = demo.mnist5k()
    return load("frontier_rows").clean(digits["image"][:600], digits["label"][:600].astype(int))


def test_what_is_asked_after_the_last_epoch_is_the_history_that_a_run_leaves(load, rows, tmp_path):
    detect = load("detect_wrong_labels")
    job, _, _ = detect.job_of(rows, detect.settings_of(SelectiveBackprop(), 2, 1))
    asked = list(detect.histories(job))
    assert len(asked) == 2
    left = read_history(Path(fit_locally(replace(job, directory=tmp_path / "run")).path))
    assert asked[-1].num_steps == left.num_steps
    for name in ("id", "mean_loss", "scored_loss", "correct", "first_learned_epoch"):
        np.testing.assert_array_equal(asked[-1].samples[name], left.samples[name], err_msg=name)
    assert (asked[0].samples["scored_loss"] != left.samples["scored_loss"]).any()


@pytest.mark.parametrize(
    ("finding", "share", "verdict"),
    [
        ("wrong", 0.2, "right"),
        ("wrong", 0.0, "WRONG"),
        ("right", 0.0, "right"),
        ("right", 0.05, "WRONG"),
        ("unlearned", 0.2, "nothing"),
        ("unknown", 0.0, "nothing"),
    ],
)
def test_a_verdict_is_right_if_wrong_labels_are_found_where_there_are_any(
    load, finding, share, verdict
):
    said = load("detect_wrong_labels").Said(
        "clean", share, "probe", 1, 1, Labels(finding=finding, share=0.2), "--selector.kind uniform"
    )
    assert said.verdict == verdict
    assert verdict in said.cells()


def test_a_share_of_the_labels_is_changed_and_each_to_another_class(load, rows):
    changed = load("frontier_rows").with_wrong_labels(rows, 0.05)
    assert changed.wrong.sum() == 30
    np.testing.assert_array_equal(changed.wrong, changed.label != rows.label)
    assert not load("frontier_rows").with_wrong_labels(rows, 0.0).wrong.any()
