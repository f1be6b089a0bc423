"""The documents are run, not trusted: every line of Python, every figure printed, every link."""

import contextlib
import importlib.util
import io
import re
from pathlib import Path
from typing import Any

import pytest

from raysb import cli

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


def test_getting_started_runs_and_reads_what_a_run_left(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    after, example = FENCE.findall((DOCS / "getting-started.md").read_text(encoding="utf-8"))
    names: dict[str, Any] = {"__name__": "__main__"}
    exec(example, names)
    assert names["result"].metrics["num_scored"] == 2884
    words = ["--engine", "local", "--data.train", "digits", "--train.epochs", "2"]
    assert cli.main(["train", *words, "--run.dir", "a-run"]) == 0
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(after, {"run_dir": "a-run"})
    assert re.fullmatch(r"(\d: error [\d.]+%, kept \d+%\n){2}", out.getvalue())


def maker() -> Any:
    spec = importlib.util.spec_from_file_location("make", DOCS / "make.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("page", ["api.md", "commands.md", "errors.md"])
def test_a_page_made_from_the_code_is_what_the_code_says(page: str) -> None:
    made = maker().PAGES[page]()
    assert (DOCS / page).read_text(encoding="utf-8") == made, "run: python docs/make.py"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(DOCS)))
def test_every_link_of_a_page_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target
