"""Shapes drawn in labelling tools become the masks that their geometry, or another tool, gives."""

from __future__ import annotations

import base64
import io
import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw
from rasterio.transform import Affine

from satseg_ray.classes import ClassDef, ClassTable
from satseg_ray.errors import (
    ConfigError,
    LabelsDoNotMatch,
    SatsegError,
    UnknownClassValue,
    UnreadableLabels,
)
from satseg_ray.geo.labels import LabelRule, images_in, kind_of, survey
from satseg_ray.geo.labels import coco as coco_files
from satseg_ray.geo.raster import inspect_raster
from tests.label_factories import (
    TABLE,
    burnt,
    by_points,
    centers,
    geojson,
    on_edge,
    scene_info,
    write_json,
)

RULE = LabelRule(TABLE)
SCENE = scene_info(crs=None)
SHAPE = (SCENE.height, SCENE.width)
X, Y = centers(SCENE)

TRIANGLE = [(5.0, 5.0), (60.0, 12.5), (20.0, 50.0)]
SQUARE = [(30.0, 30.0), (45.0, 30.0), (45.0, 45.0), (30.0, 45.0)]


def coco(*drawn: dict[str, Any], images: list[dict[str, Any]] | None = None) -> dict:
    own = {"id": 1, "file_name": "photos/a.jpg", "height": 64, "width": 80}
    return {
        "images": [own] if images is None else images,
        "categories": [{"id": 10, "name": "roof"}, {"id": 20, "name": "water"}],
        "annotations": [{"id": at, "image_id": 1, "category_id": 10} | one
                        for at, one in enumerate(drawn, 100)],
    }  # fmt: skip


def flat(points: list[tuple[float, float]]) -> list[float]:
    return [value for point in points for value in point]


def counts_of(mask: np.ndarray) -> list[int]:
    """COCO's uncompressed RLE of a mask: runs of 0, 1, 0 ... down the columns."""
    runs, value = [0], 0
    for pixel in mask.T.ravel().tolist():
        if pixel != value:
            runs.append(0)
            value = pixel
        runs[-1] += 1
    return runs


def compressed(runs: list[int]) -> str:
    """COCO's compressed RLE, as its own C code writes it."""
    text = ""
    for at, run in enumerate(runs):
        left = run - (runs[at - 2] if at > 2 else 0)
        more = True
        while more:
            part = left & 0x1F
            left >>= 5
            more = left != -1 if part & 0x10 else left != 0
            text += chr((part | 0x20 if more else part) + 48)
    return text


@pytest.mark.parametrize("form", ["lists", "flat"])
def test_coco_polygons_are_those_of_their_corners(tmp_path, form):
    rings = [flat(TRIANGLE)] if form == "lists" else flat(TRIANGLE)
    document = coco({"segmentation": rings}, {"segmentation": [flat(SQUARE)], "category_id": 20})
    mask, findings = burnt(write_json(tmp_path / "a.json", document), RULE, SCENE)
    shapes = [shapely.Polygon(TRIANGLE), shapely.Polygon(SQUARE)]
    clear = ~on_edge(shapes, X, Y, 1e-4)
    np.testing.assert_array_equal(mask[clear], by_points(shapes, [2, 1], X, Y)[clear])
    assert not findings


def test_all_parts_of_a_coco_object_are_covered_even_where_they_overlap(tmp_path):
    document = coco({"segmentation": [flat(TRIANGLE), flat(SQUARE)]})
    mask, _ = burnt(write_json(tmp_path / "a.json", document), RULE, SCENE)
    shapes = [shapely.Polygon(TRIANGLE), shapely.Polygon(SQUARE)]
    clear = ~on_edge(shapes, X, Y, 1e-4)
    np.testing.assert_array_equal(mask[clear], by_points(shapes, [2, 2], X, Y)[clear])


@given(
    height=st.integers(1, 12),
    width=st.integers(1, 12),
    share=st.sampled_from([0.0, 0.1, 0.5, 0.9, 1.0]),
    seed=st.integers(0, 99),
    columns=st.integers(1, 13),
    packed=st.booleans(),
)
def test_rle_gives_its_mask_back(tmp_path_factory, height, width, share, seed, columns, packed):
    mask = (np.random.default_rng(seed).random((height, width)) < share).astype(np.uint8)
    runs = counts_of(mask)
    rle = {"size": [height, width], "counts": compressed(runs) if packed else runs}
    image = {"id": 1, "file_name": "a.jpg", "height": height, "width": width}
    document = coco({"segmentation": rle, "iscrowd": 1}, images=[image])
    path = write_json(tmp_path_factory.getbasetemp() / "rle.json", document)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(coco_files, "STRIP_PIXELS", columns * height)
        found, findings = burnt(path, RULE, scene_info(height, width, crs=None))
    np.testing.assert_array_equal(found, np.where(mask, 2, 255))
    assert [f.code for f in findings] == ([] if mask.any() else ["no-area"])


def test_long_runs_survive_compression():
    runs = [0, 1, 70_000, 3, 1_000_000, 31, 32, 16, 15, 1]
    assert coco_files.unpacked(compressed(runs)).tolist() == runs


@pytest.mark.parametrize(
    ("segmentation", "code"),
    [
        ([], "no-outline"),
        (None, "no-outline"),
        ([[1, 1, 5, 5]], "bad-geometry"),
        ([[1, 1, 5, 5, 9]], "bad-geometry"),
        ([["a", 1, 5, 5, 9, 9]], "bad-geometry"),
        ({"size": [64, 80], "counts": [1, 2]}, "bad-geometry"),
        ({"size": [64, 80], "counts": "1~"}, "bad-geometry"),
        ({"size": [64, 80], "counts": "o"}, "bad-geometry"),
        ({"size": [64, 80], "counts": "o" * 100_000}, "bad-geometry"),
        ({"size": [64, 80], "counts": [-80, 5200]}, "bad-geometry"),
        ({"size": [64, 80], "counts": [5120]}, "no-area"),
        ({"size": [64, 80]}, "bad-geometry"),
        ([[70, 50, 90, 50, 90, 60, 70, 60]], "beyond-raster"),
    ],
)
def test_what_is_no_outline_in_coco_is_found(tmp_path, segmentation, code):
    document = coco({"segmentation": segmentation}, {"segmentation": [flat(SQUARE)]})
    mask, findings = burnt(write_json(tmp_path / "a.json", document), RULE, SCENE)
    assert [f.code for f in findings] == [code]
    assert "(100)" in findings[0].problem
    assert (mask[30:45, 30:45] == 2).all()


def test_a_coco_file_of_many_images_gives_each_its_own(tmp_path):
    images = [{"id": n, "file_name": f"x/{n}.jpg", "height": 64, "width": 80} for n in (1, 2)]
    document = coco(
        {"segmentation": [flat(TRIANGLE)]}, {"segmentation": [flat(SQUARE)], "image_id": 2},
        images=images,
    )  # fmt: skip
    path = write_json(tmp_path / "a.json", document)
    assert images_in(str(path)) == ("1.jpg", "2.jpg")
    assert kind_of(str(path)) == "coco"
    mask, _ = burnt(path, RULE, SCENE, image_name="2.jpg")
    assert (mask == 2).sum() == 225
    for name in (None, "3.jpg"):
        with pytest.raises(
            LabelsDoNotMatch, match=r"speaks of 0 images .* among 2 \(1.jpg, 2.jpg\)"
        ):
            burnt(path, RULE, SCENE, image_name=name)
    document["images"][1]["file_name"] = "y/1.jpg"
    with pytest.raises(LabelsDoNotMatch, match=r"speaks of 2 images 1.jpg"):
        burnt(write_json(path, document), RULE, SCENE, image_name="1.jpg")


def test_the_only_image_of_a_file_is_taken_whatever_its_name_and_noted(tmp_path):
    for document in (coco(), labelme(), {"a.jpg1": {"filename": "a.jpg", "regions": []}}):
        path = write_json(tmp_path / "a.json", document)
        assert not burnt(path, RULE, SCENE, image_name="a.jpg")[1]
        _, findings = burnt(path, RULE, SCENE, image_name="b.jpg")
        assert [(f.level, f.code) for f in findings] == [("note", "other-image-name")]


def test_outlines_that_are_all_boxes_are_told(tmp_path):
    def told(*drawn: dict[str, Any]) -> list[str]:
        path = write_json(tmp_path / "a.json", coco(*drawn))
        return [f.problem for f in burnt(path, RULE, SCENE)[1] if f.code == "outlines-are-boxes"]

    box: dict[str, Any] = {"segmentation": [flat(SQUARE)], "bbox": [30, 30, 15, 15]}
    bare = {"bbox": [1, 1, 5, 5]}
    other = {"segmentation": [flat(TRIANGLE)], "bbox": [5, 5, 55, 45]}
    assert told(box, box, box, bare) == ["all 3 outlines are the boxes around their objects"]
    for drawn in ([box, box], [box, box, box, other], [box, box, box | {"bbox": "x"}]):
        assert not told(*drawn)
    assert not told(*[{"segmentation": [flat(SQUARE)]}] * 3)  # rectangles, and no box to compare


def test_annotations_of_an_image_that_is_not_listed_are_found(tmp_path):
    drawn = {"segmentation": [flat(SQUARE)]}
    document = coco(drawn, drawn | {"image_id": 9})
    _, findings = burnt(write_json(tmp_path / "a.json", document), RULE, SCENE)
    assert [str(f.problem) for f in findings] == ["1 shape (101) of an image that is not listed"]


def test_an_image_without_objects_is_background_or_unlabelled(tmp_path):
    path = write_json(tmp_path / "a.json", coco())
    assert (burnt(path, RULE, SCENE)[0] == 255).all()
    assert (burnt(path, replace(RULE, background="land"), SCENE)[0] == 0).all()


@pytest.mark.parametrize("kind", ["coco", "labelme", "rle"])
def test_labels_of_an_image_of_another_size_are_refused_with_both(tmp_path, kind):
    document = {
        "coco": coco(),
        "labelme": labelme(),
        "rle": coco({"segmentation": {"size": [64, 81], "counts": [5184]}}),
    }[kind]
    path = write_json(tmp_path / "a.json", document)
    width = 80 if kind == "rle" else 90
    with pytest.raises(LabelsDoNotMatch, match=r"64 x 8[01] pixels, .* is 64 x [89]0"):
        burnt(path, RULE, scene_info(64, width, crs=None))


def test_unknown_categories_are_refused_with_their_counts(tmp_path):
    document = coco(*[{"segmentation": [flat(SQUARE)], "category_id": n} for n in (10, 30, 30)])
    document["categories"].append({"id": 30, "name": "tree"})
    path = write_json(tmp_path / "a.json", document)
    with pytest.raises(UnknownClassValue, match=r"names 'tree' \(2\) in 2 shapes"):
        burnt(path, RULE, SCENE)
    assert survey(str(path), RULE).unknown == {"tree": 2}
    assert survey(str(path), RULE).known["roof"] == 1
    mask, _ = burnt(path, replace(RULE, names={"tree": None}, background="land"), SCENE)
    assert (mask[30:45, 30:45] == 255).all()
    assert (mask[0] == 0).all()


# --- LabelMe


def labelme(*shapes: dict[str, Any]) -> dict[str, Any]:
    return {
        "version": "5.4.1", "flags": {}, "imagePath": "..\\photos\\a.jpg", "imageData": None,
        "imageHeight": 64, "imageWidth": 80,
        "shapes": [{"label": "roof", "shape_type": "polygon"} | shape for shape in shapes],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "points", "inside"),
    [
        ("polygon", TRIANGLE, lambda x, y: shapely.contains_xy(shapely.Polygon(TRIANGLE), x, y)),
        (None, TRIANGLE, lambda x, y: shapely.contains_xy(shapely.Polygon(TRIANGLE), x, y)),
        ("rectangle", [(40.2, 9.9), (12.7, 30.3)],
         lambda x, y: (x > 12.7) & (x < 40.2) & (y > 9.9) & (y < 30.3)),
        ("circle", [(40, 30), (40, 50.3)], lambda x, y: np.hypot(x - 40, y - 30) < 20.3),
        ("line", [(10, 10), (50, 40)], lambda x, y: near_line(x, y, [(10, 10), (50, 40)]) < 2.6),
        ("linestrip", TRIANGLE, lambda x, y: near_line(x, y, TRIANGLE) < 2.6),
        ("point", [(33.1, 22.2)], lambda x, y: np.hypot(x - 33.1, y - 22.2) < 2.6),
        ("points", [(33.1, 22.2), (9, 9)], lambda x, y: np.minimum(
            np.hypot(x - 33.1, y - 22.2), np.hypot(x - 9, y - 9)) < 2.6),
    ],
)  # fmt: skip
def test_every_shape_of_labelme_is_what_it_says(tmp_path, kind, points, inside):
    document = labelme({"shape_type": kind, "points": points})
    path = write_json(tmp_path / "a.json", document)
    mask, findings = burnt(path, replace(RULE, line_width=5.2), SCENE)
    # Pixels whose centre is surely on one side of the edge
    around = [inside(X + dx, Y + dy) for dx in (-0.02, 0.02) for dy in (-0.02, 0.02)]
    clear = np.all(around, axis=0) | ~np.any(around, axis=0)
    np.testing.assert_array_equal(mask[clear], np.where(inside(X, Y), 2, 255)[clear])
    assert (~clear).sum() < 30
    assert not findings
    assert kind_of(str(path)) == "labelme"
    assert images_in(str(path)) == ("a.jpg",)


def near_line(x: np.ndarray, y: np.ndarray, points: list[tuple[float, float]]) -> np.ndarray:
    return np.asarray(shapely.distance(shapely.points(x, y), shapely.LineString(points)))


def test_a_mask_of_labelme_lies_at_its_corner(tmp_path):
    mask = np.random.default_rng(0).random((9, 13)) < 0.5
    buffer = io.BytesIO()
    Image.fromarray(mask).save(buffer, "PNG")
    picture = base64.b64encode(buffer.getvalue()).decode()
    document = labelme({"shape_type": "mask", "points": [[20, 30], [32, 38]], "mask": picture})
    found, _ = burnt(write_json(tmp_path / "a.json", document), RULE, SCENE)
    expected = np.full(SHAPE, 255)
    expected[30:39, 20:33][mask] = 2
    np.testing.assert_array_equal(found, expected)


def test_shapes_that_give_no_outline_are_found_by_kind(tmp_path):
    document = labelme(
        {"points": TRIANGLE, "shape_type": "spline"}, {"points": [[1, 1], [2, 2]]},
        {"points": SQUARE, "label": ""}, {"points": [[1, 1]], "shape_type": "point"},
        {"points": [[1, 1], [1, 1]], "shape_type": "circle"}, {"points": "none"},
    )  # fmt: skip
    path = write_json(tmp_path / "a.json", document)
    mask, findings = burnt(path, RULE, SCENE, image_name="b.jpg")
    assert [(f.code, f.problem) for f in findings] == [
        ("other-image-name", "was made for a.jpg, the scene is b.jpg"),
        ("unknown-shape", "1 shape (0) of the unknown kind 'spline'"),
        ("bad-geometry", "1 shape (1) with fewer than three corners"),
        ("bad-geometry", "1 shape (4) with a radius that is none"),
        ("bad-geometry", "1 shape (5) with points that are none"),
        ("no-class", "1 shape (2) without a class"),
        ("line-without-width", "1 shape (3) of lines or points, without shapes.line_width"),
    ]
    assert (mask == 255).all()


# --- VGG Image Annotator

REGIONS = [
    {"name": "polygon", "all_points_x": [5, 60, 20], "all_points_y": [5, 12.5, 50]},
    {"name": "rect", "x": 50.2, "y": 40.1, "width": 10.4, "height": 8.6},
    {"name": "circle", "cx": 70, "cy": 20, "r": 6.3},
    {"name": "ellipse", "cx": 40, "cy": 50, "rx": 15.3, "ry": 5.2, "theta": 0.5},
    {"name": "polyline", "all_points_x": [4, 4, 30], "all_points_y": [30, 60, 61]},
    {"name": "point", "cx": 75, "cy": 60},
]
REGION_KINDS = ["roof", "water", "roof", "land", "water", "land"]


def regions_mask(theta: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """The mask of the regions from their formulas, and the pixels whose centre is on no edge."""
    angle = 0.5 if theta else 0.0
    u = (X - 40) * np.cos(angle) + (Y - 50) * np.sin(angle)
    v = -(X - 40) * np.sin(angle) + (Y - 50) * np.cos(angle)
    inside = [
        shapely.contains_xy(shapely.Polygon(TRIANGLE), X, Y),
        (X > 50.2) & (X < 60.6) & (Y > 40.1) & (Y < 48.7),
        np.hypot(X - 70, Y - 20) < 6.3,
        np.hypot(u / 15.3, v / 5.2) < 1,
        near_line(X, Y, [(4, 30), (4, 60), (30, 61)]) < 2.6,
        np.hypot(X - 75, Y - 60) < 2.6,
    ]
    mask = np.full(SHAPE, 255)
    for where, kind in zip(inside, REGION_KINDS, strict=True):
        mask[where] = TABLE.names.index(kind)
    return mask, ~on_edge([shapely.Polygon(TRIANGLE)], X, Y, 1e-4)


def via(version: int, attribute: str = "kind") -> dict[str, Any]:
    regions = [
        {"shape_attributes": shape, "region_attributes": {attribute: kind}}
        for shape, kind in zip(REGIONS, REGION_KINDS, strict=True)
    ]
    listed = {str(at): region for at, region in enumerate(regions)} if version == 1 else regions
    entry = {"filename": "a.jpg", "size": 1234, "file_attributes": {}, "regions": listed}
    entries = {"a.jpg1234": entry, "b.jpg99": entry | {"filename": "b.jpg", "regions": []}}
    return {"_via_settings": {}, "_via_img_metadata": entries} if version == 2 else entries


@pytest.mark.parametrize("version", [0, 1, 2])
def test_every_region_of_via_is_what_it_says(tmp_path, version):
    path = write_json(tmp_path / "a.json", via(version))
    assert kind_of(str(path)) == "via"
    assert images_in(str(path)) == ("a.jpg", "b.jpg")
    mask, findings = burnt(path, replace(RULE, line_width=5.2), SCENE, image_name="a.jpg")
    expected, clear = regions_mask()
    np.testing.assert_array_equal(mask[clear], expected[clear])
    assert not findings
    empty, _ = burnt(path, replace(RULE, background="land"), SCENE, image_name="b.jpg")
    assert (empty == 0).all()


def test_every_region_of_a_via_3_project_is_what_it_says(tmp_path):
    coordinates = [
        [7, 5, 5, 60, 12.5, 20, 50], [2, 50.2, 40.1, 10.4, 8.6], [3, 70, 20, 6.3],
        [4, 40, 50, 15.3, 5.2], [6, 4, 30, 4, 60, 30, 61], [1, 75, 60],
    ]  # fmt: skip
    options = {"0": "roof", "1": "water", "2": "land"}
    number = {name: key for key, name in options.items()}
    document = {
        "project": {"pname": "x"}, "config": {},
        "attribute": {"1": {"aname": "kind", "type": 4, "options": options}},
        "file": {"1": {"fid": "1", "fname": "a.jpg"}, "2": {"fid": "2", "fname": "b.jpg"}},
        "view": {"1": {"fid_list": ["1"]}, "2": {"fid_list": ["2"]}},
        "metadata": {
            f"1_{at}": {"vid": "1", "z": [], "xy": xy, "av": {"1": number[kind]}}
            for at, (xy, kind) in enumerate(zip(coordinates, REGION_KINDS, strict=True))
        },
    }  # fmt: skip
    path = write_json(tmp_path / "a.json", document)
    assert kind_of(str(path)) == "via3"
    assert images_in(str(path)) == ("a.jpg", "b.jpg")
    mask, findings = burnt(path, replace(RULE, line_width=5.2), SCENE, image_name="a.jpg")
    expected, clear = regions_mask(theta=False)
    np.testing.assert_array_equal(mask[clear], expected[clear])
    assert not findings
    assert (burnt(path, RULE, SCENE, image_name="b.jpg")[0] == 255).all()


def test_a_region_attribute_among_several_must_be_named(tmp_path):
    document = via(2)
    region = document["_via_img_metadata"]["a.jpg1234"]["regions"][1]
    region["region_attributes"] |= {"sure": {"yes": True, "no": False}}
    path = write_json(tmp_path / "a.json", document)
    with pytest.raises(ConfigError, match=r"attribute: is not set, .* has kind, sure"):
        burnt(path, RULE, SCENE, image_name="a.jpg")
    with pytest.raises(ConfigError, match=r"is 'type', which .* has not"):
        burnt(path, replace(RULE, attribute="type"), SCENE, image_name="a.jpg")
    rule = replace(RULE, attribute="sure", names={"yes": "water"}, line_width=5.2)
    mask, findings = burnt(path, rule, SCENE, image_name="a.jpg")
    assert (mask == 1).sum() == 11 * 9
    assert [f.code for f in findings] == ["no-class"]
    rule = replace(rule, every="roof")
    assert not burnt(path, rule, SCENE, image_name="a.jpg")[1]


@pytest.mark.parametrize(
    "document",
    [
        {"images": [{}], "annotations": [3]},
        {"images": [3], "annotations": []},
        {"images": [{"height": "x", "width": 3}], "annotations": []},
        {"_via_img_metadata": []},
        {"shapes": [], "imageHeight": [1], "imageWidth": [1]},
        {"project": 1, "file": 1, "metadata": 1, "attribute": 1},
    ],
)
def test_annotations_that_lack_what_they_need_are_refused(tmp_path, document):
    path = write_json(tmp_path / "a.json", document)
    with pytest.raises(UnreadableLabels, match="lacks what its kind of labels needs"):
        burnt(path, RULE, SCENE)


JUNK: list[Any] = [
    None,
    True,
    -1,
    0,
    7,
    1e300,
    1e-300,
    2**70,
    "",
    "x",
    [],
    [[]],
    {},
    {"a": 1},
    [1, "b", None],
]


def spots(document: Any) -> list[tuple[Any, Any]]:
    """All (container, key) in a document, in order."""
    keys = (
        list(document) if isinstance(document, dict)
        else range(len(document)) if isinstance(document, list) else []
    )  # fmt: skip
    return [(document, key) for key in keys] + [s for key in keys for s in spots(document[key])]


RLE = {"size": [64, 80], "counts": [100, 20, 5000]}
VALID = [
    coco({"segmentation": [flat(SQUARE)]}, {"segmentation": RLE}, {"segmentation": flat(SQUARE)}),
    labelme({"points": SQUARE}, {"points": [[9, 9], [20, 20]], "shape_type": "circle"},
            {"points": [[9, 9], [9, 9]], "shape_type": "mask", "mask": "iVBORw0KGgo="}),
    via(2),
    via(1),
    geojson([shapely.Polygon(SQUARE), shapely.MultiPolygon([shapely.Polygon(TRIANGLE)])],
            kind=["roof", "land"]),
]  # fmt: skip


@given(
    which=st.integers(0, len(VALID) - 1),
    changes=st.lists(
        st.tuples(st.integers(0, 10_000), st.sampled_from(JUNK)), min_size=1, max_size=3
    ),
)
def test_odd_json_is_read_found_or_refused_and_never_crashes(tmp_path_factory, which, changes):
    document = json.loads(json.dumps(VALID[which]))
    for at, junk in changes:
        if found := spots(document):
            container, key = found[at % len(found)]
            container[key] = json.loads(json.dumps(junk))
    path = write_json(tmp_path_factory.getbasetemp() / "odd.json", document)
    rule = LabelRule(TABLE, attribute="kind", every="roof", line_width=3.0)
    try:
        mask, _ = burnt(path, rule, SCENE, image_name="a.jpg")
        images_in(str(path))
    except SatsegError:
        return
    assert set(np.unique(mask)) <= {0, 1, 2, 255}


# --- pixels of an image that is read on another grid


def test_pixels_of_an_image_move_with_it_onto_another_grid(tmp_path):
    image = scene_info(64, 80)
    grid = Affine(5, 0, 500_000, 0, -5, 4_600_000)
    scene = scene_info(128, 160, transform=grid)
    path = write_json(tmp_path / "a.json", labelme({"points": SQUARE}))
    mask, findings = burnt(path, RULE, scene, image=image)
    expected = np.full((128, 160), 255)
    expected[60:90, 60:90] = 2
    np.testing.assert_array_equal(mask, expected)
    assert not findings


# --- real files


@pytest.mark.realdata
@pytest.mark.parametrize("name", ["terrain1.jpg", "terrain2.png"])
def test_the_same_objects_in_coco_and_labelme_agree_with_each_other_and_with_pil(realdata, name):
    folder = realdata / "json_annotations"
    stem = name.split(".")[0]
    scene = inspect_raster(folder / name)
    table = ClassTable((ClassDef(1, "human"), ClassDef(2, "car")))
    outlines, findings = burnt(folder / f"{stem}.json", LabelRule(table), scene, image_name=name)
    boxes, none = burnt(folder / f"{stem}_coco.json", LabelRule(table), scene, image_name=name)
    assert [f.code for f in findings] == (["other-image-name"] if name == "terrain1.jpg" else [])
    assert [f.code for f in none] == ["outlines-are-boxes"]
    # COCO's shapes are the bounding boxes, cut to whole pixels, of LabelMe's
    shapes = json.loads((folder / f"{stem}.json").read_text())["shapes"]
    expected = np.full(boxes.shape, 255)
    for shape in shapes:
        (left, top), (right, bottom) = np.floor(
            [np.min(shape["points"], 0), np.max(shape["points"], 0)]
        ).astype(int)
        expected[top:bottom, left:right] = table.names.index(shape["label"])
    np.testing.assert_array_equal(boxes, expected)
    # PIL fills a polygon and draws its outline
    picture = Image.new("L", boxes.shape[::-1], 255)
    border = Image.new("L", boxes.shape[::-1], 0)
    for shape in shapes:
        points = [tuple(np.subtract(p, 0.5)) for p in shape["points"]]
        ImageDraw.Draw(picture).polygon(points, fill=table.names.index(shape["label"]))
        ImageDraw.Draw(border).line([*points, points[0]], fill=1, width=3)
    differs = outlines != np.asarray(picture)
    assert not (differs & (np.asarray(border) == 0)).any()
    assert differs.sum() < 0.05 * (outlines != 255).sum()
