"""Scenes that a data set refers to, and does not hold: are they still what was ingested?"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from satseg_ray.data.rows import Pool, Reporter, Work, collected, run_tasks
from satseg_ray.errors import MissingFile, SourceChanged
from satseg_ray.geo.check import check_whole
from satseg_ray.geo.formats import is_remote
from satseg_ray.geo.raster import SceneReader, inspect_raster, raster_files
from satseg_ray.lineage import file_digest, value_digest
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
        for path in _companions(scene):
            if path not in scene.checksums:
                raise SourceChanged(
                    path,
                    "was not there when its scene was ingested",
                    "Take it away, or ingest the data set again.",
                )
        for path, known in scene.checksums.items():
            found = digest_of(path, known)
            if found != known:
                raise SourceChanged(
                    path,
                    f"is no longer what was ingested ({found[:23]}, it was {known[:23]})",
                    "Bring it back, or ingest the data set again.",
                )
        return {}


def _companions(scene: SceneRecord) -> Iterator[str]:
    """Yield the files of this machine that a scene is read from now, companions too."""
    for file in scene.source.files:
        if not is_remote(file.path) and Path(file.path).is_file():
            yield from map(str, own_files(Path(file.path)))


def own_files(scene: Path) -> tuple[Path, ...]:
    """Return a raster, then its companions (a mask, a world file): in its folder, of its name."""
    others = (
        file
        for file in raster_files(scene)
        if file != scene
        and file.parent == scene.parent
        and file.name.startswith((f"{scene.stem}.", f"{scene.name}."))
    )
    return (scene, *others)


def digest_of(path: str, known: str) -> str:
    """Return the checksum of a file, of the kind that ``known`` is."""
    if known.startswith(PIXELS):
        return remote_digest(path, check_whole(path))
    if not Path(path).is_file():
        raise MissingFile(path, "is gone", "Bring it back, or ingest the data set again.")
    return file_digest(Path(path))


def remote_digest(address: str, pixels: str) -> str:
    """Return the checksum of what only GDAL reads: its pixels, their mask, place and nodata."""
    info = asdict(inspect_raster(address))
    del info["path"]
    mask = hashlib.sha256()
    with SceneReader(address) as scene:
        for window in scene.info.window.blocks():
            mask.update(np.packbits(scene.read(window).valid).tobytes())
    return PIXELS + value_digest([pixels, mask.hexdigest(), info])


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
