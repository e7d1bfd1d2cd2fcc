"""``dataset.yaml``: which scenes and labels a data set has, checked and with their checksums."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from satseg_ray.classes import ClassTable
from satseg_ray.errors import (
    DAMAGED,
    ConfigError,
    DatasetNotFound,
    SourceChanged,
    keys_of,
    told,
)
from satseg_ray.geo.source import BandFile, SceneSource
from satseg_ray.lineage import value_digest

FILE_NAME = "dataset.yaml"


@dataclass(frozen=True)
class SceneRecord:
    """One scene: what it is read from, its labels, and the grid of both.

    Paths lie in the data set's folder; those of a scene ``by_reference`` are where its files
    were and stay. ``checksums`` are those of all its files, companions such as masks included:
    the SHA-256 of a file, or ``pixels:`` and that of the pixels where only GDAL reads it.
    ``labels`` is a raster of class indexes on the scene's grid. ``origin`` and ``labels_origin``
    say where they came from. ``pixels`` is a digest of what is read, the same in any format.
    """

    name: str
    source: SceneSource
    checksums: Mapping[str, str]
    by_reference: bool
    labels: str | None
    labels_sha256: str | None
    origin: tuple[str, ...]
    labels_origin: str | None
    height: int
    width: int
    crs: str | None
    transform: tuple[float, ...] | None
    pixels: str | None = None

    def content(self) -> dict[str, Any]:
        """Return what makes two scenes the same one, wherever their files are."""
        body = self.to_dict()
        for known_elsewhere in ("origin", "labels_origin", "by_reference", "pixels"):
            del body[known_elsewhere]
        if self.by_reference:
            names = {file.path: f"{i}/{_name(file.path)}" for i, file in enumerate(self.files)}
            for file in body["source"]["files"]:
                file["path"] = names[file["path"]]
            if self.source.reference:
                body["source"]["reference"] = names[self.source.reference]
            body["checksums"] = {
                f"{self._owner(path)}/{_name(path)}": digest
                for path, digest in self.checksums.items()
            }
        return body

    def _owner(self, path: str) -> int:
        """Return which of the files a file is, or is a companion of."""
        place = PurePosixPath(path)
        folder, name = place.parent, place.name
        own = [PurePosixPath(file.path) for file in self.files]
        exact = [i for i, file in enumerate(own) if file == place]
        beside = [
            i
            for i, file in enumerate(own)
            if file.parent == folder and name.startswith((f"{file.stem}.", f"{file.name}."))
        ]
        return (exact or beside or [len(own)])[0]

    def check_size(self, path: object, height: int, width: int) -> None:
        """Refuse a raster of the scene that has another size than the record says.

        Raises:
            SourceChanged: it has.
        """
        if (height, width) != (self.height, self.width):
            raise SourceChanged(
                path,
                f"is {height} x {width} pixels, {FILE_NAME} says {self.height} x {self.width}",
                "Ingest the data set again.",
            )

    @property
    def files(self) -> tuple[BandFile, ...]:
        """The files that the scene is read from, without companions."""
        return self.source.files

    def to_dict(self) -> dict[str, Any]:
        """Return the record as plain values."""
        return asdict(self) | {
            "source": self.source.to_dict(),
            "checksums": dict(sorted(self.checksums.items())),
            "origin": list(self.origin),
            "transform": list(self.transform) if self.transform else None,
        }

    @classmethod
    def from_dict(cls, body: Mapping[str, Any]) -> SceneRecord:
        """Return the record that :meth:`to_dict` gave."""
        return cls(
            **{
                **body,
                "source": SceneSource.from_dict(body["source"]),
                "origin": tuple(body["origin"]),
                "transform": tuple(body["transform"]) if body["transform"] else None,
            }
        )


def _name(path: str) -> str:
    return PurePosixPath(path).name


@dataclass(frozen=True)
class DatasetManifest:
    """A data set: its classes, the bands that are read, and its scenes in order of name.

    ``bands`` are names, ``band_indexes`` their 1-based positions in every scene.
    """

    name: str
    classes: ClassTable
    bands: tuple[str, ...]
    band_indexes: tuple[int, ...]
    dtype: str
    nodata: float | None
    scenes: tuple[SceneRecord, ...]

    @property
    def version(self) -> str:
        """The digest of the content: the same files and classes give the same version."""
        body = self.to_dict() | {"scenes": [scene.content() for scene in self.scenes]}
        return f"{self.name}@{value_digest(body)[:16]}"

    def scene(self, name: str) -> SceneRecord:
        """Return the scene of that name."""
        return next(scene for scene in self.scenes if scene.name == name)

    def to_dict(self) -> dict[str, Any]:
        """Return the manifest as plain values."""
        return {
            "name": self.name,
            "classes": self.classes.to_list(),
            "bands": list(self.bands),
            "band_indexes": list(self.band_indexes),
            "dtype": self.dtype,
            "nodata": self.nodata,
            "scenes": [scene.to_dict() for scene in self.scenes],
        }

    def write(self, directory: Path) -> None:
        """Write ``dataset.yaml`` into ``directory``."""
        text = yaml.safe_dump(self.to_dict(), sort_keys=False, allow_unicode=True)
        (directory / FILE_NAME).write_text(text, encoding="utf-8")

    @classmethod
    def read(cls, directory: Path) -> DatasetManifest:
        """Read the manifest of the data set in ``directory``.

        Raises:
            DatasetNotFound: there is none, or its file is damaged.
        """
        path = directory / FILE_NAME
        if not path.is_file():
            raise DatasetNotFound(
                directory.name, f"the workspace has no data set of that name ({path})",
                "Run jobs/ingest.py first.",
            )  # fmt: skip
        try:
            return cls.from_dict(keys_of(yaml.safe_load(path.read_text(encoding="utf-8"))))
        except (yaml.YAMLError, ConfigError, *DAMAGED) as error:
            raise DatasetNotFound(
                path,
                f"describes no data set ({told(error)})",
                "Run jobs/ingest.py again.",
            ) from error

    @classmethod
    def from_dict(cls, body: Mapping[str, Any]) -> DatasetManifest:
        """Return the manifest that :meth:`to_dict` gave."""
        return cls(
            name=body["name"],
            classes=ClassTable.from_list(body["classes"]),
            bands=tuple(body["bands"]),
            band_indexes=tuple(body["band_indexes"]),
            dtype=body["dtype"],
            nodata=body["nodata"],
            scenes=tuple(SceneRecord.from_dict(scene) for scene in body["scenes"]),
        )
