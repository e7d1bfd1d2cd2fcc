"""What labels mean: which value, colour, bit or name of a label file is which class."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from satseg_ray.classes import IGNORE, ClassTable, parse_color
from satseg_ray.errors import ConfigError
from satseg_ray.findings import Finding
from satseg_ray.geo.grid import Window

Indexes = npt.NDArray[np.uint8]
By = Literal["auto", "value", "color", "bits"]


class Labels(Protocol):
    """The labels of one scene as class indexes on its grid.

    ``findings`` is complete when :meth:`blocks` is exhausted.
    """

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What was found in the labels, and what was done about it."""
        ...

    def blocks(self) -> Iterator[tuple[Window, Indexes]]:
        """Yield the scene in row-major blocks as ``(window, indexes)``: uint8, 255 unlabelled."""
        ...


@dataclass(frozen=True)
class BitField:
    """Bits ``first .. first + width - 1`` of a QA band: one of ``values`` there is ``name``.

    >>> BitField("cloud", first=8, width=2, values=(3,)).matches(np.array([0x300, 0x100]))
    array([ True, False])
    """

    name: str
    first: int
    width: int = 1
    values: tuple[int, ...] = (1,)

    def __post_init__(self) -> None:
        if self.first < 0 or self.width < 1 or self.first + self.width > 16:
            raise ConfigError(
                "bits",
                f"{self.name} is at bit {self.first}, {self.width} wide",
                "Use bits 0 to 15.",
            )
        if not self.values or any(not 0 <= v < 1 << self.width for v in self.values):
            raise ConfigError(
                "bits",
                f"{self.name} has the values {list(self.values)}",
                f"Use 0 to {(1 << self.width) - 1}, what {self.width} bits hold.",
            )

    def matches(self, words: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
        """Tell which whole numbers >= 0 hold one of the values in these bits."""
        return np.isin(words >> self.first & (1 << self.width) - 1, self.values)


@dataclass(frozen=True)
class LabelRule:
    """How what a label file holds becomes classes.

    Rasters. ``ignore`` holds the values (0..65535) and colours (``#RRGGBB``)
    that mean "unlabelled". With ``by="auto"``, ``bits`` mean bit fields, a palette or three bands
    colours, one plain band values. The first of ``bits`` that matches wins over later ones, and
    ``ignore`` over all of them; a word that none matches is not covered. With ``warp`` a
    georeferenced raster on another grid is resampled (nearest) onto the scene's; without it that
    is an error.

    Shapes. A shape's label is its ``attribute`` (vectors, VIA), its category (COCO) or its label
    (LabelMe). A label is a class's name or value; ``names`` says of a label that is neither which
    class it is, ``""`` or None of one that means "unlabelled". A shape without a label is
    ``every``. Lines and points are ``line_width`` metres wide (pixels where the scene has no CRS),
    with round ends. Shapes are burnt by rising ``order_by`` (an attribute of a vector file; those
    without a value first), else in the order of the file: later over earlier. ``layer`` names one
    of several, ``crs`` is that of a vector file that does not say it. ``shared`` is a file for
    many scenes: that it holds nothing of this one is no error.

    Both. ``background`` is the class of pixels that no label covers: nodata or masked ones of a
    raster, those outside all shapes. It never replaces what is marked "unlabelled", and a scene
    that lies outside all that the file covers gets none.

    Raises:
        ConfigError: it names a class that the table has not, ignores one that it has, or a width
            is none.
    """

    table: ClassTable
    ignore: tuple[int | str, ...] = ()
    by: By = "auto"
    bits: tuple[BitField, ...] = ()
    background: str | None = None
    attribute: str | None = None
    names: Mapping[str, str | None] = field(default_factory=dict, hash=False)
    every: str | None = None
    line_width: float | None = None
    layer: str | None = None
    crs: str | None = None
    order_by: str | None = None
    warp: bool = False
    shared: bool = False

    def __post_init__(self) -> None:
        if self.by == "bits" and not self.bits:
            raise ConfigError("labels_by", "is bits, and no bits are declared", "Declare bits.")
        if self.line_width is not None and not 0 < self.line_width < float("inf"):
            raise ConfigError("shapes.line_width", f"is {self.line_width:g}", "Use metres above 0.")
        named = [("bits", b.name) for b in self.bits]
        named += [("shapes.names", name) for name in self.names.values() if name]
        named += [("background", self.background)] if self.background is not None else []
        named += [("shapes.every", self.every)] if self.every is not None else []
        for key, name in named:
            if name not in self.table.names:
                raise ConfigError(
                    key, f"names {name!r}, which is no class", f"Use {', '.join(self.table.names)}."
                )

        self._refuse_ignored_classes()

    def _refuse_ignored_classes(self) -> None:
        """Refuse to ignore what is a class; a word of a QA band is none, whatever its number."""
        for one in () if self.bits and self.by in ("auto", "bits") else self.table:
            for item in self.ignore:
                if isinstance(item, str):
                    what, same = "colour", self.by != "value" and parse_color(item) == one.rgb
                else:
                    what, same = "value", self.by != "color" and item == one.value
                if same:
                    raise ConfigError(
                        "ignore",
                        f"holds {item!r}, which is the {what} of the class {one.name!r}",
                        "Take it out of ignore, or the class out of classes.",
                    )

    @property
    def fill(self) -> int:
        """The class index of a pixel that no label covers: that of the background, or 255."""
        return IGNORE if self.background is None else self.table.names.index(self.background)

    def codes(self, by: Literal["value", "color"]) -> dict[int, int]:
        """Return ``code -> class index``; the code of a colour is ``0xRRGGBB``."""
        known = {
            c.value if by == "value" else color_code(c.rgb): i for i, c in enumerate(self.table)
        }
        if len(known) < len(self.table):
            raise ConfigError(
                "classes", "two classes have one colour, labels are by colour",
                "Use two colours, or labels_by: value.",
            )  # fmt: skip
        for item in self.ignore:
            if by == "color" and isinstance(item, str):
                known.setdefault(color_code(parse_color(item)), IGNORE)
            elif by == "value" and not isinstance(item, str):
                known.setdefault(int(item), IGNORE)
        return known

    def index(self, label: str) -> int | None:
        """Return the class index of a shape's label, 255 of "unlabelled", None of an unknown one.

        >>> from satseg_ray.classes import ClassDef
        >>> rule = LabelRule(ClassTable((ClassDef(7, "a"), ClassDef(8, "b"))), names={"x": "b"})
        >>> [rule.index(label) for label in ("a", "7", "x", "A")]
        [0, 0, 1, None]
        """
        label = self.names.get(label, label) or ""
        if label in self.table.names:
            return self.table.names.index(label)
        if not label:
            return IGNORE
        values = {str(c.value): i for i, c in enumerate(self.table)}
        ignored = {str(item) for item in self.ignore}
        return values.get(label, IGNORE if label in ignored else None)


def color_code(rgb: Sequence[int]) -> int:
    """Return ``0xRRGGBB`` of a colour."""
    return int(rgb[0]) << 16 | int(rgb[1]) << 8 | int(rgb[2])


def color_name(code: int) -> str:
    """Return ``#RRGGBB`` of a colour's code."""
    return f"#{code:06X}"
