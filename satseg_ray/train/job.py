"""Train: a data set's patches to a run in MLflow, and to a registered model where one is named."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from satseg_ray.config import TrainConfig
from satseg_ray.geo import Axis
from satseg_ray.lineage import code_revision
from satseg_ray.model.network import check_spec
from satseg_ray.model.spec import ModelSpec
from satseg_ray.model.training_spec import TrainingSpec
from satseg_ray.patches.store import PatchManifest, PatchStore
from satseg_ray.progress import say
from satseg_ray.runtime import check_fits, cpus_for_each, ray_session
from satseg_ray.tracking import Run, Tracking, register_model
from satseg_ray.tracking.datastore import DataStore
from satseg_ray.tracking.history import dataset_use
from satseg_ray.tracking.registry import check_name
from satseg_ray.train.follow import followed
from satseg_ray.train.plan import check_shared
from satseg_ray.train.task import TrainTask
from satseg_ray.train.trainer import RunPlace, TrainResources, TrainResult
from satseg_ray.train.trainer import train as train_on_ray
from satseg_ray.workspace import Workspace

PARENT = "mlflow.parentRunId"
"""The tag by which MLflow shows a run below another."""


@dataclass(frozen=True)
class Supervision:
    """What a sweep adds to a training of its own.

    ``name`` of the run, the ``parent`` run, Ray Train's ``callbacks``; ``started`` is told the
    run's id.
    """

    name: str | None = None
    parent: str | None = None
    callbacks: tuple[Any, ...] = ()
    started: Callable[[str], None] = lambda run_id: None


def train(config: TrainConfig) -> Mapping[str, Any]:
    """Train a model; its run, its figures and its files are in the workspace's MLflow."""
    return train_supervised(config, Supervision())


def train_supervised(config: TrainConfig, supervision: Supervision) -> Mapping[str, Any]:
    """Train as :func:`train` does, as a part of a sweep."""
    workspace = Workspace.resolve()
    if config.register_as:
        check_name("register", config.register_as)
    check_shared(config.batch_size, config.workers)
    with DataStore.of(workspace).reading_patches(config.dataset) as patches:
        store = PatchStore.open(patches)
        store.required("train")
        spec = model_spec(config, store.manifest)
        Axis(spec.patch_size, spec.patch_size, spec.stride)  # refuses a stride beyond the patch
        check_spec(spec)
        return _trained(config, spec, workspace, supervision)


def _trained(
    config: TrainConfig, spec: ModelSpec, workspace: Workspace, supervision: Supervision
) -> Mapping[str, Any]:
    tracking = Tracking.open(workspace.root)
    own = f"{config.dataset}-{config.architecture}-{config.backbone}"
    name = supervision.name or own
    tags = {PARENT: supervision.parent} if supervision.parent else {}
    with ray_session("train", dashboard=True):  # ended last: a stopped job has only seconds
        resources = _resources(config)
        run = tracking.create_run(config.experiment, name, {**spec.lineage, **tags})
        supervision.started(run.run_id)
        with run.recording():
            run.log_params(config.model_dump(mode="json"))
            run.log_dataset(dataset_use(workspace, config.dataset, spec.lineage), "training")
            directory = workspace.run(run.run_id)
            patches, model = workspace.patches(config.dataset), directory / "model"
            task = TrainTask(str(patches), str(model), spec, training_spec(config))
            place = RunPlace(name, str(directory / "checkpoints"), run, supervision.callbacks)
            with followed(run, config.epochs):
                result = train_on_ray(task, resources, place)
            registered = _register(config, run, result)
    say(f"model in {result.model}, run {run.run_id}")
    return {
        "run_id": run.run_id,
        "model": result.model,
        "registered": registered,
        "best_epoch": result.best_epoch,
        "metrics": dict(result.best),
        "dataset_version": spec.lineage["dataset_version"],
    }


def model_spec(config: TrainConfig, manifest: PatchManifest) -> ModelSpec:
    """Return the spec of the model that a config asks for on these patches."""
    return ModelSpec(
        architecture=config.architecture,
        backbone=config.backbone,
        bands=manifest.bands,
        band_indexes=manifest.band_indexes,
        dtype=manifest.dtype,
        classes=manifest.classes,
        patch_size=manifest.patch_size,
        stride=config.predict_stride or manifest.patch_size * 3 // 4,
        mean=manifest.mean,
        std=manifest.std,
        batch_norm_momentum=config.batch_norm_momentum,
        nodata=manifest.nodata,
        lineage={**manifest.lineage, "train_code_revision": code_revision()},
    )


def training_spec(config: TrainConfig) -> TrainingSpec:
    """Return the part of a config that says how the network is trained."""
    return TrainingSpec.model_validate(config.model_dump(include=set(TrainingSpec.model_fields)))


def _resources(config: TrainConfig) -> TrainResources:
    """Share the cluster's CPUs among the workers where the config does not say.

    Raises:
        ConfigError: the workers want more CPUs than the cluster has.
    """
    cpus = config.threads or cpus_for_each(config.workers, int(config.gpu))
    check_fits(config.workers, cpus, int(config.gpu))
    return TrainResources(config.workers, cpus, config.gpu, max_failures=config.max_failures)


def _register(config: TrainConfig, run: Run, result: TrainResult) -> dict[str, str] | None:
    if not config.register_as:
        return None
    version = register_model(run, Path(result.model), config.register_as)
    say(f"registered {version.uri}, champion of {version.name}")
    return {"name": version.name, "version": version.version, "uri": version.uri}
