"""What a check found: `ok`, `note` (it works, and one should know), or `wrong`, with its mend."""

import textwrap
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from itertools import groupby
from typing import Any

OK, NOTE, WRONG = "ok", "note", "wrong"
_WIDTH = 100


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that was looked at.

    Args:
        topic: What it belongs to.
        name: What was looked at.
        status: `ok`, `note` or `wrong`.
        said: What was found, for people.
        mend: What to do about it; empty where nothing is to be done.
        data: What was found, for machines.
    """

    topic: str
    name: str
    status: str
    said: str
    mend: str = ""
    data: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Report:
    """All findings, in the order in which they were made."""

    findings: tuple[Finding, ...]

    @property
    def works(self) -> bool:
        """Whether nothing stands in the way of a run."""
        return all(each.status != WRONG for each in self.findings)

    def as_json(self) -> dict[str, Any]:
        """Everything as text, numbers and lists of them."""
        return {"works": self.works, "findings": [asdict(each) for each in self.findings]}

    def lines(self) -> list[str]:
        """What people read: findings by topic, what mends one below it, and the verdict."""
        width = max(len(each.name) for each in self.findings)
        found: list[str] = []
        for topic, group in groupby(self.findings, key=lambda each: each.topic):
            found.append(topic)
            for each in group:
                found += _lines(each, width)
        return [*found, _verdict([each.status for each in self.findings])]


def _lines(finding: Finding, width: int) -> list[str]:
    shown = finding.status.upper() if finding.status == WRONG else finding.status
    head = f"  {shown:<5}  {finding.name:<{width}}  "
    said = [part for text in finding.said.splitlines() for part in _wrapped(text, len(head))]
    mend = _wrapped(finding.mend, len(head) + 6) if finding.mend else []
    first, *more = [*said, *(("mend: " if i == 0 else " " * 6) + m for i, m in enumerate(mend))]
    return [head + first, *(" " * len(head) + each for each in more)]


def _wrapped(text: str, indent: int) -> list[str]:
    """Lines that fit beside the indent; words, and so flags and paths, stay whole."""
    return textwrap.wrap(text, _WIDTH - indent, break_long_words=False, break_on_hyphens=False)


def _verdict(statuses: Sequence[str]) -> str:
    wrong, notes = statuses.count(WRONG), statuses.count(NOTE)
    said = f"{wrong} would not work" if wrong else "nothing stands in the way"
    return said + (f", {notes} to know" if notes else "")
