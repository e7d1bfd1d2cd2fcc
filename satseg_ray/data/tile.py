"""Tile: a data set's scenes to patches in Parquet, by Ray Data; workers read the pixels."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

from satseg_ray.config import TileConfig
from satseg_ray.data.cells import CellCounter, count_scenes
from satseg_ray.data.cutting import PROFILES, UnitCutter, plan_units
from satseg_ray.data.referenced import check_references
from satseg_ray.data.rows import Pool, Reporter, Work, busy_seconds, collected, run_tasks
from satseg_ray.drift.profile import PROFILE, merge_profiles
from satseg_ray.errors import EmptySplit
from satseg_ray.findings import Finding
from satseg_ray.lineage import code_revision, value_digest
from satseg_ray.patches.count import Counting
from satseg_ray.patches.dataset import DatasetManifest
from satseg_ray.patches.plan import PatchPlan, Planned, missing_classes, plan_patches
from satseg_ray.patches.sample import REASONS
from satseg_ray.patches.split import SPLITS, PatchKey
from satseg_ray.patches.stats import SplitStats
from satseg_ray.patches.store import PatchManifest
from satseg_ray.progress import Progress, say
from satseg_ray.runtime import cluster_cpus, ray_session
from satseg_ray.tracking.datastore import DataStore
from satseg_ray.workspace import Workspace


def tile(config: TileConfig) -> Mapping[str, Any]:
    """Make ``data/patches/<dataset>`` of a data set; all of it or nothing."""
    workspace = Workspace.resolve()
    plan = PatchPlan(config.patch_size, config.stride, config.split, config.sample)
    with DataStore.of(workspace).reading_raw(config.dataset) as raw:
        dataset = _labelled(raw, plan)
        store = DataStore.open(workspace)
        with (
            store.replacing_patches(config.dataset, config.model_dump(mode="json")) as draft,
            ray_session("tile"),
        ):
            tiled = _tiled(dataset, raw, draft.folder, plan, config.unit)
            manifest = tiled.manifest
            manifest.write(draft.folder)
            draft.version = manifest.lineage["patches_version"]
            draft.figures = {f"{s}_patches": c["patches"] for s, c in manifest.counts.items()}
    target = workspace.patches(config.dataset)
    say(f"patches of {manifest.version} in {target}")
    return {
        "dataset": manifest.dataset,
        "version": manifest.version,
        "patches_version": draft.version,
        "directory": str(target),
        "patch_size": manifest.patch_size,
        "counts": manifest.counts,
        "dropped": manifest.dropped,
        "findings": [finding.to_dict() for finding in tiled.findings],
        "work_seconds": round(tiled.seconds, 2),
        "busy_seconds": round(tiled.busy, 2),
    } | draft.result()


@dataclass(frozen=True)
class _Tiled:
    """What tiling made: the manifest of the patches, what was found, and the seconds it took.

    ``busy`` leaves out the seconds in which workers started.
    """

    manifest: PatchManifest
    findings: Sequence[Finding]
    seconds: float
    busy: float


def _tiled(dataset: DatasetManifest, raw: Path, folder: Path, plan: PatchPlan, unit: int) -> _Tiled:
    """Plan, cut and write all patches on the connected cluster."""
    start = monotonic()
    reporter = Reporter(str(folder / "notes"))
    check_references(dataset, reporter)
    sampling = plan.sample.resolved(dataset.classes, plan.split.seed)
    counting = Counting(plan.patch_size, len(dataset.classes), sampling)
    counter = CellCounter(dataset, str(raw), counting, plan.counts_classes, reporter)
    sizes, counting_seconds = count_scenes(counter)
    planning = monotonic()
    planned = plan_patches(sizes, plan, dataset.classes.names)
    for finding in planned.findings:  # now: they may say why a split comes out empty
        say(str(finding))
    units = plan_units(planned.keys, unit)
    busy = counting_seconds + monotonic() - planning
    progress = Progress("tile", len(planned.keys), "patches")
    cutter = UnitCutter(dataset, str(raw), str(folder), reporter, sampling)
    (folder / PROFILES).mkdir()
    outcomes = collected(
        run_tasks([cutter.row(unit) for unit in units], cutter.tile_unit, Pool(cluster_cpus())),
        "units",
        lambda outcome: progress.advance(outcome.get("planned", 0)),
    )
    shutil.rmtree(folder / "notes", ignore_errors=True)
    merge_profiles(folder / PROFILES, folder / PROFILE)
    manifest = _manifest(dataset, plan, planned, outcomes)
    findings = _findings(planned.findings, manifest)
    for finding in findings[len(planned.findings) :]:
        say(str(finding))
    seconds = monotonic() - start
    busy += busy_seconds(outcomes)
    return _Tiled(manifest, findings, seconds, busy)


def _labelled(raw: Path, plan: PatchPlan) -> DatasetManifest:
    """Return a data set that has labels, and everything that the plan names.

    Raises:
        ConfigError: the plan names a scene or a class that it has not.
        DatasetNotFound: there is none.
        EmptySplit: none of its scenes has labels.
    """
    dataset = DatasetManifest.read(raw)
    if not any(scene.labels for scene in dataset.scenes):
        raise EmptySplit(dataset.name, "has no labelled scene", "Ingest it with labels.")
    plan.split.check_given(scene.name for scene in dataset.scenes if scene.labels)
    plan.sample.resolved(dataset.classes, plan.split.seed)
    return dataset


def _manifest(
    dataset: DatasetManifest, plan: PatchPlan, planned: Planned, outcomes: Sequence[Work]
) -> PatchManifest:
    zero = SplitStats.zero(len(dataset.classes), len(dataset.bands))
    totals = {
        split: SplitStats.total((_stats(o["stats"][split]) for o in outcomes), zero)
        for split in SPLITS
    }
    if not totals["train"].patches:
        raise EmptySplit(
            f"{dataset.name}/train",
            f"holds no labelled patch at least {plan.buffer} pixels away from what is held out",
            "Use smaller patches or a smaller buffer, hold out less, or ingest more scenes.",
        )
    mean, std = totals["train"].mean_and_std()
    return PatchManifest(
        dataset=dataset.name,
        version=dataset.version,
        classes=dataset.classes,
        bands=dataset.bands,
        band_indexes=dataset.band_indexes,
        dtype=dataset.dtype,
        patch_size=plan.patch_size,
        stride=plan.stride,
        mean=mean,
        std=std,
        counts={split: _counts(dataset, stats) for split, stats in totals.items()},
        dropped={why: sum(int(o["dropped"][why]) for o in outcomes) for why in REASONS},
        lineage={
            "dataset_version": dataset.version,
            "patches_version": patches_version(dataset, plan, planned.keys),
            "code_revision": code_revision(),
            "split": _split_text(plan),
            "sample": plan.sample.model_dump_json(),
        },
        nodata=dataset.nodata,
        places=planned.places,
    )


def _split_text(plan: PatchPlan) -> str:
    """Return the split's settings; the scenes of a given one as their digest, so that it fits."""
    body = plan.split.model_dump(exclude={"given"})
    if plan.split.given:
        body["given"] = value_digest(plan.split.given)[:16]
    return json.dumps(body, sort_keys=True)


def patches_version(dataset: DatasetManifest, plan: PatchPlan, keys: Sequence[PatchKey]) -> str:
    """Return name and digest of a data set's patches: its content, its sample, each patch."""
    planned = [[k.split, k.scene, k.window.row, k.window.col, k.window.height] for k in keys]
    sample = [plan.sample.model_dump(), plan.split.seed]
    return f"{dataset.name}@{value_digest([dataset.version, sample, planned])[:16]}"


def _findings(planned: Sequence[Finding], manifest: PatchManifest) -> list[Finding]:
    """Return the findings of the plan and those of the patches as they were cut, each once."""
    names = manifest.classes.names
    pixels = {
        split: [counts["pixels"][name] for name in names]
        for split, counts in manifest.counts.items()
    }
    return list(dict.fromkeys([*planned, *missing_classes(pixels, names)]))


def _stats(values: Mapping[str, Any]) -> SplitStats:
    return SplitStats(
        values["patches"],
        tuple(values["pixels"]),
        values["valid"],
        tuple(values["sums"]),
        tuple(values["squares"]),
    )


def _counts(dataset: DatasetManifest, stats: SplitStats) -> dict[str, Any]:
    names = (*dataset.classes.names, "unlabelled")
    return {"patches": stats.patches, "pixels": dict(zip(names, stats.pixels, strict=True))}
