"""Small files that claim what fills a memory, or unfold to it, are refused before it is taken."""

import gzip
import io
import json
import resource
import struct
import tarfile
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from kinds import MEMORY, picture
from PIL import Image

from raysb.errors import DataError
from raysb.source.convert import Convert, convert
from raysb.source.convert.pictures import MAX_BYTES
from raysb.source.formats import find_formats
from raysb.source.images import open_picture
from raysb.source.open import open_sources
from raysb.source.parquet import ParquetSource
from raysb.source.settings import Data

LITTLE = 64 << 20  # bytes that a refusal may take


@contextmanager
def taking_little() -> Iterator[None]:
    """Python's own allocations, and numpy's, stay small in the block; all others are bounded."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (held + MEMORY, before[1]))
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < LITTLE
    finally:
        tracemalloc.stop()
        resource.setrlimit(resource.RLIMIT_AS, before)


def png(width: int, height: int, *, pixels: bool = False) -> bytes:
    """A grey PNG that says its size; with pixels all of them are there, black, a thousandth."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + check

    data = zlib.compress(bytes((width + 1) * height) if pixels else b"", 9)
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def jpeg(width: int, height: int) -> bytes:
    """A JPEG whose header claims a size."""
    content = picture("JPEG")
    start = content.index(b"\xff\xc0") + 5
    return content[:start] + struct.pack(">HH", height, width) + content[start + 4 :]


def refusal(read: Callable[[], object]) -> str:
    """What is said where something is refused; nothing where it is not."""
    try:
        read()
    except DataError as error:
        return str(error)
    return ""


def read_all(path: Path, data: Data) -> None:
    """Open a file as a run does, and read it to its end."""
    source = ParquetSource(str(path), data=data)
    batch = source.read(None, 0, source.num_rows)
    assert {len(column) for column in batch.values()} == {source.num_rows}


def where(row: int) -> str:
    return f"row {row}"


# --- pictures -------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", [png(60_000, 60_000), png(2**31 - 1, 1), jpeg(65_000, 65_000)])
def test_a_picture_that_claims_too_many_pixels_is_refused_wherever_it_lies(
    tmp_path: Path, content: bytes
) -> None:
    (tmp_path / "pictures" / "a").mkdir(parents=True)
    (tmp_path / "pictures" / "a" / "1.png").write_bytes(content)
    file = tmp_path / "rows.parquet"
    rows = pa.table({"image": pa.array([content] * 3), "label": [0, 1, 0]})
    pq.write_table(rows, file)
    for read in (
        lambda: convert(tmp_path / "pictures", tmp_path / "out"),
        lambda: ParquetSource(str(file), data=Data()),
        lambda: ParquetSource(str(file), data=Data(image_size=(8, 8))),
    ):
        with (
            taking_little(),
            pytest.raises(DataError, match=r"(1\.png|rows\.parquet row 0).*pixel"),
        ):
            read()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pictures", "rows.parquet"]


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_the_limit_of_pixels_holds_in_every_thread_at_once_and_changes_no_filter() -> None:
    """Pillow itself only warns up to twice of its limit, and warnings are of the whole process."""
    import warnings

    side = int(Image.MAX_IMAGE_PIXELS**0.5) + 1
    between, before = png(side, side), list(warnings.filters)

    with ThreadPoolExecutor(8) as pool:
        said = pool.map(lambda _: refusal(lambda: open_picture(between, where, 0)), range(200))
        assert all("larger than the limit" in each for each in said)
    assert open_picture(png(side - 2, side - 2), where, 0).size == (side - 2, side - 2)
    assert list(warnings.filters) == before


def test_the_limit_of_pixels_is_pillow_s_own_and_can_be_moved(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert Image.MAX_IMAGE_PIXELS == 89_478_485
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 80)
    open_picture(png(8, 10), where, 0)
    with pytest.raises(DataError, match="larger than the limit of 80 pixels"):
        open_picture(png(9, 9), where, 0)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    open_picture(png(60_000, 60_000), where, 0)


def test_pictures_that_unfold_to_a_gigabyte_a_batch_are_refused_until_one_asks_for_it() -> None:
    bomb = png(9_000, 9_000, pixels=True)  # below the limit of pixels
    assert len(bomb) < 100_000
    values = np.empty(64, object)
    values[:] = bomb
    sample = {"image": values}
    with (
        taking_little(),
        pytest.raises(DataError, match=r"\[9000, 9000, 1\] take 81 MB each.*image"),
    ):
        find_formats(sample, inputs=("image",), image_size=None, place=where)
    for size in ((8, 8), (9_000, 9_000)):
        assert find_formats(sample, inputs=("image",), image_size=size, place=where)


@pytest.mark.parametrize(
    "shape", ["[100000, 100000, 3]", "[-4, -4]", "[0, 3]", "[1e999, 3]", "[[[", "[" * 9_999, "{}"]
)
def test_a_shape_in_the_metadata_of_a_file_takes_no_memory(tmp_path: Path, shape: str) -> None:
    table = pa.table({"image": pa.array([picture("PNG")] * 4), "label": [0, 1, 0, 1]})
    table = table.replace_schema_metadata({"shape": shape, "encoding": "png"})
    pq.write_table(table, tmp_path / "a.parquet")
    with taking_little():
        said = refusal(lambda: read_all(tmp_path / "a.parquet", Data()))
    assert ("a.parquet" in said) == (shape == "[100000, 100000, 3]")  # others are not for us


# --- footers --------------------------------------------------------------------------------------


def varint(number: int) -> bytes:
    """A signed number as Thrift's compact protocol has it."""
    number = ((number << 1) ^ (number >> 63)) & (2**64 - 1)
    out = b""
    while True:
        number, low = number >> 7, number & 0x7F
        out += bytes([low | (0x80 if number else 0)])
        if not number:
            return out


ROWS = 100_003  # its varint occurs in the footer where it means a number of rows, and nowhere else


def claiming(path: Path, rows: int, name: str, which: Callable[[int], bool]) -> None:
    """A file whose footer says another number of rows, in some of the places where it says one."""
    stream = io.BytesIO()
    table = pa.table({"x": np.zeros(ROWS, np.float32), name: np.arange(ROWS)})
    pq.write_table(
        table,
        stream,
        row_group_size=ROWS,
        use_dictionary=False,
        write_statistics=False,
        store_schema=False,
        compression="none",
    )
    content = stream.getvalue()
    size = int.from_bytes(content[-8:-4], "little")
    first, *rest = content[-8 - size : -8].split(varint(ROWS))
    assert len(rest) >= 4
    footer = first + b"".join(
        varint(rows if which(place) else ROWS) + part for place, part in enumerate(rest)
    )
    path.write_bytes(content[: -8 - size] + footer + len(footer).to_bytes(4, "little") + b"PAR1")


@pytest.mark.parametrize("rows", [-1, -(2**62), 0, 5, ROWS - 1, ROWS + 1, 2**27, 2**40, 2**62])
@pytest.mark.parametrize("places", ["all", "total", "others"])
@pytest.mark.parametrize("name", ["id", "n"])
def test_numbers_of_rows_that_are_not_there_are_refused(
    tmp_path: Path, rows: int, places: str, name: str
) -> None:
    path = tmp_path / "claims.parquet"
    claiming(path, rows, name, lambda i: places == "all" or (i == 0) == (places == "total"))
    with taking_little():
        said = refusal(lambda: read_all(path, Data(inputs=("x",), target=None)))
    # a footer may name fewer rows than there are, if it does so everywhere
    assert ("claims.parquet" in said) == (places != "all" or not 0 < rows < ROWS)


def test_a_label_beyond_reason_makes_no_model_of_a_billion_outputs(tmp_path: Path) -> None:
    table = pa.table({"x": np.zeros(4), "label": [0, 1, 2**40, 1]})
    pq.write_table(table, tmp_path / "a.parquet")
    data = Data(train=str(tmp_path / "a.parquet"), inputs=("x",), num_readers=0)
    with pytest.raises(DataError, match=r"a\.parquet row 2: the label 1099511627776 .* outputs"):
        open_sources(data, seed=0)
    assert open_sources(data, seed=0, labels=False).num_classes is None


@pytest.mark.parametrize("column", [0, 1])
def test_a_flipped_bit_in_the_rows_of_a_converted_file_is_noticed(
    tmp_path: Path, column: int
) -> None:
    """Pixels and numbers have no wrong values: only a checksum tells."""
    lines = [f"{i},{i / 7},{i % 2}" for i in range(50)]
    (tmp_path / "a.csv").write_text("\n".join(["id,x,label", *lines]))
    convert(tmp_path / "a.csv", tmp_path / "out", Convert(features=("x",)))
    [file] = (tmp_path / "out").glob("*.parquet")
    data = Data(inputs=("features",))
    ParquetSource(str(file), data=data)
    chunk = pq.read_metadata(file).row_group(0).column(column)
    content = bytearray(file.read_bytes())
    content[chunk.data_page_offset + chunk.total_compressed_size - 3] ^= 4
    file.write_bytes(content)
    with pytest.raises(DataError, match=r"part-00000-of-00001\.parquet: row group 0 .*CRC"):
        ParquetSource(str(file), data=data)


# --- archives and text ----------------------------------------------------------------------------


def header(name: str, size: int, kind: bytes = tarfile.REGTYPE) -> bytes:
    """A header of TAR that claims a size."""
    member = tarfile.TarInfo(name)
    member.size, member.type = size, kind
    return member.tobuf(tarfile.GNU_FORMAT)


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME])
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_a_header_of_an_archive_that_claims_gigabytes_takes_none(
    tmp_path: Path, kind: bytes, pack: Callable[[bytes], bytes]
) -> None:
    content = header("a.png", 40 * MAX_BYTES, kind) + bytes(1_024)
    (tmp_path / "a.tar").write_bytes(pack(content))
    with taking_little(), pytest.raises(DataError, match=r"a\.tar: the archive cannot be read"):
        convert(tmp_path / "a.tar", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["a.tar"]


def test_a_picture_of_an_archive_that_claims_gigabytes_takes_none(tmp_path: Path) -> None:
    content = header("d/a.png", MAX_BYTES + 1) + bytes(1_024)
    (tmp_path / "a.tar").write_bytes(content)
    with taking_little(), pytest.raises(DataError, match=r"a\.tar|d/a\.png"):
        convert(tmp_path / "a.tar", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["a.tar"]


@pytest.mark.parametrize("name", ["../../evil.png", "/etc/evil.png", "a/../../evil.png"])
def test_names_of_an_archive_lead_nowhere(tmp_path: Path, name: str) -> None:
    inside = tmp_path / "in" / "side"
    inside.mkdir(parents=True)
    with tarfile.open(inside / "a.tar", "w") as archive:
        for each in ("d/good.png", name):
            member = tarfile.TarInfo(each)
            member.size = len(picture("PNG"))
            archive.addfile(member, io.BytesIO(picture("PNG")))
    before = sorted(tmp_path.rglob("*"))
    refusal(lambda: convert(inside / "a.tar", inside / "out", Convert(on_error="skip")))
    made = {path for path in tmp_path.rglob("*") if inside / "out" not in (path, *path.parents)}
    assert made == set(before)
    assert not Path("/etc/evil.png").exists()


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE])
def test_links_and_pipes_of_an_archive_are_no_rows(tmp_path: Path, kind: bytes) -> None:
    (tmp_path / "secret.png").write_bytes(picture("PNG"))
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        member = tarfile.TarInfo("d/link.png")
        member.type, member.linkname = kind, str(tmp_path / "secret.png")
        archive.addfile(member)
    with pytest.raises(DataError, match="no picture"):
        convert(tmp_path / "a.tar", tmp_path / "out")


def test_json_that_nests_deeply_is_an_error_and_no_crash(tmp_path: Path) -> None:
    table = pa.table({"x": np.zeros(4), "label": pa.array([0, 1, 0, 1])})
    field = table.schema.field("label").with_metadata({"classes": "[" * 100_000})
    table = table.cast(pa.schema([table.schema.field("x"), field]))
    pq.write_table(table, tmp_path / "a.parquet")
    from raysb.source.classes import classes_of
    from raysb.source.convert import read_classes

    assert classes_of(pq.read_schema(tmp_path / "a.parquet"), "label") is None
    (tmp_path / "_classes.json").write_text("[" * 100_000)
    with pytest.raises(DataError, match=r"--classes .*cannot be read"):
        read_classes(tmp_path)
    (tmp_path / "_classes.json").write_text(json.dumps(["a"]))
    assert read_classes(tmp_path) == ("a",)
