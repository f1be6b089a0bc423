"""Metrics as lines of JSON."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raysb.errors import DataError, RunDirectoryError
from raysb.report.records import MetricsWriter, read_metrics


def write(path: Path, *records: dict[str, object]) -> None:
    with MetricsWriter(path) as writer:
        for record in records:
            writer.write(record)


def test_records_are_read_as_they_were_written_in_order(tmp_path: Path) -> None:
    records = [{"step": 1, "score/loss": 2.5}, {"step": 2, "note": "ü\n"}]
    write(tmp_path / "metrics.jsonl", *records)
    assert read_metrics(tmp_path) == records
    assert read_metrics(tmp_path / "metrics.jsonl") == records


@given(st.floats())
@settings(deadline=None)
def test_floats_survive_bit_for_bit_and_others_keep_their_key(
    tmp_path_factory: pytest.TempPathFactory, number: float
) -> None:
    path = tmp_path_factory.mktemp("run") / "metrics.jsonl"
    write(path, {"loss": number, "deep": {"list": [number]}})
    [record] = read_metrics(path)
    expected = number if np.isfinite(number) else None
    assert record == {"loss": expected, "deep": {"list": [expected]}}


def test_every_line_is_json_of_the_standard(tmp_path: Path) -> None:
    write(tmp_path / "m", {"nan": float("nan"), "inf": np.float32("inf")})
    [line] = (tmp_path / "m").read_text().splitlines()
    assert line == '{"nan": null, "inf": null}'


def test_numbers_of_numpy_are_numbers(tmp_path: Path) -> None:
    write(tmp_path / "m", {"a": np.int64(3), "b": np.float32(0.5), "c": np.array([1, 2])})
    assert read_metrics(tmp_path / "m") == [{"a": 3, "b": 0.5, "c": [1, 2]}]


def test_a_record_is_in_the_file_as_soon_as_it_is_written(tmp_path: Path) -> None:
    writer = MetricsWriter(tmp_path / "m")
    writer.write({"step": 1})
    assert read_metrics(tmp_path / "m") == [{"step": 1}]
    writer.close()
    writer.close()


def test_opening_again_appends(tmp_path: Path) -> None:
    write(tmp_path / "m", {"step": 1})
    write(tmp_path / "m", {"step": 2})
    assert [record["step"] for record in read_metrics(tmp_path / "m")] == [1, 2]


def test_a_last_line_cut_anywhere_is_left_out_and_writing_goes_on_cleanly(tmp_path: Path) -> None:
    path = tmp_path / "m"
    write(path, {"step": 1}, {"step": 2, "note": "ü"})
    whole = path.read_bytes()
    first = whole.index(b"\n") + 1
    for cut in range(first, len(whole) - 1):
        path.write_bytes(whole[:cut])
        assert [record["step"] for record in read_metrics(path)] == [1]
        write(path, {"step": 3})
        assert [record["step"] for record in read_metrics(path)] == [1, 3]


def test_a_last_line_of_zeros_as_a_crashed_machine_leaves_it_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "m").write_bytes(b'{"step": 1}\n\0\0\0\0\n')
    assert read_metrics(tmp_path / "m") == [{"step": 1}]


@pytest.mark.parametrize("line", [b"nonsense", b"[1]", b"\xff", b'{"step": '])
def test_a_damaged_line_in_the_middle_is_an_error_that_names_it(
    tmp_path: Path, line: bytes
) -> None:
    (tmp_path / "metrics.jsonl").write_bytes(b'{"step": 1}\n' + line + b'\n{"step": 2}\n')
    with pytest.raises(DataError, match=r"metrics\.jsonl, line 2: not a record"):
        read_metrics(tmp_path)


@pytest.mark.parametrize("saved_at", [None, 3])
def test_every_step_is_read_once_where_workers_were_started_again(
    tmp_path: Path, saved_at: int | None
) -> None:
    """They died after step 5, before the first checkpoint or after that of step 3."""
    lines = [{"kind": "train", "line": step, "step": step} for step in range(10)]
    first = saved_at or 0
    opening = {"kind": "start" if saved_at is None else "resume", "line": first, "step": first}
    before = [{"kind": "start", "line": 0, "step": 0}, *lines[1:6]]
    for died in (before, before[:1], []):
        path = tmp_path / f"{len(died)}.jsonl"
        write(path, *died, opening, *lines[first + 1 :])
        assert read_metrics(path) == [*died[:first], opening, *lines[first + 1 :]]
        write(path, opening)  # once more, at the same line
        assert read_metrics(path) == [*died[:first], opening]


def test_a_run_without_records_yet_has_none(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").touch()
    assert read_metrics(tmp_path) == []


@pytest.mark.parametrize("name", ["", "nowhere"])
def test_a_folder_without_a_run_is_an_error(tmp_path: Path, name: str) -> None:
    with pytest.raises(RunDirectoryError, match=r"holds no run: there is no metrics\.jsonl"):
        read_metrics(tmp_path / name)


def test_an_object_is_refused_and_writes_nothing(tmp_path: Path) -> None:
    with MetricsWriter(tmp_path / "m") as writer, pytest.raises(TypeError):
        writer.write({"step": object()})
    assert (tmp_path / "m").read_bytes() == b""


def test_the_lines_can_be_read_by_any_json_reader(tmp_path: Path) -> None:
    records = [{"step": n, "eval/error": n / 7} for n in range(5)]
    write(tmp_path / "m", *records)
    assert [json.loads(line) for line in (tmp_path / "m").open()] == records


def test_on_a_full_disk_lines_wait_for_room_and_none_is_half_written(tmp_path: Path) -> None:
    """On a disk of 64 kB, in a mount namespace of its own."""
    asked = ["unshare", "-m", sys.executable, "-c", FULL_DISK, str(tmp_path)]
    try:
        done = subprocess.run(asked, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("unshare is not installed")
    if done.returncode == 77 or "unshare:" in done.stderr:
        pytest.skip("a mount of one's own is not allowed here")
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["True", "True", "500"]
    assert done.stderr.count("cannot be written: No space left on device") == 1


FULL_DISK = """
import subprocess, sys
from pathlib import Path
from raysb.report.records import MetricsWriter, read_metrics

folder = Path(sys.argv[1])
if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", folder]).returncode:
    sys.exit(77)
with MetricsWriter(folder / "metrics.jsonl") as writer:
    for step in range(100):
        writer.write({"step": step})
    (folder / "other").write_bytes(bytes(56_000))
    for step in range(100, 500):
        writer.write({"step": step, "text": "x" * 20})
    found = [each["step"] for each in read_metrics(folder / "metrics.jsonl")]
    print(found == list(range(len(found))), 100 < len(found) < 500)
    (folder / "other").unlink()
print(len(read_metrics(folder / "metrics.jsonl")))
"""
