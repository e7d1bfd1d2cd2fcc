"""Scenes that a data set refers to, and does not hold: are they still what was ingested?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from satseg_ray.data.rows import Pool, Reporter, Work, collected, run_tasks
from satseg_ray.errors import MissingFile, SourceChanged
from satseg_ray.geo.check import check_whole
from satseg_ray.lineage import file_digest
from satseg_ray.patches.dataset import DatasetManifest, SceneRecord
from satseg_ray.progress import Progress
from satseg_ray.runtime import cluster_cpus

PIXELS = "pixels:"
"""Begins the checksum of what only GDAL reads: that of its pixels, not of its bytes."""


@dataclass(frozen=True)
class ReferenceChecker:
    """Compares in a worker the files of a scene with the checksums of its record."""

    scenes: Sequence[SceneRecord]
    reporter: Reporter

    def check_scene(self, row: Work) -> dict[str, str]:
        """Check one scene; its outcome is an error where a file has changed."""
        return self.reporter.run(self._check, row)

    def _check(self, row: Work) -> Work:
        scene = next(scene for scene in self.scenes if scene.name == row["key"])
        for path, known in scene.checksums.items():
            found = digest_of(path, known)
            if found != known:
                raise SourceChanged(
                    path,
                    f"is no longer what was ingested ({found[:23]}, it was {known[:23]})",
                    "Bring it back, or ingest the data set again.",
                )
        return {}


def digest_of(path: str, known: str) -> str:
    """Return the checksum of a file, of the kind that ``known`` is."""
    if known.startswith(PIXELS):
        return PIXELS + check_whole(path)
    if not Path(path).is_file():
        raise MissingFile(path, "is gone", "Bring it back, or ingest the data set again.")
    return file_digest(Path(path))


def check_references(dataset: DatasetManifest, reporter: Reporter) -> None:
    """Check every scene that stays where it is, on the connected cluster.

    Raises:
        MissingFile, SourceChanged: a file is gone, or is another one now.
    """
    scenes = [scene for scene in dataset.scenes if scene.by_reference]
    if not scenes:
        return
    checker = ReferenceChecker(scenes, reporter)
    progress = Progress("check references", len(scenes), "scenes")
    collected(
        run_tasks(
            [{"key": scene.name} for scene in scenes], checker.check_scene, Pool(cluster_cpus())
        ),
        "scenes",
        lambda outcome: progress.advance(1),
    )
