"""What is known of a scene once each of its pixels has been read: facts that travel as JSON."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from typing import Any, Self

from rasterio.transform import Affine

from satseg_ray.checks.bands import BandFacts
from satseg_ray.checks.survey import LabelSurvey
from satseg_ray.findings import Finding

PICTURE, OVERLAY = ".image.png", ".labels.png"
"""What follows a scene's name in those of its pictures."""


@dataclass(frozen=True)
class Border:
    """Pixels of which every band holds ``value``: all of them, and those on the scene's edge."""

    value: int
    count: int
    on_edge: int


@dataclass(frozen=True)
class Refusal:
    """Why labels were not read: the name of the error, and what it says."""

    code: str
    text: str


@dataclass(frozen=True)
class LabelFacts:
    """What the labels of a scene hold.

    ``counts`` has the pixels of each class index and, last, the unlabelled ones; it is empty where
    the labels were refused, as ``problem`` then says. ``findings`` are those of their reader.
    """

    path: str
    counts: tuple[int, ...] = ()
    digest: str | None = None
    survey: LabelSurvey | None = None
    problem: Refusal | None = None
    findings: tuple[Finding, ...] = ()

    @property
    def labelled(self) -> int:
        """The pixels that have a class."""
        return sum(self.counts[:-1])

    @classmethod
    def from_dict(cls, body: dict[str, Any]) -> Self:
        """Return the facts that :func:`dataclasses.asdict` gave, by way of JSON."""
        read = {
            "counts": tuple(body["counts"]),
            "survey": LabelSurvey.from_dict(body["survey"]) if body["survey"] else None,
            "problem": Refusal(**body["problem"]) if body["problem"] else None,
            "findings": tuple(Finding.from_dict(finding) for finding in body["findings"]),
        }
        return cls(**(body | read))


@dataclass(frozen=True)
class SceneFacts:
    """What one scene is and holds; pixels are counted, shares follow from them.

    ``transform`` is GDAL's six numbers, ``gsd`` the side of a pixel in metres on the ground,
    ``bounds`` (west, south, east, north) in the CRS; ``nodata`` is the file's own tag and
    ``declared_nodata`` what is used instead. ``valid`` counts pixels. Scenes of the same pixels
    have the same ``digest``, whatever their format.
    """

    name: str
    image: str
    driver: str
    suffix: str
    height: int
    width: int
    count: int
    dtype: str
    crs: str | None
    crs_title: str | None
    transform: tuple[float, ...] | None
    gsd: float | None
    nodata: float | None
    declared_nodata: float | None
    alpha: bool
    masked: bool
    valid: int
    digest: str
    bands: tuple[BandFacts, ...]
    borders: tuple[Border, ...] = ()
    labels: LabelFacts | None = None
    palette: bool = False

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width."""
        return self.height, self.width

    @property
    def pixels(self) -> int:
        """The number of pixels of the grid."""
        return self.height * self.width

    @property
    def valid_share(self) -> float:
        """The share of pixels that have data."""
        return self.valid / self.pixels

    @property
    def bounds(self) -> tuple[float, float, float, float] | None:
        """West, south, east and north in the CRS; none without a georeference."""
        if self.transform is None or self.crs is None:
            return None
        affine = Affine.from_gdal(*self.transform)
        corners = [affine @ (x, y) for x in (0, self.width) for y in (0, self.height)]
        xs, ys = zip(*corners, strict=True)
        return min(xs), min(ys), max(xs), max(ys)

    def to_json(self) -> str:
        """Return the facts as JSON, the same bytes for the same facts."""
        return json.dumps(self.to_dict(), sort_keys=True)

    def to_dict(self) -> dict[str, Any]:
        """Return the facts as JSON values; NaN as a nodata value is the text ``nan``."""
        body = asdict(self)
        for key in ("nodata", "declared_nodata"):
            if body[key] is not None and not math.isfinite(body[key]):
                body[key] = str(body[key])
        return body

    @classmethod
    def from_dict(cls, body: dict[str, Any]) -> Self:
        """Return the facts that :meth:`to_dict` gave, by way of JSON."""
        nodata = {
            key: None if body[key] is None else float(body[key])
            for key in ("nodata", "declared_nodata")
        }
        return cls(
            **body
            | nodata
            | {
                "transform": tuple(body["transform"]) if body["transform"] else None,
                "bands": tuple(BandFacts.from_dict(band) for band in body["bands"]),
                "borders": tuple(Border(**border) for border in body["borders"]),
                "labels": LabelFacts.from_dict(body["labels"]) if body["labels"] else None,
            }
        )

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Return the facts that :meth:`to_json` wrote."""
        return cls.from_dict(json.loads(text))
