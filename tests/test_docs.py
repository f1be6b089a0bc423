"""The documents are run, not trusted: every line of Python, every figure printed, every link."""

import contextlib
import io
import re
from pathlib import Path
from typing import Any

import pytest

DOCS = Path(__file__).parents[1] / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
TOUR = ["source", "scoring", "history", "selection", "training", "report"]
FENCE = re.compile(r"```python\n(.*?)```", re.DOTALL)
PRINTED = re.compile(r"^ *print\(.*\)  # (.*)$", re.MULTILINE)


def run(page: Path, names: dict[str, Any]) -> None:
    """Run a page's Python from top to bottom; what it prints must be what its comments say."""
    for code in FENCE.findall(page.read_text(encoding="utf-8")):
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            exec(compile(code, str(page), "exec"), names)
        assert out.getvalue().splitlines() == PRINTED.findall(code), page.name


def test_the_tour_through_the_stages_runs_in_one_session() -> None:
    names: dict[str, Any] = {"__name__": "__main__"}
    for stage in TOUR:
        run(DOCS / "how-it-works" / f"{stage}.md", names)


def test_the_tour_has_a_page_for_every_stage() -> None:
    pages = {page.stem for page in (DOCS / "how-it-works").glob("*.md")}
    assert pages == {*TOUR, "README"}


@pytest.mark.parametrize("name", ["choosing-a-selector", "own-loop"])
def test_the_examples_of_a_page_run(name: str) -> None:
    run(DOCS / f"{name}.md", {"__name__": "__main__"})


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(DOCS)))
def test_every_link_of_a_page_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target
