"""Checks: facts against numpy on the whole array, and each rule on the defect it is for."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from rasterio.transform import from_origin

from satseg_ray.checks.bands import FloatTally, IntegerTally
from satseg_ray.checks.classfiles import find_class_files
from satseg_ray.checks.collection import Collection
from satseg_ray.checks.facts import SceneFacts
from satseg_ray.checks.measure import Measured, Subject, ground_sample_distance, measure
from satseg_ray.checks.pairing import pair
from satseg_ray.checks.rules import apply_rules, strict
from satseg_ray.checks.survey import surveyed
from satseg_ray.classes import ClassDef, ClassTable
from satseg_ray.errors import ConfigError
from satseg_ray.findings import Finding
from satseg_ray.geo.labels import LabelReader, LabelRule, check_same_grid
from satseg_ray.geo.raster import RasterInfo, SceneReader, inspect_raster
from tests.factories import GRID, random_pixels, write_raster

TABLE = ClassTable((ClassDef(7, "land", "#C8B27D"), ClassDef(2, "water", "#1F6FD0")))
RULE = LabelRule(TABLE, (0, "#000000"))
DUBAI = LabelRule(
    ClassTable(
        (
            ClassDef(0, "building", "#3C1098"),
            ClassDef(1, "land", "#8429F6"),
            ClassDef(2, "road", "#6EC1E4"),
            ClassDef(3, "vegetation", "#FEDD3A"),
            ClassDef(4, "water", "#E2A929"),
        )
    ),
    ("#9B9B9B",),
)


@contextmanager
def opened(path: str, rule: LabelRule, scene: RasterInfo) -> Iterator[LabelReader]:
    """The labels of a scene, as ingest opens them."""
    check_same_grid(inspect_raster(path), scene)
    with LabelReader(path, rule) as labels:
        yield labels


def measured(
    scene: Path, labels: Path | None = None, rule: LabelRule = RULE, **reading: Any
) -> Measured:
    with SceneReader(scene, **reading) as reader:
        opener = partial(opened, str(labels), rule, reader.info) if labels else None
        survey = partial(surveyed, str(labels), rule) if labels else None
        text = str(labels) if labels else None
        return measure(Subject(scene.stem, str(scene), text, opener, survey), reader, rule)


def judged(
    facts: Sequence[SceneFacts], rule: LabelRule = RULE, **options: Any
) -> dict[str, Finding]:
    """The findings by code; each code stands once, however many scenes there are."""
    found = apply_rules(Collection(tuple(facts), rule, **options))
    assert len({finding.code for finding in found}) == len(found)
    return {finding.code: finding for finding in found}


@pytest.fixture
def scene(tmp_path) -> Callable[..., SceneFacts]:
    """``scene("a.tif", values, labels)`` writes a scene, and labels, and returns its facts."""

    def facts(name: str, values: Any = None, labels: Any = None, **options: Any) -> SceneFacts:
        reading = {key: options.pop(key) for key in ("nodata_used",) if key in options}
        path = write_raster(tmp_path / "images" / name, values, **options)
        label = None
        if labels is not None:
            label = tmp_path / "labels" / f"{Path(name).stem}.png"
            write_raster(label, np.asarray(labels, np.uint8))
        return measured(path, label, nodata=reading.get("nodata_used")).facts

    return facts


def labels_of(shape: tuple[int, int] = (64, 80)) -> np.ndarray:
    return np.random.default_rng(5).choice([7, 2, 0], shape).astype(np.uint8)


# Facts


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "float32"])
@pytest.mark.parametrize("nodata", [None, 3])
def test_the_facts_of_a_band_are_those_of_the_whole_array(tmp_path, dtype, nodata):
    values = random_pixels((700, 90), 2, dtype, seed=3)
    values[:, :20] = 3
    path = write_raster(tmp_path / "a.tif", values, nodata=nodata)
    facts = measured(path).facts
    valid = np.ones(values.shape[1:], np.bool_)
    if nodata is not None:
        hit = values == nodata
        valid = ~(hit.all(axis=0) if dtype == "uint8" else hit.any(axis=0))
    assert facts.valid == valid.sum()
    for band, array in zip(facts.bands, values, strict=True):
        held = array[valid]
        assert band.low is not None
        assert band.high is not None
        assert band.mean == pytest.approx(held.astype(np.float64).mean(), rel=1e-6)
        distinct, counts = np.unique(held, return_counts=True)
        assert (band.low.value, band.low.count, band.low.next) == (
            distinct[0],
            counts[0],
            distinct[1],
        )
        assert (band.high.value, band.high.count, band.high.next) == (
            distinct[-1],
            counts[-1],
            distinct[-2],
        )
        assert sum(band.histogram) == band.count == len(held)
        start, stop = band.span or (0, 0)
        expected, _ = np.histogram(np.clip(held, start, np.nextafter(stop, start)), 64, band.span)
        assert np.abs(np.array(band.histogram) - expected).sum() <= 4  # float32 at bin edges


@given(st.lists(st.integers(0, 255), max_size=60), st.integers(0, 60))
def test_bytes_are_counted_the_same_in_parts(values, cut):
    whole, parts = (IntegerTally(np.dtype("uint8")) for _ in range(2))
    array = np.array(values, np.uint8)
    whole.see(array)
    parts.see(array[cut:])
    parts.see(array[:cut])
    assert parts.facts("a") == whole.facts("a")
    assert sum(whole.facts("a").histogram) == len(values)


@given(st.lists(st.sampled_from([-9999.0, 0.0, 0.5, 0.25, 7.0]), max_size=20), st.integers(0, 20))
def test_extremes_of_floats_are_the_same_in_parts(values, cut):
    whole, parts = FloatTally(0.0, 1.0), FloatTally(0.0, 1.0)
    array = np.array(values, np.float32)
    whole.see(array)
    parts.see(array[cut:])
    parts.see(array[:cut])
    assert parts.facts("a") == whole.facts("a")


def test_the_largest_floats_neither_warn_nor_spoil_the_facts(scene):
    values = random_pixels((64, 80), 1, "float32")
    values[0, 0], values[0, 1] = np.finfo(np.float32).min, np.finfo(np.float32).max
    facts = scene("a.tif", values)
    assert sum(facts.bands[0].histogram) == 64 * 80
    assert json.loads(facts.to_json())["bands"][0]["low"]["count"] == 80
    assert "suspicious-nodata" in {f.code for f in apply_rules(Collection((facts,), RULE))}


def test_facts_survive_json(scene):
    facts = scene("a.tif", labels=labels_of(), dtype="float32", bands=2, nodata=float("nan"))
    assert SceneFacts.from_json(facts.to_json()).to_json() == facts.to_json()
    same = scene("b.tif", labels=labels_of())
    assert SceneFacts.from_dict(json.loads(json.dumps(same.to_dict()))) == same


def test_equal_pixels_have_one_digest_in_any_format(tmp_path):
    values = random_pixels((600, 70), seed=1)
    tif = write_raster(tmp_path / "a.tif", values, tiled=True, blockxsize=64, blockysize=64)
    png = write_raster(tmp_path / "b.png", values)
    other = write_raster(tmp_path / "c.tif", values[:, ::-1])
    digests = [measured(path).facts.digest for path in (tif, png, other)]
    assert digests[0] == digests[1] != digests[2]


def test_not_finite_pixels_are_counted_by_band(tmp_path):
    values = random_pixels((40, 50), 2, "float32")
    values[0, :3, :5] = np.nan
    values[1, 2:4, 0] = np.inf
    facts = measured(write_raster(tmp_path / "a.tif", values)).facts
    assert [band.not_finite for band in facts.bands] == [15, 2]
    assert facts.valid == 40 * 50 - 15 - 1
    assert "about 15 in all: a" in judged([facts])["not-finite"].problem


@pytest.mark.parametrize("bands", [1, 9])
def test_memory_holds_blocks_and_never_a_scene(tmp_path, bands):
    path = write_raster(tmp_path / "a.tif", shape=(600, 4200), bands=bands, dtype="float32")
    windows = []

    class Watched(SceneReader):
        def read(self, window):
            windows.append(window)
            return super().read(window)

    with Watched(path) as reader:
        facts = measure(Subject("a", "a.tif"), reader, RULE).facts
    largest = max(window.area for window in windows)
    assert largest * bands * 4 <= 64 << 20
    assert sum(window.area for window in windows) <= 600 * 4200 + 25 * 128 * 128
    assert facts.valid == 600 * 4200


def test_a_setting_that_does_not_fit_is_no_defect_of_the_data(tmp_path):
    label = write_raster(tmp_path / "l.tif", labels_of())
    with pytest.raises(ConfigError):
        measured(write_raster(tmp_path / "a.tif"), label, LabelRule(TABLE, by="color"))


def test_labels_are_counted_by_class(scene):
    values = labels_of()
    facts = scene("a.tif", labels=values).labels
    assert facts is not None
    assert facts.counts == tuple(int((values == v).sum()) for v in (7, 2, 0))


def test_pictures_are_small_and_show_every_nth_pixel(tmp_path):
    values = random_pixels((700, 530), seed=2)
    labels = np.full((700, 530), 2, np.uint8)
    labels[:350] = 0
    image = write_raster(tmp_path / "a.tif", values)
    taken = measured(image, write_raster(tmp_path / "l.tif", labels))
    assert taken.picture.shape == (234, 177, 3)
    assert taken.overlay is not None
    small = labels[::3, ::3]
    assert (np.ptp(taken.overlay[small == 0], axis=1) == 0).all()
    red, green, blue = taken.overlay[small == 2].T.astype(int)
    assert (np.abs(blue - red - (0xD0 - 0x1F) // 2) <= 1).all()
    assert (np.abs(green - red - (0x6F - 0x1F) // 2) <= 1).all()
    taken.write_pictures(tmp_path)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "a.image.png")), taken.picture)
    assert (tmp_path / "a.labels.png").is_file()


def test_pictures_of_two_scenes_never_share_a_file(tmp_path, scene):
    found = [scene(f"{name}.tif", labels=labels_of()) for name in ("a", "a.labels", "a.image")]
    picture = np.zeros((4, 4, 3), np.uint8)
    (tmp_path / "pictures").mkdir()
    for facts in found:
        Measured(facts, picture, picture).write_pictures(tmp_path / "pictures")
    assert len(list((tmp_path / "pictures").iterdir())) == 6


@pytest.mark.parametrize(
    ("crs", "transform", "metres"),
    [
        ("EPSG:32618", GRID, 10.0),
        ("EPSG:4326", from_origin(10, 60, 0.001, 0.001), 111.195 * 0.7071),
        ("EPSG:3857", from_origin(1_113_194.9, 8_399_737.9, 10, 10), 5.0),
    ],
)
def test_pixels_are_measured_on_the_ground(tmp_path, crs, transform, metres):
    path = write_raster(tmp_path / "a.tif", shape=(4, 4), crs=crs, transform=transform)
    assert ground_sample_distance(inspect_raster(path)) == pytest.approx(metres, rel=0.01)


def test_a_mask_of_thousands_of_colours_is_surveyed_in_bounded_memory(tmp_path):
    values = np.random.default_rng(0).integers(0, 256, (3, 300, 300)).astype(np.uint8)
    values[:, :150] = np.array([1, 2, 3])[:, None, None]
    survey = surveyed(str(write_raster(tmp_path / "a.png", values)), RULE)
    assert survey.unknown[0] == ("#010203", 150 * 300)
    assert len(survey.unknown) == 256
    assert sum(n for _, n in survey.unknown) + survey.unnamed == 300 * 300


# Rules


def test_clean_scenes_give_no_finding(scene):
    scenes = [
        scene(
            f"{i}.tif",
            labels=labels_of(),
            seed=i,
            transform=from_origin(500_000 + 800 * i, 0, 10, 10),
        )
        for i in range(3)
    ]
    assert judged(scenes) == {}


def test_an_extension_that_lies_is_told_once_for_all(tmp_path):
    paths = []
    for i in range(5):
        path = tmp_path / f"{i}.png"
        Image.fromarray(random_pixels((20, 20), seed=i).transpose(1, 2, 0)).save(path, "JPEG")
        paths.append(path)
    finding = judged([measured(path).facts for path in paths])["misnamed"]
    assert finding.subject == "5 scenes"
    assert finding.problem == "JPEG under a name that ends in .png: 0, 1, 2 and 2 more"


def test_crs_gsd_types_and_bands_that_differ_are_told(scene):
    far = from_origin(100_000, 100_000, 30, 30)
    scenes = [
        scene("a.tif"),
        scene("b.tif", crs="EPSG:32619", transform=far, dtype="uint16"),
        scene("c.tif", crs=None, bands=2),
    ]
    found = judged(scenes)
    assert found["no-crs"].level == found["mixed-crs"].level == "warning"
    assert "30" in found["mixed-gsd"].problem
    assert "not uint8: b" in found["mixed-dtype"].problem
    assert found["mixed-dtype"].level == found["mixed-bands"].level == "error"
    aligned = judged(scenes, on_one_grid=True)
    assert not aligned.keys() & {"mixed-crs", "mixed-gsd", "misaligned-grids"}


@pytest.mark.parametrize(("shift", "level"), [(4.0, "warning"), (2000.0 + 4, "note")])
def test_a_grid_shifted_by_part_of_a_pixel_is_told(scene, shift, level):
    first = scene("a.tif")
    second = scene("b.tif", seed=1, transform=from_origin(500_000 + shift, 4_600_000, 10, 10))
    finding = judged([first, second])["misaligned-grids"]
    assert finding.level == level
    assert "up to 0.40" in finding.problem


def test_a_grid_shifted_by_whole_pixels_is_aligned_and_shares_ground(scene):
    first = scene("a.tif")
    second = scene("b.tif", seed=1, transform=from_origin(500_300, 4_600_000, 10, 10))
    assert judged([first, second]).keys() == {"same-ground"}


def test_neighbours_that_share_an_edge_do_not_share_ground(scene):
    first = scene("a.tif")
    second = scene("b.tif", seed=1, transform=from_origin(500_790, 4_600_000, 10, 10))
    assert judged([first, second]) == {}


def test_grids_without_a_size_are_survived(scene):
    flat = replace(scene("a.tif"), transform=(0.0,) * 6)
    found = judged([flat, replace(flat, name="b", digest="b")])
    assert "misaligned-grids" not in found


def test_masks_swapped_between_two_images_are_told_by_their_sizes(tmp_path):
    facts = []
    shapes = {"a": (40, 50), "b": (60, 30), "c": (20, 20)}
    for name, other in (("a", "b"), ("b", "a"), ("c", "c")):
        image = write_raster(tmp_path / f"{name}.tif", shape=shapes[name], crs=None, transform=None)
        label = write_raster(tmp_path / f"{name}.png", labels_of(shapes[other]))
        facts.append(measured(image, label).facts)
    found = judged(facts)
    assert found["swapped-labels"].level == "error"
    assert found["swapped-labels"].subject == "a and b"
    assert not found.keys() & {"label-size", "labels-refused"}


def test_a_size_that_two_masks_could_have_is_not_called_swapped(tmp_path):
    facts = []
    for name, image, label in (
        ("a", (40, 50), (60, 30)),
        ("b", (60, 30), (40, 50)),
        ("c", (60, 30), (40, 50)),
    ):
        path = write_raster(tmp_path / f"{name}.tif", shape=image)
        facts.append(measured(path, write_raster(tmp_path / f"{name}.png", labels_of(label))).facts)
    found = judged(facts)
    assert "swapped-labels" not in found
    assert found["label-size"].subject == "3 scenes"


def test_unknown_values_of_all_files_are_told_with_their_counts(scene):
    strange = labels_of()
    strange[:2] = 9
    more = labels_of()
    more[0, :5] = 200
    more[1] = 9
    facts = [scene("a.tif", labels=strange), scene("b.tif", seed=1, labels=more)]
    finding = judged(facts)["unknown-value"]
    assert finding.level == "error"
    assert "9 (240 pixels), 200 (5 pixels)" in finding.problem
    assert "labels-refused" not in judged(facts)


def write_palette(path: Path, indexes: np.ndarray, colors: Sequence[str]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(indexes.astype(np.uint8), "P")
    image.putpalette([int(c[i : i + 2], 16) for c in colors for i in (1, 3, 5)])
    image.save(path)
    return path


def test_palettes_in_another_order_are_noted_and_read_by_colour(tmp_path):
    facts = []
    for name, colors in (("a", ["#C8B27D", "#1F6FD0"]), ("b", ["#1F6FD0", "#C8B27D"])):
        indexes = labels_of() // 4
        label = write_palette(tmp_path / "masks" / f"{name}.png", indexes, colors)
        facts.append(measured(write_raster(tmp_path / f"{name}.tif", seed=ord(name)), label).facts)
    first, second = (f.labels.counts for f in facts if f.labels)
    assert first[:2] == second[1::-1]
    finding = judged(facts)["palette-order"]
    assert (finding.level, finding.subject) == ("note", "2 label files")
    assert "2 different orders" in finding.problem


def test_the_same_image_twice_is_a_warning_and_with_other_labels_an_error(scene):
    values = random_pixels((64, 80))
    one = scene("a.tif", values, labels_of())
    two = scene("b.png", values, labels_of())
    three = scene("c.tif", values, labels_of()[::-1])
    assert judged([one, two])["duplicated-image"].problem.endswith("a = b")
    found = judged([one, three])
    assert found["contradicting-duplicates"].level == "error"
    assert "duplicated-image" not in found


def test_scenes_that_teach_nothing_are_told(scene):
    empty = scene("empty.tif", np.zeros((3, 64, 80), np.uint8), nodata=0)
    bare = scene("bare.tif", seed=1, labels=np.zeros((64, 80)))
    one = scene("one.tif", seed=2, labels=np.full((64, 80), 7))
    found = judged([empty, bare, one])
    assert found["empty-scene"].problem.endswith("empty")
    assert found["no-labelled-pixel"].problem.endswith("bare")
    assert found["one-class-scene"].problem.endswith("one")
    assert found["absent-class"].subject == "water"


def test_a_rare_class_is_noted_with_its_share(scene):
    labels = np.full((64, 80), 7)
    labels[0, :3] = 2
    finding = judged([scene("a.tif", labels=labels)])["rare-class"]
    assert finding.subject == "water (<0.1%)"


def test_bands_that_say_nothing_are_told(scene):
    def values(seed: int, constant: tuple[int, ...]) -> np.ndarray:
        pixels = random_pixels((64, 80), 5, seed=seed)
        for band in constant:
            pixels[band] = 5
        return pixels

    found = judged([scene("a.tif", values(0, (4,))), scene("b.tif", values(1, (3, 4)))])
    assert found["dead-band"].subject == "band_5"
    assert found["constant-band"].problem == "holds nothing but 5 in 1 scene: b"


def test_saturated_bands_are_noted(scene):
    values = random_pixels((64, 80))
    values[1, :10] = 255
    assert "band_2" in judged([scene("a.tif", values)])["saturated"].problem


@pytest.mark.parametrize(
    ("dtype", "value", "rows"),
    [("int16", -9999, 1), ("int16", -32768, 3), ("float32", -9999, 1), ("uint16", 65535, 1)],
)
def test_a_value_that_looks_like_nodata_is_told_with_what_to_declare(scene, dtype, value, rows):
    values = random_pixels((64, 80), 3, dtype)
    values[1, :rows] = value
    finding = judged([scene("a.tif", values)])["suspicious-nodata"]
    assert (finding.level, finding.subject) == ("warning", "1 scene")
    assert f"{value} in band_2" in finding.problem
    assert f"Declare nodata: {value}" in finding.action
    declared = judged([scene("b.tif", values, nodata=value)])
    assert "suspicious-nodata" not in declared


def test_a_value_no_tool_is_known_for_is_told_where_it_stands_far_off(scene):
    values = random_pixels((64, 80), 1, "int16")
    values[0, :2] = -25_000
    assert "-25000" in judged([scene("a.tif", values)])["suspicious-nodata"].problem


def test_a_black_border_without_a_tag_is_told(scene):
    values = random_pixels((64, 80)) | 1
    values[:, np.arange(64)[:, None] + np.arange(80) < 40] = 0
    found = judged([scene("a.tif", values)])
    assert "Declare nodata: 0" in found["suspicious-nodata"].action
    assert "suspicious-nodata" not in judged([scene("b.tif", values, nodata=0)])


def test_dark_pixels_and_binary_bands_are_no_nodata(scene):
    dark = random_pixels((64, 80))
    dark[:, 20:30, 20:40] = 0
    binary = (random_pixels((64, 80), 1, "int16") > 5000).astype(np.int16)
    found = judged([scene("a.tif", dark), replace(scene("b.tif", binary), name="b")])
    assert "suspicious-nodata" not in found


def test_a_nodata_tag_that_a_declared_value_replaces_is_a_warning(scene):
    tagged = scene("a.tif", nodata=200, nodata_used=3)
    found = judged([tagged, scene("b.tif", nodata=3, nodata_used=3)])
    assert "200 the declared one replaces: a" in found["nodata-overridden"].problem


def test_an_image_with_a_palette_is_a_warning(scene):
    palette = {value: (value, 0, 0) for value in range(256)}
    found = judged([scene("a.tif", bands=1, palette=palette), scene("b.tif", bands=1)])
    assert found["palette-image"].level == "warning"
    assert found["palette-image"].problem.endswith(": a")


def test_a_nodata_tag_that_no_pixel_holds_is_noted(scene):
    found = judged([scene("a.tif", random_pixels((64, 80)) | 1, nodata=0)])
    assert "0 no pixel holds: a" in found["unused-nodata"].problem


def test_a_declared_nodata_value_replaces_the_tag(scene):
    facts = scene("a.tif", random_pixels((64, 80)) | 1, nodata=0, nodata_used=255)
    assert (facts.nodata, facts.declared_nodata) == (0, 255)


def test_labels_that_are_damaged_are_told_and_the_scene_stays(tmp_path):
    label = tmp_path / "a.png"
    label.write_bytes(b"no picture")
    facts = measured(write_raster(tmp_path / "a.tif"), label).facts
    assert facts.labels is not None
    assert facts.labels.problem is not None
    assert "UnreadableRaster" in judged([facts])["labels-refused"].problem


def test_a_class_file_that_contradicts_the_masks_is_told_class_by_class(tmp_path):
    body = {
        "classes": [
            {"title": "Land (bare)", "color": "#123456"},
            {"title": "water", "color": "#1F6FD0"},
        ]
    }
    folder = tmp_path / "set"
    (folder / "area" / "masks").mkdir(parents=True)
    (folder / "classes.json").write_text(json.dumps(body))
    (folder / "area" / "classes.json").write_text('{"classes": 3}')
    label = write_palette(
        folder / "area" / "masks" / "a.png", labels_of() // 4, ["#C8B27D", "#1F6FD0"]
    )
    files = find_class_files([str(label)])
    assert [file.path for file in files] == [str(folder / "classes.json")]
    facts = measured(write_raster(tmp_path / "a.tif"), label).facts
    finding = judged([facts], class_files=files)["class-file"]
    assert "Land (bare) is #123456 (no pixel) there and #C8B27D" in finding.problem
    assert "water" not in finding.problem


def test_a_thousand_defects_are_one_line(scene):
    bad = scene("a.tif", labels=np.full((64, 80), 9))
    many = [replace(bad, name=f"s{i}", suffix=".png", digest=str(i)) for i in range(1000)]
    found = judged(many)
    assert found["misnamed"].subject == "1000 scenes"
    assert f"9 ({1000 * 64 * 80:,} pixels)" in found["unknown-value"].problem
    assert all(len(str(finding)) < 600 for finding in found.values())


def test_strict_makes_every_warning_an_error_and_leaves_notes(scene):
    found = apply_rules(Collection((scene("a.tif", crs=None), scene("b.tif")), RULE))
    levels = {finding.code: finding.level for finding in strict(found)}
    assert levels["no-crs"] == "error"
    assert {f.level for f in strict(found)} <= {"error", "note"}
    assert len(strict(found)) == len(found)


def test_findings_of_others_are_merged_by_level():
    other = Finding("warning", "null-geometry", "a.gpkg", "feature 3 has none", "Left out.")
    assert apply_rules(Collection((), RULE), [other, other]) == (other,)


# Real data


def real(folder: Path, images: str, labels: str, rule: LabelRule) -> dict[str, Finding]:
    files = [sorted(map(str, folder.glob(glob))) if glob else [] for glob in (images, labels)]
    pairing = pair(files[0], files[1])
    facts = []
    for item in pairing.pairs:
        taken = measured(Path(item.scene), Path(item.labels) if item.labels else None, rule)
        facts.append(replace(taken.facts, name=item.name))
    class_files = find_class_files(files[1])
    found = apply_rules(Collection(tuple(facts), rule, class_files), pairing.findings)
    return {finding.code: finding for finding in found}


@pytest.mark.realdata
def test_kampala_has_24_jpegs_named_png(realdata):
    found = real(realdata / "kampala_buildings", "input/*.png", "", RULE)
    names = sorted(
        path.stem
        for path in (realdata / "kampala_buildings" / "input").glob("*.png")
        if path.read_bytes()[:2] == b"\xff\xd8"
    )
    assert len(names) == 24
    assert found["misnamed"].subject == "24 scenes"
    assert ", ".join(names[:3]) in found["misnamed"].problem


@pytest.mark.realdata
def test_dubai_has_palettes_in_disorder_an_undeclared_black_and_a_wrong_class_file(realdata):
    root = realdata / "dubai_landcover"
    found = real(root, "tile_[245]/images/*.jpg", "tile_[245]/masks/*.png", DUBAI)
    black = 0
    for path in root.glob("tile_[245]/masks/*.png"):
        black += int((np.asarray(Image.open(path).convert("RGB")) == 0).all(axis=2).sum())
    assert f"#000000 ({black:,} pixels)" in found["unknown-colour"].problem
    assert "9 in tile_2/masks, 9 in tile_4/masks" in found["palette-order"].problem
    assert found["palette-order"].subject == "18 label files"
    assert found["class-file"].subject == str(root / "classes.json")
    for name in ("Water", "Land", "Road", "Building", "Vegetation"):
        assert name in found["class-file"].problem
    assert "Unlabeled" not in found["class-file"].problem


@pytest.mark.realdata
def test_a_water_chip_with_a_sentinel_and_no_tag_is_told(realdata, tmp_path):
    source = realdata / "water_12band" / "images" / "0.tif"
    with rasterio.open(source) as chip:
        values = chip.read()
    assert (values > -9999).all()
    values[8, :4] = -9999
    facts = measured(write_raster(tmp_path / "0.tif", values, crs=None, transform=None)).facts
    finding = judged([facts])["suspicious-nodata"]
    assert "-9999 in band_9" in finding.problem
    clean = judged([measured(source).facts])
    assert "suspicious-nodata" not in clean


@pytest.mark.realdata
def test_naip_s_grids_are_shifted_and_landsat_s_tag_is_unused(realdata):
    naip = real(realdata / "naip_timeseries", "*.tif", "", RULE)
    assert naip["misaligned-grids"].level == "warning"
    assert naip["same-ground"].subject == "4 scenes"
    landsat = real(realdata / "landsat7_landcover", "LE*.gtif", "", RULE)
    assert "-9999" in landsat["unused-nodata"].problem
    assert "holds nothing but 0 in 1 scene" in landsat["constant-band"].problem
