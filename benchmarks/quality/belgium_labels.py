"""Belgium's fields: inside the squares that were searched, what is no field is something else."""

from __future__ import annotations

from pathlib import Path

import geopandas
import pandas  # type: ignore[import-untyped]

SQUARES, FIELDS = "*_locations.gpkg", "*_polygons.gpkg"


def join_layers(source: Path, target: Path) -> Path:
    """Write ``labels.gpkg`` into ``target`` and return it: searched squares, fields over them.

    Its attribute ``class`` is ``other`` or ``field``. The rest of the image stays unlabelled.
    """
    target.mkdir(parents=True, exist_ok=True)
    squares, fields = (
        geopandas.read_file(next(source.glob(pattern)), layer=layer)[["geometry"]]
        for pattern, layer in ((SQUARES, "locations"), (FIELDS, "polygons"))
    )
    shapes = pandas.concat(
        [squares.assign(**{"class": "other"}), fields.assign(**{"class": "field"})]
    )
    path = target / "labels.gpkg"
    path.unlink(missing_ok=True)
    shapes.to_file(path, layer="labels")
    return path
