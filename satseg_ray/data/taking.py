"""The worker of ingest: takes one scene with its labels into a folder, and says what they hold."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import rasterio
from rasterio.shutil import copyfiles

from satseg_ray.checks.measure import Subject, measure
from satseg_ray.checks.survey import LabelSurvey, surveyed
from satseg_ray.data.burning import burn_scene_labels, image_name
from satseg_ray.data.referenced import own_files, remote_digest
from satseg_ray.data.rows import Reporter, Work
from satseg_ray.drift.profile import BandProfile
from satseg_ray.errors import BandMismatch, LabelsDoNotMatch, SatsegError
from satseg_ray.findings import Finding
from satseg_ray.geo.formats import is_remote
from satseg_ray.geo.grid import Window
from satseg_ray.geo.labels import Indexes, IndexRaster, LabelRule, images_in, kind_of
from satseg_ray.geo.labels.annotations import READERS
from satseg_ray.geo.raster import (
    RasterInfo,
    SceneReader,
    Tile,
    check_whole,
    inspect_scene,
    reading,
)
from satseg_ray.geo.source import SceneSource
from satseg_ray.lineage import file_digest
from satseg_ray.patches.dataset import SceneRecord

IMAGES, LABELS, PROFILES, PICTURES = "images", "labels", "profiles", "thumbnails"

CACHE_BYTES = 64 << 20
"""Decoded blocks that GDAL keeps: less than elsewhere, as every pixel is read once or twice."""


@dataclass(frozen=True)
class SceneInput:
    """One scene as a person gave it: its unique name, what it is read from, and its labels."""

    name: str
    given: str
    source: SceneSource
    labels: str | None
    shared: bool = False

    def row(self) -> Work:
        """Return the row that carries it to a worker."""
        return {
            "key": self.name,
            "given": self.given,
            "source": self.source.to_dict(),
            "labels": self.labels,
            "shared": self.shared,
        }

    @classmethod
    def of(cls, row: Work) -> SceneInput:
        """Return what :meth:`row` carried."""
        source = SceneSource.from_dict(row["source"])
        return cls(row["key"], row["given"], source, row["labels"], row["shared"])


@dataclass(frozen=True)
class SceneTaker:
    """Takes scenes into ``folder``; ``bands`` and ``nodata`` are those of the data set."""

    folder: str
    rule: LabelRule
    bands: tuple[int, ...]
    nodata: float | None
    by_reference: bool
    reporter: Reporter

    def take_scene(self, row: Work) -> dict[str, str]:
        """Take one scene; its outcome has its record, its facts, and what its labels met."""
        with rasterio.Env(GDAL_CACHEMAX=CACHE_BYTES):
            return self.reporter.run(self._take, row)

    def _take(self, row: Work) -> Work:
        scene, folder = SceneInput.of(row), Path(self.folder)
        info = inspect_scene(scene.source)
        self._check_bands(scene, info)
        if self.by_reference or not scene.source.plain or self.bands:
            pixels = {file.path: check_whole(file.path) for file in scene.source.files}
        else:  # measuring reads every pixel
            pixels = {}
        if self.by_reference:
            source, checksums = scene.source, _checksums(scene.source, pixels)
        else:
            source, checksums = _copied(scene, folder)
        target = folder / LABELS / f"{scene.name}.tif"
        burning = _Burning(scene, info, self.rule, target)
        with SceneReader(source.within(folder), self.bands, self.nodata) as reader:
            profile = _Profile(scene.name, [f"band_{band}" for band in reader.bands])
            subject = Subject(
                scene.name,
                scene.given,
                scene.labels,
                burning.opened if scene.labels else None,
                burning.surveyed if scene.labels else None,
            )
            measured = measure(subject, reader, self.rule, profile.see)
        measured.write_pictures(folder / PICTURES)
        profile.write(folder / PROFILES / f"{scene.name}.bin")
        labels = f"{LABELS}/{target.name}" if target.is_file() else None
        record = SceneRecord(
            name=scene.name,
            source=source,
            checksums=checksums,
            by_reference=self.by_reference,
            labels=labels,
            labels_sha256=file_digest(target) if labels else None,
            origin=tuple(file.path for file in scene.source.files),
            labels_origin=scene.labels,
            height=info.height,
            width=info.width,
            crs=info.crs_name,
            transform=info.transform,
            pixels=measured.facts.digest,
        )
        return {
            "record": record.to_dict(),
            "info": asdict(info),
            "facts": measured.facts.to_dict(),
            "refused": burning.error.to_dict() if burning.error else None,
        }

    def _check_bands(self, scene: SceneInput, info: RasterInfo) -> None:
        missing = [band for band in self.bands if not 1 <= band <= info.count]
        if missing:
            raise BandMismatch(
                f"{scene.given}: bands",
                f"asks for {missing}, and the scene has bands 1 to {info.count}",
                "Give bands of the scene, or leave bands out.",
            )


class _Burning:
    """The labels of one scene on their way to class indexes; an error is kept for the report."""

    def __init__(self, scene: SceneInput, info: RasterInfo, rule: LabelRule, target: Path) -> None:
        self._scene, self._info, self._target = scene, info, target
        self._rule = replace(rule, shared=scene.shared)
        self.error: SatsegError | None = None

    def surveyed(self) -> LabelSurvey:
        """Return what the file holds, be it a class or not."""
        with self._kept():
            name = image_name(self._scene.source)
            return surveyed(str(self._scene.labels), self._rule, name)

    @contextmanager
    def opened(self) -> Iterator[WrittenLabels]:
        """Write the label raster, then give it to be read."""
        with self._kept():
            source, path = self._scene.source, str(self._scene.labels)
            if self._scene.shared:
                refuse_in_pixels(path, self._info)
            findings = burn_scene_labels(path, self._rule, source, self._info, self._target)
        with IndexRaster(str(self._target)) as indexes:
            yield WrittenLabels(indexes, findings)

    @contextmanager
    def _kept(self) -> Iterator[None]:
        try:
            yield
        except SatsegError as error:
            self.error = error
            raise


def refuse_in_pixels(labels: str, scene: RasterInfo) -> None:
    """Refuse one file in pixels, that names no image, as the labels of several scenes.

    Raises:
        LabelsDoNotMatch: nobody can tell which scene it was drawn on.
    """
    if images_in(labels) or (scene.crs is not None and kind_of(labels) not in READERS):
        return
    raise LabelsDoNotMatch(
        labels,
        f"is one file in pixels that would be of several scenes, {scene.path} among them",
        "Name it like the one scene it was drawn on, or give each scene a file.",
    )


@dataclass(frozen=True)
class WrittenLabels:
    """Labels as they were written, with what was found in their file."""

    indexes: IndexRaster
    findings: tuple[Finding, ...]

    def blocks(self) -> Iterator[tuple[Window, Indexes]]:
        """Yield the scene in row-major blocks as ``(window, indexes)``."""
        return self.indexes.blocks()


class _Profile:
    """The profile of a scene's band values, tile by tile as they are read."""

    def __init__(self, scene: str, names: Sequence[str]) -> None:
        self._scene, self._names = scene, names
        self._profile = BandProfile.empty(names)

    def see(self, tile: Tile) -> None:
        key = (self._scene, tile.window.row, tile.window.col)
        part = BandProfile.of(tile.pixels, tile.valid, self._names, key)
        self._profile = self._profile.merge(part)

    def write(self, path: Path) -> None:
        self._profile.write(path)


def _copied(scene: SceneInput, folder: Path) -> tuple[SceneSource, dict[str, str]]:
    """Copy a scene's files, companions too; return the source there, and the checksums by path."""
    moved: dict[str, str] = {}
    checksums: dict[str, str] = {}
    for number, file in enumerate(scene.source.files):
        if file.path in moved:
            continue
        place = _place(scene, number)
        target = folder / place
        target.parent.mkdir(parents=True, exist_ok=True)
        for copy in _copies(file.path, target):
            checksums[str(copy.relative_to(folder))] = file_digest(copy)
        moved[file.path] = place
    files = tuple(replace(file, path=moved[file.path]) for file in scene.source.files)
    reference = scene.source.reference
    return replace(scene.source, files=files, reference=reference and moved[reference]), checksums


def _place(scene: SceneInput, number: int) -> str:
    """Return where a file of a scene goes: by its own name where that is the scene's."""
    paths = [Path(file.path) for file in scene.source.files]
    path = paths[number]
    if len(paths) == 1 and path.stem == scene.name:
        return f"{IMAGES}/{path.name}"
    same = len({other for other in paths if other.name == path.name}) > 1
    return f"{IMAGES}/{scene.name}/{f'{number}-' if same else ''}{path.name}"


def _copies(path: str, target: Path) -> list[Path]:
    if is_remote(path):
        with reading(path):
            copyfiles(path, str(target))
        return list(own_files(target))
    return [
        Path(shutil.copyfile(file, target.with_name(target.stem + file.name[len(own.stem) :])))
        for own in [Path(path)]
        for file in own_files(own)
    ]


def _checksums(source: SceneSource, pixels: Mapping[str, str]) -> dict[str, str]:
    """Return the checksums of files that stay where they are."""
    found: dict[str, str] = {}
    for file in source.files:
        if is_remote(file.path):
            found[file.path] = remote_digest(file.path, pixels[file.path])
        else:
            found |= {str(own): file_digest(own) for own in own_files(Path(file.path))}
    return found
