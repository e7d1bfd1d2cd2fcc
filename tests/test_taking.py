"""Taking a scene, and what is refused before: the worker and its inputs, without a cluster."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from shapely.geometry import box

from satseg_ray.classes import ClassTable
from satseg_ray.config import IngestConfig
from satseg_ray.data.inputs import find_inputs
from satseg_ray.data.kind import Taken, bands_of
from satseg_ray.data.rows import Reporter
from satseg_ray.data.taking import IMAGES, LABELS, PICTURES, PROFILES, SceneTaker
from satseg_ray.errors import SatsegError
from satseg_ray.geo.raster import RasterInfo
from satseg_ray.geo.source import BandFile, SceneSource
from satseg_ray.patches.dataset import SceneRecord
from tests.factories import write_raster
from tests.label_factories import geojson, write_json

CLASSES = [{"value": 1, "name": "land"}, {"value": 2, "name": "water"}]


def config(scenes: list[Any], labels: list[Any] = [], **changes: Any) -> IngestConfig:  # noqa: B006
    given = {"dataset": "d", "classes": CLASSES, "scenes": list(map(str, scenes))}
    return IngestConfig.model_validate(given | {"labels": list(map(str, labels))} | changes)


def take(folder: Path, given: IngestConfig) -> list[Mapping[str, Any]]:
    """What the worker answers for each scene of a config."""
    for part in (IMAGES, LABELS, PICTURES, PROFILES):
        (folder / part).mkdir(parents=True, exist_ok=True)
    rule = given.rule(ClassTable(tuple(given.classes)))
    notes = Reporter(str(folder / "notes"))
    taker = SceneTaker(
        str(folder), rule, tuple(given.bands), given.nodata, given.by_reference, notes
    )
    return [taker._take(scene.row()) for scene in find_inputs(given)[0]]


def info(count: int, alpha: int | None = None, dtype: str = "uint8") -> RasterInfo:
    return RasterInfo("x.tif", "GTiff", 8, 8, count, dtype, None, None, None, ("",) * count, alpha)


def kinds(*infos: RasterInfo, bands: tuple[int, ...] = ()) -> dict[str, SatsegError]:
    """The errors of scenes "0", "1", ... that have these infos."""
    source = SceneSource((BandFile("x.tif"),))
    records = [
        SceneRecord(str(i), source, {}, False, None, None, ("x.tif",), None, 8, 8, None, None)
        for i in range(len(infos))
    ]
    return bands_of([Taken(*pair) for pair in zip(records, infos, strict=True)], bands, ())[1]


def test_an_alpha_band_among_the_others_makes_another_kind():
    assert "alpha in band 4" in str(kinds(info(4), info(4), info(5, alpha=4))["2"])
    assert not kinds(info(3), info(4, alpha=4))


def test_of_scenes_whose_bands_are_named_only_these_have_to_be_there():
    assert not kinds(info(3), info(4), info(5, alpha=4), bands=(1, 2, 3))
    assert list(kinds(info(3), info(3), info(4), bands=(4, 1))) == ["0", "1"]
    assert list(kinds(info(3), info(4, dtype="uint16"), bands=(1, 2))) == ["1"]


@pytest.mark.parametrize("given", [None, "cubic"])
def test_a_description_s_own_resampling_holds_unless_the_config_names_one(tmp_path, given):
    paths = [write_raster(tmp_path / name, bands=1) for name in ("a.tif", "b.tif")]
    text = {"files": [path.name for path in paths], "resampling": "nearest"}
    write_json(tmp_path / "s.yaml", text)
    scenes, _ = find_inputs(config([tmp_path / "s.yaml"], resampling=given))
    assert scenes[0].source.resampling == (given or "nearest")


def test_a_mask_beside_a_scene_of_a_store_is_taken_and_has_a_checksum(tmp_path, monkeypatch):
    scene = write_raster(tmp_path / "a.tif")
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=False), rasterio.open(scene, "r+") as file:
        file.write_mask(np.eye(64, 80, dtype=np.uint8) * 255)
    monkeypatch.setattr("satseg_ray.data.taking.is_remote", lambda path: True)
    (outcome,) = take(tmp_path / "out", config([scene]))
    assert sorted(outcome["record"]["checksums"]) == ["images/a.tif", "images/a.tif.msk"]


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
