"""Every kind of image with every kind of label: pixels and masks as written, or a named refusal."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import rasterio

from satseg_ray.data.rows import Reporter
from satseg_ray.data.taking import IMAGES as PICKED
from satseg_ray.data.taking import LABELS as BURNT
from satseg_ray.data.taking import PICTURES, PROFILES, SceneInput, SceneTaker
from satseg_ray.geo.raster import SceneReader
from satseg_ray.geo.source import scene_source
from satseg_ray.patches.dataset import SceneRecord
from tests.served import served
from tests.table_factories import (
    ANNOTATIONS,
    IMAGES,
    IN_PIXELS,
    LABELS,
    NOTHING,
    PLACED,
    RASTERS,
    LabelFile,
    Scene,
)

BARE = {"png-world", "png", "jpeg-world", "jpeg"}
"""Images without a CRS: what lies in one cannot be placed on them."""

Scenes = Callable[[str], Scene]


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scenes]:
    """Makes each kind of image once; the last one is read from a server."""
    made: dict[str, Scene] = {}
    folder = tmp_path_factory.mktemp("scenes")
    with served(folder) as address:

        def scene(kind: str) -> Scene:
            if kind not in made:
                (folder / kind).mkdir()
                made[kind] = IMAGES[kind](folder / kind)
                if kind == "vsicurl":
                    source = scene_source(f"{address}/{kind}/scene.tif")
                    made[kind] = Scene(source, made[kind].pixels)
            return made[kind]

        yield scene


def take(folder: Path, scene: Scene, labels: LabelFile | None, table: LabelFile) -> dict:
    """What a worker of ingest makes of a scene and its labels, as its outcome."""
    for part in (PICKED, BURNT, PICTURES, PROFILES):
        (folder / part).mkdir(parents=True)
    taker = SceneTaker(str(folder), table.rule, (), None, False, Reporter(str(folder / "notes")))
    path = scene.source.path
    given = SceneInput("taken", path, scene.source, str(labels.path) if labels else None)
    return json.loads(taker.take_scene(given.row())["outcome"])


def refusal(image: str, label: str) -> str | None:
    """The error of a pair that cannot be; None of one that can."""
    if label in PLACED and image in BARE:
        return "LabelsDoNotMatch"
    if label in IN_PIXELS and image not in BARE:
        return "LabelsDoNotMatch"
    return None


def test_the_table_holds_all_pairs_and_these_cannot_be():
    pairs = [(image, label) for image in IMAGES for label in LABELS]
    refused = [pair for pair in pairs if refusal(*pair)]
    assert len(pairs) == 15 * 18
    assert len(refused) == 4 * 4 + 11 * 4
    assert not any(label in RASTERS | ANNOTATIONS for _, label in refused)


@pytest.mark.parametrize("label", LABELS)
@pytest.mark.parametrize("image", IMAGES)
def test_a_mask_is_what_the_labels_say_or_is_refused(tmp_path, scenes, image, label):
    scene = scenes(image)
    labels = LABELS[label](tmp_path, scene)
    outcome = take(tmp_path / "taken", scene, labels, labels)
    assert outcome["status"] == "ok", outcome
    if kind := refusal(image, label):
        assert outcome["refused"]["error"] == kind
        assert outcome["refused"]["subject"] == str(labels.path)
        assert outcome["record"]["labels"] is None
        return
    assert outcome["refused"] is None
    record = SceneRecord.from_dict(outcome["record"])
    with rasterio.open(tmp_path / "taken" / str(record.labels)) as file:
        mask = file.read(1)
    assert mask.shape == (record.height, record.width)
    cols, rows = scene.positions(record.height, record.width, record.transform)
    clear = ~labels.truth.near(cols, rows)
    assert clear.mean() > 0.97
    expected = labels.truth.at(cols, rows)
    np.testing.assert_array_equal(mask[clear], expected[clear])
    assert len(set(np.unique(mask)) - {NOTHING}) == 3


@pytest.mark.parametrize("image", IMAGES)
def test_the_pixels_that_are_taken_are_those_that_were_written(tmp_path, scenes, image):
    scene = scenes(image)
    outcome = take(tmp_path, scene, None, LABELS["labelme"](tmp_path, scene))
    record = SceneRecord.from_dict(outcome["record"])
    with SceneReader(record.source.within(tmp_path)) as reader:
        tile = reader.read(reader.info.window)
    assert tile.pixels.dtype == scene.pixels.dtype
    cols, rows = scene.positions(record.height, record.width, record.transform)
    clear = (np.abs(cols - np.rint(cols)) > 5e-3) & (np.abs(rows - np.rint(rows)) > 5e-3)
    height, width = scene.pixels.shape[1:]
    inside = (cols > 0) & (cols < width) & (rows > 0) & (rows < height)
    own = (
        np.floor(rows).astype(int).clip(0, height - 1),
        np.floor(cols).astype(int).clip(0, width - 1),
    )
    valid = inside & scene.valid[own]
    np.testing.assert_array_equal(tile.valid[clear], valid[clear])
    seen = clear & valid
    off = tile.pixels[:, seen].astype(float) - scene.pixels[:, *own][:, seen]
    assert np.abs(off).max() <= scene.off
    assert clear.mean() > 0.97
