"""Odd and broken rasters through ingest: each is taken or refused with a reason, none ends the job."""

from __future__ import annotations

import pytest

from satseg_ray.classes import ClassDef, ClassTable
from tests.real_sets import ingested, two

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]

TABLE = ClassTable((ClassDef(0, "land"), ClassDef(1, "water")))
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
