"""Tile: a data set's scenes to patches in Parquet, by Ray Data; workers read the pixels."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np

from satseg_ray.classes import IGNORE
from satseg_ray.config import TileConfig
from satseg_ray.data.referenced import check_references
from satseg_ray.data.rows import Pool, Reporter, Work, busy_seconds, collected, run_tasks
from satseg_ray.errors import EmptySplit
from satseg_ray.findings import Finding
from satseg_ray.geo.grid import Window
from satseg_ray.geo.raster import SceneReader
from satseg_ray.lineage import code_revision, value_digest
from satseg_ray.patches.count import (
    Band,
    BandCounts,
    Counting,
    count_band,
    pieces,
    uncounted,
    whole_scene,
)
from satseg_ray.patches.dataset import DatasetManifest, SceneRecord
from satseg_ray.patches.plan import PatchPlan, missing_classes, plan_patches
from satseg_ray.patches.sample import REASONS, Sampling
from satseg_ray.patches.schema import Indexes, PatchStack, cut_patches, patch_schema
from satseg_ray.patches.split import SPLITS, PatchKey, SceneSize
from satseg_ray.patches.stats import SplitStats
from satseg_ray.patches.store import PartWriter, PatchManifest, new_part
from satseg_ray.progress import Progress, say
from satseg_ray.runtime import cluster_cpus, ray_session
from satseg_ray.tracking.datastore import DataStore
from satseg_ray.workspace import Workspace

_READ = 2048
"""Side in pixels of what a task holds at a time, so that its memory does not grow with units."""
_ALL_VALID = np.ones((1, 1), np.bool_)


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
    for finding in tiled.findings:
        say(str(finding))
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
    sizes, counting_seconds = _counted(counter)
    planning = monotonic()
    planned = plan_patches(sizes, plan, dataset.classes.names)
    units = plan_units(planned.keys, unit)
    busy = counting_seconds + monotonic() - planning
    progress = Progress("tile", len(planned.keys), "patches")
    cutter = UnitCutter(dataset, str(raw), str(folder), reporter, sampling)
    outcomes = collected(
        run_tasks([cutter.row(unit) for unit in units], cutter.tile_unit, Pool(cluster_cpus())),
        "units",
        lambda outcome: progress.advance(outcome.get("planned", 0)),
    )
    shutil.rmtree(folder / "notes", ignore_errors=True)
    manifest = _manifest(dataset, plan, planned.keys, outcomes)
    seconds = monotonic() - start
    busy += busy_seconds(outcomes)
    return _Tiled(manifest, _findings(planned.findings, manifest), seconds, busy)


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


@dataclass(frozen=True)
class CellCounter:
    """Counts in a worker the classes in the cells of scenes, which the split weighs."""

    dataset: DatasetManifest
    raw: str
    counting: Counting
    wanted: bool
    reporter: Reporter

    @property
    def scenes(self) -> list[SceneRecord]:
        """The scenes that have labels."""
        return [scene for scene in self.dataset.scenes if scene.labels]

    def rows(self) -> list[dict[str, Any]]:
        """Return a row for each piece of work."""
        sizes = {scene.name: (scene.height, scene.width) for scene in self.scenes}
        return [
            {
                "key": f"{piece[0].scene}-{piece[0].first:07d}",
                "bands": json.dumps([[band.scene, band.first, band.stop] for band in piece]),
            }
            for piece in pieces(sizes, self.counting.patch)
        ]

    def count_classes(self, row: Work) -> dict[str, str]:
        """Count the bands of one piece; its outcome has the counts of each cell."""
        return self.reporter.run(self._count, row)

    def _count(self, row: Work) -> Work:
        labels = {scene.name: Path(self.raw) / str(scene.labels) for scene in self.scenes}
        count = count_band if self.wanted else uncounted
        parts = [Band(*band) for band in json.loads(row["bands"])]
        return {"bands": [count(labels[b.scene], b, self.counting).to_dict() for b in parts]}


def _counted(counter: CellCounter) -> tuple[list[SceneSize], float]:
    """Return the labelled scenes with the classes in their cells, and the workers' seconds."""
    rows = counter.rows()
    progress = Progress("count classes", len(rows), "pieces")
    outcomes = collected(
        run_tasks(rows, counter.count_classes, Pool(cluster_cpus())),
        "pieces",
        lambda outcome: progress.advance(1),
    )
    parts: dict[str, list[BandCounts]] = {scene.name: [] for scene in counter.scenes}
    for band in (BandCounts.from_dict(body) for outcome in outcomes for body in outcome["bands"]):
        parts[band.band.scene].append(band)
    sizes = [whole_scene(parts[s.name], s.height, s.width) for s in counter.scenes]
    return sizes, busy_seconds(outcomes)


def plan_units(keys: Sequence[PatchKey], side: int) -> list[list[PatchKey]]:
    """Return the patches in units of work: those of a scene that start in one square of ``side``.

    Law: every patch is in exactly one unit; a unit's bounding box is at most ``side`` plus a
    patch on each axis.
    """

    def place(key: PatchKey) -> tuple[str, int, int]:
        return key.scene, key.window.row // side, key.window.col // side

    return [list(unit) for _, unit in groupby(sorted(keys, key=place), key=place)]


def bounding_box(windows: Sequence[Window]) -> Window:
    """Return the smallest window that holds all of ``windows``."""
    row, col = min(w.row for w in windows), min(w.col for w in windows)
    height = max(w.row_stop for w in windows) - row
    return Window(row, col, height, max(w.col_stop for w in windows) - col)


@dataclass(frozen=True)
class UnitCutter:
    """Cuts units of patches in a worker: reads the unit once, writes one file for each split."""

    dataset: DatasetManifest
    raw: str
    folder: str
    reporter: Reporter
    sampling: Sampling

    def row(self, unit: Sequence[PatchKey]) -> dict[str, Any]:
        """Return the row that carries a unit to a worker."""
        corner = bounding_box([key.window for key in unit])
        return {
            "key": f"{unit[0].scene}-{corner.row:07d}-{corner.col:07d}",
            "scene": unit[0].scene,
            "patches": json.dumps(
                [[k.split, k.window.row, k.window.col, k.window.height] for k in unit]
            ),
        }

    def tile_unit(self, row: Work) -> dict[str, str]:
        """Cut and write one unit; its outcome has the statistics of each split."""
        return self.reporter.run(self._cut, row)

    def _cut(self, row: Work) -> Work:
        scene = next(s for s in self.dataset.scenes if s.name == row["scene"])
        patches = json.loads(row["patches"])
        keys = [PatchKey(s, scene.name, Window(r, c, h, h)) for s, r, c, h in patches]
        side, bands = keys[0].window.height, len(self.dataset.bands)
        schema = patch_schema(side, bands, self.dataset.dtype)
        stats = dict.fromkeys(SPLITS, SplitStats.zero(len(self.dataset.classes), bands))
        dropped: Counter[str] = Counter(dict.fromkeys(REASONS, 0))
        parts: dict[str, PartWriter] = {}
        with ExitStack() as open_parts:
            for cut in self._patches(scene, keys):
                stack = self._sampled(cut, dropped)
                if not len(stack):
                    continue
                split = stack.keys[0].split
                if split not in parts:
                    path = Path(self.folder) / split / f"{row['key']}.parquet"
                    parts[split] = open_parts.enter_context(new_part(path, schema))
                parts[split].write(stack)
                found = SplitStats.of_stack(stack, len(self.dataset.classes), split == SPLITS[0])
                stats[split] = stats[split].add(found)
        return {
            "stats": {split: asdict(found) for split, found in stats.items()},
            "planned": len(keys),
            "dropped": dict(dropped),
        }

    def _sampled(self, stack: PatchStack, dropped: Counter[str]) -> PatchStack:
        """Return the patches that are kept, and count the others by the reason."""
        kept: list[int] = []
        for position, key in enumerate(stack.keys):
            valid = _ALL_VALID if stack.valid is None else stack.valid[position]
            if reason := self.sampling.why_dropped(key, stack.mask[position], valid):
                dropped[reason] += 1
            else:
                kept.append(position)
        return stack.take(kept)

    def _patches(self, scene: SceneRecord, keys: Sequence[PatchKey]) -> Iterator[PatchStack]:
        """Yield the patches of one split and a small part of the unit."""
        raw = Path(self.raw)
        with (
            SceneReader(
                scene.source.within(raw), self.dataset.band_indexes, self.dataset.nodata
            ) as image,
            SceneReader(raw / str(scene.labels)) as labels,
        ):
            for part in plan_units(keys, _READ):
                window = bounding_box([key.window for key in part])
                pixels, classes = image.read(window), _label_indexes(labels, window)
                for split in SPLITS:
                    if chosen := [key for key in part if key.split == split]:
                        yield cut_patches(pixels, classes, chosen)


def _label_indexes(labels: SceneReader, window: Window) -> Indexes:
    read = labels.read(window)
    indexes: Indexes = read.pixels[0]
    if read.whole:
        return indexes
    return np.where(read.valid, indexes, np.uint8(IGNORE))


def _manifest(
    dataset: DatasetManifest, plan: PatchPlan, keys: Sequence[PatchKey], outcomes: Sequence[Work]
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
            "patches_version": patches_version(dataset, plan, keys),
            "code_revision": code_revision(),
            "split": _split_text(plan),
            "sample": plan.sample.model_dump_json(),
        },
        nodata=dataset.nodata,
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
