"""One way into labels of any kind, told apart by what the file holds."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from threading import Lock

from satseg_ray.classes import IGNORE
from satseg_ray.errors import LabelsDoNotMatch, MissingFile, UnreadableLabels
from satseg_ray.findings import Finding
from satseg_ray.geo.grid import Window
from satseg_ray.geo.labels.annotations import READERS, images_of, read_annotations
from satseg_ray.geo.labels.burnt import burnt_labels
from satseg_ray.geo.labels.documents import Document, geojson_features, json_kind, load_json
from satseg_ray.geo.labels.features import ShapeFile
from satseg_ray.geo.labels.nearest import NearestLabels
from satseg_ray.geo.labels.place import apart, bounds_on
from satseg_ray.geo.labels.polygons import sound
from satseg_ray.geo.labels.rasters import LabelReader, LabelSurvey, check_same_grid
from satseg_ray.geo.labels.rule import Indexes, LabelRule, Labels
from satseg_ray.geo.labels.vectors import check_vertices, read_geoparquet, read_vectors
from satseg_ray.geo.raster import RasterInfo, inspect_raster


def kind_of(path: str) -> str:
    """Return what a label file is, by its bytes.

    One of ``geojson``, ``coco``, ``labelme``, ``via``, ``via3``, ``geopackage``, ``shapefile``,
    ``geoparquet``, and ``raster`` of all else.

    Raises:
        MissingFile: there is no such file.
        UnreadableLabels: it is JSON of no known kind, or more than is parsed.
    """
    return _kind(path)[0]


def images_in(path: str) -> tuple[str, ...]:
    """Return the file names of the images that an annotation file speaks of; none of others.

    Raises:
        MissingFile, UnreadableLabels: as :func:`kind_of`.
    """
    kind, document = _kind(path)
    return images_of(path, kind, document) if document is not None else ()


Stamp = tuple[tuple[int, int], ...]

_LOADING = Lock()
"""A file is loaded once, by one thread: all scenes that share it take what it loaded."""


def _kind(path: str) -> tuple[str, Document | None]:
    """Return the kind of a file, and the object in it where it is JSON."""
    if path.startswith("/vsi"):
        return "raster", None
    with _LOADING:
        return _loaded_kind(path, _stamp(path))


def _stamp(path: str) -> Stamp:
    """Return what changes with the content of a file, or of those of a Shapefile."""
    own = Path(path)
    if not own.is_file():
        raise MissingFile(path, "there is no such file", "Check the path.")
    files = (own, *(own.with_suffix(suffix) for suffix in (".dbf", ".prj", ".cpg", ".shx")))
    found = [os.stat(file) for file in files if file.is_file()]
    return tuple((one.st_mtime_ns, one.st_size) for one in found)


@lru_cache(maxsize=1)
def _loaded_kind(path: str, stamp: Stamp) -> tuple[str, Document | None]:
    with open(path, "rb") as file:
        head = file.read(512)
    magics = {
        "geopackage": head.startswith(b"SQLite format 3\0"),
        "shapefile": head.startswith(b"\0\0\x27\x0a"),
        "geoparquet": head.startswith(b"PAR1"),
    }
    for kind, found in magics.items():
        if found:
            return kind, None
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if not text.startswith((b"{", b"[")):
        _refuse_no_shapes(path, text)
        return "raster", None
    document = load_json(path)
    kind_of_json = json_kind(document)
    if kind_of_json is None:
        raise UnreadableLabels(
            path,
            f"is JSON of no known kind (it holds {', '.join(list(document)[:5]) or 'nothing'})",
            "Give COCO, LabelMe, VIA or GeoJSON.",
        )  # fmt: skip
    return kind_of_json, document


_SHAPES = (".json", ".geojson", ".gpkg", ".shp", ".parquet", ".geoparquet")


def _refuse_no_shapes(path: str, head: bytes) -> None:
    """Refuse a file that has the name of shapes and is empty, or is text that is no JSON."""
    suffix = Path(path).suffix.lower()
    if suffix not in _SHAPES or (head and (b"\0" in head or "json" not in suffix)):
        return
    problem = f"is no JSON (it begins with {head[:20]!r})" if head else "is empty"
    raise UnreadableLabels(path, problem, "Give the file as the labelling tool wrote it.")


def _shape_file(path: str, rule: LabelRule, image_name: str | None) -> ShapeFile | None:
    """Return the shapes of a file; None of a raster."""
    kind, _ = _kind(path)
    if kind == "raster":
        return None
    name = image_name if kind in READERS else None
    with _LOADING:
        return _loaded_shapes(path, _stamp(path), rule, name)


@lru_cache(maxsize=1)
def _loaded_shapes(path: str, stamp: Stamp, rule: LabelRule, image_name: str | None) -> ShapeFile:
    kind, document = _loaded_kind(path, stamp)
    try:
        if document is None:
            features = (read_geoparquet if kind == "geoparquet" else read_vectors)(path, rule)
        elif kind == "geojson":
            features = geojson_features(path, document, rule)
        else:
            features = read_annotations(path, kind, document, rule, image_name)
    except OverflowError as error:
        raise UnreadableLabels(
            path, f"holds a number beyond all sizes ({error})", "Correct its coordinates."
        ) from error
    check_vertices(path, features)
    return ShapeFile(path, features, sound(path, features, rule.line_width is not None))


@dataclass(frozen=True)
class RasterLabels:
    """Labels that a raster holds."""

    reader: LabelReader
    findings: tuple[Finding, ...] = ()

    def blocks(self) -> Iterator[tuple[Window, Indexes]]:
        """Yield the scene in row-major blocks as ``(window, indexes)``."""
        return self.reader.blocks()


@contextmanager
def open_labels(
    path: str,
    rule: LabelRule,
    scene: RasterInfo,
    image_name: str | None = None,
    image: RasterInfo | None = None,
) -> Iterator[Labels]:
    """Open the labels of a scene, of whatever kind, as class indexes on the scene's grid.

    ``image_name`` is the file name of the scene's image: it chooses among the images of an
    annotation file. ``image`` is the raster whose pixels annotations count, where ``scene`` is
    another grid that it is read onto; a label raster of its size that does not say where it lies
    lies on it. Rasters are read in blocks; all features of a file of shapes are held in memory,
    up to the limits of ``vectors`` and ``documents``.

    Raises:
        ConfigError: the rule does not fit the file.
        LabelsDoNotMatch: the labels are of another grid, place, size or image than the scene.
        MissingFile, UnreadableLabels, UnreadableRaster: there is no such file, or it is damaged.
        UnknownClassValue: a value, colour or name is no class (of rasters: from ``blocks``).
    """
    shapes = _shape_file(path, rule, image_name)
    if shapes is not None:
        yield burnt_labels(shapes, rule, scene, image or scene)
        return
    info = _placed(inspect_raster(path), image or scene)
    elsewhere = _elsewhere(info, scene, rule)
    with LabelReader(path, rule) as reader:
        if elsewhere is None:
            yield RasterLabels(reader, reader.findings)
        else:
            yield _warped(reader, info, scene, rule, elsewhere)


def _placed(labels: RasterInfo, image: RasterInfo) -> RasterInfo:
    """Return a label raster with the place of its image, if it has the size and no own place."""
    same_size = (labels.height, labels.width) == (image.height, image.width)
    if labels.crs or labels.transform or not same_size:
        return labels
    return replace(labels, crs=image.crs, transform=image.transform)


def _warped(
    reader: LabelReader, info: RasterInfo, scene: RasterInfo, rule: LabelRule, elsewhere: Finding
) -> Labels:
    left, top, right, bottom = bounds_on(info, scene)
    if left < scene.width and right > 0 and top < scene.height and bottom > 0:
        return NearestLabels(reader, info, scene, rule.fill, (elsewhere, *reader.findings))
    if not rule.shared:
        raise apart(info.path, scene, (left, top, right, bottom))
    bare = Finding("note", "no-label-here", info.path, f"does not reach {scene.path}",
                   "It is unlabelled.")  # fmt: skip
    return NearestLabels(reader, info, scene, IGNORE, (bare,))


def _elsewhere(labels: RasterInfo, scene: RasterInfo, rule: LabelRule) -> Finding | None:
    """Return the finding that a label raster lies on another grid, onto which it can be warped."""
    try:
        check_same_grid(labels, scene)
    except LabelsDoNotMatch as error:
        placed = all((labels.crs, labels.transform, scene.crs, scene.transform))
        if not (rule.warp and placed):
            raise
        return Finding(
            "note", "warped-labels", labels.path, error.problem,
            "Warped onto the scene's grid, each pixel from the nearest one.",
        )  # fmt: skip
    return None


def survey(path: str, rule: LabelRule, image_name: str | None = None) -> LabelSurvey:
    """Return what a whole label file holds, so that a report can name all that no class has.

    Raises:
        As :func:`open_labels`, but not of unknown values, colours and names.
    """
    shapes = _shape_file(path, rule, image_name)
    if shapes is None:
        with LabelReader(path, rule) as reader:
            return reader.survey()
    known: Counter[str] = Counter(dict.fromkeys(rule.table.names, 0))
    unknown: Counter[str] = Counter()
    unlabelled = 0
    for label, count in Counter(shapes.features.labels).items():
        index = rule.index(label if label is not None else rule.every or "")
        if index is None:
            unknown[str(label)] += count
        elif index == IGNORE:
            unlabelled += count
        else:
            known[rule.table.names[index]] += count
    return LabelSurvey(
        kind_of(path), "name", (), dict(unknown.most_common()), 0, dict(known), unlabelled
    )
