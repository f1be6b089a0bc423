"""Every command that a document names is run: small, or by the test that the table gives.

A line that is in no entry of the table fails, and so does an entry that no document has any more.
What is not documented here are the options of the commands: `docs/commands.md` is made from them.
"""

import ast
import importlib.util
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from raysb import cli
from raysb.source import demo

ROOT = Path(__file__).parents[1]
BENCHMARK = ROOT / "pipelines" / "benchmarks" / "throughput.py"
PIPELINES = [*sorted((ROOT / "pipelines").glob("*.py")), BENCHMARK]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "pipelines").rglob("README.md")),
]
FENCE = re.compile(r"^ *```sh\n(.*?)^ *```", re.DOTALL | re.MULTILINE)
ANY_FENCE = re.compile(r"^ *```.*?^ *```", re.DOTALL | re.MULTILINE)
# in a header or a sentence; of `raysb` only what stands on a line of its own
STARTED = re.compile(r"python pipelines/[^`\n]+|^ +raysb .+", re.MULTILINE)
INLINE = re.compile(r"`raysb ([a-z]+)([^`\n]*)`")
INSTALL = "python3 -m venv .venv && .venv/bin/pip install -q -c constraints.txt "
LOCAL = "--engine local --train.use_gpu false"
SMALL = f"{LOCAL} --data.train digits --model.name mlp"
CIFAR = "--config pipelines/cifar10.toml --data.train cifar10/train.parquet"


@dataclass(frozen=True)
class Run:
    """How a documented line is run.

    Args:
        small: The line as it is run, `None` as it stands; `raysb` and `python` in this process.
        leaves: What it must leave in its folder, as a glob.
        says: What must be in its output, as a regular expression.
        needs: Packages without which it is skipped.
        own_process: In a process of its own.
    """

    small: str | None = None
    leaves: str = ""
    says: str = ""
    needs: tuple[str, ...] = ()
    own_process: bool = False


@dataclass(frozen=True)
class By:
    """What runs a documented line in place of this file: a test, or a script of the project."""

    file: str
    test: str


CI = By(".ci/run", "<!-- command: test -->")
HEADER = By("tests/pipelines/test_cifar10_selective_backprop.py", "test_options_change_what_they")
SHORT = By("tests/pipelines/test_cifar10_selective_backprop.py", "test_a_short_run_leaves_curves")
LOADERS = "tests/pipelines/test_loader_examples.py"
CLUSTER = "tests/test_cluster_yaml.py"
VALID = By(CLUSTER, "test_the_clusters_file_is_valid_and_holds_the_documented_run_from_the_start")
KUBERNETES = By(CLUSTER, "test_the_job_of_kubernetes_asks_for_what_its_machines_offer_from_the")
JOB = By("tests/integration/test_job_submit.py", "test_a_job_trains_on_its_own_cluster_with_what")
STAGES = By("tests/pipelines/test_mnist.py", "test_stages_and_replicas_train_as_the_plain_net")
WORKERS = By("tests/pipelines/test_mnist.py", "test_two_workers_train_the_classic_net")
APART = (
    "--scoring.num_actors 12 --scoring.resources.scorer 1 --train.num_workers 4 "
    "--train.use_gpu true --train.resources.trainer 1"
)
SHARED = "/mnt/shared"
OTHERS = By(LOADERS, "test_other_libraries_train_with_the_loader_and_are_skipped_where_missing")

TABLE: dict[str, Run | By] = {
    # what installs is run on a fresh machine
    INSTALL + "'.[demo]' && .venv/bin/raysb train": By("tests/test_readme.py", "test_a_command"),
    INSTALL + "'.[demo,images,dev]' && .venv/bin/pytest -q -n 2 --dist loadgroup": CI,
    INSTALL.replace("-q ", "") + "-e '.[demo,images,dev]'": CI,
    '.venv/bin/pytest -m "not ray and not slow and not gpu"': CI,
    ".venv/bin/pytest": CI,
    ".venv/bin/ruff check . && .venv/bin/ruff format .": CI,
    ".venv/bin/mypy raysb tests/typing && .venv/bin/mypy -p bench": CI,
    # README.md
    "raysb train --config pipelines/mnist.toml --data.train mnist/train.parquet "
    "--data.test mnist/test.parquet": Run(
        "raysb train --config pipelines/mnist.toml --data.train mnist/train.parquet "
        f"--data.test mnist/test.parquet {LOCAL} --train.epochs 1",
        says="written: runs/cnn",
    ),
    f"raysb train {CIFAR} --data.test cifar10/test.parquet": Run(
        f"raysb train {CIFAR} --data.test cifar10/test.parquet {LOCAL} --train.max_cost 1",
        says="the cost of 1",
    ),
    "raysb train --config pipelines/cifar10.toml ... --selector.kind uniform": Run(
        f"raysb train {CIFAR} --data.test cifar10/test.parquet --selector.kind uniform {LOCAL} "
        "--train.max_cost 1",
        says="cost: +0 rows scored",
    ),
    # docs/getting-started.md
    "raysb eval runs/cnn-1": Run(says="error"),
    "raysb score runs/cnn-1 --out scores.parquet": Run(leaves="scores.parquet"),
    "raysb config --config runs/cnn-1/config.toml": Run(says=r"train\.epochs +1|epochs = 1"),
    "tensorboard --logdir runs": Run(
        "python -m tensorboard.main --logdir runs --inspect",
        needs=("tensorboard",),
        own_process=True,
        says="train/loss",
    ),
    "raysb data convert pictures/ data/": Run(
        "raysb data convert pictures/ converted/", leaves="converted/*.parquet"
    ),
    "raysb data inspect data/": Run(says="raysb train"),
    "raysb train --data.train data/ --data.test_fraction 0.1 --model.name resnet18 "
    "--train.epochs 20": Run(
        "raysb train --data.train data/ --data.test_fraction 0.1 --model.name resnet18 "
        f"--train.epochs 1 {LOCAL}",
        leaves="runs/resnet18-1/model.safetensors",
    ),
    # docs/choosing-a-selector.md
    "raysb train --selector.kind uniform --train.max_cost 5 --train.schedule_axis cost": Run(
        "raysb train --selector.kind uniform --train.max_cost 1 --train.schedule_axis cost "
        f"{SMALL}",
        says="the cost of 1",
    ),
    "raysb train --selector.beta 2 --train.epochs 8 --train.max_cost 5 "
    "--train.schedule_axis cost": Run(
        "raysb train --selector.beta 2 --train.epochs 8 --train.max_cost 1 "
        f"--train.schedule_axis cost {SMALL}",
        says="the cost of 1",
    ),
    # headers of pipelines
    "python pipelines/cifar10_selective_backprop.py TRAIN.parquet TEST.parquet "
    "[--image-size 224]": SHORT,
    "python pipelines/cifar10_selective_backprop.py ... --quick": SHORT,
    "python pipelines/cifar10_selective_backprop.py ... --uniform": HEADER,
    "python pipelines/cifar10_selective_backprop.py ... engine=local train.lr=.01": HEADER,
    "python pipelines/find_suspects.py [--data FOLDER] [--epochs 12] [--seeds 3] "
    "[--record LETTER]": Run(
        "python pipelines/find_suspects.py --epochs 1 --seeds 1",
        says=r"(.*, history by \w+ +[\d.]+ .*\n){5}(.*, raysb score by .*\n){2}",
    ),
    "python pipelines/fine_tune.py [--engine ray] [--epochs 6]": Run(
        "python pipelines/fine_tune.py --epochs 1", says=r"all anew .*\n(.* from 0-4 .*\n){3}"
    ),
    "python pipelines/loader_plain.py [epochs]": By(LOADERS, "test_the_plain_loop_learns"),
    "python pipelines/loader_accelerate.py [epochs]": OTHERS,
    "python pipelines/loader_lightning.py [epochs]": OTHERS,
    "python pipelines/record.py NAME RUN_DIR [RUN_DIR ...]": Run(
        "python pipelines/record.py small runs/cnn-1", leaves="pipelines/records/small.png"
    ),
    "python pipelines/record_terminal.py docs/pictures/live.svg -- raysb train --engine local": Run(
        f"python pipelines/record_terminal.py live.svg -- raysb train {SMALL} --train.epochs 1",
        leaves="live.svg",
        needs=("pyte",),
        own_process=True,
    ),
    "python pipelines/benchmarks/frontier.py --data mnist": By(
        "tests/pipelines/test_frontier.py",
        "test_an_interrupted_benchmark_goes_on_and_writes_its_record",
    ),
    "raysb plan": Run(
        "raysb plan --data.train digits --model.name mlp --train.use_gpu false", says="break-even"
    ),
    "python pipelines/reducible_loss.py [--engine ray] [--cost 24] [--seeds 3]": Run(
        "python pipelines/reducible_loss.py --cost 1 --seeds 1",
        says=r"(seed 0, \w+: error [\d.]+%, wrong labels trained [\d.]+%\n){3}",
    ),
    "raysb history runs/cnn-1 --images sheet.png": Run(leaves="sheet.png"),
    "python pipelines/text_language_model.py [--engine local] [--seeds 3] [--cost 6] "
    "[--rows 4000]": By(LOADERS, "test_the_language_model_learns_from_text"),
    "python pipelines/tune_beta.py": By("tests/pipelines/test_tune_beta.py", "test_a_sweep_trains"),
    # docs/cluster.md
    f"raysb doctor --cluster cluster.yaml {APART}": By(
        CLUSTER, "test_the_documented_check_of_the_clusters_file_finds_nothing_wrong"
    ),
    "ray get-auth-token --generate": JOB,
    "ray up cluster.yaml": VALID,
    "ray dashboard cluster.yaml": VALID,
    "ray down cluster.yaml": VALID,
    "RAY_AUTH_MODE=token ray job submit --address http://localhost:8265 --working-dir . --no-wait "
    f"-- raysb train --config pipelines/cifar10.toml --data.train {SHARED}/cifar10/train.parquet "
    f"--data.test {SHARED}/cifar10/test.parquet --run.dir {SHARED}/runs/first {APART} "
    "--train.checkpoint_every 500": JOB,
    "RAY_AUTH_MODE=token ray start --head --port=6379 --num-cpus=0 --dashboard-host=127.0.0.1": JOB,
    "RAY_AUTH_MODE=token ray start --address=HEAD:6379 --resources='{\"scorer\": 8}'": JOB,
    "kubectl apply -f docs/cluster/rayjob.yaml": KUBERNETES,
    "kubectl logs -f -l job-name=raysb": KUBERNETES,
    # headers of pipelines
    "python pipelines/ranger.py [--mnist FOLDER] [--cifar10 FOLDER] [--epochs 1] "
    "[--record NAME]": By("tests/pipelines/test_ranger.py", "test_the_rate_is_chosen_on_seed_0"),
    "python pipelines/evaluate_metrics.py [--train PATH --test PATH] [--epochs 3]": By(
        "tests/pipelines/test_evaluate_metrics.py", "test_every_metric_of_a_trained_net"
    ),
    "python pipelines/prune_rebirth.py --data FOLDER --out FOLDER [--net mnist|resnet20] "
    "[--seeds 0]": By(
        "tests/pipelines/test_prune_rebirth.py", "test_every_criterion_has_its_figures_after_one"
    ),
    "python pipelines/cheap_scorers.py --mnist FOLDER --cifar10 FOLDER": By(
        "tests/pipelines/test_cheap_scorers.py", "test_every_way_to_score_has_its_row"
    ),
    "python pipelines/benchmarks/soak.py": By(
        "tests/integration/test_resume_on_ray.py", "test_a_run_that_lost_its_worker_equals"
    ),
    "python pipelines/benchmarks/training_cost.py": By(
        "tests/pipelines/test_training_cost.py", "test_a_step_of_ours_and_one_of_plain_ddp"
    ),
    "python pipelines/benchmarks/faults.py": By(
        "tests/integration/test_resume_on_ray.py", "test_a_run_that_lost_its_worker_equals"
    ),
    "python pipelines/benchmarks/elasticity.py": By(
        "tests/pipelines/test_elasticity.py", "test_trainers_that_are_slow_from_the_start_are"
    ),
    "python pipelines/lowest_k_speed.py": By(
        "tests/pipelines/test_lowest_k_speed.py", "test_every_arm_is_measured_in_units_of_the_full"
    ),
    "python pipelines/mnist_classic.py": STAGES,
    "python pipelines/mnist_classic.py --data FOLDER": STAGES,
    "python pipelines/mnist_classic.py ... selector.kind=selective_backprop train.lr=1e-3": STAGES,
    "python pipelines/mnist_data_parallel.py [--data FOLDER] [--epochs 3]": STAGES,
    "python pipelines/mnist_ddp.py [--data FOLDER] [--workers 2] [--epochs 3]": WORKERS,
    "python pipelines/mnist_ddp.py ... train.strategy=fsdp": WORKERS,
    "python pipelines/mnist_model_parallel.py [--data FOLDER] [--epochs 3]": STAGES,
    "python pipelines/mnist_model_parallel.py --pipeline": STAGES,
    "python pipelines/tsne_over_training.py [--steps 600] [--every 50] [--rows 500] "
    "[--out F.gif]": Run(
        "python pipelines/tsne_over_training.py --steps 4 --every 2 --rows 60 --out small.gif",
        leaves="small.gif",
        own_process=True,
    ),
    "python pipelines/benchmarks/throughput.py [--only a,b,...] [--quick] [--repeats 3]": By(
        "tests/test_documented_commands.py", "test_the_benchmark_measures_a_part_and_writes"
    ),
}


# --- what the documents say -----------------------------------------------------------------------


def of_page(text: str) -> list[str]:
    """Lines of its shells, continued ones joined, and the scripts that its sentences name."""
    fences = "".join(fence.replace("\\\n", " ") for fence in FENCE.findall(text))
    lines = [bare(line) for line in fences.splitlines()]
    return [line for line in lines if line] + of_header(ANY_FENCE.sub("", text))


def of_header(text: str) -> list[str]:
    """Lines that start something; one that goes on after `...` is the first one's with that."""
    found: list[str] = []
    for line in text.replace("\\\n", " ").splitlines():
        if started := STARTED.search(line):
            found.append(bare(started[0]))
        elif line.strip().startswith("... ") and found:
            start = re.match(r".*?\.(py|toml)", found[0])
            found.append(f"{start[0] if start else found[0]} {bare(line)}")
    return found


def bare(line: str) -> str:
    """A line without its comment and with single spaces."""
    return " ".join(re.sub(r"(^|\s)#.*", "", line).split())


def documented() -> dict[str, str]:
    """Every command, and a file that says it."""
    found = {line: path for path in PAGES for line in of_page(path.read_text(encoding="utf-8"))}
    for path in PIPELINES:
        header = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        found |= dict.fromkeys(of_header(header), path)
    for path in sorted((ROOT / "pipelines").glob("*.toml")):
        comments = re.findall(r"^# ?(.*\n)", path.read_text(encoding="utf-8"), re.MULTILINE)
        found |= dict.fromkeys(of_header("".join(comments)), path)
    return {line: str(path.relative_to(ROOT)) for line, path in found.items()}


def is_known(line: str) -> bool:
    """A sentence may name a script without its options."""
    return line in TABLE or any(entry.startswith(f"{line} ") for entry in TABLE)


def test_every_documented_command_has_an_entry_and_every_entry_is_documented() -> None:
    found = documented()
    assert len(found) > 25
    assert {line: path for line, path in found.items() if not is_known(line)} == {}
    assert [line for line in TABLE if line not in found] == []


def test_a_new_line_of_a_document_is_seen() -> None:
    page = (
        "a\n```sh\n# one\nraysb train \\\n  --new 1   # said\n```\nand `python pipelines/n.py 2`.\n"
    )
    assert of_page(page) == ["raysb train --new 1", "python pipelines/n.py 2"]
    header = "    python pipelines/n.py A [B]  # x\n    ... --quick   # y\n"
    assert of_header("  raysb train --config a.toml \\\n  --b 1\n  ... --c 2\n") == [
        "raysb train --config a.toml --b 1",
        "raysb train --config a.toml ... --c 2",
    ]
    assert of_header(header) == ["python pipelines/n.py A [B]", "python pipelines/n.py ... --quick"]


def test_a_command_in_a_sentence_has_the_options_that_are_named(capsys) -> None:
    text = "".join(ANY_FENCE.sub("", path.read_text(encoding="utf-8")) for path in PAGES)
    found = set(INLINE.findall(text))
    assert len(found) > 5
    for name, words in sorted(found):
        assert cli.main([name, "--help"]) == 0, name
        known = capsys.readouterr().out
        for option in re.findall(r"--(\w[\w.-]*)", words):
            assert option in known, f"raysb {name}{words}"


def test_what_runs_a_command_elsewhere_is_there() -> None:
    for entry in TABLE.values():
        if isinstance(entry, By):
            text = (ROOT / entry.file).read_text(encoding="utf-8")
            wanted = entry.test if entry.file.startswith(".") else f"def {entry.test}"
            assert wanted in text, entry


# --- run small ------------------------------------------------------------------------------------


def write_rows(path: Path, count: int, shape: tuple[int, ...]) -> None:
    """Parquet of raw pictures and labels, as the records' files have them."""
    path.parent.mkdir(exist_ok=True)
    rng = np.random.default_rng(count)
    label = np.arange(count) % 10
    pixels = (label[:, None] * 20 + rng.integers(0, 40, (count, int(np.prod(shape))))).astype("u1")
    meta = {"encoding": "raw", "shape": str(list(shape))}
    image = pa.field("image", pa.binary(), metadata=meta)
    schema = pa.schema([image, ("label", pa.int64()), ("id", pa.int64())])
    columns = [[row.tobytes() for row in pixels], label, np.arange(count)]
    pq.write_table(pa.table(columns, schema=schema), path)


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with all that the documents speak of: the pipelines, data, and a run."""
    folder = tmp_path_factory.mktemp("place")
    shutil.copytree(ROOT / "pipelines", folder / "pipelines")  # a record is written beside it
    for name, shape in (("mnist", (28, 28, 1)), ("cifar10", (32, 32, 3))):
        write_rows(folder / name / "train.parquet", 100, shape)
        write_rows(folder / name / "test.parquet", 20, shape)
    rng = np.random.default_rng(0)
    for i in range(40):
        path = folder / "pictures" / ("cats", "dogs")[i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (16, 16, 3), np.uint8)).save(path)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert cli.main(["data", "convert", "pictures/", "data/"]) == 0
        words = f"train {LOCAL} --data.train digits --train.epochs 1 --run.dir runs/cnn-1"
        assert cli.main(words.split()) == 0
    return folder


def fewer_digits() -> dict[str, np.ndarray]:
    """Every fortieth of MNIST's 5,000, for scripts that take no size."""
    return {name: column[::40] for name, column in demo.mnist5k().items()}


@pytest.mark.parametrize(
    "line", [line for line, how in TABLE.items() if isinstance(how, Run)], ids=lambda line: line
)
def test_a_documented_command_runs(line, place, capsys, monkeypatch) -> None:
    how: Any = TABLE[line]
    if missing := [name for name in how.needs if importlib.util.find_spec(name) is None]:
        pytest.skip(f"{missing[0]} is not installed")
    monkeypatch.chdir(place)
    words = shlex.split(how.small or line)
    if how.own_process:
        said = in_a_process(words)
    else:
        in_this_process(words, monkeypatch)
        said = capsys.readouterr().out
    assert re.search(how.says, said), said
    assert not how.leaves or list(place.glob(how.leaves)), f"{line}: no {how.leaves}"


def in_this_process(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a command; imports are what costs time."""
    if words[0] == "raysb":
        assert cli.main(words[1:]) == 0
        return
    few = fewer_digits()
    monkeypatch.setattr(demo, "mnist5k", lambda: few)
    monkeypatch.setitem(demo.DEMOS, "mnist5k", lambda: few)
    monkeypatch.setattr(sys, "argv", words[1:])
    runpy.run_path(words[1], run_name="__main__")


def in_a_process(words: list[str]) -> str:
    """Run a command with this Python first on the path; returns what it said."""
    words = [sys.executable if word == "python" else word for word in words[:1]] + words[1:]
    folders = [str(Path(sys.executable).parent), os.environ.get("PATH", "")]
    environment = {**os.environ, "PATH": os.pathsep.join(folders), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(words, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.ray
@pytest.mark.parametrize(
    "parts", ["e", *(pytest.param(parts, marks=pytest.mark.slow) for parts in ("a,b,c", *"dfgh"))]
)
def test_the_benchmark_measures_a_part_and_writes_its_record(parts, place, monkeypatch) -> None:
    """Once, on a cluster of its own beside that of the tests; among the fast ones the shortest."""
    monkeypatch.chdir(place)
    monkeypatch.setenv("RAY_ADDRESS", "local")
    said = in_a_process(
        shlex.split(
            f"python pipelines/benchmarks/throughput.py --only {parts} --nets mlp --shapes mnist "
            "--quick --out found"
        )
    )
    assert "FAILED" not in said
    assert {path.suffix for path in (place / "found").iterdir()} == {".json", ".md"}
