"""The parts of the prediction benchmark, each run in a process of its own."""

from __future__ import annotations

import json
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.predict import BATCH, PATCH, STRIDE, spec
from benchmarks.scenes import texture
from satseg_ray.geo.raster import inspect_raster
from satseg_ray.model.numerics import NumericsKey
from satseg_ray.model.spec import ModelSpec
from satseg_ray.process import prepare_process
from satseg_ray.tracking import Tracking, fetch, register_model, resolve
from satseg_ray.workspace import Workspace

SECONDS = 20.0


def register(workspace: str) -> None:
    """Register the network, with random weights, as ``bench``."""
    from satseg_ray.model.network import build_network
    from satseg_ray.model.store import save_model

    directory = Path(workspace) / "built"
    save_model(build_network(spec(), seed=0), spec(), directory)
    tracking = Tracking.open(workspace)
    run = tracking.create_run("bench", "bench")
    register_model(run, directory, "bench")
    run.finish()


def model_directory(workspace: str) -> Path:
    """Return the files of the registered model."""
    tracking = Tracking.open(workspace)
    return fetch(tracking, resolve(tracking, "bench"), Workspace(Path(workspace)).models())


def bare(workspace: str, threads: str) -> None:
    """Print patches a second of the model alone, on patches that are in memory already."""
    from satseg_ray.model.segmenter import Segmenter

    model = Segmenter.load(model_directory(workspace), BATCH, int(threads))
    image = np.moveaxis(texture(2048, 1), 0, -1)
    patches = [image[r : r + PATCH, c : c + PATCH] for r in (0, 512) for c in (0, 512)]
    batch = np.ascontiguousarray(np.stack(patches))
    for _ in range(3):
        model.predict_proba(batch)
    start, count = time.monotonic(), 0
    while time.monotonic() - start < SECONDS:
        model.predict_proba(batch)
        count += len(batch)
    print(count / (time.monotonic() - start))


def by_hand(workspace: str, scene: str) -> None:
    """Predict the scene as a competent user writes it: windowed reads, ``predict``, one canvas."""
    import rasterio
    from rasterio.windows import Window

    from satseg_ray.model.environment import require_legacy_keras

    require_legacy_keras()
    from satseg_ray.model.store import load_network

    network = load_network(model_directory(workspace))
    weight = np.outer(np.hanning(PATCH + 2)[1:-1], np.hanning(PATCH + 2)[1:-1])
    weights = weight.astype(np.float32)[..., None]
    with rasterio.open(scene) as file:
        height, width = file.shape
        canvas = np.zeros((height, width, 2), np.float32)
        corners = [
            (min(r, height - PATCH), min(c, width - PATCH))
            for r in range(0, height - PATCH + STRIDE, STRIDE)
            for c in range(0, width - PATCH + STRIDE, STRIDE)
        ]
        for start in range(0, len(corners), BATCH):
            chosen = corners[start : start + BATCH]
            batch = [file.read(window=Window(c, r, PATCH, PATCH)) for r, c in chosen]
            images = np.moveaxis(np.stack(batch), 1, -1).astype(np.float32)
            logits = network.predict(images, batch_size=BATCH, verbose=0)
            scores = np.exp(logits - logits.max(axis=-1, keepdims=True))
            scores /= scores.sum(axis=-1, keepdims=True)
            for (r, c), score in zip(chosen, scores, strict=True):
                canvas[r : r + PATCH, c : c + PATCH] += score * weights
        classes = canvas.argmax(axis=-1).astype(np.uint8)
        profile = file.profile | {"count": 1, "photometric": "minisblack", "predictor": 1}
    with rasterio.open(Path(workspace) / "by_hand.tif", "w", **profile) as file:
        file.write(classes, 1)
        file.build_overviews([2, 4, 8, 16], rasterio.enums.Resampling.nearest)


class FreeModel:
    """A model that costs nothing: the same smooth scores for every patch."""

    spec: ModelSpec = spec()
    batch_size = BATCH

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        coarse = rng.random((BATCH, 16, 16, 2), dtype=np.float32)
        self._scores = np.ascontiguousarray(coarse.repeat(32, axis=1).repeat(32, axis=2))

    def predict_proba(self, batch: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Return scores (n, patch, patch, 2)."""
        return self._scores[: len(batch)]

    def numerics_key(self) -> NumericsKey:
        """Return a key of no engine."""
        return NumericsKey("none", "none", (BATCH, PATCH, PATCH, 3), 1, "none")


def free(scene: str, folder: str) -> None:
    """Print CPU seconds a scene megapixel with a free model, on Ray, down to the finished COG.

    ``work`` is what workers and driver spend on the scene; ``all_processes`` counts Ray's own
    processes too, from their start to their end.
    """
    import psutil

    from satseg_ray.data.rows import Pool
    from satseg_ray.geo.cog import MapFormat
    from satseg_ray.predict.mapping import finish_map, map_cores
    from satseg_ray.predict.plan import ScenePlan, TileBudget
    from satseg_ray.predict.tiles import SceneTask
    from satseg_ray.runtime import cluster_cpus, ray_session

    info = inspect_raster(scene)
    megapixels = info.window.area / 1e6
    target = Path(folder)
    target.mkdir()
    with ray_session("bench"):
        pool = Pool(cluster_cpus())
        plan = ScenePlan.of(info, FreeModel.spec, TileBudget(), pool.workers)
        task = SceneTask(info.path, FreeModel.spec, str(target / "cores"), plan.preview.step)
        cores = map_cores(plan, task, partial(FreeModel), pool)
        start = time.process_time()
        finish_map(plan, MapFormat(info, FreeModel.spec.classes, {}), cores, target)
        finish = time.process_time() - start
        tree = [psutil.Process(), *psutil.Process().children(recursive=True)]
        everything = sum(sum(p.cpu_times()[:2]) for p in tree)
    work = sum(o["cpu_seconds"] for o in cores.outcomes) + finish
    print(
        json.dumps(
            {
                "work": round(work / megapixels, 4),
                "of_it_the_cog": round(finish / megapixels, 4),
                "all_processes": round(everything / megapixels, 4),
                "peak_worker_mib": max(o["peak_mib"] for o in cores.outcomes),
            }
        )
    )


if __name__ == "__main__":
    prepare_process()
    globals()[sys.argv[1]](*sys.argv[2:])
