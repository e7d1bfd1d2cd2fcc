"""Evaluate: a registered model against labels -> confusion matrix, metrics and figures."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from satseg_ray.config import EvaluateConfig
from satseg_ray.data.burning import burn_scene_labels
from satseg_ray.data.inputs import given_path, given_scene
from satseg_ray.data.rows import Pool, Reporter, Work, collected, run_actors
from satseg_ray.errors import BandMismatch, ConfigError
from satseg_ray.findings import Finding
from satseg_ray.geo.raster import inspect_scene
from satseg_ray.lineage import code_revision
from satseg_ray.model.backbones import accepted_size
from satseg_ray.model.figures import write_confusion, write_samples
from satseg_ray.model.metrics import Confusion
from satseg_ray.model.spec import ModelSpec
from satseg_ray.model.store import read_spec
from satseg_ray.patches.store import PatchManifest, PatchStore
from satseg_ray.predict.plan import ScenePlan, TileBudget, check_bands, refuse_other_scene
from satseg_ray.predict.scoring import (
    SHOWN,
    LabelledScene,
    SceneScorer,
    SplitScorer,
    SplitTask,
    read_sample,
)
from satseg_ray.predict.tiles import core_row, load_segmenter
from satseg_ray.products import fresh_directory
from satseg_ray.progress import Progress, say
from satseg_ray.runtime import places, ray_session
from satseg_ray.tracking import ModelVersion, Tracking, fetch, resolve
from satseg_ray.tracking.datastore import DataStore
from satseg_ray.tracking.history import dataset_use
from satseg_ray.tracking.runs import DatasetUse
from satseg_ray.workspace import Workspace, name_from

METRICS, SAMPLES, CONFUSION = "metrics.json", "samples.png", "confusion.png"
_CHUNK = 32


def evaluate(config: EvaluateConfig) -> Mapping[str, Any]:
    """Measure a model; the figures go to ``evaluations/<output>`` and to an MLflow run."""
    workspace = Workspace.resolve()
    source = _source(config)
    tracking = Tracking.open(workspace.root)
    model = resolve(tracking, config.model, config.version)
    directory = fetch(tracking, model, workspace.models())
    spec = read_spec(directory)
    name = config.output or name_from(f"{model.name}-{model.version}-{source}")
    target = workspace.evaluation(name)
    if config.scene and not config.output:
        refuse_other_scene(target / METRICS, "data", given_path(config.scene, "scene"))
    with (
        _reading(config, workspace),
        fresh_directory(target) as folder,
        ray_session("evaluate"),
    ):
        pool = Pool(places(config.threads), config.threads)
        pieces = _pieces(config, workspace, spec, folder / "samples", pool)
        load = partial(load_segmenter, str(directory), config.batch_size, config.threads)
        outcomes = _score(pieces, load, pool)
        confusion = total(outcomes, len(spec.classes))
        _write_figures(folder, confusion, outcomes, spec)
        report = _report(model, spec, confusion)
        report |= {"data": pieces.data, "held_out": pieces.held_out}
        report["label_findings"] = [finding.to_dict() for finding in pieces.findings]
        (folder / METRICS).write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
        use = _dataset_use(config, workspace)
        if config.dataset:
            store = DataStore.of(workspace)
            store.keep_settings(config.dataset, "evaluate", kept_settings(config))
    run_id = _record(tracking, config.experiment, report, target, use)
    say(f"mean IoU {confusion.mean_iou:.4f}, figures in {target}")
    return {"directory": str(target), "run_id": run_id, **report}


@dataclass(frozen=True)
class Pieces:
    """The work of an evaluation: rows for actors of one class, and what data they are of.

    ``held_out`` tells whether the model never saw it in training; ``None`` where nobody knows.
    ``findings`` are what was met in a scene's labels.
    """

    actor: type
    task: Any
    rows: Sequence[Work]
    data: str
    held_out: bool | None = None
    findings: tuple[Finding, ...] = ()


def _reading(config: EvaluateConfig, workspace: Workspace) -> AbstractContextManager[Path | None]:
    if not config.dataset:
        return nullcontext()
    return DataStore.of(workspace).reading_patches(config.dataset)


def _dataset_use(config: EvaluateConfig, workspace: Workspace) -> DatasetUse | None:
    if not config.dataset:
        return None
    manifest = PatchManifest.read(workspace.patches(config.dataset))
    return dataset_use(workspace, config.dataset, manifest.lineage)


def kept_settings(config: EvaluateConfig) -> dict[str, Any]:
    """Return what the data set's pipeline keeps of an evaluation: not whose nor where it was."""
    own = {"model", "version", "scene", "labels", "output"}
    return config.model_dump(mode="json", by_alias=True, exclude=own)


def _source(config: EvaluateConfig) -> str:
    if bool(config.dataset) == bool(config.scene and config.labels):
        raise ConfigError(
            "dataset", f"is {config.dataset!r} and scene {config.scene!r}",
            "Give either a data set, or a scene with labels.",
        )  # fmt: skip
    return f"{config.dataset}-{config.split}" if config.dataset else Path(str(config.scene)).stem


def _pieces(
    config: EvaluateConfig, workspace: Workspace, spec: ModelSpec, folder: Path, pool: Pool
) -> Pieces:
    if config.dataset:
        return _split_pieces(workspace.patches(config.dataset), config.split, spec, folder)
    return scene_pieces(config, spec, folder, pool)


def _split_pieces(patches: Path, split: str, spec: ModelSpec, folder: Path) -> Pieces:
    store = PatchStore.open(patches)
    found = store.manifest
    check_agree(spec, found)
    count = len(store.required(split))
    rows = [
        {"key": f"{start:07d}", "start": start, "stop": min(start + _CHUNK, count)}
        for start in range(0, count, _CHUNK)
    ]
    task = SplitTask(str(patches), split, str(folder), -(-SHOWN // len(rows)))
    held_out = _held_out(found.lineage, spec.lineage, split)
    return Pieces(SplitScorer, task, rows, f"{found.version}/{split}", held_out)


def check_agree(spec: ModelSpec, found: PatchManifest) -> None:
    """Refuse patches that are none for a model.

    The model takes the stored patch size, or it is the largest crop of it that the model's
    architecture takes: of such patches the centre is scored.

    Raises:
        BandMismatch: other bands, type, classes or patch size.
    """
    largest = accepted_size(spec.architecture, max(found.patch_size, spec.patch_size))
    cropped = found.patch_size > spec.patch_size and largest == spec.patch_size
    asked = _must_agree(spec, spec.patch_size)
    given = _must_agree(found, spec.patch_size if cropped else found.patch_size)
    for what, theirs in given.items():
        if theirs != asked[what]:
            raise BandMismatch(
                found.dataset,
                f"has other {what} than the model: {theirs}, not {asked[what]}",
                "Evaluate on a data set that is made and tiled as the model's was.",
            )


def _must_agree(of: ModelSpec | PatchManifest, patch_size: int) -> dict[str, object]:
    """Return what patches and a model must have in common."""
    return {
        "bands": list(of.bands),
        "dtype": of.dtype,
        "classes": list(of.classes.names),
        "patch_size": patch_size,
    }


def _held_out(patches: Mapping[str, str], model: Mapping[str, str], split: str) -> bool | None:
    """Tell whether a model was trained on other patches than those of a split, if known."""
    tiled, trained = patches.get("patches_version", ""), model.get("patches_version", "")
    if not tiled or tiled.partition("@")[0] != trained.partition("@")[0]:
        return None
    if tiled == trained:
        return split != "train"
    say(
        f"warning: the model was trained on {trained}, since then tiled anew as {tiled}: it may "
        "have seen what is held out now. Train it again, or tile as before."
    )
    return False


def scene_pieces(config: EvaluateConfig, spec: ModelSpec, folder: Path, pool: Pool) -> Pieces:
    """Return the cores of a scene, whose labels are burnt into ``folder``; what they met is said.

    Raises:
        BandMismatch, LabelsDoNotMatch, MissingFile: scene, labels and model do not fit together.
    """
    source = given_scene(str(config.scene), "scene")
    scene = inspect_scene(source)
    check_bands(scene, spec)
    folder.mkdir()
    labels = folder / "labels.tif"
    given = given_path(str(config.labels), "labels")
    findings = burn_scene_labels(given, config.rule(spec.classes), source, scene, labels)
    for finding in findings:
        say(str(finding))
    cores = ScenePlan.of(scene, spec, TileBudget(), pool.workers).cores
    rows = [core_row(core) for core in cores]
    task = LabelledScene(source, str(labels), str(folder))
    return Pieces(
        SceneScorer, task, rows, given_path(str(config.scene), "scene"), findings=findings
    )


def _score(pieces: Pieces, load: Any, pool: Pool) -> list[Work]:
    notes = Reporter(str(Path(pieces.task.folder) / "notes"))
    arguments = {"task": pieces.task, "load": load, "reporter": notes}
    Path(pieces.task.folder).mkdir(exist_ok=True)
    progress = Progress("evaluate", len(pieces.rows), "pieces")
    return collected(
        run_actors(pieces.rows, pieces.actor, arguments, pool),
        "pieces",
        lambda outcome: progress.advance(1),
    )


def total(outcomes: Sequence[Work], classes: int) -> Confusion:
    """Return the sum of the pieces' confusion counts; integers, so in any order."""
    parts = (Confusion(np.array(o["counts"], np.int64), o["unlabelled"]) for o in outcomes)
    return sum(parts, Confusion.zero(classes))


def _write_figures(
    folder: Path, confusion: Confusion, outcomes: Sequence[Work], spec: ModelSpec
) -> None:
    """Write the figures; samples are those whose labels have most to show."""
    offered = sorted((-float(v), str(title)) for o in outcomes for v, title in o["samples"])
    samples = [read_sample(folder / "samples", title) for _, title in offered[:SHOWN]]
    write_samples(folder / SAMPLES, samples, spec.classes)
    write_confusion(folder / CONFUSION, confusion, spec.classes.names)
    shutil.rmtree(folder / "samples")


def _report(model: ModelVersion, spec: ModelSpec, confusion: Confusion) -> dict[str, Any]:
    return {
        "model": model.name,
        "version": model.version,
        "classes": list(spec.classes.names),
        **confusion.to_dict(spec.classes.names),
        "lineage": {**spec.lineage, "evaluate_code_revision": code_revision()},
    }


def _record(
    tracking: Tracking,
    experiment: str,
    report: Mapping[str, Any],
    folder: Path,
    use: DatasetUse | None,
) -> str:
    """Log the evaluation as a run of its own, with its figures; return the run's id."""
    run = tracking.create_run(experiment, f"evaluate {folder.name}", report["lineage"])
    with run.recording():
        run.log_params({key: report[key] for key in ("model", "version", "data")})
        if use:
            run.log_dataset(use, "evaluation")
        overall = {key: report[key] for key in ("accuracy", "mean_iou", "mean_f1")}
        by_class = {f"iou_{name}": value for name, value in report["iou"].items()}
        figures = overall | by_class
        run.log_metrics({key: value for key, value in figures.items() if value is not None})
        run.log_artifact(folder)
    return run.run_id
