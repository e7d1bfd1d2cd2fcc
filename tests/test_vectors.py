"""Shapes of any vector format become the masks that asking for every pixel's centre gives."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import geopandas
import numpy as np
import pyproj
import pytest
import rasterio
import shapely
from hypothesis import given
from hypothesis import strategies as st
from rasterio.transform import Affine
from shapely import affinity, box

from satseg_ray.classes import ClassDef, ClassTable
from satseg_ray.errors import ConfigError, LabelsDoNotMatch, UnknownClassValue, UnreadableLabels
from satseg_ray.geo.grid import Window
from satseg_ray.geo.labels import LabelRule, documents, kind_of, survey, vectors
from satseg_ray.geo.labels.shapes import Burner, Shapes
from satseg_ray.geo.raster import inspect_raster
from tests.label_factories import (
    RULE,
    TABLE,
    UTM,
    burnt,
    by_points,
    centers,
    frame_of,
    geojson,
    on_edge,
    scene_info,
    write_json,
    write_vectors,
)

PIXELS = scene_info(crs=None)
SUFFIXES = [".geojson", ".gpkg", ".shp", ".parquet"]


@st.composite
def polygons(draw):
    """A valid polygon about a scene of 40 x 50 pixels; its corners may lie on pixel centres."""
    step = draw(st.sampled_from([1.0, 0.5, 1 / 3, 0.01]))
    point = st.tuples(st.integers(-10, 60), st.integers(-10, 60))
    corners = np.array(draw(st.lists(point, min_size=3, max_size=7, unique=True))) * step
    shape = shapely.make_valid(shapely.Polygon(corners), method="structure", keep_collapsed=False)
    return affinity.translate(shape, *draw(st.sampled_from([(0, 0), (17, 21), (0.25, 0)])))


@given(
    shapes=st.lists(polygons(), min_size=1, max_size=5),
    height=st.integers(1, 40),
    width=st.integers(1, 50),
)
def test_windows_are_those_of_the_whole_and_of_a_test_of_every_centre(shapes, height, width):
    values = np.arange(len(shapes), dtype=np.uint8)
    burner = Burner(Shapes(40, 50, np.array(shapes), values))
    whole = burner.burn(Window(0, 0, 40, 50))
    pieces = np.full((40, 50), 99, np.uint8)
    for window in Window(0, 0, 40, 50).blocks(height, width):
        pieces[window.slices()] = burner.burn(window)
    np.testing.assert_array_equal(pieces, whole)
    x, y = centers(scene_info(40, 50, crs=None))
    clear = ~on_edge(shapes, x, y, 2e-5)
    np.testing.assert_array_equal(whole[clear], by_points(shapes, list(values), x, y)[clear])


def test_far_windows_of_large_shapes_are_those_of_the_whole():
    rng = np.random.default_rng(3)
    shapes = [shapely.Polygon(rng.uniform(0, 3000, (3, 2))) for _ in range(20)]
    burner = Burner(Shapes(3000, 3000, np.array(shapes), np.arange(20, dtype=np.uint8)))
    whole = burner.burn(Window(0, 0, 3000, 3000))
    for window in Window(0, 0, 3000, 3000).blocks(701, 577):
        np.testing.assert_array_equal(burner.burn(window), whole[window.slices()])


def some_shapes(seed: int = 0) -> list[shapely.Polygon]:
    """Polygons, one with a hole, over the 640 x 800 m of the scene."""
    rng = np.random.default_rng(seed)
    shapes = [
        affinity.translate(
            shapely.Point(0, 0).buffer(rng.uniform(40, 150), quad_segs=int(rng.integers(1, 5))),
            500_000 + rng.uniform(100, 700),
            4_600_000 - rng.uniform(100, 540),
        )
        for _ in range(7)
    ]
    shapes[2] = shapes[2].difference(shapes[2].centroid.buffer(30))
    return shapes


KINDS = ["land", "water", "roof", "7", "0", "3", "land"]
VALUES = [0, 1, 2, 0, 1, 2, 0]


@pytest.mark.parametrize(
    ("suffix", "crs"),
    [(".geojson", "EPSG:4326")]
    + [(s, c) for s in SUFFIXES[1:] for c in (UTM, "EPSG:4326", "EPSG:3857", "EPSG:2263")],
)
@pytest.mark.parametrize("turn", [0, 20])
def test_any_format_in_any_crs_gives_the_mask_of_a_test_of_every_centre(
    tmp_path, suffix, crs, turn
):
    frame = frame_of(some_shapes(), UTM, kind=KINDS).to_crs(crs)
    path = write_vectors(tmp_path / f"labels{suffix}", frame)
    grid = Affine(10, 0, 500_000, 0, -10, 4_600_000) @ Affine.rotation(turn)
    scene = scene_info(transform=grid)
    mask, findings = burnt(path, RULE, scene)
    back = pyproj.Transformer.from_crs(UTM, crs, always_xy=True)
    x, y = back.transform(*centers(scene))
    clear = ~on_edge(some_shapes(), *centers(scene), 0.02)
    assert clear.mean() > 0.99
    expected = by_points(list(frame.geometry), VALUES, x, y)
    np.testing.assert_array_equal(mask[clear], expected[clear])
    assert {f.code for f in findings} <= {"beyond-raster"}
    kinds = {".gpkg": "geopackage", ".shp": "shapefile", ".parquet": "geoparquet"}
    assert kind_of(str(path)) == kinds.get(suffix, "geojson")


def test_long_edges_follow_their_own_crs_and_not_the_scenes(tmp_path):
    scene = scene_info(60, 400, transform=Affine(1000, 0, 300_000, 0, -1000, 6_680_000))
    shape = box(-78, 60.0, -71, 60.1)  # a parallel: a curve in UTM
    path = write_json(tmp_path / "a.json", geojson([shape], kind=["roof"]))
    mask, _ = burnt(path, RULE, scene)
    x, y = pyproj.Transformer.from_crs(UTM, 4326, always_xy=True).transform(*centers(scene))
    clear = ~on_edge([shape], x, y, 2e-5)
    assert clear.mean() > 0.98
    np.testing.assert_array_equal(mask[clear], by_points([shape], [2], x, y)[clear])
    straight = geopandas.GeoSeries([shape], crs=4326).to_crs(UTM)
    assert (by_points(list(straight), [2], *centers(scene)) != mask).sum() > 500


def test_shapes_of_a_scene_without_crs_are_in_pixels(tmp_path):
    path = write_json(tmp_path / "a.geojson", geojson([box(3, 2, 7, 4)], kind=["roof"]))
    mask, findings = burnt(path, RULE, PIXELS)
    expected = np.full((64, 80), 255)
    expected[2:4, 3:7] = 2
    np.testing.assert_array_equal(mask, expected)
    assert not findings


@pytest.mark.parametrize("suffix", SUFFIXES[1:])
def test_files_with_a_crs_are_refused_for_a_scene_without(tmp_path, suffix):
    path = write_vectors(tmp_path / f"a{suffix}", frame_of([box(0, 0, 9, 9)], kind=["roof"]))
    with pytest.raises(LabelsDoNotMatch, match=r"is in WGS 84 / UTM zone 18N, its scene .* no CRS"):
        burnt(path, RULE, PIXELS)


def test_degrees_are_not_taken_for_pixels(tmp_path):
    shapes = [box(32.59, 0.348, 32.5901, 0.3481)] * 7
    path = write_json(tmp_path / "a.json", geojson(shapes, kind=["roof"] * 7))
    with pytest.raises(LabelsDoNotMatch, match=r"7 shapes .* smaller than a pixel, .* has no CRS"):
        burnt(path, RULE, PIXELS)


@pytest.mark.parametrize(
    ("corners", "size", "doubted"),
    [
        ((32.5912, 0.3481, 40.2231, 20.9124), (512, 512), True),
        ((-74.25, -10.5, 60.75, 40.5), (512, 512), True),
        ((-74.25, -10.5, 60.75, 40.5), (64, 80), True),
        ((32.5912, 0.3481, 40.2231, 20.9124), (64, 80), False),
        ((32, 1, 40, 20), (512, 512), False),
        ((32.5912, 0.3481, 240.2231, 20.9124), (512, 512), False),
        ((32.5912, 0.3481, 40.2231, 120.9124), (512, 512), False),
    ],
)
def test_what_may_be_degrees_is_taken_as_pixels_and_said(tmp_path, corners, size, doubted):
    path = write_json(tmp_path / "a.json", geojson([box(*corners)], kind=["roof"]))
    _, findings = burnt(path, replace(RULE, shared=True), scene_info(size[0], size[1], None))
    assert [f.level for f in findings if f.code == "taken-as-pixels"] == ["warning"] * doubted


def test_a_format_that_has_pixels_or_no_crs_of_its_own_is_not_doubted(tmp_path):
    frame = frame_of([box(32.5912, 0.3481, 40.2231, 20.9124)], None, kind=["roof"])
    path = write_vectors(tmp_path / "a.parquet", frame)
    assert not burnt(path, RULE, scene_info(512, 512, crs=None))[1]


def test_shapes_between_pixel_centres_are_noted(tmp_path):
    shapes = [box(3, 3, 9, 9), box(20.6, 20, 21.4, 30), box(20.4, 30, 20.6, 40)]
    path = write_json(tmp_path / "a.json", geojson(shapes, kind=["roof"] * 3))
    mask, findings = burnt(path, RULE, PIXELS)
    assert (mask == 2).sum() == 36 + 10
    assert [(f.level, f.code) for f in findings] == [("note", "no-pixel")]
    assert findings[0].problem.startswith("1 shape (1) so small")


@pytest.mark.parametrize("suffix", SUFFIXES[1:])
def test_files_without_a_crs_take_the_one_of_the_rule_or_are_refused(tmp_path, suffix):
    shapes = some_shapes()
    path = write_vectors(tmp_path / f"a{suffix}", frame_of(shapes, None, kind=KINDS))
    mask, _ = burnt(path, replace(RULE, crs=UTM), scene_info())
    expected = by_points(shapes, VALUES, *centers(scene_info()))
    clear = ~on_edge(shapes, *centers(scene_info()), 1e-3)
    np.testing.assert_array_equal(mask[clear], expected[clear])
    with pytest.raises(LabelsDoNotMatch, match=r"has no CRS, its scene scene.tif is in EPSG:32618"):
        burnt(path, RULE, scene_info())
    with pytest.raises(LabelsDoNotMatch, match="'EPSG:1', which nobody knows"):
        burnt(path, replace(RULE, crs="EPSG:1"), scene_info())


@pytest.mark.parametrize("crs", ["urn:ogc:def:crs:EPSG::32618", "EPSG:32618"])
def test_the_crs_member_of_old_geojson_is_heeded(tmp_path, crs):
    path = write_json(tmp_path / "a.json", geojson([box(500_000, 4_599_980, 500_030, 4_600_000)],
                                                   crs, kind=["roof"]))  # fmt: skip
    mask, _ = burnt(path, RULE, scene_info())
    assert (mask[:2, :3] == 2).all()
    assert (mask == 2).sum() == 6


@pytest.mark.parametrize("wrap", ["feature", "geometry"])
def test_one_feature_or_a_bare_geometry_is_geojson(tmp_path, wrap):
    body = shapely.geometry.mapping(box(3, 2, 7, 4))
    document = {"type": "Feature", "properties": None, "geometry": body}
    path = write_json(tmp_path / "a.json", document if wrap == "feature" else body)
    mask, _ = burnt(path, LabelRule(TABLE, every="roof"), PIXELS)
    assert (mask == 2).sum() == 8
    assert kind_of(str(path)) == "geojson"


def test_later_features_lie_over_earlier_ones_or_by_rising_attribute(tmp_path):
    shapes = [box(0, 0, 4, 1), box(1, 0, 4, 1), box(2, 0, 4, 1), box(3, 0, 4, 1)]
    document = geojson(shapes, kind=["land", "water", "roof", "land"], rank=[2, 10, None, 1])
    path = write_json(tmp_path / "a.json", document)
    mask, _ = burnt(path, RULE, PIXELS)
    assert mask[0, :5].tolist() == [0, 1, 2, 0, 255]
    mask, _ = burnt(path, replace(RULE, order_by="rank"), PIXELS)
    assert mask[0, :5].tolist() == [0, 1, 1, 1, 255]
    with pytest.raises(ConfigError, match=r"shapes\.order_by: is 'none', .* has not. It has kind"):
        burnt(path, replace(RULE, order_by="none"), PIXELS)


def test_what_is_no_outline_is_found_and_left_out(tmp_path):
    bow = shapely.Polygon([(10, 10), (20, 20), (20, 10), (10, 20)])
    spike = shapely.Polygon([(1, 1), (5, 5), (1, 1)])
    shapes = [None, bow, spike, box(-5, 0, 1, 1), box(90, 0, 99, 9), shapely.Point(5, 5)]
    document = geojson(shapes, kind=["roof"] * 6)
    document["features"] += [
        {"type": "Feature", "properties": {"kind": "roof"}, "geometry": {"type": "Polygon"}},
        {"type": "Feature", "properties": {"kind": None}, "geometry": {
            "type": "Polygon", "coordinates": [[[30, 30], [31, 30], [31, 31], [30, 30.9]]]}},
        "nonsense",
    ]  # fmt: skip
    path = write_json(tmp_path / "a.json", document)
    mask, findings = burnt(path, replace(RULE, background="land"), PIXELS)
    text = {f.code: f.problem for f in findings}
    assert text == {
        "bad-geometry": "2 shapes (6, 8) with a geometry that is none",
        "no-class": "1 shape (7) without a class",
        "null-geometry": "1 shape (0) without a geometry",
        "line-without-width": "1 shape (5) of lines or points, without shapes.line_width",
        "repaired-geometry": "2 shapes (1, 2) with an outline that crosses itself",
        "no-area": "1 shape (2) without an area",
        "beyond-raster": "1 shape (4) wholly and 1 shape (3) partly beyond the raster",
    }
    x, y = centers(PIXELS)
    expected = by_points([shapely.make_valid(bow), box(-5, 0, 1, 1)], [2, 2], x, y, fill=0)
    expected[30, 30] = 255
    clear = ~on_edge([bow], x, y, 1e-9)
    np.testing.assert_array_equal(mask[clear], expected[clear])


def test_what_a_ring_covers_twice_is_covered(tmp_path):
    turns = np.arange(5) * 0.8 * np.pi
    star = shapely.Polygon(np.column_stack([20 + 15 * np.sin(turns), 20 + 15 * np.cos(turns)]))
    path = write_json(tmp_path / "a.json", geojson([star], kind=["roof"]))
    mask, findings = burnt(path, RULE, PIXELS)
    assert [f.code for f in findings] == ["repaired-geometry"]
    x, y = centers(PIXELS)
    expected = by_points([star.buffer(0).union(shapely.Point(20, 20).buffer(6))], [2], x, y)
    differs = (mask != expected) & ~on_edge([star], x, y, 0.1)
    assert mask[20, 20] == 2
    assert not differs.any()


def test_collections_are_their_polygons(tmp_path):
    mixed = shapely.GeometryCollection(
        [box(0, 0, 2, 2), shapely.LineString([(0, 9), (9, 9)]),
         shapely.GeometryCollection([box(1, 1, 4, 4), shapely.Point(8, 8)])]
    )  # fmt: skip
    path = write_json(tmp_path / "a.json", geojson([mixed], kind=["roof"]))
    mask, findings = burnt(path, RULE, PIXELS)
    assert (mask == 2).sum() == 4 + 9 - 1
    assert "mixed-geometry" in {f.code for f in findings}


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_numbers_with_gaps_are_class_values(tmp_path, suffix):
    shapes = [box(500_000 + 30 * i, 4_599_990, 500_030 + 30 * i, 4_600_000) for i in range(3)]
    frame = frame_of(shapes, UTM, kind=[7.0, None, 3.0])
    crs = None if suffix != ".geojson" else 4326
    path = write_vectors(tmp_path / f"a{suffix}", frame.to_crs(crs) if crs else frame)
    mask, findings = burnt(path, RULE, scene_info())
    assert mask[0, :10].tolist() == [0] * 3 + [255] * 3 + [2] * 3 + [255]
    assert [f.code for f in findings] == ["no-class"]
    mask, findings = burnt(path, replace(RULE, every="water"), scene_info())
    assert mask[0, :10].tolist() == [0] * 3 + [1] * 3 + [2] * 3 + [255]
    assert not findings


@pytest.mark.parametrize("dtype", ["Int64", "Float32", "string", "category"])
def test_columns_of_any_type_with_gaps_are_labels_and_ranks(tmp_path, dtype):
    kinds = ["7", None, "3"] if dtype in ("string", "category") else [7, None, 3]
    shapes = [box(500_000, 4_599_990, 500_000 + wide, 4_600_000) for wide in (30, 60, 90)]
    frame = frame_of(shapes, UTM, kind=kinds)
    frame["kind"] = frame["kind"].astype(dtype)
    path = write_vectors(tmp_path / "a.parquet", frame)
    mask, findings = burnt(path, replace(RULE, order_by="kind"), scene_info())
    assert mask[0, :10].tolist() == [0] * 3 + [2] * 6 + [255]
    assert [f.code for f in findings] == ["no-class"]


def test_names_say_what_labels_mean_and_unknown_ones_are_counted(tmp_path):
    shapes = [box(i, 0, i + 1, 1) for i in range(6)]
    kinds = ["haus", "haus", "see", "Land", "unklar", "9"]
    path = write_json(tmp_path / "a.json", geojson(shapes, kind=kinds))
    with pytest.raises(UnknownClassValue, match=r"'haus' \(2\), 'see' \(1\), .* in 6 shapes"):
        burnt(path, RULE, PIXELS)
    found = survey(str(path), replace(RULE, names={"see": "water"}))
    assert found.unknown == {"haus": 2, "Land": 1, "unklar": 1, "9": 1}
    assert found.known == {"land": 0, "water": 1, "roof": 0}
    names = {"haus": "roof", "see": "water", "Land": "land", "unklar": ""}
    rule = replace(RULE, names=names, ignore=(9,), background="land")
    mask, _ = burnt(path, rule, PIXELS)
    assert mask[0, :7].tolist() == [2, 2, 1, 0, 255, 255, 0]
    with pytest.raises(ConfigError, match=r"shapes\.names: names 'lake', which is no class"):
        replace(RULE, names={"see": "lake"})


def test_a_rule_must_say_which_class_shapes_are(tmp_path):
    path = write_json(tmp_path / "a.json", geojson([box(0, 0, 1, 1)], kind=["roof"], osm=[1]))
    with pytest.raises(ConfigError, match=r"is not set.*Set shapes\.attribute \(kind, osm\)"):
        burnt(path, LabelRule(TABLE), PIXELS)
    with pytest.raises(ConfigError, match=r"is 'art', which .* has not. It has kind, osm"):
        burnt(path, replace(RULE, attribute="art"), PIXELS)


def test_one_of_several_layers_must_be_named(tmp_path):
    path = tmp_path / "a.gpkg"
    for layer, kind in (("one", "land"), ("two", "water")):
        frame = frame_of([box(500_000, 4_599_990, 500_010, 4_600_000)], UTM, kind=[kind])
        write_vectors(path, frame, layer=layer)
    with pytest.raises(ConfigError, match=r"shapes.layer: is not set, .* has one, two"):
        burnt(path, RULE, scene_info())
    with pytest.raises(ConfigError, match=r"layer: is 'three', .* has one, two"):
        burnt(path, replace(RULE, layer="three"), scene_info())
    assert burnt(path, replace(RULE, layer="two"), scene_info())[0][0, 0] == 1


def test_labels_of_another_place_are_refused_with_both_bounds(tmp_path):
    path = write_json(tmp_path / "a.json", geojson([box(3, 50, 3.1, 50.1)], kind=["roof"]))
    with pytest.raises(LabelsDoNotMatch) as raised:
        burnt(path, RULE, scene_info())
    text = str(raised.value)
    assert "scene.tif at x 500000.00 to 500800.00, y 4599360.00 to 4600000.00 in EPSG:32618" in text
    assert "they do not overlap" in text


@pytest.mark.parametrize(("col", "fill"), [(40, 0), (200, 255)])
def test_a_shared_file_leaves_scenes_among_its_shapes_background(tmp_path, col, fill):
    shapes = [box(0, 0, 5, 5), box(100, 0, 105, 90)]
    path = write_json(tmp_path / "a.json", geojson(shapes, kind=["roof"] * 2))
    shifted = [affinity.translate(shape, -col) for shape in shapes]
    path = write_json(tmp_path / "a.json", geojson(shifted, kind=["roof"] * 2))
    scene = scene_info(20, 30, crs=None)
    mask, findings = burnt(path, replace(RULE, shared=True, background="land"), scene)
    assert (mask == fill).all()
    assert [(f.level, f.code) for f in findings] == [("note", "no-shape-here")]


def test_a_file_without_features_is_background_alone(tmp_path):
    path = write_json(tmp_path / "a.json", geojson([]))
    mask, findings = burnt(path, replace(RULE, background="water"), PIXELS)
    assert (mask == 1).all()
    assert not findings
    assert (burnt(path, RULE, PIXELS)[0] == 255).all()


@pytest.mark.parametrize(
    ("crs", "origin", "pixel"),
    [
        (UTM, (500_000, 4_600_000), 2),
        ("EPSG:3857", (1_000_000, 8_400_000), 4),  # 60 degrees north: lengths are doubled
        ("EPSG:4326", (10.0, 55.0), 2e-5),
        ("EPSG:2263", (1_000_000, 200_000), 5),  # feet
        ("EPSG:27700", (400_000, 300_000), 2),
    ],
)
def test_lines_and_points_are_as_wide_as_asked_in_metres_on_the_ground(
    tmp_path, crs, origin, pixel
):
    scene = scene_info(120, 140, crs, Affine(pixel, 0, origin[0], 0, -pixel, origin[1]))
    x, y = centers(scene)
    to_degrees = pyproj.Transformer.from_crs(crs, 4326, always_xy=True)
    line = [(x[r, c], y[r, c]) for r, c in ((20, 15), (60, 70), (30, 120))]
    point = (x[95, 60], y[95, 60])
    shapes = [shapely.LineString(to_degrees.transform(*p) for p in line),
              shapely.Point(to_degrees.transform(*point))]  # fmt: skip
    path = write_json(tmp_path / "a.json", geojson(shapes, kind=["water", "roof"]))
    mask, findings = burnt(path, replace(RULE, line_width=24.0), scene)
    # An independent yardstick: a local UTM zone's lengths, true to 0.1 %
    lon, _ = to_degrees.transform(*point)
    zone = f"EPSG:{32601 + int((lon + 180) // 6)}"
    flat = pyproj.Transformer.from_crs(4326, zone, always_xy=True)
    away = shapely.points(*flat.transform(*to_degrees.transform(x, y)))
    for value, shape in zip((1, 2), shapes, strict=True):
        distance = shapely.distance(
            away, shapely.transform(shape, flat.transform, interleaved=False)
        )
        assert (mask[distance < 12 * 0.994] == value).all()
        assert (mask[distance > 12 * 1.002] != value).all()
    assert not findings


@pytest.mark.parametrize("size", [1e7, 1e10, 1e14])
def test_shapes_far_larger_than_the_scene_cover_it(tmp_path, size):
    shapes = [box(-size, -size, size, size), shapely.Polygon([(40, -size), (size, 0), (40, size)])]
    path = write_json(tmp_path / "a.json", geojson(shapes, kind=["land", "water"]))
    mask, _ = burnt(path, RULE, PIXELS)
    assert (mask[:, :40] == 0).all()
    assert (mask[:, 40:] == 1).all()


def test_a_file_that_changes_is_read_anew(tmp_path):
    for kind, index in (("roof", 2), ("water", 1)):
        shape = box(500_000, 4_599_000, 501_000, 4_600_000)
        path = write_vectors(tmp_path / "a.shp", frame_of([shape], UTM, kind=[kind]))
        assert (burnt(path, RULE, scene_info())[0] == index).all()


def test_the_width_of_lines_is_in_pixels_without_a_crs(tmp_path):
    shape = shapely.LineString([(10, 10), (30, 10)])
    path = write_json(tmp_path / "a.json", geojson([shape], kind=["water"]))
    mask, _ = burnt(path, replace(RULE, line_width=4.0), PIXELS)
    assert (mask[8:12, 10:30] == 1).all()
    assert (mask[:8] == 255).all()
    assert (mask[12:] == 255).all()
    with pytest.raises(ConfigError, match=r"shapes\.line_width: is 0"):
        replace(RULE, line_width=0.0)


def test_coordinates_without_numbers_are_found(tmp_path):
    frame = frame_of([shapely.Polygon([(0, 0), (1, math.inf), (1, 0)]), box(500_000, 4_599_900,
                      500_010, 4_600_000)], UTM, kind=["roof"] * 2)  # fmt: skip
    _, findings = burnt(write_vectors(tmp_path / "a.parquet", frame), RULE, scene_info())
    assert [f.code for f in findings] == ["bad-coordinates"]


def test_a_crs_of_a_site_has_no_way_to_one_of_the_earth(tmp_path):
    site = 'LOCAL_CS["pit",UNIT["metre",1],AXIS["x",EAST],AXIS["y",NORTH]]'
    scene = replace(scene_info(), crs=site)
    path = write_json(tmp_path / "a.json", geojson([box(0, 0, 1, 1)], kind=["roof"]))
    with pytest.raises(LabelsDoNotMatch, match=r"the CRS .* has no way to"):
        burnt(path, RULE, scene)


def test_a_place_that_the_scenes_crs_has_not_is_found(tmp_path):
    x, y = pyproj.Transformer.from_crs(UTM, 4326, always_xy=True).transform(500_300, 4_599_700)
    shapes = [box(0, 95, 1, 99), shapely.Point(x, y).buffer(0.001)]
    path = write_json(tmp_path / "a.json", geojson(shapes, kind=["roof"] * 2))
    _, findings = burnt(path, RULE, scene_info())
    assert [f.code for f in findings] == ["bad-coordinates"]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[" * 65 + "]" * 65, "nests more than 64"),
        ('{"type": "FeatureCollection", "features": [', "is no JSON"),
        ('{"type": "Topology"}', "JSON of no known kind"),
        ('{"type": "Point", "coordinates": [NaN, 1]}', "NaN is no number"),
        ("[1, 2]", "holds a list"),
        ("{}", "it holds nothing"),
        ('{"type": "Feature", "geometry": null, "crs": 7}', "a crs member without a name"),
    ],
)
def test_json_that_is_no_label_file_is_refused(tmp_path, text, problem):
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(UnreadableLabels, match=problem):
        burnt(path, LabelRule(TABLE, every="roof"), PIXELS)


@given(
    parts=st.lists(st.sampled_from(['"', "\\", "[", "]", "{", "x", ","]), max_size=40),
    chunk=st.integers(1, 9),
)
def test_brackets_in_texts_do_not_nest(tmp_path_factory, parts, chunk):
    import json

    path = tmp_path_factory.getbasetemp() / "texts.json"
    path.write_text(json.dumps({"a": ["".join(parts), {"[": 1}], "b\\": [[]]}))
    found = b"".join(c.tobytes() for c in documents._outside_texts(str(path), chunk))
    assert found.replace(b" ", b"") == b"{:[,{:1}],:[[]]}"


def test_limits_are_said_before_memory_is_taken(tmp_path, monkeypatch):
    path = write_json(tmp_path / "a.json", geojson([box(0, 0, 1, 1)] * 9, kind=["roof"] * 9))
    packed = write_vectors(tmp_path / "a.gpkg", frame_of([box(0, 0, 1, 1)], UTM, kind=["roof"]))
    monkeypatch.setattr(documents, "MAX_VALUES", 50)
    with pytest.raises(UnreadableLabels, match="more than 50 values"):
        kind_of(str(path))
    monkeypatch.setattr(documents, "MAX_JSON_BYTES", 0)
    with pytest.raises(UnreadableLabels, match="MiB, the limit is 0"):
        kind_of(str(path))
    monkeypatch.setattr(vectors, "MAX_VERTICES", 4)
    with pytest.raises(UnreadableLabels, match="has 5 corners, the limit is 4"):
        burnt(packed, RULE, scene_info())
    monkeypatch.setattr(vectors, "MAX_BYTES", 1000)
    rows = write_vectors(tmp_path / "a.parquet", frame_of([box(0, 0, 1, 1)], UTM, kind=["roof"]))
    for file in (packed, rows):
        with pytest.raises(UnreadableLabels, match="the limit is 0"):
            burnt(file, RULE, scene_info())
    monkeypatch.setattr(vectors, "check_bytes", lambda path, most: None)
    monkeypatch.setattr(vectors, "MAX_BYTES", 100)
    with pytest.raises(UnreadableLabels, match="the limit is 0"):
        burnt(rows, RULE, scene_info())


@pytest.mark.parametrize("suffix", [".gpkg", ".shp", ".parquet"])
def test_damaged_files_are_refused(tmp_path, suffix):
    frame = frame_of(some_shapes() * 40, UTM, kind=KINDS * 40)
    path = write_vectors(tmp_path / f"a{suffix}", frame)
    path.write_bytes(path.read_bytes()[:90])
    with pytest.raises(UnreadableLabels, match="cannot be read as labels"):
        burnt(path, RULE, scene_info())


# --- real files

LANDSAT = ClassTable(
    tuple(
        ClassDef(value, name)
        for value, name in enumerate(["forest", "water", "herbaceous", "barren", "urban"], 1)
    )
)


@pytest.mark.realdata
def test_the_landsat_shapefile_by_id_is_its_raster_and_by_name_differs_in_two_fields(realdata):
    folder = realdata / "landsat7_landcover"
    scene = inspect_raster(folder / "LE70220491999322EDC01_stack.gtif")
    raster, _ = burnt(folder / "training_data.gtif", LabelRule(LANDSAT), scene)
    by_id, findings = burnt(folder / "training_data.shp", LabelRule(LANDSAT, attribute="id"), scene)
    np.testing.assert_array_equal(by_id, raster)
    assert (raster != 255).sum() == 718
    assert not findings
    by_name, _ = burnt(folder / "training_data.shp", LabelRule(LANDSAT, attribute="class"), scene)
    np.testing.assert_array_equal(by_name == 255, raster == 255)
    assert (by_name != raster).sum() == 19  # two polygons whose id and class disagree
    frame = geopandas.read_file(folder / "training_data.shp")
    names = dict(enumerate(LANDSAT.names, 1))
    assert (frame["id"].map(names) != frame["class"]).sum() == 2


@pytest.mark.realdata
def test_belgian_fields_are_those_inside_the_raster_and_the_rest_is_found(realdata):
    scene = inspect_raster(next((realdata / "belgium_fields" / "input_raster").glob("*.tif")))
    path = next((realdata / "belgium_fields" / "labels").glob("*polygons.gpkg"))
    table = ClassTable((ClassDef(1, "field"), ClassDef(2, "other")))
    mask, findings = burnt(path, LabelRule(table, attribute="label_name"), scene)
    text = {f.code: f.problem for f in findings}
    assert text == {
        "null-geometry": "1 shape (35) without a geometry",
        "beyond-raster": "44 shapes (198, 199, 200, 201, 202, ...) wholly and "
        "2 shapes (166, 172) partly beyond the raster",
    }
    frame = geopandas.read_file(path, layer="polygons").dropna(subset="geometry")
    expected = by_points([frame.union_all()], [0], *centers(scene))
    edge = np.argwhere(mask != expected)
    assert len(edge) == 0, edge


def slippy(path: Path):
    """The scene of a web mercator tile, from the x, y and zoom in its name."""
    x, y, zoom = map(int, path.stem.split("-")[1:])
    half = math.pi * 6_378_137
    side = 2 * half / 2**zoom
    grid = Affine(side / 256, 0, x * side - half, 0, -side / 256, half - y * side)
    return scene_info(256, 256, "EPSG:3857", grid)


@pytest.mark.realdata
def test_all_tiles_of_kampala_have_the_buildings_of_one_file(realdata):
    folder = realdata / "kampala_buildings" / "input"
    table = ClassTable((ClassDef(0, "ground"), ClassDef(1, "building")))
    rule = LabelRule(table, every="building", background="ground", shared=True)
    frame = geopandas.read_file(folder / "labels.geojson").to_crs(3857)
    shapes = [shapely.make_valid(shape) for shape in frame.geometry]
    tiles = sorted(folder.glob("OAM-*.png"))
    assert len(tiles) == 147
    bare = 0
    for path in tiles[::7]:
        scene = slippy(path)
        mask, findings = burnt(folder / "labels.geojson", rule, scene)
        x, y = centers(scene)
        near = [s for s in shapes if s.intersects(box(x.min(), y.min(), x.max(), y.max()))]
        expected = by_points(near, [1] * len(near), x, y, fill=0)
        differs = mask != expected
        assert on_edge(near, x[differs], y[differs], 1e-4).all(), path.name
        bare += any(f.code == "no-shape-here" for f in findings)
    assert bare < 3


@pytest.mark.realdata
def test_a_real_file_of_lines_needs_a_width(realdata):
    path = realdata / "odd_tiffs" / "rasterio" / "issue1446.geojson"
    grid = Affine(1e-5, 0, -9.152, 0, -1e-5, 2.176)
    scene = scene_info(600, 900, "EPSG:4326", grid)
    mask, findings = burnt(path, LabelRule(TABLE, every="roof"), scene)
    assert (mask == 255).all()
    assert "7 shapes" in findings[0].problem
    mask, _ = burnt(path, LabelRule(TABLE, every="roof", line_width=5.0), scene)
    with rasterio.Env():
        assert 1000 < (mask == 2).sum() < 20_000


def test_an_outline_that_crosses_itself_keeps_both_its_parts_in_another_crs(tmp_path):
    scene = scene_info()
    back = pyproj.Transformer.from_crs(UTM, "EPSG:4326", always_xy=True).transform
    corners = [(10.3, 10.2), (70.4, 50.1), (70.2, 10.6), (10.1, 50.7)]
    grid = Affine.from_gdal(*(scene.transform or ()))
    bow = shapely.Polygon([back(*(grid @ corner)) for corner in corners])
    path = write_json(tmp_path / "a.geojson", geojson([bow], kind=["roof"]))
    mask, findings = burnt(path, RULE, scene)
    rows, cols = np.mgrid[: scene.height, : scene.width] + 0.5
    crossed = shapely.make_valid(shapely.Polygon(corners))
    clear = shapely.distance(shapely.points(cols, rows), crossed.boundary) > 1e-2
    expected = np.where(shapely.contains_xy(crossed, cols, rows), 2, 255)
    np.testing.assert_array_equal(mask[clear], expected[clear])
    assert (expected == 2).sum() > 1000
    assert [finding.code for finding in findings] == ["repaired-geometry"]


# --- what lies far from a scene

PLACES = {
    "zone": ("EPSG:32618", (500_000, 4_600_000), 10),
    "other-zone": ("EPSG:32617", (1_000_700, 4_617_400), 10),
    "degrees": ("EPSG:4326", (-75.0, 41.5), 1e-4),
    "web": ("EPSG:3857", (-8_350_000, 5_090_000), 12),
    "date-line": ("EPSG:32601", (298_000, 5_500_000), 10),
    "date-line-degrees": ("EPSG:4326", (179.996, 10.0), 1e-4),
    "pole": ("EPSG:3413", (-400, 400), 10),
    "world": ("EPSG:4326", (-180, 90), 4.5),
    "world-web": ("EPSG:3857", (-20_037_508, 20_037_508), 501_000),
}


@pytest.mark.parametrize("source", ["EPSG:4326", "EPSG:3857", "EPSG:32618"])
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("shared", [True, False])
def test_cutting_off_what_is_far_changes_neither_mask_nor_counts(
    tmp_path, monkeypatch, source, place, shared
):
    crs, origin, pixel = PLACES[place]
    grid = Affine(pixel, 0, origin[0], 0, -pixel, origin[1])
    scene = scene_info(64, 80, crs, grid)
    rng = np.random.default_rng(5)
    to_source = pyproj.Transformer.from_crs(crs, source, always_xy=True).transform
    shapes = []
    for spread in (1, 1.2, 20):  # in it, over its edges, beyond
        for col, row in rng.uniform(0.5 - spread / 2, 0.5 + spread / 2, (12, 2)) * (80, 64):
            x, y = to_source(*(grid @ (np.array([0, 4, 4, 0]) + col, np.array([0, 1, 5, 4]) + row)))
            if np.isfinite([*x, *y]).all() and np.ptp(x) < 1e7:
                shapes.append(shapely.Polygon(np.column_stack([x, y])))
    shapes = [*shapes, shapely.LineString(shapes[0].exterior.coords[:2]), None] if shapes else []
    if not shapes:
        pytest.skip("these two places have nothing in common")
    frame = frame_of(shapes, source, kind=["roof"] * len(shapes))
    path = write_vectors(tmp_path / "a.parquet", frame)
    rule = replace(RULE, line_width=30.0, shared=shared, background="land")
    mask, findings = burnt(path, rule, scene)
    every = lambda self, bounds, width=0.0, grown=True: np.ones(len(bounds), np.bool_)  # noqa: E731
    monkeypatch.setattr("satseg_ray.geo.labels.place.Placement.near", every)
    expected, others = burnt(path, rule, scene)
    np.testing.assert_array_equal(mask, expected)
    assert findings == others
    assert (mask == 2).any()


@pytest.mark.parametrize("crs", [UTM, "EPSG:4326"])
def test_a_line_that_has_no_place_is_found_and_crashes_nothing(tmp_path, crs):
    grid = Affine(0.001, 0, 10, 0, -0.001, 50) if crs != UTM else None
    scene = scene_info(crs=crs, transform=grid)
    inside = (10.01, 49.99) if grid else (-74.996, 41.548)
    shapes = [shapely.LineString([(10, 91), (11, 120)]), shapely.Point(*inside)]
    path = write_json(tmp_path / "a.json", geojson(shapes, kind=["roof"] * 2))
    mask, findings = burnt(path, replace(RULE, line_width=200.0), scene)
    assert (mask == 2).any()
    assert [f.code for f in findings] == ["bad-coordinates"]


def test_shapes_far_from_a_scene_are_not_carried_to_its_crs(tmp_path, monkeypatch):
    corners = [(x, y) for x in np.arange(-75, -65, 0.1) for y in np.arange(35, 45, 0.1)]
    shapes = [box(x, y, x + 0.01, y + 0.01) for x, y in corners]
    path = write_json(tmp_path / "a.json", geojson(shapes, kind=["roof"] * len(shapes)))
    carried = []
    transform = shapely.transform

    def counted(geometries, *args, **options):
        carried.append(np.size(geometries))
        return transform(geometries, *args, **options)

    monkeypatch.setattr(shapely, "transform", counted)
    scene = scene_info(512, 512, transform=Affine(100, 0, 500_000, 0, -100, 4_600_000))
    _, findings = burnt(path, replace(RULE, shared=True), scene)
    assert not findings
    assert max(carried) < 60
    _, findings = burnt(path, RULE, scene)
    assert "wholly" in findings[0].problem


def test_a_document_is_made_into_shapes_once_for_all_its_scenes(tmp_path, monkeypatch):
    path = write_json(tmp_path / "a.json", geojson(some_shapes(), UTM, kind=KINDS))
    made = []
    build = shapely.geometry.shape

    def counted(body):
        made.append(1)
        return build(body)

    monkeypatch.setattr(documents, "shape", counted)
    for name in ("a.png", "b.png"):
        survey(str(path), RULE, name)
        burnt(path, RULE, scene_info(), image_name=name)
    assert len(made) == len(KINDS)


@pytest.mark.parametrize("name", ["a.geojson", "a.json", "a.gpkg", "a.shp", "a.parquet"])
@pytest.mark.parametrize("text", ["", " \n"])
def test_an_empty_file_of_shapes_is_called_empty(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    with pytest.raises(UnreadableLabels, match=rf"{name}: is empty"):
        burnt(tmp_path / name, RULE, scene_info())


def test_text_that_is_no_json_is_no_raster(tmp_path):
    (tmp_path / "a.geojson").write_text("<html>Not found</html>")
    with pytest.raises(UnreadableLabels, match=r"a\.geojson: is no JSON \(it begins with b'<html>"):
        burnt(tmp_path / "a.geojson", RULE, scene_info())


def test_a_number_of_very_many_digits_is_refused_with_its_file(tmp_path):
    body = json.dumps(geojson([box(0, 0, 1, 1)], kind=["a"])).replace("1.0", "1" * 400, 1)
    (tmp_path / "a.geojson").write_text(body)
    with pytest.raises(UnreadableLabels, match=r"a\.geojson: holds a number beyond all sizes"):
        burnt(tmp_path / "a.geojson", RULE, scene_info())
