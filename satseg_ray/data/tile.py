"""Tile: a data set's scenes to patches in Parquet, by Ray Data; workers read the pixels."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
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
from satseg_ray.geo.grid import Lattice, Window
from satseg_ray.geo.raster import SceneReader
from satseg_ray.lineage import code_revision, value_digest
from satseg_ray.patches.dataset import DatasetManifest, SceneRecord
from satseg_ray.patches.schema import Indexes, PatchStack, cut_patches, patch_schema
from satseg_ray.patches.split import SPLITS, PatchKey, PatchPlan, SceneSize, plan_patches
from satseg_ray.patches.stats import SplitStats
from satseg_ray.patches.store import PartWriter, PatchManifest, new_part
from satseg_ray.products import fresh_directory, locked
from satseg_ray.progress import Progress, say
from satseg_ray.runtime import cluster_cpus, ray_session
from satseg_ray.workspace import Workspace

_CELLS = 16
"""Cells of the patch-sized grid that are read at once to be counted."""
_READ = 2048
"""Side in pixels of what a task holds at a time, so that its memory does not grow with units."""


def tile(config: TileConfig) -> Mapping[str, Any]:
    """Make ``data/patches/<dataset>`` of a data set; all of it or nothing."""
    workspace = Workspace.resolve()
    raw, target = workspace.raw(config.dataset), workspace.patches(config.dataset)
    plan = PatchPlan(config.patch_size, config.stride, config.split)
    with locked(raw), _labelled(raw, target) as (dataset, folder), ray_session("tile"):
        reporter = Reporter(str(folder / "notes"))
        keys = plan_patches(
            _counted(CellCounter(dataset, str(raw), plan.patch_size, reporter)), plan
        )
        units = plan_units(keys, config.unit)
        progress = Progress("tile", sum(len(unit) for unit in units), "patches")
        cutter = UnitCutter(dataset, str(raw), str(folder), reporter)
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
    say(f"patches of {manifest.version} in {target}")
    return {
        "dataset": manifest.dataset,
        "version": manifest.version,
        "directory": str(target),
        "patch_size": manifest.patch_size,
        "counts": manifest.counts,
        "dropped": manifest.dropped,
        "work_seconds": round(seconds, 2),
    }


@contextmanager
def _labelled(raw: Path, target: Path) -> Iterator[tuple[DatasetManifest, Path]]:
    """Give a data set that has labels, and the folder that becomes its patches.

    Raises:
        DatasetNotFound: there is none.
        EmptySplit: none of its scenes has labels.
    """
    dataset = DatasetManifest.read(raw)
    if not any(scene.labels for scene in dataset.scenes):
        raise EmptySplit(dataset.name, "has no labelled scene", "Ingest it with labels.")
    with fresh_directory(target) as folder:
        yield dataset, folder


@dataclass(frozen=True)
class CellCounter:
    """Counts in a worker the classes in each cell of a scene, which the split weighs."""

    dataset: DatasetManifest
    raw: str
    patch: int
    reporter: Reporter

    def count_classes(self, row: Work) -> dict[str, str]:
        """Count one scene; its outcome has the counts of each cell."""
        return self.reporter.run(self._count, row)

    def _count(self, row: Work) -> Work:
        scene = next(s for s in self.dataset.scenes if s.name == row["key"])
        size = scene_size(Path(self.raw), scene, self.patch, len(self.dataset.classes))
        return {"classes": np.asarray(size.classes).tolist()}


def _counted(counter: CellCounter) -> list[SceneSize]:
    """Return the labelled scenes with the classes in their cells, counted by the workers."""
    scenes = [scene for scene in counter.dataset.scenes if scene.labels]
    progress = Progress("count classes", len(scenes), "scenes")
    rows = [{"key": scene.name} for scene in scenes]
    outcomes = collected(
        run_tasks(rows, counter.count_classes, Pool(cluster_cpus())),
        "scenes",
        lambda outcome: progress.advance(1),
    )
    counts = {o["key"]: np.array(o["classes"], np.int64) for o in outcomes}
    return [SceneSize(s.name, s.height, s.width, counts[s.name]) for s in scenes]


def scene_size(raw: Path, scene: SceneRecord, patch: int, classes: int) -> SceneSize:
    """Return a scene's size with the classes in each cell of the patch-sized grid."""
    cells = Lattice.of(scene.height, scene.width, patch, patch)
    counts = np.zeros((cells.rows.count, cells.cols.count, classes + 1), np.int64)
    with SceneReader(raw / str(scene.labels)) as labels:
        whole = Window(0, 0, cells.rows.count * patch, cells.cols.count * patch)
        for block in whole.blocks(patch, _CELLS * patch):
            indexes = np.minimum(_label_indexes(labels, block), classes)
            for part in block.blocks(patch, patch):
                cell = indexes[part.relative_to(block).slices()]
                place = part.row // patch, part.col // patch
                counts[place] = np.bincount(cell.reshape(-1), minlength=classes + 1)
    return SceneSize(scene.name, scene.height, scene.width, counts)


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
        zero = SplitStats.zero(len(self.dataset.classes), bands)
        stats = dict.fromkeys(SPLITS, zero)
        parts: dict[str, PartWriter] = {}
        with ExitStack() as open_parts:
            for stack in self._labelled_patches(scene, keys):
                split = stack.keys[0].split
                if split not in parts:
                    path = Path(self.folder) / split / f"{row['key']}.parquet"
                    parts[split] = open_parts.enter_context(new_part(path, schema))
                parts[split].write(stack)
                found = SplitStats.of_stack(stack, len(self.dataset.classes), split == SPLITS[0])
                stats[split] = stats[split].add(found)
        cut = sum(found.patches for found in stats.values())
        return {
            "stats": {split: asdict(found) for split, found in stats.items()},
            "planned": len(keys),
            "dropped": len(keys) - cut,
        }

    def _labelled_patches(
        self, scene: SceneRecord, keys: Sequence[PatchKey]
    ) -> Iterator[PatchStack]:
        """Yield the patches that have labels, those of one split and a small part of the unit."""
        raw = Path(self.raw)
        with (
            SceneReader(raw / scene.image, self.dataset.band_indexes, self.dataset.nodata) as image,
            SceneReader(raw / str(scene.labels)) as labels,
        ):
            for part in plan_units(keys, _READ):
                window = bounding_box([key.window for key in part])
                pixels, classes = image.read(window), _label_indexes(labels, window)
                for split in SPLITS:
                    chosen = [key for key in part if key.split == split]
                    if chosen:
                        stack = cut_patches(pixels, classes, chosen)
                        stack = stack.take(np.flatnonzero(stack.labelled).tolist())
                        if len(stack):
                            yield stack


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
            "holds no labelled patch at least a patch away from the blocks held out",
            "Use smaller patches, hold out less, or ingest more scenes.",
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
        dropped=sum(int(o["dropped"]) for o in outcomes),
        lineage={
            "dataset_version": dataset.version,
            "patches_version": patches_version(dataset, keys),
            "code_revision": code_revision(),
            "split": plan.split.model_dump_json(),
        },
        nodata=dataset.nodata,
    )


def patches_version(dataset: DatasetManifest, keys: Sequence[PatchKey]) -> str:
    """Return name and digest of a data set's patches: its content, each patch and its split."""
    planned = [[k.split, k.scene, k.window.row, k.window.col, k.window.height] for k in keys]
    return f"{dataset.name}@{value_digest([dataset.version, planned])[:16]}"


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
