"""Labels by value and by colour become class indexes, or an error that names what they hold."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from rasterio.crs import CRS
from rasterio.transform import Affine
from rasterio.warp import transform

from satseg_ray.classes import IGNORE, ClassDef, ClassTable, parse_color
from satseg_ray.errors import ConfigError, LabelsDoNotMatch, UnknownClassValue, UnreadableRaster
from satseg_ray.geo.grid import Window
from satseg_ray.geo.labels import (
    BitField,
    LabelReader,
    LabelRule,
    check_same_grid,
    images_in,
    kind_of,
    nearest,
    survey,
)
from satseg_ray.geo.raster import inspect_raster
from tests.factories import GRID
from tests.label_factories import burnt, centers, scene_info

TABLE = ClassTable(
    (
        ClassDef(7, "land", "#C8B27D"),
        ClassDef(0, "water", "#0000FF"),
        ClassDef(3, "roof", "#FF0000"),
    )
)
DUBAI = ClassTable(
    (
        ClassDef(1, "building", "#3C1098"),
        ClassDef(2, "land", "#8429F6"),
        ClassDef(3, "road", "#6EC1E4"),
        ClassDef(4, "vegetation", "#FEDD3A"),
        ClassDef(5, "water", "#E2A929"),
    )
)


def read(path: Path, rule: LabelRule) -> np.ndarray:
    with LabelReader(str(path), rule) as reader:
        whole = np.full(inspect_raster(path).window.shape, 99, np.uint8)
        for window, indexes in reader.blocks():
            whole[window.slices()] = indexes
        return whole


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "float32"])
def test_values_become_positions_in_the_class_table(make_raster, dtype):
    path = make_raster(values=np.array([[7, 0], [3, 9]], dtype))
    np.testing.assert_array_equal(read(path, LabelRule(TABLE, (9,))), [[0, 1], [2, IGNORE]])


@pytest.mark.parametrize("dtype", ["uint8", "int16", "float32"])
def test_nodata_in_labels_is_unlabelled(make_raster, dtype):
    path = make_raster(values=np.array([[7, 99]], dtype), nodata=99)
    np.testing.assert_array_equal(read(path, LabelRule(TABLE)), [[0, IGNORE]])


@pytest.mark.parametrize("nodata", [float("nan"), None])
def test_no_number_in_labels_is_unlabelled(make_raster, nodata):
    path = make_raster(values=np.array([[7, np.nan]], np.float32), nodata=nodata)
    np.testing.assert_array_equal(read(path, LabelRule(TABLE)), [[0, IGNORE]])


@pytest.mark.parametrize("value", [7.5, -3.0, 1e38, np.inf])
def test_a_value_that_is_no_class_is_named_as_it_stands(make_raster, value):
    path = make_raster("odd.tif", values=np.array([[7, value]], np.float32))
    with pytest.raises(UnknownClassValue) as raised:
        read(path, LabelRule(TABLE))
    assert f"the value {np.float32(value):g} in 1 pixels" in str(raised.value)


def test_unknown_values_are_named_with_the_file_the_commonest_first(make_raster):
    values = np.zeros((40, 10), np.uint8)
    values[0, :2], values[1, :6] = 200, 42
    path = make_raster("odd.tif", values=values)
    with pytest.raises(UnknownClassValue) as raised:
        read(path, LabelRule(TABLE))
    assert str(raised.value) == (
        f"{path}: holds the value 42, 200 in 8 pixels, which no class has. "
        "Add it to classes, or to ignore if it means unlabelled."
    )


def colored(indexes: np.ndarray, extra: tuple[int, int, int] = (0, 0, 0)) -> np.ndarray:
    lookup = np.array([*(c.rgb for c in TABLE), extra], np.uint8)
    return np.moveaxis(lookup[indexes], -1, 0)


@pytest.mark.parametrize("name", ["labels.tif", "labels.png"])
def test_three_bands_are_colours(make_raster, name):
    indexes = np.array([[0, 1, 2], [3, 2, 1]])
    path = make_raster(name, values=colored(indexes))
    np.testing.assert_array_equal(
        read(path, LabelRule(TABLE, ("#000000",))), np.where(indexes == 3, IGNORE, indexes)
    )


@pytest.mark.parametrize(("color", "name"), [((0, 0, 200), "#0000C8"), ((9, 8, 7), "#090807")])
def test_an_unknown_colour_is_named_as_a_colour(make_raster, color, name):
    path = make_raster("odd.png", values=colored(np.array([[0, 3]]), color))
    with pytest.raises(UnknownClassValue, match=rf"odd\.png: holds the colour {name} in 1 pixels"):
        read(path, LabelRule(TABLE))


@given(order=st.permutations(range(4)), seed=st.integers(0, 9))
def test_the_order_of_a_palette_does_not_matter(tmp_path_factory, order, seed):
    indexes = np.random.default_rng(seed).integers(0, 4, (9, 11))
    colors = [*(c.rgb for c in TABLE), parse_color("#9B9B9B")]
    image = Image.fromarray(np.argsort(order)[indexes].astype(np.uint8), mode="P")
    image.putpalette([level for position in order for level in colors[position]])
    path = tmp_path_factory.mktemp("palette") / "mask.png"
    image.save(path)
    rule = LabelRule(TABLE, ("#9B9B9B",))
    np.testing.assert_array_equal(read(path, rule), np.where(indexes == 3, IGNORE, indexes))


def palette_raster(make_raster, nodata: int | None = None) -> Path:
    colors = {0: (0, 0, 255), 7: (200, 178, 125), 9: (0, 0, 200)}
    return make_raster("odd.tif", np.array([[0, 7, 9]], np.uint8), palette=colors, nodata=nodata)


def test_an_unknown_palette_entry_is_named_by_its_colour(make_raster):
    with pytest.raises(UnknownClassValue, match="the colour #0000C8 in 1 pixels"):
        read(palette_raster(make_raster), LabelRule(TABLE))


def test_nodata_in_a_palette_is_unlabelled(make_raster):
    indexes = read(palette_raster(make_raster, nodata=9), LabelRule(TABLE))
    np.testing.assert_array_equal(indexes, [[1, 0, IGNORE]])


@pytest.mark.parametrize("clear", [1, bytes([255, 0, 255, 255]), bytes([255, 0, 128, 255])])
def test_a_class_whose_palette_entry_is_transparent_is_a_class(tmp_path, clear):
    indexes = np.random.default_rng(0).integers(0, 3, (40, 50)).astype(np.uint8)
    image = Image.fromarray(indexes, mode="P")
    image.putpalette([level for item in TABLE for level in item.rgb])
    image.save(tmp_path / "mask.png", transparency=clear)
    np.testing.assert_array_equal(read(tmp_path / "mask.png", LabelRule(TABLE)), indexes)


def test_a_class_wins_over_nodata_in_a_palette_as_it_does_in_values(make_raster):
    path = palette_raster(make_raster, nodata=7)
    assert read(path, LabelRule(TABLE, ("#0000C8",)))[0].tolist() == [1, 0, IGNORE]
    assert read(path, LabelRule(TABLE, (9,), by="value"))[0].tolist() == [1, 0, IGNORE]


def test_a_palette_can_be_read_by_value(make_raster):
    rule = LabelRule(TABLE, (9, "#0000C8"), by="value")
    np.testing.assert_array_equal(read(palette_raster(make_raster), rule), [[1, 0, IGNORE]])


def test_classes_without_colours_of_their_own_are_sent_to_values(make_raster):
    plain = ClassTable((ClassDef(0, "a"), ClassDef(7, "b")))
    with pytest.raises(ConfigError, match="labels_by: value"):
        read(palette_raster(make_raster), LabelRule(plain))


def test_a_plain_band_has_no_colours(make_raster):
    with pytest.raises(ConfigError, match="neither colours nor a palette"):
        read(make_raster(values=np.zeros((2, 2), np.uint8)), LabelRule(TABLE, by="color"))


def test_a_reader_that_fails_to_open_lets_go_of_its_file(make_raster):
    path = make_raster(values=np.zeros((2, 2), np.uint8))
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(ConfigError) as kept:  # the traceback holds on to the reader
        read(path, LabelRule(TABLE, by="color"))
    assert len(os.listdir("/proc/self/fd")) == before, kept


def test_only_unlabelled_pixels_are_no_error(make_raster):
    path = make_raster(values=np.full((3, 3), 9, np.uint8))
    assert (read(path, LabelRule(TABLE, (9,))) == IGNORE).all()


@given(data=st.data())
def test_windows_of_labels_equal_slices_of_the_whole(tmp_path_factory, data):
    indexes = np.random.default_rng(1).integers(0, 3, (37, 41))
    path = tmp_path_factory.getbasetemp() / "windows.png"
    if not path.exists():
        Image.fromarray(np.moveaxis(colored(indexes), 0, -1)).save(path)
    row, col = data.draw(st.integers(0, 36)), data.draw(st.integers(0, 40))
    window = Window(
        row, col, data.draw(st.integers(1, 37 - row)), data.draw(st.integers(1, 41 - col))
    )
    with LabelReader(str(path), LabelRule(TABLE)) as reader:
        np.testing.assert_array_equal(reader.read(window), indexes[window.slices()])


def test_a_truncated_mask_is_refused_and_never_read_as_the_first_class(tmp_path):
    path = tmp_path / "mask.png"
    values = np.random.default_rng(0).choice([7, 0, 3], (300, 300)).astype(np.uint8)
    Image.fromarray(values).save(path)
    path.write_bytes(path.read_bytes()[:-4000])
    with pytest.raises(UnreadableRaster, match=r"mask\.png"):
        read(path, LabelRule(TABLE))


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"height": 63}, "is 63 x 80 pixels, its scene .* is 64 x 80"),
        ({"crs": CRS.from_epsg(32619).to_wkt()}, "is in EPSG:32619, its scene .* in EPSG:32618"),
        ({"transform": (500_005.0, 10, 0, 4_600_000, 0, -10)}, "lies 0.50 pixels off"),
        ({"transform": (500_000.0, 10.05, 0, 4_600_000, 0, -10)}, "lies 0.40 pixels off"),
        ({"transform": (500_000.0, 10, 0, 4_600_000, 0.1, -10)}, "lies 0.80 pixels off"),
    ],
)
def test_labels_elsewhere_than_their_scene_are_refused(make_raster, change, problem):
    scene = inspect_raster(make_raster("scene.tif"))
    labels = replace(inspect_raster(make_raster("labels.tif", bands=1)), **change)
    with pytest.raises(LabelsDoNotMatch, match=problem):
        check_same_grid(labels, scene)


def test_a_masked_pixel_of_labels_is_unlabelled(make_raster):
    path = make_raster(values=np.zeros((2, 2), np.uint8))
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(path, "r+") as file:
        file.write_mask(np.array([[True, False], [True, True]]))
    rule = LabelRule(ClassTable((ClassDef(0, "a"), ClassDef(1, "b"))))
    np.testing.assert_array_equal(read(path, rule), [[0, IGNORE], [0, 0]])


def test_a_clear_pixel_of_coloured_labels_is_unlabelled(make_raster):
    values = np.concatenate([colored(np.array([[0, 1]])), [[[0, 255]]]]).astype(np.uint8)
    path = make_raster("clear.png", values)
    np.testing.assert_array_equal(read(path, LabelRule(TABLE)), [[IGNORE, 1]])


def test_more_than_eight_bits_are_no_colour(make_raster):
    values = np.zeros((3, 2, 2), np.uint16)
    values[1] = 65280  # would run over into red
    with pytest.raises(ConfigError, match="neither colours nor a palette"):
        read(make_raster(values=values), LabelRule(TABLE, by="color"))


def test_labels_that_name_no_datum_lie_on_the_grid_of_a_scene_that_does(make_raster):
    crs = CRS.from_string("+proj=utm +zone=32 +ellps=GRS80 +units=m")
    scene = inspect_raster(make_raster("scene.tif", crs="EPSG:25832"))
    check_same_grid(inspect_raster(make_raster("labels.tif", bands=1, crs=crs)), scene)


@pytest.mark.parametrize("georeference", [{"crs": None}, {"crs": None, "transform": None}, {}])
def test_labels_may_leave_the_georeference_to_their_scene(make_raster, georeference):
    scene = inspect_raster(make_raster("scene.tif", transform=GRID))
    check_same_grid(inspect_raster(make_raster("labels.tif", bands=1, **georeference)), scene)


@pytest.mark.parametrize(
    ("values", "by", "level"),
    [
        (np.zeros((2, 4, 4), np.uint8), "auto", "warning"),
        (np.zeros((3, 4, 4), np.uint16), "auto", "warning"),
        (np.zeros((3, 4, 4), np.uint8), "value", "note"),
        (np.full((4, 4, 4), [[[200]], [[178]], [[125]], [[9]]], np.uint8), "auto", "warning"),
        (np.full((3, 4, 4), [[[200]], [[178]], [[125]]], np.uint8), "auto", None),
        (np.zeros((1, 4, 4), np.uint8), "auto", None),
    ],
)
@pytest.mark.parametrize("warp", [False, True])
def test_bands_of_labels_that_nobody_reads_are_told(make_raster, values, by, level, warp):
    path = make_raster("labels.tif", values, photometric="MINISBLACK")
    scene = scene_info(8, 8, transform=GRID @ Affine.scale(0.5)) if warp else scene_info(4, 4)
    _, findings = burnt(path, LabelRule(TABLE, by=by, warp=warp), scene)
    found = [f.level for f in findings if f.code == "label-bands"]
    assert found == ([level] if level else [])


def test_the_alpha_band_of_labels_is_no_band_that_nobody_reads(make_raster):
    path = make_raster("labels.png", np.full((2, 4, 4), [[[0]], [[255]]], np.uint8))
    scene = inspect_raster(make_raster("scene.png", shape=(4, 4)))
    assert not burnt(path, LabelRule(TABLE), scene)[1]


CLOUDS = ClassTable((ClassDef(0, "clear"), ClassDef(1, "cloud"), ClassDef(2, "shadow")))
QA = LabelRule(
    CLOUDS,
    (1,),
    bits=(
        BitField("cloud", 3),
        BitField("cloud", 8, 2, (2, 3)),
        BitField("shadow", 4),
        BitField("clear", 6),
    ),
)


@pytest.mark.parametrize(("dtype", "top"), [("uint16", 0), ("int16", 1 << 15), ("uint8", 0)])
def test_the_first_bit_field_that_matches_is_the_class(make_raster, dtype, top):
    words = np.array([0b1000, 0b11000, 0b10000, 0b1000000, 0b1010000, 0, 1, 0b100], np.uint16)
    deep = np.array([0x200, 0x300, 0x100, 0x110], np.uint16)
    words = words if dtype == "uint8" else np.concatenate([words, deep]) | top
    path = make_raster("qa.tif", values=words.astype(dtype)[None])
    expected = [1, 1, 2, 0, 2, IGNORE, IGNORE, IGNORE, 1, 1, IGNORE, 2][: len(words)]
    assert read(path, QA)[0].tolist() == expected


def test_background_covers_words_that_no_field_matches_but_not_ignored_ones(make_raster):
    path = make_raster("qa.tif", values=np.array([[8, 0, 1]], np.uint16), nodata=0)
    rule = replace(QA, background="shadow")
    assert read(path, rule)[0].tolist() == [1, 2, IGNORE]


@pytest.mark.parametrize(
    "wrong", [{"first": 16}, {"first": 3, "width": 0}, {"first": 0, "values": (2,)},
              {"first": 0, "values": ()}, {"first": -1}]
)  # fmt: skip
def test_impossible_bit_fields_are_refused(wrong):
    with pytest.raises(ConfigError, match="bits: cloud"):
        BitField("cloud", **wrong)


def test_bit_fields_need_whole_numbers(make_raster):
    with pytest.raises(ConfigError, match="pixels of type float32"):
        read(make_raster("qa.tif", values=np.zeros((2, 2), np.float32)), QA)
    with pytest.raises(ConfigError, match="no bits are declared"):
        LabelRule(CLOUDS, by="bits")
    with pytest.raises(ConfigError, match="bits: names 'fog', which is no class"):
        LabelRule(CLOUDS, bits=(BitField("fog", 1),))


def test_background_covers_nodata_and_masked_pixels_but_not_ignored_ones(make_raster):
    path = make_raster("sparse.tif", values=np.array([[7, 99, 0, 9]], np.uint8), nodata=99)
    rule = LabelRule(TABLE, (9,), background="roof")
    assert read(path, rule)[0].tolist() == [0, 2, 1, IGNORE]
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(path, "r+") as file:
        file.nodata = None
        file.write_mask(np.array([[True, True, False, False]]))
    rule = LabelRule(TABLE, (9, 99), background="roof")
    assert read(path, rule)[0].tolist() == [0, IGNORE, 2, IGNORE]


def test_a_survey_counts_all_that_nobody_knows_in_the_whole_file(make_raster):
    values = np.zeros((1100, 4), np.uint8)
    values[0, :3], values[1050, :2], values[1099], values[1] = 42, 42, 200, 9
    found = survey(str(make_raster("a.tif", values=values)), LabelRule(TABLE, (9,)))
    assert found.unknown == {"42": 5, "200": 4}
    assert found.known == {"land": 0, "water": 4400 - 13, "roof": 0}
    assert (found.by, found.palette, found.unlabelled, found.unnamed) == ("value", (), 4, 0)


def test_a_survey_of_a_photograph_stays_small(make_raster):
    path = make_raster("photo.png", shape=(100, 100))
    found = survey(str(path), LabelRule(TABLE))
    assert len(found.unknown) == 4096
    assert sum(found.unknown.values()) + found.unnamed == 10_000


def test_a_survey_tells_the_order_of_a_palette(make_raster):
    found = survey(str(palette_raster(make_raster)), LabelRule(TABLE))
    assert found.palette[:8] == ("#0000FF", *["#000000"] * 6, "#C8B27D")
    assert found.unknown == {"#0000C8": 1}


def test_rasters_are_a_kind_that_speaks_of_no_images(make_raster):
    for name in ("a.tif", "b.png"):
        path = str(make_raster(name))
        assert kind_of(path) == "raster"
        assert images_in(path) == ()


# --- labels on another grid

FINE = Affine(4, 0.5, 500_103, 0.5, -4, 4_599_907)


def spread(make_raster, **options):
    values = np.random.default_rng(0).choice([7, 0, 3], (64, 80)).astype(np.uint8)
    return make_raster("labels.tif", values=values, **options), values


def test_labels_on_another_grid_are_warped_where_the_rule_says_so(make_raster):
    path, values = spread(make_raster)
    scene = scene_info(150, 230, transform=FINE)
    with pytest.raises(LabelsDoNotMatch, match="is 64 x 80 pixels"):
        burnt(path, LabelRule(TABLE), scene)
    mask, findings = burnt(path, LabelRule(TABLE, warp=True), scene)
    x, y = centers(scene)
    cols, rows = ~GRID @ (x, y)
    inside = (cols >= 0) & (cols < 80) & (rows >= 0) & (rows < 64)
    index = np.where(values == 7, 0, np.where(values == 0, 1, 2))
    expected = np.full(mask.shape, IGNORE)
    expected[inside] = index[rows[inside].astype(int), cols[inside].astype(int)]
    assert 0.5 < inside.mean() < 0.99
    np.testing.assert_array_equal(mask, expected)
    assert [(f.level, f.code) for f in findings] == [("note", "warped-labels")]
    mask, _ = burnt(path, LabelRule(TABLE, warp=True, background="roof"), scene)
    np.testing.assert_array_equal(mask, np.where(inside, expected, 2))


@pytest.mark.parametrize("kind", ["nodata", "mask", "palette", "rgb"])
def test_what_is_unlabelled_stays_so_when_it_is_warped(make_raster, kind):
    indexes = np.random.default_rng(0).integers(0, 3, (64, 80))
    values = np.array([7, 0, 3], np.uint8)[indexes]
    hole = np.zeros((64, 80), bool)
    hole[10:30, 20:50] = True
    colors = {7: (200, 178, 125), 0: (0, 0, 255), 3: (255, 0, 0), 9: (1, 2, 3)}
    if kind == "rgb":
        values = np.moveaxis(np.array([c for c in colors.values()], np.uint8)[
            np.where(hole, 3, indexes)], -1, 0)  # fmt: skip
    elif kind != "mask":
        values[hole] = 9
    each: dict[str, Any] = {"nodata": {"nodata": 9}, "palette": {"palette": colors}}
    path = make_raster("labels.tif", values=values, **each.get(kind, {}))
    if kind == "mask":
        with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(path, "r+") as file:
            file.write_mask(~hole)
    rule = LabelRule(TABLE, ("#010203",), warp=True)
    scene = scene_info(320, 400, transform=GRID @ Affine.scale(0.2))
    mask, _ = burnt(path, rule, scene)
    np.testing.assert_array_equal(mask, np.kron(np.where(hole, IGNORE, indexes), np.ones((5, 5))))


@pytest.mark.parametrize("most", [1 << 22, 300, 1])
def test_labels_of_another_zone_are_warped_however_much_is_read_at_once(
    make_raster, monkeypatch, most
):
    monkeypatch.setattr(nearest, "MOST_PIXELS", most)
    path, values = spread(make_raster)
    size = 90 if most > 1 else 20
    scene = scene_info(size, size, "EPSG:32617", Affine(11, 1, 1_000_700, 0, -9, 4_617_400))
    mask, _ = burnt(path, LabelRule(TABLE, warp=True), scene)
    x, y = (np.array(v) for v in transform(scene.crs, "EPSG:32618", *map(np.ravel, centers(scene))))
    cols, rows = ~GRID @ (x, y)
    inside = (cols >= 0) & (cols < 80) & (rows >= 0) & (rows < 64)
    index = np.where(values == 7, 0, np.where(values == 0, 1, 2))
    expected = np.full(mask.size, IGNORE)
    expected[inside] = index[rows[inside].astype(int), cols[inside].astype(int)]
    np.testing.assert_array_equal(mask.ravel(), expected)
    assert 0.2 < inside.mean() <= 1


def test_labels_that_lie_elsewhere_are_refused_or_shared(make_raster):
    path, _ = spread(make_raster)
    scene = scene_info(90, 90, transform=Affine(10, 0, 600_000, 0, -10, 4_600_000))
    with pytest.raises(LabelsDoNotMatch, match=r"lies at x 500000.00 to 500800.00.*not overlap"):
        burnt(path, LabelRule(TABLE, warp=True), scene)
    rule = LabelRule(TABLE, warp=True, shared=True, background="land")
    mask, findings = burnt(path, rule, scene)
    assert (mask == IGNORE).all()
    assert [f.code for f in findings] == ["no-label-here"]


def test_labels_without_a_georeference_are_never_warped(make_raster):
    path, _ = spread(make_raster, crs=None)
    with pytest.raises(LabelsDoNotMatch, match="is 64 x 80 pixels"):
        burnt(path, LabelRule(TABLE, warp=True), scene_info(150, 230, transform=FINE))


@pytest.mark.realdata
def test_all_real_masks_give_the_classes_of_their_colours(realdata):
    masks = sorted((realdata / "dubai_landcover").glob("tile_*/masks/*.png"))
    assert len(masks) == 54
    lookup = np.full(1 << 24, 254, np.uint8)
    for index, item in enumerate(DUBAI):
        lookup[int(item.color[1:], 16)] = index
    lookup[[0x9B9B9B, 0]] = IGNORE
    palettes = 0
    for path in masks:
        with Image.open(path) as image:
            palettes += image.mode == "P"
            red, green, blue = np.moveaxis(np.asarray(image.convert("RGB")).astype(np.int64), -1, 0)
        indexes = read(path, LabelRule(DUBAI, ("#9B9B9B", "#000000")))
        np.testing.assert_array_equal(indexes, lookup[red << 16 | green << 8 | blue], str(path))
    assert palettes == 18


@pytest.mark.realdata
def test_a_real_mask_with_the_colours_of_its_own_manifest_is_refused(realdata):
    manifest = ClassTable((ClassDef(1, "water", "#50E3C2"), ClassDef(2, "road", "#DE597F")))
    mask = realdata / "dubai_landcover" / "tile_2" / "masks" / "image_part_001.png"
    with pytest.raises(UnknownClassValue, match="#8429F6"):
        read(mask, LabelRule(manifest))


@pytest.mark.realdata
def test_real_palettes_differ_in_order_and_hold_an_undeclared_black(realdata):
    masks = sorted((realdata / "dubai_landcover").glob("tile_*/masks/*.png"))
    found = {path: survey(str(path), LabelRule(DUBAI, ("#9B9B9B",))) for path in masks}
    orders = {path: s.palette for path, s in found.items() if s.palette}
    assert {path.parts[-3] for path in orders} == {"tile_2", "tile_4"}
    assert len(orders) == 18
    assert len(set(orders.values())) > 10
    unknown = {code for s in found.values() for code in s.unknown}
    assert unknown == {"#000000"}


@pytest.mark.parametrize(
    ("by", "ignored", "words"),
    [
        ("auto", 7, "holds 7, which is the value of the class 'land'"),
        ("value", 7, "holds 7, which is the value of the class 'land'"),
        ("auto", "#c8b27d", "holds '#c8b27d', which is the colour of the class 'land'"),
        ("color", "#c8b27d", "holds '#c8b27d', which is the colour of the class 'land'"),
    ],
)
def test_what_is_a_class_cannot_be_ignored(by, ignored, words):
    table = ClassTable((ClassDef(7, "land", "#C8B27D"), ClassDef(2, "water", "#1F6FD0")))
    with pytest.raises(ConfigError, match=words):
        LabelRule(table, (ignored,), by)


def test_what_is_no_code_of_the_labels_may_be_ignored():
    table = ClassTable((ClassDef(7, "land", "#C8B27D"), ClassDef(2, "water", "#1F6FD0")))
    assert LabelRule(table, ("#c8b27d", 0), "value").codes("value") == {7: 0, 2: 1, 0: IGNORE}
    assert LabelRule(table, (7, "#000000"), "color").codes("color")[0] == IGNORE
    assert LabelRule(table, (7,), "bits", bits=(BitField("water", 0),)).ignore == (7,)
