"""Ingest: scenes and labels, each opened and checked, into the workspace with a manifest."""

from __future__ import annotations

import glob
import os
import shutil
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from satseg_ray.classes import IGNORE, ClassTable
from satseg_ray.config import IngestConfig
from satseg_ray.errors import (
    BandMismatch,
    ConfigError,
    LabelsDoNotMatch,
    MissingFile,
)
from satseg_ray.geo.cog import write_label_raster
from satseg_ray.geo.labels import LabelReader, LabelRule, check_same_grid
from satseg_ray.geo.raster import (
    RasterInfo,
    check_whole,
    inspect_raster,
    misplaced_bands,
    raster_files,
)
from satseg_ray.lineage import file_digest, value_digest
from satseg_ray.patches.dataset import DatasetManifest, SceneRecord
from satseg_ray.products import fresh_directory
from satseg_ray.progress import Progress, say
from satseg_ray.workspace import Workspace, absolute


def ingest(config: IngestConfig) -> Mapping[str, Any]:
    """Make ``data/raw/<dataset>`` of scenes and labels; all of it or nothing.

    Scenes are copied byte for byte, with the masks and world files beside them. Labels become
    rasters of class indexes on the scene's grid, 255 where unlabelled, so that whatever reads
    them later knows one kind alone.
    """
    workspace = Workspace.resolve()
    rule = LabelRule(ClassTable(tuple(config.classes)), tuple(config.ignore), config.labels_by)
    scenes = _expanded(config.scenes, "scenes")
    labels = _paired(scenes, _expanded(config.labels, "labels"))
    target = workspace.raw(config.dataset)
    progress = Progress("ingest", len(scenes), "scenes")
    with fresh_directory(target) as folder:
        (folder / "images").mkdir()
        (folder / "labels").mkdir()
        task = _Ingestion(folder, rule, config)
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            records = []
            for record, info in pool.map(task.take, scenes, labels):
                records.append((record, info))
                progress.advance(1, record.name)
        manifest = _manifest(config, rule.table, records)
        manifest.write(folder)
    say(f"data set {manifest.version} in {target}")
    return {
        "dataset": manifest.name,
        "version": manifest.version,
        "directory": str(target),
        "scenes": len(manifest.scenes),
        "labelled": sum(scene.labels is not None for scene in manifest.scenes),
        "bands": list(manifest.bands),
        "megapixels": round(sum(s.height * s.width for s in manifest.scenes) / 1e6, 3),
    }


@dataclass(frozen=True)
class _Ingestion:
    """Takes one scene with its labels into ``folder``."""

    folder: Path
    rule: LabelRule
    config: IngestConfig

    def take(self, scene: Path, labels: Path | None) -> tuple[SceneRecord, RasterInfo]:
        info = inspect_raster(scene)
        check_whole(scene)
        files = [_copied(file, self.folder / "images") for file in _own_files(scene)]
        indexes = self._take_labels(labels, info) if labels else None
        record = SceneRecord(
            name=scene.stem,
            image=f"images/{scene.name}",
            labels=f"labels/{indexes.name}" if indexes else None,
            image_sha256=_digest(files),
            labels_sha256=file_digest(indexes) if indexes else None,
            source=str(scene),
            labels_source=str(labels) if labels else None,
            height=info.height,
            width=info.width,
            crs=info.crs_name,
        )
        return record, info

    def _take_labels(self, labels: Path, scene: RasterInfo) -> Path:
        check_same_grid(inspect_raster(labels), scene)
        target = self.folder / "labels" / f"{Path(scene.path).stem}.tif"
        with LabelReader(str(labels), self.rule) as reader:
            write_label_raster(target, scene, reader.blocks(), self.rule.table, IGNORE)
        return target


def _own_files(scene: Path) -> tuple[Path, ...]:
    """Return the scene and its companions (a mask, a world file): in its folder, of its name."""
    return tuple(
        file
        for file in raster_files(scene)
        if file.parent == scene.parent and file.name.startswith(f"{scene.stem}.")
    )


def _copied(file: Path, folder: Path) -> Path:
    return Path(shutil.copyfile(file, folder / file.name))


def _digest(files: Sequence[Path]) -> str:
    """Return the SHA-256 of a scene's only file, or of the checksums of its files by name."""
    digests = {file.name: file_digest(file) for file in files}
    return value_digest(digests) if len(digests) > 1 else digests[files[0].name]


def _expanded(patterns: Sequence[str], field: str) -> list[Path]:
    """Return the files of paths and patterns, in order, each once."""
    found: dict[Path, None] = {}
    for pattern in patterns:
        path = str(absolute(pattern, field))
        matches = [path] if os.path.exists(path) else sorted(glob.glob(path, recursive=True))
        if not matches:
            raise MissingFile(path, "names no file", f"Check {field}.")
        found |= dict.fromkeys(Path(match) for match in matches)
    return list(found)


def _paired(scenes: Sequence[Path], labels: Sequence[Path]) -> list[Path | None]:
    """Return the labels of each scene: the file of the same stem, or the only one there is."""
    stems = [scene.stem for scene in scenes]
    twice = sorted({stem for stem in stems if stems.count(stem) > 1})
    if twice:
        raise ConfigError(
            "scenes", f"two files are named {twice[0]!r}", "Scenes are known by their stem: rename."
        )
    if len(scenes) == len(labels) == 1:
        return list(labels)
    by_stem = {label.stem: label for label in labels}
    strangers = sorted(set(by_stem) - set(stems))
    if strangers or len(by_stem) < len(labels):
        name = by_stem[strangers[0]] if strangers else labels[0]
        raise LabelsDoNotMatch(
            name, "belongs to no scene", "Name each label raster like its scene (the stem)."
        )
    return [by_stem.get(stem) for stem in stems]


def _manifest(
    config: IngestConfig,
    table: ClassTable,
    taken: Sequence[tuple[SceneRecord, RasterInfo]],
) -> DatasetManifest:
    first = taken[0][1]
    for record, info in taken:
        if (info.count, info.dtype) != (first.count, first.dtype):
            raise BandMismatch(
                record.source,
                f"has {info.count} bands of {info.dtype}, "
                f"{first.path} has {first.count} of {first.dtype}",
                "Give scenes of one kind.",
            )
    indexes = tuple(config.bands) or first.color_bands
    if min(indexes) < 1 or max(indexes) > first.count:
        raise BandMismatch(
            first.path, f"has {first.count} bands, bands is {list(indexes)}", "Correct bands."
        )
    named = tuple(first.descriptions[i - 1] or f"band_{i}" for i in indexes)
    if config.band_names and len(config.band_names) != len(indexes):
        raise ConfigError(
            "band_names", f"names {len(config.band_names)} of {len(indexes)} bands", "Name each."
        )
    bands = tuple(config.band_names) or named
    for record, info in taken:
        if strangers := misplaced_bands(info, bands, indexes):
            raise BandMismatch(
                record.source,
                f"has {strangers}, not in the order {', '.join(bands)}",
                "Give scenes of one order, and bands or band_names that agree with theirs.",
            )
    if not config.bands and first.alpha:
        say(
            f"{first.path}: band {first.alpha} is marked as alpha: it hides pixels and is not "
            "read. If it is imagery, such as near infrared, name it in bands."
        )
    return DatasetManifest(
        name=config.dataset,
        classes=table,
        bands=bands,
        band_indexes=indexes,
        dtype=first.dtype,
        nodata=config.nodata,
        scenes=tuple(sorted((record for record, _ in taken), key=lambda r: r.name)),
    )
