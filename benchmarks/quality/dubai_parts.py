"""The Dubai land cover: areas of 3 x 3 parts, joined without a gap."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import yaml
from PIL import Image

from satseg_ray.classes import ClassDef, ClassTable
from satseg_ray.geo.labels import LabelReader, LabelRule
from satseg_ray.geo.quicklook import colored
from satseg_ray.geo.raster import SceneReader, inspect_raster

AREAS = range(1, 7)
_SETTINGS = Path(__file__).resolve().parent / "dubai" / "ingest.yaml"


def join_areas(source: Path, target: Path) -> Path:
    """Write ``images`` and ``labels`` of areas 1 to 6 into ``target``, and return it."""
    for folder in ("images", "labels"):
        (target / folder).mkdir(parents=True, exist_ok=True)
    for area in AREAS:
        name = f"area_{area}.png"
        _join(source / f"tile_{area}", target / "images" / name, target / "labels" / name)
    return target


def _join(area: Path, image: Path, labels: Path) -> None:
    """Join the nine parts of an area; palettes differ from part to part, so labels by class."""
    settings = yaml.safe_load(_SETTINGS.read_text(encoding="utf-8"))
    table = ClassTable(tuple(ClassDef(**row) for row in settings["classes"]))
    rule = LabelRule(table, tuple(settings["ignore"]), "color")
    numbers = range(1, 10)
    pixels = [_image(area / "images" / f"image_part_{i:03d}.jpg") for i in numbers]
    classes = [_labels(area / "masks" / f"image_part_{i:03d}.png", rule) for i in numbers]
    Image.fromarray(_grid(pixels)).save(image)
    Image.fromarray(colored(_grid(classes), table)).save(labels)


def _image(path: Path) -> npt.NDArray[np.uint8]:
    """Return an image (rows, columns, 3)."""
    with SceneReader(path) as reader:
        return np.moveaxis(reader.read(reader.info.window).pixels, 0, -1)


def _labels(path: Path, rule: LabelRule) -> npt.NDArray[np.uint8]:
    """Return class indexes (rows, columns)."""
    with LabelReader(str(path), rule) as reader:
        return reader.read(inspect_raster(path).window)


def _grid(parts: list[npt.NDArray[np.uint8]]) -> npt.NDArray[np.uint8]:
    """Return nine parts in row-major order as one array."""
    rows = [np.concatenate(parts[i : i + 3], axis=1) for i in (0, 3, 6)]
    return np.concatenate(rows)
