"""Evaluate: registered models against labels -> figures with intervals, differences, pictures."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from satseg_ray.config import EvaluateConfig
from satseg_ray.data.burning import burn_scene_labels
from satseg_ray.data.inputs import given_path, given_scene
from satseg_ray.data.rows import Pool, Reporter, Work, collected, run_actors
from satseg_ray.errors import BandMismatch, ConfigError
from satseg_ray.findings import Finding
from satseg_ray.geo.raster import inspect_scene
from satseg_ray.lineage import code_revision, patches_seen
from satseg_ray.model.bootstrap import Resampling
from satseg_ray.model.figures import (
    write_confusion,
    write_forest,
    write_reliabilities,
    write_samples,
)
from satseg_ray.model.spec import ModelSpec
from satseg_ray.model.store import read_spec
from satseg_ray.patches.store import PatchManifest, PatchStore
from satseg_ray.predict.comparison import Comparison, Contender, Measured
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
from satseg_ray.tracking import Tracking, fetch, resolve, resolve_text
from satseg_ray.tracking.datastore import DataStore
from satseg_ray.tracking.history import dataset_use
from satseg_ray.tracking.runs import DatasetUse
from satseg_ray.workspace import Workspace, name_from

METRICS, SAMPLES, CONFUSION = "metrics.json", "samples.png", "confusion.png"
INTERVALS, RELIABILITY, BLOCKS = "intervals.png", "reliability.png", "blocks.json"
_CHUNK = 32
_OVERALL = ("accuracy", "mean_iou", "mean_f1")


def evaluate(config: EvaluateConfig) -> Mapping[str, Any]:
    """Compare models, or measure one; a data set's pipeline keeps how it was done."""
    return compare(config, kept_settings(config))


def compare(config: EvaluateConfig, kept: Mapping[str, Any] | None = None) -> Mapping[str, Any]:
    """Measure models on the same pixels; ``evaluations/<output>`` and an MLflow run take it.

    ``kept`` are the settings that the data set's pipeline keeps, none for ``None``.
    """
    workspace = Workspace.resolve()
    source = _source(config)
    tracking = Tracking.open(workspace.root)
    contenders = _contenders(config, tracking, workspace)
    config = _with_block(config, [contender.spec for contender in contenders])
    names = "-".join(f"{c.model.name}-{c.model.version}" for c in contenders)
    target = workspace.evaluation(config.output or name_from(f"{names}-{source}"))
    if config.scene and not config.output:
        refuse_other_scene(target / METRICS, "data", given_path(config.scene, "scene"))
    with (
        _reading(config, workspace),
        fresh_directory(target) as folder,
        ray_session("evaluate"),
    ):
        scored = [
            _scored(config, workspace, contender, folder / f"samples-{number}")
            for number, contender in enumerate(contenders)
        ]
        how = Resampling(config.resamples, config.seed, config.level)
        comparison = Comparison([one.measured for one in scored], how)
        _write_figures(folder, comparison, scored)
        report = _report(comparison, scored[0].pieces)
        (folder / METRICS).write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
        (folder / BLOCKS).write_text(json.dumps(comparison.counts()) + "\n", encoding="utf-8")
        use = _dataset_use(config, workspace)
        if config.dataset and kept is not None:
            DataStore.of(workspace).keep_settings(config.dataset, "evaluate", kept)
    run_id = _record(tracking, config.experiment, report, target, use)
    _tell(report, comparison)
    say(f"figures in {target}")
    return {"directory": str(target), "run_id": run_id, **report}


def _contenders(
    config: EvaluateConfig, tracking: Tracking, workspace: Workspace
) -> list[Contender]:
    """Return the models that a config names, fetched.

    Raises:
        ConfigError: it names none, or the same version twice.
        ModelVersionNotFound: there is no such model.
    """
    if bool(config.model) == bool(config.models):
        raise ConfigError(
            "model", f"is {config.model!r} and models {config.models!r}",
            "Give one name with model, or several with models.",
        )  # fmt: skip
    versions = [resolve_text(tracking, text) for text in config.models]
    if config.model:
        versions = [resolve(tracking, config.model, config.version)]
    for place, version in enumerate(versions):
        if version in versions[:place]:
            raise ConfigError("models", f"names {version.uri} twice", "Name each version once.")
    directories = [fetch(tracking, version, workspace.models()) for version in versions]
    return [
        Contender(version, directory, read_spec(directory))
        for version, directory in zip(versions, directories, strict=True)
    ]


def _with_block(config: EvaluateConfig, specs: Sequence[ModelSpec]) -> EvaluateConfig:
    """Return the config with the side of a scene's blocks: one for all models."""
    if config.block or not config.scene:
        return config
    return config.model_copy(update={"block": max(spec.patch_size for spec in specs)})


@dataclass(frozen=True)
class _Scored:
    """One contender's pieces, what became of them, and their sum."""

    pieces: Pieces
    outcomes: Sequence[Work]
    measured: Measured


def _scored(
    config: EvaluateConfig, workspace: Workspace, contender: Contender, folder: Path
) -> _Scored:
    """Score one model: one after the other, so that memory is that of one."""
    pool = Pool(places(config.threads), config.threads)
    pieces = _pieces(config, workspace, contender.spec, folder, pool)
    load = partial(load_segmenter, str(contender.directory), config.batch_size, config.threads)
    outcomes = _score(pieces, load, pool)
    return _Scored(pieces, outcomes, Measured.of(contender, outcomes, pieces.held_out))


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
    own = {"model", "models", "version", "scene", "labels", "output"}
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
        return _split_pieces(config, workspace.patches(config.dataset), spec, folder)
    return scene_pieces(config, spec, folder, pool)


def _split_pieces(config: EvaluateConfig, patches: Path, spec: ModelSpec, folder: Path) -> Pieces:
    store, split = PatchStore.open(patches), config.split
    found = store.manifest
    asked, given = _must_agree(spec), _must_agree(found)
    for what, theirs in given.items():
        smaller = what == "patch_size" and found.patch_size > spec.patch_size  # is cut to fit
        if theirs != asked[what] and not smaller:
            raise BandMismatch(
                found.dataset,
                f"has other {what} than the model: {theirs}, not {asked[what]}",
                "Evaluate on a data set that is made and tiled as the model's was.",
            )
    count = len(store.required(split))
    rows = [
        {"key": f"{start:07d}", "start": start, "stop": min(start + _CHUNK, count)}
        for start in range(0, count, _CHUNK)
    ]
    blocks = found.blocks(config.block)
    task = SplitTask(str(patches), split, str(folder), blocks, -(-SHOWN // len(rows)))
    held_out = _held_out(found.lineage, spec.lineage, split)
    return Pieces(SplitScorer, task, rows, f"{found.version}/{split}", held_out)


def _must_agree(of: ModelSpec | PatchManifest) -> dict[str, object]:
    """Return what patches and a model must have in common."""
    return {
        "bands": list(of.bands),
        "dtype": of.dtype,
        "classes": list(of.classes.names),
        "patch_size": of.patch_size,
    }


def _held_out(patches: Mapping[str, str], model: Mapping[str, str], split: str) -> bool | None:
    """Tell whether a model, and what it started from, saw other patches than a split's, if known.

    >>> _held_out({"patches_version": "sea@2"}, {"patches_version": "sea@2"}, "test")
    True
    """
    tiled = patches.get("patches_version", "")
    name = tiled.partition("@")[0]
    own = [seen for seen in patches_seen(model) if seen.partition("@")[0] == name]
    if not tiled or not own:
        return None
    other = next((seen for seen in own if seen != tiled), None)
    if other is None:
        return split != "train"
    say(
        f"warning: the model, or what it started from, was trained on {other}, since then tiled "
        f"anew as {tiled}: it may have seen what is held out now. Train again, or tile as before."
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
    task = LabelledScene(source, str(labels), str(folder), config.block or spec.patch_size)
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


def _write_figures(folder: Path, comparison: Comparison, scored: Sequence[_Scored]) -> None:
    """Write the figures; samples are of the first model, those whose labels have most to show."""
    outcomes, first = scored[0].outcomes, scored[0].measured
    spec = first.contender.spec
    offered = sorted((-float(v), str(title)) for o in outcomes for v, title in o["samples"])
    place = Path(scored[0].pieces.task.folder)
    samples = [read_sample(place, title) for _, title in offered[:SHOWN]]
    write_samples(folder / SAMPLES, samples, spec.classes)
    write_confusion(folder / CONFUSION, first.confusion, spec.classes.names)
    labels = [one.measured.contender.label for one in scored]
    found = dict(zip(labels, comparison.estimates, strict=True))
    write_forest(folder / INTERVALS, found, spec.classes.names, comparison.how.level)
    tables = {m.contender.label: m.reliability for m in comparison.measured if m.reliability}
    if tables:
        write_reliabilities(folder / RELIABILITY, tables)
    for one in scored:
        shutil.rmtree(one.pieces.task.folder)


def _report(comparison: Comparison, pieces: Pieces) -> dict[str, Any]:
    """Return all models, and in front the first one as if it were alone."""
    spec = comparison.measured[0].contender.spec
    body = comparison.to_dict()
    return dict(body["models"][0]) | {
        "lineage": {**spec.lineage, "evaluate_code_revision": code_revision()},
        "data": pieces.data,
        "label_findings": [finding.to_dict() for finding in pieces.findings],
        **body,
    }


def _tell(report: Mapping[str, Any], comparison: Comparison) -> None:
    """Say to a person what came out."""
    for model in report["models"]:
        low, high = model["intervals"]["mean_iou"]
        between = (
            "" if low is None else f", {comparison.how.level:.0%} from {low:.4f} to {high:.4f}"
        )
        value = "none" if model["mean_iou"] is None else f"{model['mean_iou']:.4f}"
        say(f"{model['model']}/{model['version']}: mean IoU {value}{between}")
    for pair in report["comparisons"]:
        found = pair["differences"]["mean_iou"]
        if found["low"] is not None:
            say(
                f"{pair['model']} - {pair['against']}: mean IoU {found['value']:+.4f}, "
                f"from {found['low']:+.4f} to {found['high']:+.4f}"
            )
    if remark := comparison.remark():
        say(f"warning: {remark}")


def _record(
    tracking: Tracking,
    experiment: str,
    report: Mapping[str, Any],
    folder: Path,
    use: DatasetUse | None,
) -> str:
    """Log the evaluation as a run of its own, with its figures; return the run's id."""
    models, alone = report["models"], len(report["models"]) == 1
    own = "evaluate_code_revision"  # several models have no lineage in common
    lineage = report["lineage"] if alone else {own: report["lineage"][own]}
    run = tracking.create_run(experiment, f"evaluate {folder.name}", lineage)
    with run.recording():
        run.log_params(
            {key: ",".join(model[key] for model in models) for key in ("model", "version")}
            | {"data": report["data"], "blocks": report["blocks"]}
        )
        if use:
            run.log_dataset(use, "evaluation")
        for model in models:
            before = "" if alone else f"{model['model']}-{model['version']}/"
            run.log_metrics({before + key: value for key, value in _metrics(model).items()})
        run.log_artifact(folder)
    return run.run_id


def _metrics(model: Mapping[str, Any]) -> dict[str, float]:
    """Return the figures of one model that MLflow takes."""
    found = {key: model[key] for key in (*_OVERALL, "calibration_error")}
    for key in _OVERALL:
        found[f"{key}_low"], found[f"{key}_high"] = model["intervals"][key]
    for metric in ("iou", "f1"):
        found |= {f"{metric}_{name}": value for name, value in model[metric].items()}
    return {key: value for key, value in found.items() if value is not None}
