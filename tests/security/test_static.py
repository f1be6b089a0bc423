"""The library has no call that runs what a file holds, and no file of it names code to import."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "raysb"
PICKLES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
RUNS_CODE = {"eval", "exec", "compile", "__import__", "execfile"}
SHELLS = {"os.system", "os.popen", "subprocess.getoutput", "tempfile.mktemp", "torch.hub.load"}
UNPACKS = {"extractall", "extract", "unpack_archive", "read_pickle", "full_load", "unsafe_load"}
IMPORTERS = {  # what each imports: raysb's own modules and known packages, or what the user named
    *("cli.py", "imports.py", "report/loggers/mlflow.py"),
    *("report/loggers/tensorboard.py", "report/loggers/wandb.py"),
}


def dotted(node: ast.expr) -> str:
    """`a.b.c` of names and attributes; what is none of them is left out."""
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def literal(call: ast.Call, keyword: str) -> object:
    """The value of a keyword argument as it stands in the source; `None`: not given."""
    for each in call.keywords:
        if each.arg == keyword:
            return each.value.value if isinstance(each.value, ast.Constant) else each.value
    return None


def aliases(tree: ast.AST) -> dict[str, str]:
    """What names of a module stand for: `np` for `numpy`, `load` for `torch.load`."""
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {each.asname: each.name for each in node.names if each.asname}
        elif isinstance(node, ast.ImportFrom):
            found |= {each.asname or each.name: f"{node.module}.{each.name}" for each in node.names}
    return found


def dangers(source: str) -> Iterator[str]:
    """Calls that run code from data, each with its line."""
    tree = ast.parse(source)
    known = aliases(tree)
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        head, _, rest = dotted(call.func).partition(".")
        name = known.get(head, head) + (f".{rest}" if rest else "")
        last = name.rpartition(".")[2]
        family = name.partition(".")[0]
        loads = last in ("load", "loads", "Unpickler", "open")
        if (
            (family in PICKLES and loads)
            or name.endswith(("cloudpickle.loads", "cloudpickle.load"))
            or name in RUNS_CODE
            or name in SHELLS
            or last in UNPACKS
            or (name == "torch.load" and literal(call, "weights_only") is not True)
            or (name == "numpy.load" and literal(call, "allow_pickle") is not False)
            or (family == "yaml" and last == "load")
            or literal(call, "weights_only") is False
            or literal(call, "allow_pickle") is True
            or literal(call, "shell") is True
        ):
            yield f"{call.lineno}: {name}"


def modules() -> list[Path]:
    """Every file of the library."""
    return sorted(PACKAGE.rglob("*.py"))


def test_nothing_in_the_library_runs_what_a_file_holds() -> None:
    assert len(modules()) > 100
    found = [f"{path}:{each}" for path in modules() for each in dangers(path.read_text())]
    assert not found, found


def test_modules_are_imported_by_name_only_where_the_name_is_known_or_the_user_s() -> None:
    users = {
        path.relative_to(PACKAGE).as_posix()
        for path in modules()
        if "import_module" in path.read_text() and path.name != "__init__.py"  # by their tables
    }
    assert users <= IMPORTERS, users - IMPORTERS


def test_nobody_lets_ray_unpickle_what_stands_in_parquet() -> None:
    """The variable is named where it is refused, and nowhere is it set."""
    users = [path for path in modules() if "AUTOLOAD_CLOUDPICKLE" in path.read_text()]
    assert [path.relative_to(PACKAGE).as_posix() for path in users] == ["source/footer.py"]


@pytest.mark.parametrize(
    "source",
    [
        "import pickle\npickle.load(f)",
        "import pickle as p\np.loads(f)",
        "from pickle import loads\nloads(f)",
        "from pickle import Unpickler as U\nU(f).load()",
        "from ray import cloudpickle\ncloudpickle.loads(b)",
        "import ray\nray.cloudpickle.loads(b)",
        "import torch\ntorch.load(f)",
        "import torch\ntorch.load(f, weights_only=False)",
        "import torch\ntorch.load(f, weights_only=safe)",
        "from torch import load\nload(f)",
        "import numpy as np\nnp.load(f)",
        "import numpy as np\nnp.load(f, allow_pickle=True)",
        "np.savez(f, allow_pickle=True)",
        "import yaml\nyaml.load(f)",
        "eval(text)",
        "exec(text)",
        "import os\nos.system(text)",
        "import subprocess\nsubprocess.run(text, shell=True)",
        "archive.extractall(folder)",
        "import pandas as pd\npd.read_pickle(f)",
        "import joblib\njoblib.load(f)",
    ],
)
def test_the_check_finds_each_kind_of_it(source: str) -> None:
    assert list(dangers(source))


@pytest.mark.parametrize(
    "source",
    [
        "model.eval()",
        "import torch\ntorch.load(f, weights_only=True)",
        "import numpy as np\nnp.load(f, allow_pickle=False)",
        "import json\njson.load(f)",
        "import re\nre.compile(x)",
        "from raysb.config import load\nload(f)",
        "import pickle\npickle.dumps(x)",
    ],
)
def test_the_check_lets_through_what_is_harmless(source: str) -> None:
    assert not list(dangers(source))
