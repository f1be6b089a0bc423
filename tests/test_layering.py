"""The import direction of the design, as code: a module may import only from its left."""

import ast
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "raysb"
ORDER = [
    {
        "collecting",
        "errors",
        "imports",
        "interrupt",
        "metrics",
        "placement",
        "precedence",
        "printable",
        "schema",
        "seeding",
        "stacks",
    },
    {"board", "collate", "losses", "nn", "optim", "prune", "task", "weights"},
    {"source"},
    {"scoring"},
    {"history"},
    {"selection"},
    {"training"},
    {"report"},
    {
        *(
            "values",
            "settings_io",
            "config",
            "own_cluster",
            "joining",
            "cluster",
            "packing",
            "needs",
            "device",
            "models",
        ),
        *("job", "prepare", "ray_engine", "local", "stream", "loader", "trainer", "run", "scan"),
        *(
            "evaluate",
            "embedding",
            "elastic",
            "resume",
            "shared",
            "watchdog",
            "dry_run",
            "equality",
            "layout",
            "doctor",
            "ask",
            "inspect_history",
            "prune_run",
            "pruning",
            "rebirth",
            "export_run",
        ),
        "planning",
        *("commands", "cli", "__main__"),
    },
]
LEVEL = {name: level for level, names in enumerate(ORDER) for name in names}
IMPORTS_RAY = {
    *("board", "placement", "weights", "source.dataset", "scoring.scorer"),
    *("scoring.ledger_actor", "history.shards"),
    *(
        "training.stages",
        "training.stream",
        "training.small_pools",
        "training.worker",
        "training.scorer_pool",
        "training.reader_pool",
        "training.bystanders",
        "training.entry",
        "training.one_worker",
    ),
    *(
        "scan.ray",
        "own_cluster",
        "joining",
        "cluster",
        "shared",
        "doctor.cluster_file",
        "ray_engine",
        "stream",
        "trainer",
        "run",
    ),
}


def imports(path: Path) -> set[str]:
    """The dotted names that a file imports, also inside functions and for type checkers only."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            found.add("." * node.level + (node.module or ""))
        elif isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
    return found


def modules() -> list[tuple[str, set[str]]]:
    """Every module but the public face `raysb/__init__.py`, with what it imports."""
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        name = ".".join(parts if parts[-1] != "__init__" else parts[:-1])
        if name:
            found.append((name, imports(path)))
    return found


def test_every_module_has_a_level() -> None:
    unknown = {name.split(".")[0] for name, _ in modules()} - LEVEL.keys()
    assert not unknown, f"add to ORDER: {sorted(unknown)}"


def level(name: str) -> int:
    return LEVEL.get(name.removeprefix("raysb.").split(".")[0], 0)


def test_every_module_imports_only_from_its_left() -> None:
    wrong = [
        f"{name} imports {target}"
        for name, targets in modules()
        for target in sorted(targets)
        if target.startswith("raysb.") and level(target) > level(name)
    ]
    assert not wrong, wrong


def test_the_public_face_is_for_users() -> None:
    users = {name for name, targets in modules() if "raysb" in targets}
    assert users <= {"cli"}, users  # for the version


def test_imports_are_absolute() -> None:
    wrong = [(name, t) for name, targets in modules() for t in targets if t.startswith(".")]
    assert not wrong, wrong


def test_ray_is_imported_only_by_the_ray_shell() -> None:
    users = {name for name, targets in modules() if any(t.split(".")[0] == "ray" for t in targets)}
    assert users <= IMPORTS_RAY, sorted(users - IMPORTS_RAY)
