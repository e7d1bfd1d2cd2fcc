"""``dataset.yaml``: which scenes and labels a data set has, checked and with their checksums."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from satseg_ray.classes import ClassTable
from satseg_ray.errors import DatasetNotFound
from satseg_ray.lineage import value_digest

FILE_NAME = "dataset.yaml"


@dataclass(frozen=True)
class SceneRecord:
    """One scene: its files relative to the data set's folder, and what was found in them."""

    name: str
    image: str
    labels: str | None
    image_sha256: str
    labels_sha256: str | None
    source: str
    labels_source: str | None
    height: int
    width: int
    crs: str | None


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
        body = self.to_dict()
        for scene in body["scenes"]:
            del scene["source"], scene["labels_source"]
        return f"{self.name}@{value_digest(body)[:16]}"

    def to_dict(self) -> dict[str, Any]:
        """Return the manifest as plain values."""
        body = asdict(self) | {"classes": self.classes.to_list()}
        return body | {
            "bands": list(self.bands),
            "band_indexes": list(self.band_indexes),
            "scenes": [asdict(scene) for scene in self.scenes],
        }

    def write(self, directory: Path) -> None:
        """Write ``dataset.yaml`` into ``directory``."""
        text = yaml.safe_dump(self.to_dict(), sort_keys=False, allow_unicode=True)
        (directory / FILE_NAME).write_text(text, encoding="utf-8")

    @classmethod
    def read(cls, directory: Path) -> DatasetManifest:
        """Read the manifest of the data set in ``directory``.

        Raises:
            DatasetNotFound: there is none.
        """
        path = directory / FILE_NAME
        if not path.is_file():
            raise DatasetNotFound(
                directory.name, f"the workspace has no data set of that name ({path})",
                "Run jobs/ingest.py first.",
            )  # fmt: skip
        body = yaml.safe_load(path.read_text(encoding="utf-8"))
        return cls(
            name=body["name"],
            classes=ClassTable.from_list(body["classes"]),
            bands=tuple(body["bands"]),
            band_indexes=tuple(body["band_indexes"]),
            dtype=body["dtype"],
            nodata=body["nodata"],
            scenes=tuple(SceneRecord(**scene) for scene in body["scenes"]),
        )
