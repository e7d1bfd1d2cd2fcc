"""One worker and three make the same data set: the same bytes, and profiles within their error."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from rasterio.transform import from_origin

from tests.factories import write_raster

ROOT = Path(__file__).resolve().parent.parent
SHAPE = (700, 800)

pytestmark = [pytest.mark.slow, pytest.mark.ray]


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ingest of three scenes, each of several units."""
    folder = tmp_path_factory.mktemp("inputs")
    rng = np.random.default_rng(5)
    for number, name in enumerate(("a", "b", "c")):
        place = {"transform": from_origin(500_000 + 20_000 * number, 4_600_000, 10, 10)}
        write_raster(folder / "images" / f"{name}.tif", shape=SHAPE, seed=number, **place)
        labels = (rng.random(SHAPE) < 0.02).astype(np.uint8)
        write_raster(folder / "labels" / f"{name}.tif", labels, **place)
    path = folder / "ingest.yaml"
    body = {
        "dataset": "toy",
        "scenes": [str(folder / "images" / "*.tif")],
        "labels": [str(folder / "labels" / "*.tif")],
        "classes": [{"value": 0, "name": "land"}, {"value": 1, "name": "water"}],
    }
    path.write_text(yaml.safe_dump(body))
    return path


def made(workers: int, config: Path, workspace: Path) -> dict[str, Any]:
    command = [sys.executable, "-m", "tests.tiled", str(workers), str(config), str(workspace)]
    done = subprocess.run(
        command, cwd=ROOT, env=dict(os.environ), capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def test_one_worker_and_three_make_the_same_bytes(config: Path, tmp_path: Path) -> None:
    one, again, three = (
        made(workers, config, tmp_path / name)
        for workers, name in ((1, "one"), (1, "again"), (3, "three"))
    )
    assert one["files"] == again["files"] == three["files"]
    assert sum(name.endswith(".parquet") for name in one["files"]) > 10
    for alone, shared in zip(one["profiles"], three["profiles"], strict=True):
        assert alone.keys() == shared.keys()
        for band, found in alone.items():
            other = shared[band]
            exact = ("count", "not_finite", "low", "high")
            assert [found[key] for key in exact] == [other[key] for key in exact]
            np.testing.assert_allclose(found["mean"], other["mean"])
            spread = found["high"] - found["low"]
            np.testing.assert_allclose(found["quantiles"], other["quantiles"], atol=0.02 * spread)
