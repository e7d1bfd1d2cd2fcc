"""The classes in each patch-sized cell of a data set's labels, counted by workers."""

from __future__ import annotations

import json
from collections.abc import Container
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from satseg_ray.data.rows import Pool, Reporter, Work, busy_seconds, collected, run_tasks
from satseg_ray.geo.raster import inspect_raster
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
from satseg_ray.patches.split import SceneSize
from satseg_ray.progress import Progress
from satseg_ray.runtime import cluster_cpus


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
        parts = [Band(*band) for band in json.loads(row["bands"])]
        labels = self._labels({band.scene for band in parts})
        count = count_band if self.wanted else uncounted
        return {"bands": [count(labels[b.scene], b, self.counting).to_dict() for b in parts]}

    def _labels(self, names: Container[str]) -> dict[str, Path]:
        """Return the label rasters of some scenes, which have the size of their record."""
        found: dict[str, Path] = {}
        for scene in self.scenes:
            if scene.name in names:
                found[scene.name] = Path(self.raw) / str(scene.labels)
                info = inspect_raster(found[scene.name])
                scene.check_size(info.path, info.height, info.width)
        return found


def count_scenes(counter: CellCounter) -> tuple[list[SceneSize], float]:
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
    sizes = [
        replace(whole_scene(parts[s.name], s.height, s.width), pixels=s.pixels)
        for s in counter.scenes
    ]
    return sizes, busy_seconds(outcomes)
