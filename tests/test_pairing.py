"""Pairing: each way by which labels find their scene, and what is said of the rest."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from satseg_ray.checks.pairing import Pairing, pair, scene_names
from satseg_ray.workspace import checked_name


def found(pairing: Pairing) -> dict[str, str | None]:
    return {p.scene: p.labels for p in pairing.pairs}


def codes(pairing: Pairing) -> list[str]:
    return [f"{finding.level} {finding.code}" for finding in pairing.findings]


def test_equal_stems_pair_in_any_folder_and_format():
    pairing = pair(["i/a.tif", "i/b.tif"], ["l/b.png", "m/a.gpkg"])
    assert found(pairing) == {"i/a.tif": "m/a.gpkg", "i/b.tif": "l/b.png"}
    assert not pairing.findings


@pytest.mark.parametrize(
    ("scene", "label"),
    [
        ("d/t{}/images/p.jpg", "d/t{}/masks/p.png"),
        ("d/images/t{}/p.jpg", "d/masks/t{}/p.png"),
        ("d/t{}/p.jpg", "d/t{}/p.png"),
        ("d/t{}/p_sat.jpg", "d/t{}/p_mask.png"),
        ("d/t{}/image.tif", "d/t{}/label.tif"),
        ("/a/t{}/x/images/p.tif", "/b/t{}/x/labels/p.tif"),
    ],
)
def test_where_stems_repeat_the_folders_tell(scene, label):
    scenes = [scene.format(i) for i in range(1, 4)]
    labels = [label.format(i) for i in range(1, 4)]
    pairing = pair(scenes, labels[::-1])
    assert found(pairing) == dict(zip(scenes, labels, strict=True))
    assert not pairing.findings
    assert len({p.name for p in pairing.pairs}) == 3


def test_a_mask_that_is_missing_among_repeated_stems_is_not_taken_from_another_folder():
    scenes = [f"d/t{i}/images/p.jpg" for i in range(1, 4)]
    pairing = pair(scenes, ["d/t1/masks/p.png", "d/t3/masks/p.png"])
    assert found(pairing)["d/t2/images/p.jpg"] is None
    assert found(pairing)["d/t3/images/p.jpg"] == "d/t3/masks/p.png"
    assert codes(pairing) == ["warning unlabelled-scene"]


def test_an_annotation_file_finds_the_image_that_it_names():
    labels = ["j/one_coco.json", "j/two_coco.json"]
    names = {"j/one_coco.json": ("terrain1.jpg",), "j/two_coco.json": ("C:\\x\\terrain2.png",)}
    pairing = pair(["j/terrain1.jpg", "j/terrain2.png"], labels, names)
    assert list(found(pairing).values()) == labels
    assert not pairing.findings


def test_one_annotation_file_serves_the_images_it_names_and_no_others():
    names = {"all.json": ("a.jpg", "b.jpg")}
    pairing = pair(["a.jpg", "b.jpg", "c.jpg"], ["all.json"], names)
    assert found(pairing) == {"a.jpg": "all.json", "b.jpg": "all.json", "c.jpg": None}
    assert codes(pairing) == ["warning unlabelled-scene"]


@pytest.mark.parametrize("label", ["l/mask_7.png", "l/7_labels.tif", "l/7-gt.png", "l/7.SEG.png"])
def test_words_around_the_stem_are_a_last_way(label):
    assert found(pair(["i/7.tif", "i/8.tif"], [label]))["i/7.tif"] == label


def test_an_equal_stem_wins_over_words():
    pairing = pair(["a.tif", "b.tif"], ["l/a.png", "l/a_mask.png"])
    assert found(pairing) == {"a.tif": "l/a.png", "b.tif": None}
    assert codes(pairing) == ["warning unlabelled-scene", "warning orphan-label"]


def test_one_file_of_features_serves_all_scenes():
    pairing = pair(["a.tif", "b.tif"], ["fields.gpkg"])
    assert found(pairing) == {"a.tif": "fields.gpkg", "b.tif": "fields.gpkg"}
    assert not pairing.findings


@pytest.mark.parametrize("label", ["a.geojson", "l/a_labels.gpkg"])
def test_one_file_of_features_of_a_scene_s_name_is_that_scene_s_alone(label):
    pairing = pair(["a.tif", "b.tif"], [label])
    assert found(pairing) == {"a.tif": label, "b.tif": None}
    assert codes(pairing) == ["warning unlabelled-scene"]


def test_the_only_scene_takes_the_only_labels_whatever_their_names():
    assert found(pair(["scene.tif"], ["training.png"])) == {"scene.tif": "training.png"}


def test_scenes_without_any_labels_are_no_matter():
    assert not pair(["a.tif", "b.tif"], []).findings


def test_an_orphan_label_is_left_out_with_a_warning():
    pairing = pair(["i/1.tif"], ["l/1.png", "l/100_184.png"])
    assert found(pairing) == {"i/1.tif": "l/1.png"}
    assert [str(f) for f in pairing.findings] == [
        "warning: 1 label file: without a scene of that name: l/100_184.png. Left out."
    ]


def test_labels_that_no_name_tells_apart_are_an_error():
    pairing = pair(["i/p.tif"], ["x/p.png", "y/p.png"])
    assert found(pairing) == {"i/p.tif": None}
    assert codes(pairing) == ["error ambiguous-labels"]


def test_labels_none_of_which_fits_are_an_error():
    assert codes(pair(["a.tif", "b.tif"], ["c.png", "d.png"])) == ["error nothing-paired"]


def test_many_left_overs_are_one_finding():
    scenes = [f"i/{n}.tif" for n in range(40)]
    pairing = pair(scenes, ["l/0.png", *(f"l/x{n}.png" for n in range(1000))])
    assert len(pairing.findings) == 2
    assert "39 scenes" in str(pairing.findings[0])
    assert "and 997 more" in str(pairing.findings[1])


def test_names_are_stems_where_these_are_unique():
    scenes = ["d/tile_1/images/p.jpg", "d/tile_2/images/p.jpg", "d/q.tif"]
    assert list(scene_names(scenes).values()) == ["tile_1-p", "tile_2-p", "q"]


def test_files_of_one_stem_in_one_folder_are_told_apart_by_their_format():
    assert list(scene_names(["d/a.tif", "d/a.png"]).values()) == ["a.tif", "a.png"]


PATHS = st.lists(
    st.builds(
        lambda folders, stem, suffix: "/".join([*folders, f"{stem}{suffix}"]),
        st.lists(st.sampled_from(["a", "b", "A", "b-x", "images"]), max_size=3),
        st.sampled_from(["x", "X", "b-x", "é 1", "x_mask", "_"]),
        st.sampled_from([".tif", ".png", ""]),
    ),
    min_size=1,
    max_size=12,
    unique=True,
)


@given(PATHS)
def test_names_are_unique_and_may_become_files(paths):
    names = list(scene_names(paths).values())
    assert len({name.casefold() for name in names}) == len(paths)
    assert all(checked_name(name, "scenes") for name in names)


@given(PATHS, PATHS, st.randoms())
def test_every_file_is_paired_or_spoken_of_and_no_raster_twice(scenes, labels, random):
    pairing = pair(scenes, labels)
    assert [p.scene for p in pairing.pairs] == scenes
    used = [p.labels for p in pairing.pairs if p.labels]
    assert len(used) == len(set(used))
    if set(labels) - set(used):
        assert any(f.code in _ABOUT_LABELS for f in pairing.findings)
    shuffled = random.sample(labels, len(labels))
    assert pair(scenes, shuffled) == pairing


_ABOUT_LABELS = {"orphan-label", "ambiguous-labels", "nothing-paired"}


@pytest.mark.realdata
def test_dubai_s_repeated_names_pair_within_their_area(realdata):
    root = realdata / "dubai_landcover"
    scenes = sorted(map(str, root.glob("*/images/*.jpg")))
    pairing = pair(scenes, sorted(map(str, root.glob("*/masks/*.png"))))
    assert len(scenes) == 54
    for scene, label in found(pairing).items():
        assert label == scene.replace("/images/", "/masks/").replace(".jpg", ".png")
    assert pairing.pairs[0].name == "tile_1-image_part_001"
    assert not pairing.findings


@pytest.mark.realdata
def test_the_water_mask_without_an_image_is_named(realdata):
    root = realdata / "water_12band"
    pairing = pair(sorted(map(str, root.glob("images/*"))), sorted(map(str, root.glob("labels/*"))))
    assert all(p.labels and p.labels.endswith(f"/{p.name}.png") for p in pairing.pairs)
    assert [f.code for f in pairing.findings] == ["orphan-label"]
    assert "100_184.png" in pairing.findings[0].problem
