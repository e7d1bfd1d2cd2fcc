"""The class table: which values and colours stand for which classes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar

from satseg_ray.errors import ConfigError

IGNORE = 255
"""Index of an unlabelled pixel in every mask: left out of loss and metrics."""

MOST_LETTERS = 100
"""Letters of a class's name."""

RGB = tuple[int, int, int]


def parse_color(text: str) -> RGB:
    """Return ``(red, green, blue)`` in 0..255 of a colour written ``#RRGGBB``.

    >>> parse_color("#3C1098")
    (60, 16, 152)
    """
    if not re.fullmatch(r"#[0-9A-Fa-f]{6}", text):
        raise ConfigError("color", f"{text!r} is no colour", "Write it as '#RRGGBB'.")
    return int(text[1:3], 16), int(text[3:5], 16), int(text[5:7], 16)


@dataclass(frozen=True)
class ClassDef:
    """One class: its value in label rasters and maps, its name and its ``#RRGGBB`` colour.

    Raises:
        ConfigError: a value beyond 0 to 255, a name that is empty, longer than 100 letters or not
            printable, or no colour.
    """

    value: int
    name: str
    color: str = "#808080"

    __pydantic_config__: ClassVar[Any] = {"extra": "forbid"}

    def __post_init__(self) -> None:
        if not 0 <= self.value <= 255:
            raise ConfigError(
                "classes", f"class {self.name!r} has the value {self.value}", "Use 0 to 255."
            )
        if not (self.name.isprintable() and 0 < len(self.name) <= MOST_LETTERS):
            raise ConfigError(
                "classes",
                f"the class of value {self.value} has the name {self.name[:MOST_LETTERS]!r}",
                f"Use 1 to {MOST_LETTERS} printable letters.",
            )
        parse_color(self.color)

    @property
    def rgb(self) -> RGB:
        """The colour as ``(red, green, blue)``."""
        return parse_color(self.color)


@dataclass(frozen=True)
class ClassTable:
    """The ordered classes of a data set; the position in it is the model's class index.

    >>> table = ClassTable((ClassDef(7, "land"), ClassDef(0, "water")))
    >>> table.values, table.nodata
    ((7, 0), 255)
    """

    classes: tuple[ClassDef, ...] = field(default_factory=tuple)

    def __post_init__(self) -> None:
        if not 2 <= len(self.classes) <= 254:
            raise ConfigError(
                "classes", f"{len(self.classes)} classes are declared", "Declare 2 to 254."
            )
        for what in ("value", "name"):
            seen = [getattr(c, what) for c in self.classes]
            twice = sorted({str(v) for v in seen if seen.count(v) > 1})
            if twice:
                raise ConfigError(
                    "classes", f"the {what} {', '.join(twice)} stands twice", "Make it unique."
                )

    def __len__(self) -> int:
        return len(self.classes)

    def __iter__(self) -> Iterator[ClassDef]:
        return iter(self.classes)

    @property
    def values(self) -> tuple[int, ...]:
        """Raster value of each class, by class index."""
        return tuple(c.value for c in self.classes)

    @property
    def names(self) -> tuple[str, ...]:
        """Name of each class, by class index."""
        return tuple(c.name for c in self.classes)

    @property
    def nodata(self) -> int:
        """The map value of pixels without a class: the highest one that no class uses."""
        return next(v for v in range(255, -1, -1) if v not in self.values)

    def to_list(self) -> list[dict[str, Any]]:
        """Return the classes as JSON values, in order."""
        return [{"value": c.value, "name": c.name, "color": c.color} for c in self.classes]

    @classmethod
    def from_list(cls, rows: list[dict[str, Any]]) -> ClassTable:
        """Return the table that :meth:`to_list` wrote."""
        return cls(tuple(ClassDef(**row) for row in rows))
