"""Taking a scene, and what is refused before: the worker and its inputs, without a cluster."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from shapely.geometry import box

from satseg_ray.classes import ClassTable
from satseg_ray.config import IngestConfig
from satseg_ray.data.inputs import find_inputs
from satseg_ray.data.rows import Reporter
from satseg_ray.data.taking import IMAGES, LABELS, PICTURES, PROFILES, SceneTaker
from tests.factories import write_raster
from tests.label_factories import geojson, write_json

CLASSES = [{"value": 1, "name": "land", "color": "#C8B27D"}]


def config(scenes: list[Any], labels: list[Any] = [], **changes: Any) -> IngestConfig:  # noqa: B006
    given = {"dataset": "d", "classes": CLASSES, "scenes": list(map(str, scenes))}
    return IngestConfig.model_validate(given | {"labels": list(map(str, labels))} | changes)


def take(folder: Path, given: IngestConfig) -> list[dict[str, Any]]:
    """What the worker answers for each scene of a config."""
    for part in (IMAGES, LABELS, PICTURES, PROFILES):
        (folder / part).mkdir(parents=True, exist_ok=True)
    rule = given.rule(ClassTable(tuple(given.classes)))
    notes = Reporter(str(folder / "notes"))
    taker = SceneTaker(
        str(folder), rule, tuple(given.bands), given.nodata, given.by_reference, notes
    )
    return [taker._take(scene.row()) for scene in find_inputs(given)[0]]


@pytest.mark.parametrize("crs", [None, "EPSG:32618"])
def test_one_file_of_shapes_is_of_several_scenes_only_where_these_have_a_place(tmp_path, crs):
    scenes = [write_raster(tmp_path / f"{n}.tif", crs=crs) for n in "ab"]
    shapes = geojson([box(500_000, 4_599_000, 500_400, 4_600_000)], crs, **{"class": ["land"]})
    labels = write_json(tmp_path / "all.geojson", shapes)
    for outcome in take(tmp_path / "out", config(scenes, [labels], shapes={"attribute": "class"})):
        if crs:
            assert outcome["refused"] is None
        else:
            assert outcome["refused"]["error"] == "LabelsDoNotMatch"
            assert "one file in pixels" in outcome["refused"]["problem"]
