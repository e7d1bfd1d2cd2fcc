"""Odd and broken rasters through ingest: each is taken or refused, and none ends the job."""

from __future__ import annotations

import os
from importlib import import_module

import pytest

from satseg_ray.data.rows import Work
from satseg_ray.data.taking import SceneTaker
from tests.factories import write_raster
from tests.real_sets import ingested, two

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]

SECONDS, MIB = 5, 512


@pytest.mark.realdata
def test_every_odd_file_is_taken_or_refused_with_a_reason(tmp_path, realdata):
    folder = realdata / "odd_tiffs"
    files = [path for path in folder.rglob("*") if path.is_file()]
    config = {"scenes": ["**/*"], "classes": two("land", "water"), "on_bad": "skip"}
    made = ingested(config, tmp_path / "workspace", folder)
    assert made.error is None
    assert made.result is not None
    outcomes = made.result["outcomes"]
    print(outcomes, made.result["slowest_scene_seconds"], made.result["peak_worker_mib"])
    assert outcomes["taken"] + sum(outcomes["refused"].values()) == len(files)
    assert outcomes["taken"] > 90
    assert set(outcomes["refused"]) == {"BandMismatch", "UnreadableRaster"}
    assert {"TilesFailed"}.isdisjoint(outcomes["refused"])
    assert made.result["slowest_scene_seconds"] < SECONDS
    assert made.result["peak_worker_mib"] < MIB


class Deadly(SceneTaker):
    """Takes scenes, and dies over one of them as a fault in a library would."""

    def take_scene(self, row: Work) -> dict[str, str]:
        return self.reporter.run(self._take_or_die, row)

    def _take_or_die(self, row: Work) -> Work:
        if row["key"] == "deadly":
            os._exit(139)
        return self._take(row)


@pytest.mark.parametrize("on_bad", ["skip", "fail"])
def test_a_scene_that_kills_its_worker_is_reported_and_the_others_are_taken(
    tmp_path, monkeypatch, on_bad
):
    for seed, name in enumerate(("a", "deadly", "c")):
        write_raster(tmp_path / "scenes" / f"{name}.tif", seed=seed)
    monkeypatch.setattr(import_module("satseg_ray.data.ingest"), "SceneTaker", Deadly)
    config = {"scenes": ["scenes/*.tif"], "classes": two("land", "water"), "on_bad": on_bad}
    made = ingested(config, tmp_path / "workspace", tmp_path)
    if on_bad == "skip":
        assert made.result is not None
        assert made.result["outcomes"] == {"taken": 2, "refused": {"TilesFailed": 1}}
        (refused,) = made.found("refused")
        assert "deadly: killed its worker 3 times" in refused["problem"]
        assert [scene.name for scene in made.manifest.scenes] == ["a", "c"]
    else:
        assert type(made.error).__name__ == "TilesFailed"
        assert "killed its worker 3 times (1 of 3 scenes failed)" in str(made.error)
        assert not made.folder.exists()
