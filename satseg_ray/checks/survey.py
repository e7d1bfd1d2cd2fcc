"""What a label file holds besides what it should hold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

from satseg_ray.geo import labels
from satseg_ray.geo.labels import LabelRule, survey
from satseg_ray.geo.raster import inspect_raster

MOST_CODES = 256
"""Unknown codes of one file that are kept by name; of more, the most frequent."""


@dataclass(frozen=True)
class LabelSurvey:
    """What a label file holds, with the pixels (of features: how many) of each.

    ``by`` is ``value``, ``color``, ``bits`` or ``name``. ``palette`` holds the colours of a
    palette in the order of the file; ``known`` the classes by name; ``unknown`` the values
    (``"9"``), colours (``"#3C1098"``) or names that are no class and not ignored, the most
    frequent first, and ``unnamed`` what there is of more. ``shape`` is height and width of a
    raster.
    """

    by: str
    shape: tuple[int, int] | None
    palette: tuple[str, ...] = ()
    known: tuple[tuple[str, int], ...] = ()
    unknown: tuple[tuple[str, int], ...] = ()
    unnamed: int = 0

    @classmethod
    def of(cls, found: labels.LabelSurvey, shape: tuple[int, int] | None) -> Self:
        """Return what was found as a fact that travels, cut to the most frequent codes."""
        unknown = sorted(found.unknown.items(), key=lambda item: (-item[1], item[0]))
        rest = sum(count for _, count in unknown[MOST_CODES:])
        return cls(
            found.by,
            shape,
            tuple(found.palette),
            tuple(found.known.items()),
            tuple(unknown[:MOST_CODES]),
            found.unnamed + rest,
        )

    @classmethod
    def from_dict(cls, body: dict[str, Any]) -> Self:
        """Return the survey that :func:`dataclasses.asdict` gave, by way of JSON."""
        pairs = {key: tuple((k, n) for k, n in body[key]) for key in ("known", "unknown")}
        shape = tuple(body["shape"]) if body["shape"] else None
        return cls(**(body | pairs | {"shape": shape, "palette": tuple(body["palette"])}))


def surveyed(path: str, rule: LabelRule, image_name: str | None = None) -> LabelSurvey:
    """Return what the label file at ``path`` holds, be it a class or not.

    Raises:
        As :func:`satseg_ray.geo.labels.survey`.
    """
    found = survey(path, rule, image_name)
    raster = inspect_raster(path) if found.kind == "raster" else None
    return LabelSurvey.of(found, (raster.height, raster.width) if raster else None)
