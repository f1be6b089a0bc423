"""Records: what was measured, on what, by which command; one JSON and one Markdown file.

Each part carries its own machine, commit, date and command, so that a part measured again replaces
itself and says so. Nothing in a record names the machine or a path on it.
"""

import json
import os
import platform
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from bench.measures import Measure, markdown_table

ROOT = Path(__file__).parents[3]
PACKAGES = ("torch", "ray", "numpy", "pyarrow")


def write(
    folder: Path, title: str, measures: Sequence[Measure], context: dict[str, Any], *, quick: bool
) -> list[Path]:
    """Add the parts that were measured to this month's record; returns both files."""
    cpus = os.cpu_count()
    stem = f"{title}_{cpus}cpu_{datetime.now(UTC):%Y-%m}{'_quick' if quick else ''}"
    path = folder / f"{stem}.json"
    old = json.loads(path.read_text()) if path.exists() else {}
    machine = hardware()
    parts: dict[str, Any] = old.get("parts", {})
    for part in parts.values():
        part.setdefault("hardware", old["hardware"])
    for part in sorted({m.part for m in measures}):
        lines = [m.to_json() for m in measures if m.part == part]
        parts[part] = {"hardware": machine, **context, "measures": lines}
    record = {"title": title, "hardware": machine, "parts": dict(sorted(parts.items()))}
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=1) + "\n")
    page = path.with_suffix(".md")
    page.write_text(_page(record))
    return [path, page]


def hardware() -> dict[str, Any]:
    """What the figures depend on, and nothing that names the machine."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [x.partition(":")[2] for x in info.read_text().splitlines() if "model name" in x]
        model = names[0].strip() if names else model
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {"cpu": model, "cores": os.cpu_count(), "memory_GiB": round(memory)}


def context(arguments: Sequence[str], script: str = "benchmarks/throughput.py") -> dict[str, Any]:
    """Commit, versions and command of this run; paths are cut to their last part."""
    words = [Path(word).name if "/" in word else word for word in arguments]
    return {
        "command": " ".join(["python", f"pipelines/{script}", *words]),
        "commit": _commit(),
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "versions": {"python": platform.python_version()} | {p: version(p) for p in PACKAGES},
        "load_before": round(os.getloadavg()[0], 1),
    }


def _commit() -> str:
    try:
        commit = _git("rev-parse", "--short=10", "HEAD")
        changed = _git("status", "--porcelain", "--untracked-files=no", "raysb")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return f"{commit} with changes in raysb/" if changed else commit


def _git(*words: str) -> str:
    done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def _page(record: dict[str, Any]) -> str:
    lines = [f"# {record['title']}", "", "Values are medians; spread is the range."]
    for part, one in record["parts"].items():
        names = ("part", "name", "values", "at_most", "at_least", "note")
        measures = [Measure(**{k: m[k] for k in names}) for m in one["measures"]]
        made_on = one["hardware"]
        machine = f"{made_on['cores']} cores of {made_on['cpu']}, {made_on['memory_GiB']} GiB"
        versions = ", ".join(f"{k} {v}" for k, v in one["versions"].items())
        lines += [
            "",
            f"## Part {part}",
            "",
            f"`{one['command']}`, {one['date']}, commit {one['commit']}, on {machine}; {versions}, "
            f"load before the start {one['load_before']}.",
            "",
            markdown_table(measures),
        ]
    return "\n".join(lines) + "\n"
