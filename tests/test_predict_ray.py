"""The law through Ray with a real network: tiles, actors and nodes do not change a pixel."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import rasterio

from satseg_ray.classes import ClassDef, ClassTable
from satseg_ray.data.rows import Pool
from satseg_ray.errors import UnreadableRaster
from satseg_ray.geo.cog import MapFormat
from satseg_ray.geo.raster import inspect_raster
from satseg_ray.model.spec import ModelSpec
from satseg_ray.predict.mapping import MAP, CoreFiles, finish_map, map_cores
from satseg_ray.predict.plan import ScenePlan, TileBudget
from satseg_ray.predict.tiles import SceneTask, load_segmenter
from tests.factories import write_raster

pytestmark = [pytest.mark.ray, pytest.mark.tensorflow]

HEIGHT, WIDTH = 397, 409
SPEC = ModelSpec(
    architecture="linknet",
    backbone="mobilenetv2",
    bands=("red", "green", "blue"),
    band_indexes=(1, 2, 3),
    dtype="uint8",
    classes=ClassTable(tuple(ClassDef(i, f"class {i}") for i in range(5))),
    patch_size=96,
    stride=64,
    mean=(120.0, 110.0, 100.0),
    std=(20.0, 25.0, 30.0),
)


def textured(height: int, width: int) -> npt.NDArray[np.uint8]:
    rng = np.random.default_rng(7)
    coarse = rng.integers(40, 200, (3, height // 16 + 1, width // 16 + 1))
    pixels = coarse.repeat(16, 1).repeat(16, 2)[:, :height, :width]
    return (pixels + rng.integers(0, 40, pixels.shape)).astype(np.uint8)


def write_model(directory: Path) -> Path:
    from satseg_ray.model.network import build_network
    from satseg_ray.model.store import save_model

    save_model(build_network(SPEC, seed=3), SPEC, directory)
    return directory


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("scene") / "prime.tif"
    return write_raster(path, textured(HEIGHT, WIDTH), crs="EPSG:32631")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "model")


def predicted(
    scene: Path, model: Path, folder: Path, side: int, actors: int
) -> tuple[npt.NDArray[np.uint8], CoreFiles, ScenePlan]:
    """Return the map of a scene from square cores of ``side`` pixels on so many actors."""
    info = inspect_raster(scene)
    plan = ScenePlan.of(info, SPEC, TileBudget(side=side), actors)
    task = SceneTask(info.path, SPEC, str(folder / "cores"), plan.preview.step)
    load = partial(load_segmenter, str(model), 2, 1)
    cores = map_cores(plan, task, load, Pool(actors))
    finish_map(plan, MapFormat(info, SPEC.classes, {}), cores, folder)
    with rasterio.open(folder / MAP) as file:
        return file.read(1), cores, plan


def test_tile_sizes_and_numbers_of_actors_give_identical_pixels(
    ray_cluster: str, scene: Path, model: Path, tmp_path: Path
) -> None:
    runs = {}
    for side, actors in ((512, 1), (64, 1), (64, 2), (53, 2)):
        folder = tmp_path / f"{side}-{actors}"
        folder.mkdir()
        runs[side, actors] = predicted(scene, model, folder, side, actors)

    whole = runs[512, 1][0]
    assert len(np.unique(whole)) > 1
    for pixels, cores, plan in runs.values():
        np.testing.assert_array_equal(pixels, whole)
        assert cores.numerics_keys == runs[512, 1][1].numerics_keys
        assert len(cores.numerics_keys) == 1
        assert sum(cores.class_pixels()) == HEIGHT * WIDTH
        assert plan.computed >= plan.lattice.count
    assert runs[512, 1][2].computed == runs[512, 1][2].lattice.count
    assert runs[64, 2][2].grid.count == 7 * 7
    assert len({o["worker"] for o in runs[64, 2][1].outcomes}) == 2


def test_a_damaged_tile_fails_with_its_error_and_the_others_are_still_tried(
    ray_cluster: str, model: Path, tmp_path: Path
) -> None:
    damaged = write_raster(tmp_path / "damaged.tif", textured(HEIGHT, WIDTH))
    damaged.write_bytes(damaged.read_bytes()[: damaged.stat().st_size * 2 // 3])
    with pytest.raises(UnreadableRaster, match=r"damaged\.tif.*of 4 tiles failed"):
        predicted(damaged, model, tmp_path / "out", 256, 1)


@pytest.mark.slow
def test_two_nodes_tile_and_predict_as_one_does(scene: Path, model: Path, tmp_path: Path) -> None:
    digests = {}
    for nodes in (1, 2):
        command = [sys.executable, "-m", "tests.nodes", str(nodes), str(scene), str(model)]
        folder = tmp_path / str(nodes)
        folder.mkdir()
        done = subprocess.run(
            [*command, str(folder)], capture_output=True, text=True, check=False, timeout=600
        )
        assert done.returncode == 0, done.stderr[-3000:]
        digests[nodes] = json.loads(done.stdout.splitlines()[-1])
    assert digests[1].pop("nodes") == 1
    assert digests[2].pop("nodes") == 2
    assert digests[1] == digests[2]
