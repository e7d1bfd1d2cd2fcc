"""Tile: a data set's scenes to patches in Parquet, by Ray Data; workers read the pixels."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np

from satseg_ray.classes import IGNORE
from satseg_ray.config import TileConfig
from satseg_ray.data.rows import Pool, Reporter, Work, collected, run_tasks
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
from satseg_ray.patches.schema import Indexes, Patch, cut_patch, patch_schema
from satseg_ray.patches.split import SPLITS, PatchKey, SceneSize
from satseg_ray.patches.stats import SplitStats
from satseg_ray.patches.store import PatchManifest, write_part
from satseg_ray.products import fresh_directory, locked
from satseg_ray.progress import Progress, say
from satseg_ray.runtime import cluster_cpus, ray_session
from satseg_ray.workspace import Workspace


def tile(config: TileConfig) -> Mapping[str, Any]:
    """Make ``data/patches/<dataset>`` of a data set; all of it or nothing."""
    workspace = Workspace.resolve()
    raw, target = workspace.raw(config.dataset), workspace.patches(config.dataset)
    plan = PatchPlan(config.patch_size, config.stride, config.split, config.sample)
    with (
        locked(raw),
        _labelled(raw, target, plan) as (dataset, folder),
        ray_session("tile"),
    ):
        reporter = Reporter(str(folder / "notes"))
        sampling = plan.sample.resolved(dataset.classes, plan.split.seed)
        counting = Counting(plan.patch_size, len(dataset.classes), sampling)
        counter = CellCounter(dataset, str(raw), counting, plan.counts_classes, reporter)
        planned = plan_patches(_counted(counter), plan, dataset.classes.names)
        keys = planned.keys
        units = plan_units(keys, config.unit)
        progress = Progress("tile", sum(len(unit) for unit in units), "patches")
        cutter = UnitCutter(dataset, str(raw), str(folder), reporter, sampling)
        rows = [cutter.row(unit) for unit in units]
        start = monotonic()
        outcomes = collected(
            run_tasks(rows, cutter.tile_unit, Pool(cluster_cpus())),
            "units",
            lambda outcome: progress.advance(outcome.get("planned", 0)),
        )
        seconds = monotonic() - start
        (folder / "notes").rmdir()
        manifest = _manifest(dataset, plan, keys, outcomes)
        manifest.write(folder)
    findings = _findings(planned.findings, manifest)
    for finding in findings:
        say(str(finding))
    say(f"patches of {manifest.version} in {target}")
    return {
        "dataset": manifest.dataset,
        "version": manifest.version,
        "directory": str(target),
        "patch_size": manifest.patch_size,
        "counts": manifest.counts,
        "dropped": manifest.dropped,
        "findings": [finding.to_dict() for finding in findings],
        "work_seconds": round(seconds, 2),
    }


@contextmanager
def _labelled(raw: Path, target: Path, plan: PatchPlan) -> Iterator[tuple[DatasetManifest, Path]]:
    """Give a data set that has labels, and the folder that becomes its patches.

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
    with fresh_directory(target) as folder:
        yield dataset, folder


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


def _counted(counter: CellCounter) -> list[SceneSize]:
    """Return the labelled scenes with the classes in their cells, counted by the workers."""
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
    return [whole_scene(parts[s.name], s.height, s.width) for s in counter.scenes]


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
        cut, dropped = self._sampled(self._patches(scene, keys))
        classes, bands = len(self.dataset.classes), len(self.dataset.bands)
        stats = {}
        for split in SPLITS:
            chosen = [patch for patch in cut if patch.key.split == split]
            parts = (SplitStats.of(patch, classes) for patch in chosen)
            stats[split] = asdict(SplitStats.total(parts, SplitStats.zero(classes, bands)))
            if chosen:
                side = chosen[0].mask.shape[0]
                schema = patch_schema(side, bands, self.dataset.dtype)
                path = Path(self.folder) / split / f"{row['key']}.parquet"
                write_part(path, chosen, schema)
        return {"stats": stats, "planned": len(keys), "dropped": dropped}

    def _sampled(self, patches: Iterator[Patch]) -> tuple[list[Patch], dict[str, int]]:
        """Return the patches that are kept, and how many are not for which reason."""
        kept: list[Patch] = []
        dropped: dict[str, int] = dict.fromkeys(REASONS, 0)
        for patch in patches:
            if reason := self.sampling.why_dropped(patch.key, patch.mask, patch.valid):
                dropped[reason] += 1
            else:
                kept.append(patch)
        return kept, dropped

    def _patches(self, scene: SceneRecord, keys: Sequence[PatchKey]) -> Iterator[Patch]:
        window = bounding_box([key.window for key in keys])
        raw = Path(self.raw)
        with (
            SceneReader(raw / scene.image, self.dataset.band_indexes, self.dataset.nodata) as image,
            SceneReader(raw / str(scene.labels)) as labels,
        ):
            pixels = image.read(window)
            classes = _label_indexes(labels, window)
        return (cut_patch(pixels, classes, key) for key in keys)


def _label_indexes(labels: SceneReader, window: Window) -> Indexes:
    read = labels.read(window)
    return np.where(read.valid, read.pixels[0], np.uint8(IGNORE))


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
