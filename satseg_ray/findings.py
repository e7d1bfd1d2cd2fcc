"""What a check found in somebody's data, said so that a person can act on it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
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
