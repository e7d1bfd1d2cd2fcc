"""Predict: a scene and a registered model to ``predictions/<output>``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from satseg_ray.config import PredictConfig
from satseg_ray.data.inputs import given_path, given_scene
from satseg_ray.data.rows import Pool
from satseg_ray.geo.cog import MapFormat
from satseg_ray.geo.raster import inspect_scene
from satseg_ray.lineage import code_revision
from satseg_ray.model.spec import ModelSpec
from satseg_ray.model.store import read_spec
from satseg_ray.predict.mapping import MAP, QUICKLOOK, CoreFiles, finish_map, map_cores
from satseg_ray.predict.plan import ScenePlan, TileBudget, check_bands, refuse_other_scene
from satseg_ray.predict.tiles import SceneTask, load_segmenter
from satseg_ray.products import fresh_directory
from satseg_ray.progress import say
from satseg_ray.runtime import check_fits, places, ray_session
from satseg_ray.tracking import ModelVersion, Tracking, fetch, resolve
from satseg_ray.workspace import Workspace, name_from

REPORT = "report.json"


def predict(config: PredictConfig) -> Mapping[str, Any]:
    """Make the map of a scene: a COG of class values, a quicklook and a report; all or nothing."""
    workspace = Workspace.resolve()
    source = given_scene(config.scene, "scene")
    scene = inspect_scene(source)
    tracking = Tracking.open(workspace.root)
    model = resolve(tracking, config.model, config.version)
    directory = fetch(tracking, model, workspace.models())
    spec = _with_stride(read_spec(directory), config.stride)
    check_bands(scene, spec)
    target = workspace.prediction(config.output or name_from(Path(config.scene).stem))
    if not config.output:
        refuse_other_scene(target / REPORT, "scene", given_path(config.scene, "scene"))
    with fresh_directory(target) as folder, ray_session("predict"):
        pool = _pool(config)
        budget = TileBudget(config.tile_pixels, side=config.core)
        plan = ScenePlan.of(scene, spec, budget, pool.workers)
        say(f"{plan.grid.count} tiles, {plan.computed} patches for {pool.workers} actors")
        task = SceneTask(source, spec, str(folder / "cores"), plan.preview.step)
        load = partial(load_segmenter, str(directory), config.batch_size, config.threads)
        cores = map_cores(plan, task, load, pool)
        tags = _tags(model, spec, cores)
        finish_map(plan, MapFormat(scene, spec.classes, tags), cores, folder)
        report = _report(plan, spec, cores) | {"lineage": tags}
        (folder / REPORT).write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    say(f"map in {target / MAP}, picture in {target / QUICKLOOK}")
    files = {"map": MAP, "quicklook": QUICKLOOK, "report": REPORT}
    return {name: str(target / file) for name, file in files.items()} | report


def _with_stride(spec: ModelSpec, stride: int | None) -> ModelSpec:
    return spec if stride is None else replace(spec, stride=stride)


def _pool(config: PredictConfig) -> Pool:
    """Return the actors that a config asks for, else as many as the cluster holds.

    Raises:
        ConfigError: the cluster does not hold them.
    """
    gpus = int(config.gpu)
    if config.actors:
        check_fits(config.actors, config.threads, gpus)
    return Pool(config.actors or places(config.threads, gpus), config.threads, gpus)


def _tags(model: ModelVersion, spec: ModelSpec, cores: CoreFiles) -> dict[str, str]:
    """Return what made the map: model version, data set version, code, numerics key."""
    keys = cores.numerics_keys
    return {
        **spec.lineage,
        "model_name": model.name,
        "model_version": str(model.version),
        "run_id": model.run_id,
        "predict_code_revision": code_revision(),
        "predict_stride": str(spec.stride),
        "numerics_key": json.dumps(keys[0] if len(keys) == 1 else keys, sort_keys=True),
    }


def _report(plan: ScenePlan, spec: ModelSpec, cores: CoreFiles) -> dict[str, Any]:
    pixels = cores.class_pixels()
    total = max(sum(pixels), 1)
    shares = {
        name: {"pixels": count, "share": round(count / total, 6)}
        for name, count in zip(spec.classes.names, pixels, strict=True)
    }
    return {
        "height": plan.scene.height,
        "width": plan.scene.width,
        "crs": plan.scene.crs_name,
        "tiles": plan.grid.count,
        "patches_computed": plan.computed,
        "patches_of_lattice": plan.lattice.count,
        "classes": shares,
        "patches_per_second": round(cores.patches_per_second(), 3),
        "cpu_seconds_of_workers": round(sum(o["cpu_seconds"] for o in cores.outcomes), 2),
        "peak_worker_mib": max(o["peak_mib"] for o in cores.outcomes),
    }
