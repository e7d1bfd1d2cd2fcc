"""Taking a scene, and what is refused before: the worker and its inputs, without a cluster."""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from shapely.geometry import box

from satseg_ray.classes import ClassTable
from satseg_ray.config import IngestConfig
from satseg_ray.data import ingest as job
from satseg_ray.data.cells import CellCounter
from satseg_ray.data.cutting import UnitCutter
from satseg_ray.data.inputs import find_inputs
from satseg_ray.data.kind import Taken, bands_of
from satseg_ray.data.referenced import ReferenceChecker
from satseg_ray.data.rows import Reporter
from satseg_ray.data.taking import IMAGES, LABELS, PICTURES, PROFILES, SceneTaker
from satseg_ray.errors import (
    BandMismatch,
    ConfigError,
    MissingFile,
    SatsegError,
    SourceChanged,
    TilesFailed,
    UnwritableProduct,
)
from satseg_ray.geo.grid import Window
from satseg_ray.geo.raster import RasterInfo
from satseg_ray.geo.source import BandFile, SceneSource
from satseg_ray.patches.count import Counting
from satseg_ray.patches.dataset import DatasetManifest, SceneRecord
from satseg_ray.patches.sample import SampleSpec, Sampling
from satseg_ray.patches.split import PatchKey
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
    return [taker._take(scene.row()) for scene in find_inputs(given).scenes]


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


def test_wrong_bands_are_told_of_the_scene_as_it_was_given(tmp_path):
    scene = tmp_path / "a.tif"
    write_raster(scene, np.ones((3, 8, 8), np.uint8))
    with pytest.raises(BandMismatch, match=r"a\.tif: bands: asks for \[9\]") as refused:
        take(tmp_path / "side", config([scene], bands=[1, 9]))
    assert str(tmp_path / "side") not in str(refused.value)


@pytest.mark.parametrize("given", [None, "cubic"])
def test_a_description_s_own_resampling_holds_unless_the_config_names_one(tmp_path, given):
    paths = [write_raster(tmp_path / name, bands=1) for name in ("a.tif", "b.tif")]
    text = {"files": [path.name for path in paths], "resampling": "nearest"}
    write_json(tmp_path / "s.yaml", text)
    scenes = find_inputs(config([tmp_path / "s.yaml"], resampling=given)).scenes
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


def referenced(folder: Path, *scenes: Path) -> list[SceneRecord]:
    """The records of scenes taken by reference."""
    outcomes = take(folder, config(list(scenes), by_reference=True))
    return [SceneRecord.from_dict(outcome["record"]) for outcome in outcomes]


def checked(records: list[SceneRecord], folder: Path) -> Mapping[str, Any]:
    """What the check of the first one says."""
    checker = ReferenceChecker(records, Reporter(str(folder / "notes")))
    outcome: Mapping[str, Any] = json.loads(
        checker.check_scene({"key": records[0].name})["outcome"]
    )
    return outcome


@pytest.mark.parametrize("name", ["scene.tif", "scene"])
def test_a_scene_by_reference_is_refused_once_it_or_a_mask_beside_it_changes(tmp_path, name):
    scene = write_raster(tmp_path / name)
    records = referenced(tmp_path / "out", scene)
    assert list(records[0].checksums) == [str(scene)]
    assert checked(records, tmp_path)["status"] == "ok"
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=False), rasterio.open(scene, "r+") as file:
        file.write_mask(np.eye(64, 80, dtype=np.uint8) * 255)
    assert checked(records, tmp_path)["error"] == "SourceChanged"
    write_raster(scene, seed=9)
    assert checked(records, tmp_path)["error"] == "SourceChanged"


def test_a_stack_by_reference_has_the_content_of_both_files_of_one_name(tmp_path):
    def stack(folder: Path, first: int, second: int) -> dict[str, Any]:
        for place, seed in (("10m", first), ("20m", second)):
            write_raster(folder / place / "B.tif", bands=1, seed=seed)
        files = [{"path": "10m/B.tif", "names": ["x"]}, {"path": "20m/B.tif", "names": ["y"]}]
        text = {"files": files, "reference": "10m/B.tif"}
        path = write_json(folder / "s.yaml", text)
        return referenced(folder / "out", path)[0].content()

    first = stack(tmp_path / "a", 1, 2)
    assert stack(tmp_path / "moved", 1, 2) == first
    assert stack(tmp_path / "other", 3, 2) != first
    assert stack(tmp_path / "swapped", 2, 1) != first


def test_a_description_that_is_wrong_is_left_out_where_that_is_asked_for(tmp_path):
    good = write_raster(tmp_path / "good.tif")
    bad = write_json(tmp_path / "bad.yaml", {"files": ["good.tif"], "nonsense": 1})
    with pytest.raises(ConfigError, match="nonsense"):
        find_inputs(config([good, bad]))
    inputs = find_inputs(config([good, bad], on_bad="skip"))
    assert [scene.name for scene in inputs.scenes] == ["good"]
    assert [type(error) for error in inputs.refused.values()] == [ConfigError]


def test_annotations_that_cannot_be_read_are_the_affair_of_their_scene(tmp_path):
    scene = write_raster(tmp_path / "a.tif")
    (tmp_path / "a.json").write_text('{"no": "annotations"}')
    (outcome,) = take(tmp_path / "out", config([scene], [tmp_path / "a.json"]))
    assert outcome["refused"]["error"] == "UnreadableLabels"


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"bands": [1, 2], "band_names": ["x"]}, "names 1 of 2 bands"),
        ({"bands": [1, 1]}, "holds 1 twice"),
        ({"band_names": ["x", "x"]}, "holds x twice"),
    ],
)
def test_bands_that_cannot_be_are_refused_before_any_work(tmp_path, changes, problem):
    with pytest.raises(ConfigError, match=problem):
        find_inputs(config([tmp_path / "none.tif"], **changes))


def test_a_pattern_of_very_many_folders_names_no_file():
    with pytest.raises(MissingFile, match="has too many folders to be a path"):
        find_inputs(config(["**/*.tif" * 3000]))


def test_a_folder_is_no_scene(tmp_path):
    with pytest.raises(MissingFile, match="is a folder"):
        find_inputs(config([tmp_path]))


def test_a_file_named_twice_in_a_stack_is_stored_once(tmp_path):
    write_raster(tmp_path / "a.tif")
    files = [{"path": "a.tif", "bands": [1]}, {"path": "a.tif", "bands": [3]}]
    stack = write_json(tmp_path / "s.yaml", {"files": files})
    (outcome,) = take(tmp_path / "out", config([stack]))
    assert list(outcome["record"]["checksums"]) == ["images/s/a.tif"]


def test_names_told_apart_by_letters_alone_are_the_same_wherever_the_scenes_are(tmp_path):
    def names(folder: Path) -> list[str]:
        scenes = [write_raster(folder / name) for name in ("x.tif", "X.tif")]
        return [scene.name for scene in find_inputs(config(scenes)).scenes]

    assert names(tmp_path / "here") == names(tmp_path / "there")


@pytest.mark.parametrize(
    ("met", "kind"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "/data/b.tif"), UnwritableProduct),
        (ZeroDivisionError("by zero"), TilesFailed),
        (None, None),
    ],
)
def test_a_full_disk_and_a_fault_of_ours_end_the_job_and_a_scene_that_kills_is_left_out(
    tmp_path, monkeypatch, met, kind
):
    def copied(source: Path, target: Path) -> Path:
        if met and source.name == "b.tif":
            raise met
        return Path(copyfile(source, target))

    scenes = [write_raster(tmp_path / f"{name}.tif") for name in "ab"]
    given = config(scenes, on_bad="skip")
    inputs, rule = find_inputs(given), given.rule(ClassTable(tuple(given.classes)))
    monkeypatch.setattr(job, "run_tasks", lambda rows, function, pool: [
        json.loads(function(row)["outcome"]) for row in rows
    ])  # fmt: skip
    monkeypatch.setattr(job, "cluster_cpus", lambda: 1)
    copyfile = shutil.copyfile
    monkeypatch.setattr(shutil, "copyfile", copied)
    (tmp_path / "out").mkdir()
    taker = job._taker(given, rule, tmp_path / "out")
    if met is None:
        (tmp_path / "out" / "notes").mkdir()
        (tmp_path / "out" / "notes" / "b.attempts").write_bytes(b"...")
    outcomes = job._take(taker, inputs, ())
    assert [scene.record.name for scene in outcomes.taken] == ["a"]
    error = job._error(given, outcomes, job._judged(given, rule, outcomes, ()))
    assert (error and type(error)) == kind


def test_a_raster_of_another_size_than_its_record_is_no_more_what_was_ingested(tmp_path):
    scene = write_raster(tmp_path / "a.tif", shape=(70, 80))
    labels = write_raster(tmp_path / "l" / "a.tif", np.ones((70, 80), np.uint8))
    given, raw = config([scene], [labels]), tmp_path / "out"
    (outcome,) = take(raw, given)
    record = replace(SceneRecord.from_dict(outcome["record"]), height=700)
    table = ClassTable(tuple(given.classes))
    data = DatasetManifest("d", table, ("x", "y", "z"), (1, 2, 3), "uint8", None, (record,))
    notes, sampling = Reporter(str(tmp_path / "notes")), Sampling(SampleSpec())
    changed = pytest.raises(SourceChanged, match=r"a\.tif: is 70 x 80 pixels, .* says 700 x 80")
    for wanted in (True, False):
        counter = CellCounter(data, str(raw), Counting(32, 2, sampling), wanted, notes)
        with changed:
            counter._count(counter.rows()[0])
    cutter = UnitCutter(data, str(raw), str(tmp_path), notes, sampling)
    with changed:
        cutter._cut(cutter.row([PatchKey("train", "a", Window(600, 0, 32, 32))]))
