"""Installed versions against those that were tested."""

import platform
from collections.abc import Iterator, Mapping
from importlib import metadata

from raysb.doctor.findings import NOTE, OK, WRONG, Finding

TESTED = {  # as in constraints.txt
    "torch": "2.13.0",
    "ray": "2.60.0",
    "pyarrow": "26.0.1",
    "numpy": "2.4.6",
}
TESTED_PYTHON = "3.11"


def installed_versions() -> Iterator[Finding]:
    """The interpreter and the packages that a run stands on."""
    return check_versions(_versions(), _ranges(), platform.python_version())


def check_versions(
    found: Mapping[str, str | None], ranges: Mapping[str, str], python: str
) -> Iterator[Finding]:
    """Installed versions against those that were tested and those that are allowed.

    Args:
        found: Version by package, `None` where it is not installed.
        ranges: What the package asks for, `>=2.60,<2.61`, by package.
        python: The interpreter's.
    """
    tested = python.rpartition(".")[0] == TESTED_PYTHON
    said = f"{python}" + ("" if tested else f", tested with {TESTED_PYTHON}")
    yield Finding(
        topic="versions",
        name="python",
        status=OK if tested else NOTE,
        said=said,
        data={"found": python, "tested": TESTED_PYTHON},
    )
    for name, right in TESTED.items():
        yield _version(name, found.get(name), right, ranges.get(name, ""))


def _version(name: str, version: str | None, tested: str, allowed: str) -> Finding:
    data = {"found": version, "tested": tested, "allowed": allowed}
    mend = f"pip install '{name}=={tested}'"
    if version is None:
        said = "not installed"
    elif not _allows(allowed, version):
        said = f"{version} is outside {allowed}, which raysb needs"
    elif version.partition("+")[0] == tested:
        return Finding(topic="versions", name=name, status=OK, said=version, data=data)
    else:
        said = f"{version}, tested with {tested}"
        return Finding(topic="versions", name=name, status=NOTE, said=said, data=data)
    return Finding(topic="versions", name=name, status=WRONG, said=said, mend=mend, data=data)


def _allows(allowed: str, version: str) -> bool:
    from packaging.specifiers import SpecifierSet

    return SpecifierSet(allowed).contains(version, prereleases=True)


def _versions() -> dict[str, str | None]:
    found: dict[str, str | None] = {}
    for name in TESTED:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    return found


def _ranges() -> dict[str, str]:
    from packaging.requirements import Requirement

    try:
        wanted = [Requirement(each) for each in metadata.requires("raysb") or ()]
    except metadata.PackageNotFoundError:  # a checkout that was never installed
        return {}
    return {each.name: str(each.specifier) for each in wanted if each.marker is None}
