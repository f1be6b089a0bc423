"""Does `raysb plan --history` notice wrong labels by itself? What it says after each epoch.

    python pipelines/benchmarks/detect_wrong_labels.py [--data FOLDER] [--epochs 3] [--seeds 2]
        [--limit ROWS] [--out FOLDER]

The rows of the frontier's regimes, with 0, 5, 10 and 20 % of the labels changed to another class;
FOLDER holds train*.parquet and test*.parquet, without it the 5,000 digits `mnist5k` serve. On each
a run of the local engine with the frontier's net and augmentation, else with the defaults of
`raysb train`, by two selectors: `selective_backprop` as it is, and the probe that `raysb plan`
names, which trains on every row (`min_probability=1`). After each epoch its history goes to the
functions that `raysb plan --history` asks: what they say of the labels, and what they recommend. A
verdict is right where wrong labels are found if there are any, and none if there are none;
"nothing" where nothing is said of labels, as of rows that are not learned yet, and uniform training
is recommended. Results go to `pipelines/records/detect_wrong_labels_*`, after each run anew.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))  # the raysb beside this file
sys.path.insert(0, str(Path(__file__).parent))

import torch
from bench import records
from frontier_cells import CHANNELS
from frontier_rows import NUM_CLASSES, REGIMES, Rows, folder_of, load, with_wrong_labels

from raysb.config import Config
from raysb.inspect_history.records import RENAMED, RunHistory
from raysb.job import Silent, TrainingJob
from raysb.local import LocalStream
from raysb.nn.settings import Model
from raysb.optim.registry import build_optimizer
from raysb.planning.labels import Labels
from raysb.planning.measure import Measured, measure
from raysb.planning.run import labels_of, predict
from raysb.prepare import build_job, resolve
from raysb.schema import ID, Source
from raysb.selection import SelectiveBackprop
from raysb.source.open import open_sources
from raysb.source.settings import Data
from raysb.training.learner import Learner
from raysb.training.loop import Hooks, Loop
from raysb.training.memory import keep_freed_pages
from raysb.training.schedule import Budget
from raysb.training.settings import Evaluation, Training

SHARES = {"clean": (0.0, 0.05, 0.1, 0.2), "near_duplicates": (0.0, 0.05, 0.1, 0.2)}
SHARES["imbalanced"] = (0.0, 0.2)
SELECTORS = {
    "selective_backprop": SelectiveBackprop(),
    "every row (probe)": SelectiveBackprop(min_probability=1.0),
}
MEASURE_S = 5.0
VERDICTS = ("right", "WRONG", "nothing")
HEAD = ("regime", "wrong labels %", "selector", "seed", "epoch", "finding", "estimated %", "depth")
HEAD += ("mispredicted %", "easy %", "verdict", "recommended")


@dataclass(frozen=True)
class Said:
    """What the plan says of one run after one epoch."""

    regime: str
    share: float
    selector: str
    seed: int
    epoch: int
    labels: Labels
    recommended: str

    @property
    def verdict(self) -> str:
        """Whether it is right."""
        if self.labels.finding not in ("wrong", "right"):
            return "nothing"
        return "right" if (self.labels.finding == "wrong") == (self.share > 0) else "WRONG"

    def cells(self) -> tuple[str, ...]:
        """As text."""
        labels = self.labels
        told = f"{100 * labels.share:.1f}" if labels.finding == "wrong" else "-"
        depth = f"{labels.depth:.2f}" if labels.finding == "wrong" else "-"
        rates = (f"{100 * rate:.1f}" for rate in (labels.unlearned, labels.easy))
        named = (self.regime, f"{100 * self.share:g}", self.selector, str(self.seed))
        found = (str(self.epoch), labels.finding, told, depth, *rates, self.verdict)
        return (*named, *found, self.recommended)


def settings_of(selector: SelectiveBackprop, epochs: int, seed: int) -> Config:
    """The defaults of `raysb train`, but for the net, the augmentation and the epochs."""
    config = Config(
        data=Data(augment="shift"),
        model=Model(args={"channels": list(CHANNELS)}),
        selector=selector,
        train=Training(epochs=epochs, use_gpu=False, num_threads=1),
        engine="local",
    )
    return replace(config, run=replace(config.run, seed=seed, loggers=()))


def job_of(rows: Rows, config: Config) -> tuple[TrainingJob, Source, Config]:
    """The run of a configuration on rows in memory, and the rows as it reads them."""
    columns = {"image": rows.image, "label": rows.label, ID: torch.arange(len(rows)).numpy()}
    sources = open_sources(
        config.data, seed=config.run.seed, train=columns, num_classes=NUM_CLASSES
    )
    config = resolve(config, sources)
    return build_job(config, sources, Silent(), False), sources.train, config


def histories(job: TrainingJob) -> Iterator[RunHistory]:
    """Train; the history after each epoch, with the columns that `read_history` gives."""
    spec, kept = job.spec, []
    model = spec.task.build(spec.seed)
    torch.manual_seed(spec.seed)
    stream = LocalStream(spec)

    def keep(line: dict[str, Any]) -> None:
        if line["kind"] == "epoch":
            columns = stream.history.export()
            samples = {RENAMED.get(name, name): column for name, column in columns.items()}
            kept.append(RunHistory(checkpoint=Path(), num_steps=stream.num_steps, samples=samples))

    learner = Learner(spec.task, model, build_optimizer(model, job.training))
    budget = Budget(training=job.training, rows_per_epoch=spec.source.num_rows)
    Loop(learner, stream, job.training, Evaluation(), budget, Hooks(record=keep)).run()
    yield from kept


def ask(rows: Rows, case: tuple[str, float, str, int], epochs: int, cost: Measured) -> list[Said]:
    """One run, and what is said after each of its epochs."""
    job, source, config = job_of(rows, settings_of(SELECTORS[case[2]], epochs, case[3]))
    wanted = replace(config, train=replace(config.train, epochs=Training().epochs))
    said = []
    for epoch, history in enumerate(histories(job), 1):
        labels = labels_of(history, source, config)
        flags = predict(wanted, job, cost, labels).recommended.flags
        said.append(Said(*case, epoch, labels, flags))
    return said


def cases(seeds: int) -> Iterator[tuple[str, float, str, int]]:
    """Regime, share of wrong labels, selector and seed, seed by seed."""
    for seed in range(1, seeds + 1):
        for regime, shares in SHARES.items():
            for share in shares:
                for selector in SELECTORS:
                    yield regime, share, selector, seed


def summary(said: list[Said]) -> str:
    """How often what was found, by selector and epoch."""
    lines = []
    for selector in SELECTORS:
        for epoch in sorted({each.epoch for each in said}):
            asked = [s for s in said if (s.selector, s.epoch) == (selector, epoch)]
            for name, some in (("wrong", True), ("no wrong", False)):
                runs = [s for s in asked if (s.share > 0) == some]
                told = [sum(s.verdict == v for s in runs) for v in VERDICTS]
                lines.append((selector, str(epoch), name, str(len(runs)), *map(str, told)))
    head = ("selector", "epoch", "labels", "runs", *VERDICTS)
    return _table(head, lines)


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, ("---",) * len(head), *rows))


def write(folder: Path, said: list[Said], about: dict[str, Any]) -> list[Path]:
    """The table as Markdown and as JSON."""
    where = records.hardware()
    path = folder / f"detect_wrong_labels_{where['cores']}cpu_{datetime.now(UTC):%Y-%m}.json"
    folder.mkdir(parents=True, exist_ok=True)
    asked = [{**asdict(each), "verdict": each.verdict} for each in said]
    path.write_text(json.dumps({"hardware": where, **about, "asked": asked}, indent=1) + "\n")
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    head = (
        f"`{about['command']}`, {where['cores']} cores of {where['cpu']}, {about['date']}, commit "
        f"{about['commit']}, {versions}. {about['rows']}, one thread; {about['seconds']:.0f} s."
    )
    text = (__doc__ or "").split("\n\n")[2].strip()
    parts = ("# detect_wrong_labels", head, text, summary(said))
    parts += (_table(HEAD, [each.cells() for each in said]),)
    (page := path.with_suffix(".md")).write_text("\n\n".join(parts) + "\n")
    return [path, page]


def main() -> int:
    """Ask run after run; the record holds those that are finished."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", help="folder with train*.parquet and test*.parquet")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--limit", type=int, help="training rows at most")
    parser.add_argument("--out", type=Path, default=records.ROOT / "pipelines" / "records")
    given = parser.parse_args()
    about = records.context(sys.argv[1:], "benchmarks/detect_wrong_labels.py")
    torch.set_num_threads(1)
    keep_freed_pages()
    digits = load(folder_of(given.data), given.limit)
    about["rows"] = f"{'parquet' if given.data else 'mnist5k'}, {len(digits.label):,} rows"
    began, said = time.monotonic(), list[Said]()
    clean = REGIMES["clean"](digits.image, digits.label)
    cost = measure(job_of(clean, settings_of(SelectiveBackprop(), 1, 0))[0], seconds=MEASURE_S)
    for case in cases(given.seeds):
        rows = REGIMES[case[0]](digits.image, digits.label)
        said += ask(with_wrong_labels(rows, case[1]), case, given.epochs, cost)
        about["seconds"] = time.monotonic() - began
        print(" ".join(said[-1].cells()), file=sys.stderr, flush=True)
        paths = write(given.out, said, about)
    print(f"written: {', '.join(path.name for path in paths)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
