"""Names from files cannot steer a terminal, break a line, style a text, or become a formula."""

import csv
import io
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pyte
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kinds import KINDS
from tensorboardX.proto.event_pb2 import Event

from raysb.inspect_history.export import write_table
from raysb.inspect_history.summary import show
from raysb.printable import printable
from raysb.report.console import Console
from raysb.report.loggers.tensorboard import TensorBoard
from raysb.source.parquet import ParquetSource
from raysb.source.settings import Data
from raysb.source.spans import origin_of

HOSTILE = [
    "\x1b[2J\x1b[H",  # clears the screen
    "\x1b]0;owned\x07",  # names the window
    "\x1b[31mred",
    "\x9b31m",  # the same in one character
    "a\rb",  # writes over the line
    "a\nraysb: all is well",
    "a\u2028b",
    "a\u202egnp.exe",  # turns the reading direction
    "a\u200bb",  # takes no room
    "a\udcffb",  # half a character, of a name that is not UTF-8
    "a\x00b\x08\x7f",
]
HARMLESS = [
    "cat",
    "ein Hund",
    "[red]cat[/red]",
    "=cmd()|' /C calc'!A0",
    "猫",
    "naïve",
    "<b>",
    "a\\n",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_what_a_terminal_would_obey_is_written_out(text: str) -> None:
    shown = printable(text)
    assert shown.isprintable()
    assert shown.encode("ascii", "backslashreplace").decode().isascii()
    assert shown != text


@pytest.mark.parametrize("text", HARMLESS)
def test_what_is_plainly_visible_stays_as_it_is(text: str) -> None:
    assert printable(text) == text


@settings(deadline=None)
@given(st.text())
def test_any_text_becomes_visible_on_one_line_and_a_second_time_changes_nothing(text: str) -> None:
    once = printable(text)
    assert once.isprintable()
    assert len(once.splitlines()) <= 1
    assert printable(once) == once
    several = printable(text, keep="\n")
    assert all(line.isprintable() for line in several.split("\n"))
    assert several.count("\n") == text.count("\n")
    several.encode()  # a stream in UTF-8 takes it, whatever it was


def test_a_line_of_a_run_leaves_the_terminal_and_its_log_as_they_are(tmp_path: Path) -> None:
    screen = pyte.Screen(100, 20)
    stream = io.StringIO()
    console = Console(stream)
    console.log_to(tmp_path / "run.log")
    console.line("first")
    for text in HOSTILE:
        console.line(f"written: {text}")
    console.close()
    pyte.Stream(screen).feed(stream.getvalue().replace("\n", "\r\n"))
    shown = [line.rstrip() for line in screen.display if line.strip()]
    assert shown[0] == "first"
    assert len(shown) == 1 + len(HOSTILE)
    assert all(line.startswith("written: ") for line in shown[1:])
    assert screen.title == ""
    logged = (tmp_path / "run.log").read_text().split("\n")
    assert logged == [*stream.getvalue().split("\n")]
    assert all(line.isprintable() for line in logged)


@pytest.mark.parametrize("text", HOSTILE)
def test_a_class_or_a_file_in_the_list_of_a_history_stays_on_its_line(text: str) -> None:
    assert show(0, [text]).isprintable()
    assert show(text).isprintable()
    assert show(0, ["cat"]) == "cat"


def test_the_list_of_a_history_with_hostile_names_is_plain_lines() -> None:
    from raysb.commands.history import lines
    from raysb.inspect_history.summary import Counts, Inspected

    sample = dict.fromkeys(("suspicion", "loss", "mean_loss"), 0.5)
    top = [{"id": i, "file": text, "label": 0, **sample} for i, text in enumerate(HOSTILE)]
    counts = Counts(
        num_samples=9,
        num_epochs=1,
        num_steps=1,
        num_never_learned=0,
        num_forgotten=0,
        num_never_selected=0,
        num_nonfinite=0,
    )
    inspected = Inspected(
        run="run",
        checkpoint="checkpoint_1",
        counts=counts,
        by="suspicion",
        top=top,
        classes=("\x1b[31mcat\n",),
        export=None,
        images=None,
    )
    found = lines(inspected)
    assert all(line.isprintable() for line in found)
    assert sum("cat" in line for line in found) == len(HOSTILE)


def events(folder: Path) -> list[Any]:
    """The events of TensorBoard's file: length, its checksum, content, its checksum."""
    [file] = folder.glob("events.*")
    content, found = file.read_bytes(), []
    while content:
        size = int.from_bytes(content[:8], "little")
        found.append(Event.FromString(content[12 : 12 + size]))
        content = content[16 + size :]
    return found


@pytest.mark.filterwarnings("ignore")
def test_settings_and_tags_of_tensorboard_are_a_block_of_code_and_plain_names(
    tmp_path: Path,
) -> None:
    logger = TensorBoard()
    value = "<script>alert(1)</script>\n\n# no longer a block [x](javascript:alert(1))"
    logger.start({"data.train": value, "model.name": "mlp"}, tmp_path)
    logger.log({"eval/error <img src=x onerror=alert(1)>": 0.5}, 1)
    logger.finish("finished")
    values = [each for event in events(tmp_path) for each in event.summary.value]
    tags = [each.tag for each in values]
    assert "config/text_summary" in tags
    assert not any(set(tag) & set("<>\"'()= ") for tag in tags)
    [config] = [each for each in values if each.tag.startswith("config")]
    text = config.tensor.string_val[0].decode()
    assert all(line.startswith("    ") for line in text.split("\n"))  # Markdown's block of code


@pytest.mark.parametrize("name", ["=cmd().parquet", "+1.parquet", "-1.parquet", "@a.parquet"])
def test_no_cell_of_an_exported_csv_is_a_formula(tmp_path: Path, name: str, monkeypatch) -> None:
    """Files have absolute names, so none begins with what a spreadsheet would compute."""
    monkeypatch.chdir(tmp_path)
    pq.write_table(pa.table({"x": np.arange(4.0)}), name)
    files = origin_of(ParquetSource(name, data=Data(inputs=("x",), target=None))).files
    table = pa.table({"id": [-1, 2], "file": pa.array(files * 2).dictionary_encode()})
    write_table(table, tmp_path / "all.csv")
    rows = list(csv.reader((tmp_path / "all.csv").open()))
    for row in rows[1:]:
        assert row[1] == str(tmp_path / name)
        assert all(cell[0] not in "=+@\t\r" for cell in row)
        assert float(row[0])


def test_a_history_s_export_has_no_text_but_file_names(tmp_path: Path) -> None:
    from raysb.inspect_history.run import inspect_history
    from raysb.inspect_history.settings import Wanted

    KINDS["history"].make(tmp_path)
    out = tmp_path / "all.parquet"
    inspect_history(tmp_path, Wanted(origin=False, export=str(out)))
    kinds = {field.type for field in pq.read_schema(out)}
    assert not any(pa.types.is_string(k) or pa.types.is_dictionary(k) for k in kinds)


def test_the_errors_of_this_process_can_be_written_whatever_a_file_is_called(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sys.stdout.write(printable("a\udcff\x1b"))  # a lone half would be a UnicodeEncodeError
    assert capsys.readouterr().out == "a\\udcff\\x1b"


def test_commands_show_hostile_names_of_columns_classes_and_files_plainly(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from raysb.cli import main
    from raysb.source.classes import with_classes

    name = "".join(HOSTILE[:4])
    label = with_classes(pa.field("label", pa.int64()), (name, "b"))
    schema = pa.schema([pa.field("x", pa.float64()), label, pa.field(name, pa.string())])
    columns = [pa.array(np.arange(4.0)), pa.array([0, 1, 0, 1]), pa.array([name] * 4)]
    file = tmp_path / "rows.parquet"
    pq.write_table(pa.table(columns, schema=schema), file)
    main(["data", "inspect", str(file)])
    main(["data", "inspect", str(file), "--json"])
    main(["data", "convert", str(file), str(tmp_path / "out")])
    pictures = tmp_path / "pictures" / name
    pictures.mkdir(parents=True)
    (pictures / "bad\x1b[2J.png").write_bytes(b"no picture")
    main(["data", "convert", str(tmp_path / "pictures"), str(tmp_path / "other")])
    main(["data", "convert", str(tmp_path / "pictures"), str(tmp_path / "x"), "--on-error", "skip"])
    said = capsys.readouterr()
    assert "\\x1b[2J" in said.out
    assert "\\x1b[2J" in said.err
    assert all(line.isprintable() for line in (said.out + said.err).split("\n"))
