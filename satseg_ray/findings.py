"""What a check found in somebody's data, said so that a person can act on it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

Level = Literal["note", "warning", "error"]


@dataclass(frozen=True, order=True)
class Finding:
    """One fact about a file or a data set.

    ``code`` names the kind of fact (``palette-order``), ``subject`` the file or field, ``problem``
    what was found with its values. ``action`` says of a note or a warning what was done about
    it, and of an error what to change.

    >>> str(Finding("warning", "null-geometry", "a.gpkg", "feature 3 has no geometry", "Left out."))
    'warning: a.gpkg: feature 3 has no geometry. Left out.'
    """

    level: Level
    code: str
    subject: str
    problem: str
    action: str

    def __str__(self) -> str:
        return f"{self.level}: {self.subject}: {self.problem}. {self.action}"

    def to_dict(self) -> dict[str, str]:
        """Return the finding as JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, body: dict[str, Any]) -> Finding:
        """Return the finding that :meth:`to_dict` gave."""
        return cls(**body)


def together(findings: Iterable[Finding]) -> list[Finding]:
    """Return what many pieces of one thing found: each kind about a subject once, with a count.

    >>> a, b = (Finding("note", "x", "a.gpkg", f"{n} lie beyond", "Left out.") for n in (1, 2))
    >>> together([a, b])[0].problem
    '1 lie beyond; and likewise for 1 other scene'
    """
    kinds: dict[tuple[str, ...], list[Finding]] = {}
    for found in findings:
        kinds.setdefault((found.level, found.code, found.subject, found.action), []).append(found)
    return [_counted(same) for same in kinds.values()]


def _counted(same: list[Finding]) -> Finding:
    first, rest = same[0], len(same) - 1
    if not rest:
        return first
    scenes = "scene" if rest == 1 else "scenes"
    return replace(first, problem=f"{first.problem}; and likewise for {rest} other {scenes}")
