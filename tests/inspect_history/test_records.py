"""The history of a run under plain names: the numbers of a plain list of all losses."""

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from raysb.config import load
from raysb.errors import RunDirectoryError
from raysb.inspect_history.records import read_history
from raysb.run import train

sys.path.insert(0, str(Path(__file__).parent))
from histories import losses_of, write_checkpoint

IDS = np.array([7, -3, 40_000_000_000, 12, 0])


def test_the_columns_are_those_of_a_plain_list_of_all_records() -> None:
    lost, right, chosen = losses_of(IDS, 6)
    lost[5, 1] = np.nan
    write_checkpoint("run", 60, IDS, (lost, right, chosen))
    history = read_history(Path("run"))
    samples, by_id = history.samples, np.argsort(IDS)
    assert (history.num_samples, history.num_steps, history.num_epochs) == (5, 60, 6)
    assert history.judged
    for position, n in enumerate(by_id):
        one = {name: column[position] for name, column in samples.items()}
        finite = lost[:, n][np.isfinite(lost[:, n])]
        assert one["id"] == IDS[n]
        assert one["loss"] == finite[-1]
        assert one["mean_loss"] == pytest.approx(finite.mean(), rel=1e-5)
        assert one["loss_variance"] == pytest.approx(finite.var(), rel=1e-4)
        assert one["times_scored"] == len(finite)
        assert one["times_selected"] == chosen[:, n].sum()
        assert one["times_nonfinite"] == 6 - len(finite)
        assert one["nonfinite"] == (n == 1)
        assert one["forgetting_events"] == (right[:-1, n] & ~right[1:, n]).sum()
        first = np.flatnonzero(right[:, n])
        assert one["first_learned_epoch"] == (first[0] if len(first) else 65535)
        assert (one["correct"], one["selected"]) == (right[-1, n], chosen[-1, n])
        assert one["last_epoch"] == 5
        assert not one["backward"]


def test_counts_can_be_subtracted_without_wrapping_round() -> None:
    write_checkpoint("run", 1, IDS, losses_of(IDS, 3))
    samples = read_history(Path("run")).samples
    assert {str(column.dtype) for column in samples.values()} == {
        *("int64", "float32", "int32", "bool")
    }
    assert (samples["times_selected"] - samples["times_scored"]).min() < 0


def test_the_checkpoint_with_the_most_steps_counts_however_it_was_copied() -> None:
    for step, epochs in ((9, 1), (30, 3), (200, 2)):
        write_checkpoint("run", step, IDS, losses_of(IDS, epochs))
    Path("run/checkpoint_000000200").rename("run/checkpoint_2026-01-01")
    shutil.copytree("run/checkpoint_000000009", "run/checkpoint_9999")
    assert read_history(Path("run")).num_epochs == 2


def test_a_run_where_nothing_was_ever_right_is_not_judged() -> None:
    lost, _, chosen = losses_of(IDS, 2)
    write_checkpoint("run", 1, IDS, (lost, [None, None], chosen))
    assert not read_history(Path("run")).judged


def test_a_uniform_run_has_no_history_and_is_told_what_gives_one() -> None:
    flags = "--engine local --data.train digits --model.name mlp --train.epochs 1"
    more = "--selector.kind uniform --run.dir run --train.use_gpu false"
    train(load(None, [*flags.split(), *more.split()]))
    with pytest.raises(RunDirectoryError, match=r"no history: selector\.kind=uniform.*raysb score"):
        read_history(Path("run"))


def test_what_holds_no_history_is_said() -> None:
    with pytest.raises(FileNotFoundError, match="no such folder"):
        read_history(Path("nowhere"))
    Path("run").mkdir()
    with pytest.raises(RunDirectoryError, match=r"holds no checkpoint_"):
        read_history(Path("run"))
    write_checkpoint("run", 1, IDS[:0], ([], [], []))
    with pytest.raises(RunDirectoryError, match="trained without scoring"):
        read_history(Path("run"))


def test_a_damaged_checkpoint_is_said_to_be_one() -> None:
    write_checkpoint("run", 1, IDS, losses_of(IDS, 1))
    arrays = Path("run/checkpoint_000000001/history.npz")
    arrays.write_bytes(arrays.read_bytes()[:200])
    with pytest.raises(RunDirectoryError, match="damaged"):
        read_history(Path("run"))
    arrays.unlink()
    with pytest.raises(RunDirectoryError, match="not copied as a whole"):
        read_history(Path("run"))
    Path("run/checkpoint_000000001/stream.json").write_text("{")
    with pytest.raises(RunDirectoryError, match="damaged"):
        read_history(Path("run"))
