"""Train: a data set's patches to a run in MLflow, and to a registered model where one is named."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from satseg_ray.config import TrainConfig
from satseg_ray.errors import ConfigError, Diverged, EmptySplit, TrainingFailed
from satseg_ray.geo import Axis
from satseg_ray.lineage import code_revision
from satseg_ray.model.backbones import accepted_size, check_size
from satseg_ray.model.class_weights import check_weighted
from satseg_ray.model.network import check_spec
from satseg_ray.model.pretrained import FirstWeights
from satseg_ray.model.spec import ModelSpec
from satseg_ray.model.training_spec import TrainingSpec
from satseg_ray.patches.store import PatchManifest, PatchStore
from satseg_ray.progress import say
from satseg_ray.runtime import check_fits, cpus_for_each, ray_session
from satseg_ray.tracking import Run, Tracking, log_model, register_model
from satseg_ray.tracking.courier import reconcile
from satseg_ray.tracking.datastore import DataStore
from satseg_ray.tracking.history import dataset_use
from satseg_ray.tracking.registry import check_name, entry_alias
from satseg_ray.tracking.system import log_environment
from satseg_ray.train.diagnose import folder_of, log_diagnostics
from satseg_ray.train.first_weights import STARTS, find_start, kept_start
from satseg_ray.train.follow import followed
from satseg_ray.train.plan import check_shared
from satseg_ray.train.resume import Unfinished, unfinished
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
    run's id, and the figures of the epochs that it has behind it. ``ends_after`` so many epochs a
    run that goes on has come to its end, whatever its settings say: nothing else of it changes.
    """

    name: str | None = None
    parent: str | None = None
    callbacks: tuple[Any, ...] = ()
    started: Callable[[str, Sequence[Mapping[str, float]]], None] = lambda run_id, history: None
    ends_after: int | None = None


def train(config: TrainConfig) -> Mapping[str, Any]:
    """Train a model; its run, its figures and its files are in the workspace's MLflow."""
    return train_supervised(config, Workspace.resolve(), Supervision())


def train_supervised(
    config: TrainConfig, workspace: Workspace, supervision: Supervision
) -> Mapping[str, Any]:
    """Train as :func:`train` does, as a part of a sweep."""
    if config.register_as:
        check_name("register", config.register_as)
    if config.alias:
        check_name("alias", config.alias)
    check_shared(config.batch_size, config.workers)
    with DataStore.of(workspace).reading_patches(config.dataset) as patches:
        store = PatchStore.open(patches)
        spec = checked_spec(config, store)
        check_classes(store.manifest)
        start = find_start(config, spec, workspace)
        result = _trained(config, start.applied(spec), start.weights, workspace, supervision)
        if not supervision.parent:
            DataStore.of(workspace).keep_settings(config.dataset, "train", kept_settings(config))
        return result


def _trained(
    config: TrainConfig,
    spec: ModelSpec,
    first: FirstWeights,
    workspace: Workspace,
    supervision: Supervision,
) -> Mapping[str, Any]:
    tracking = Tracking.open(workspace.root)
    # The revision of the code is in the spec's lineage
    settings = config.model_dump(mode="json", exclude={"fresh"})
    facts = {
        "config": settings,
        "spec": spec.to_json(),
        "tracking": tracking.uri,
        "trial": supervision.name,
    }
    with (
        # what held a trial that was stopped is about to let go of it
        unfinished(workspace, facts, wait=supervision.ends_after is not None) as record,
        ray_session("train", dashboard=True),  # ended last: a stopped job has only seconds
    ):
        resources = _resources(config)
        if config.fresh:
            _give_up(record, tracking)
        run = _run(config, spec, tracking, record, supervision)
        with run.recording():
            run.log_params(settings)
            run.log_dataset(dataset_use(workspace, config.dataset, spec.lineage), "training")
            log_environment(run)
            directory = workspace.run(run.run_id)
            patches, model = workspace.patches(config.dataset), directory / "model"
            _tell_absent(run, absent_classes(PatchManifest.read(patches)))
            training = training_spec(config)
            if supervision.ends_after is not None:
                training = training.model_copy(update={"epochs": supervision.ends_after})
            task = TrainTask(str(patches), str(model), spec, training, first)
            place = RunPlace(
                supervision.name or _name(config),
                str(directory / "checkpoints"),
                run,
                supervision.callbacks,
            )
            supervision.started(run.run_id, place.checkpoints.history())
            try:
                with followed(place.checkpoints, config.epochs):
                    result = train_on_ray(task, resources, place)
            except Diverged:
                record.end()  # it would end in the same way again
                raise
            lost = _complete(run, result)
            log_diagnostics(run, folder_of(model))
            # a sweep stores the best of its trials alone, when it registers that
            logged = None if supervision.parent else log_model(run, model)
            registered = _register(config, run, result)
        record.end()
    say(f"model in {result.model}, run {run.run_id}")
    return {
        "run_id": run.run_id,
        "model": result.model,
        "logged": logged,
        "registered": registered,
        "best_epoch": result.best_epoch,
        "epochs": len(result.history),
        "metrics": dict(result.best),
        "metrics_lost": lost,
        "dataset_version": spec.lineage["dataset_version"],
    }


def kept_settings(config: TrainConfig) -> dict[str, Any]:
    """Return what the data set's pipeline keeps of a training; it needs a name to register by."""
    settings = config.model_dump(mode="json", by_alias=True, exclude={"fresh"})
    settings |= {key: kept_start(key, settings[key]) for key in STARTS}
    return {key: value for key, value in settings.items() if key != "register" or value}


def _name(config: TrainConfig) -> str:
    return f"{config.dataset}-{config.architecture}-{config.backbone}"


def _run(
    config: TrainConfig,
    spec: ModelSpec,
    tracking: Tracking,
    record: Unfinished,
    supervision: Supervision,
) -> Run:
    """Return the unfinished run of this training, or a new one."""
    run_id = record.run_id()
    found = tracking.reopened(run_id) if run_id else None
    if found:
        say(f"run {found.run_id} of these settings goes on; --fresh true starts anew")
        return found
    if supervision.ends_after is not None:
        raise TrainingFailed(
            supervision.name or _name(config), "has no run that goes on", "Train it anew."
        )
    tags = {PARENT: supervision.parent} if supervision.parent else {}
    name = supervision.name or _name(config)
    run = tracking.create_run(config.experiment, name, {**spec.lineage, **tags})
    record.begin(run.run_id)
    return run


def _give_up(record: Unfinished, tracking: Tracking) -> None:
    """Forget the unfinished run; one whose driver was killed still counts as running."""
    if run_id := record.run_id():
        tracking.give_up(run_id)
    record.end()


def _complete(run: Run, result: TrainResult) -> int | None:
    """Record the epochs that MLflow has missed; return how many it lacks, ``None`` if unknown."""
    try:
        if late := reconcile(run, result.history, "loss"):
            say(f"recorded the figures of {late} epochs that MLflow had missed")
        return 0
    except Exception as away:  # the model is there, and matters more
        say(f"MLflow does not answer, it may lack the figures of some epochs: {away}")
        return None


def checked_spec(config: TrainConfig, store: PatchStore) -> ModelSpec:
    """Return :func:`model_spec` of a config that these patches can be trained with.

    Raises:
        EmptySplit: no patch to train on.
        ConfigError: a size, stride, network or class weight that does not suit them.
    """
    store.required("train")
    spec = model_spec(config, store.manifest)
    Axis(spec.patch_size, spec.patch_size, spec.stride)  # refuses a stride beyond the patch
    check_spec(spec)
    check_weighted(config.loss, spec.classes.names)
    return spec


def check_classes(manifest: PatchManifest) -> None:
    """Refuse training labels of fewer than two classes: there is nothing to tell apart.

    Raises:
        EmptySplit: with the classes that are missing.
    """
    absent = absent_classes(manifest)
    if len(manifest.classes.names) - len(absent) < 2:
        raise EmptySplit(
            f"{manifest.dataset}/train",
            f"holds no label of {', '.join(absent) or 'a second class'}",
            "Label at least two classes, and tile again.",
        )


def model_spec(config: TrainConfig, manifest: PatchManifest) -> ModelSpec:
    """Return the spec of the model that a config asks for on these patches.

    Its patch size is the config's, or the largest one up to the stored size that the
    architecture takes.

    Raises:
        ConfigError: the stored patches are smaller than that, or than any that it takes.
    """
    side = _side(config, manifest.patch_size)
    return ModelSpec(
        architecture=config.architecture,
        backbone=config.backbone,
        bands=manifest.bands,
        band_indexes=manifest.band_indexes,
        dtype=manifest.dtype,
        classes=manifest.classes,
        patch_size=side,
        stride=config.predict_stride or side * 3 // 4,
        mean=manifest.mean,
        std=manifest.std,
        batch_norm_momentum=config.batch_norm_momentum,
        nodata=manifest.nodata,
        lineage={
            **manifest.lineage,
            "train_code_revision": code_revision(),
            "stored_patch_size": str(manifest.patch_size),
        },
    )


def absent_classes(manifest: PatchManifest) -> list[str]:
    """Return the classes that no labelled pixel of the training split has: nothing teaches them."""
    pixels = manifest.counts["train"]["pixels"]
    return [name for name in manifest.classes.names if not pixels.get(name)]


def _tell_absent(run: Run, absent: list[str]) -> None:
    if absent:
        names = ", ".join(absent)
        say(f"warning: no training pixel is of {names}: the model will not find it. 'balanced' "
            "class weights leave it out. Tile with another split, or add labels.")  # fmt: skip
        run.set_tags({"classes_without_training_pixels": names})


def _side(config: TrainConfig, stored: int) -> int:
    if config.patch_size is None:
        return accepted_size(config.architecture, stored)
    if config.patch_size > stored:
        raise ConfigError(
            "patch_size",
            f"{config.patch_size} is more than the {stored} pixels of the stored patches",
            "Take a smaller one, or tile the data set with larger patches.",
        )
    check_size(config.architecture, config.patch_size)
    return config.patch_size


def training_spec(config: TrainConfig) -> TrainingSpec:
    """Return the part of a config that says how the network is trained."""
    return TrainingSpec.model_validate(config.model_dump(include=set(TrainingSpec.model_fields)))


def _resources(config: TrainConfig) -> TrainResources:
    """Share the cluster's CPUs among workers and readers where the config does not say.

    Raises:
        ConfigError: they want more CPUs than the cluster has.
    """
    cpus = config.threads or cpus_for_each(config.workers, int(config.gpu), config.readers)
    check_fits(config.workers, cpus, int(config.gpu), config.readers)
    return TrainResources(
        config.workers, cpus, config.gpu, max_failures=config.max_failures, readers=config.readers
    )


def _register(config: TrainConfig, run: Run, result: TrainResult) -> dict[str, str] | None:
    if not config.register_as:
        return None
    alias = config.alias or entry_alias(run, config.register_as)
    version = register_model(run, Path(result.model), config.register_as, alias)
    say(f"registered {version.uri}, {alias} of {version.name}")
    return {
        "name": version.name,
        "version": version.version,
        "alias": alias,
        "uri": version.uri,
    }
