"""A damaged file of any kind is read, or refused by an error that names it; nothing else happens.

2,000 of them and more: `pytest tests/security -m "slow or not slow"`. Without `slow` it is a tenth.
"""

import shutil
import signal
from collections.abc import Callable
from functools import reduce
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kinds import KINDS
from mutations import Mutation, mutations
from victim import Victim

IN_ALL = 2_000
FEW = 12  # of each kind
MANY = -(-IN_ALL // len(KINDS)) - FEW

TREE = {"ValueError", "OSError", "RaysbError"}  # what a command shows as one message


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A folder with sound files of a kind, made once."""
    made: dict[str, Path] = {}

    def sound(kind: str) -> Path:
        if kind not in made:
            made[kind] = tmp_path_factory.mktemp("sound")
            KINDS[kind].make(made[kind])
        return made[kind]

    return sound


@pytest.mark.parametrize("kind", KINDS)
def test_a_sound_file_is_read(kind: str, sound: Callable[[str], Path], victim: Victim) -> None:
    copy = sound(kind).with_name("untouched")
    shutil.copytree(sound(kind), copy)
    try:
        assert victim.attempt(kind, copy) == {"error": None}
    finally:
        shutil.rmtree(copy)


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_file_is_read_or_refused_by_name(
    kind: str, sound: Callable[[str], Path], victim: Victim
) -> None:
    damage(kind, sound(kind), victim, examples=FEW, derandomize=True)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_many_damaged_files_are_read_or_refused_by_name(
    kind: str, sound: Callable[[str], Path], victim: Victim
) -> None:
    damage(kind, sound(kind), victim, examples=MANY, derandomize=False)


def damage(kind: str, folder: Path, victim: Victim, *, examples: int, derandomize: bool) -> None:
    """Mutate files of a kind, and look at what becomes of each."""

    @settings(
        max_examples=examples,
        derandomize=derandomize,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.sampled_from(KINDS[kind].files), mutations)
    def law(file: str, chosen: list[Mutation]) -> None:
        copy = folder.with_name("damaged")
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(folder, copy)
        content = reduce(
            lambda content, mutate: mutate(content), chosen, (copy / file).read_bytes()
        )
        (copy / file).write_bytes(content)
        check(kind, file, victim.attempt(kind, copy))

    law()


def check(kind: str, file: str, found: dict[str, object]) -> None:
    """Hold what became of a file against the law."""
    assert "died" not in found, f"the process ended ({found['died']}) over {file}"
    if found["error"] is None or not KINDS[kind].clear:
        return
    stem = Path(file).name.partition(".")[0]
    assert stem in str(found["message"]), found["trace"]
    assert TREE & set(found["bases"]), found["trace"]  # type: ignore[call-overload]


@pytest.mark.parametrize(
    ("found", "wrong"),
    [
        ({"died": -11}, "the process ended"),
        ({"error": "ValueError", "bases": ["ValueError"], "message": "bad", "trace": "T"}, "T"),
        ({"error": "KeyError", "bases": ["KeyError"], "message": "rows.csv", "trace": "T"}, "T"),
    ],
)
def test_the_check_finds_a_death_a_nameless_error_and_a_foreign_one(found, wrong) -> None:
    with pytest.raises(AssertionError, match=wrong):
        check("csv", "rows.csv", found)
    check("csv", "rows.csv", {"error": None})


def test_a_victim_that_dies_is_told_and_replaced(tmp_path: Path, victim: Victim) -> None:
    assert victim.attempt("death", tmp_path) == {"died": -signal.SIGSEGV}
    KINDS["classes"].make(tmp_path)
    assert victim.attempt("classes", tmp_path) == {"error": None}
