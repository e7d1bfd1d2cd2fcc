"""Reading a scene and its labels once, in blocks, for the facts and two pictures of it."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any, Protocol, Self

import numpy as np
import numpy.typing as npt
from rasterio._err import CPLE_BaseError
from rasterio.crs import CRS
from rasterio.errors import RasterioError
from rasterio.transform import Affine
from rasterio.warp import transform as moved
from rasterio.windows import Window as RasterioWindow

from satseg_ray.checks.bands import BandFacts, Tally, band_names, tally_for
from satseg_ray.checks.facts import OVERLAY, PICTURE, Border, LabelFacts, Refusal, SceneFacts
from satseg_ray.checks.survey import LabelSurvey
from satseg_ray.classes import IGNORE, ClassTable
from satseg_ray.errors import ConfigError, SatsegError
from satseg_ray.geo.grid import Window
from satseg_ray.geo.labels import LabelRule
from satseg_ray.geo.quicklook import Decimation, Picture, overlaid, stretched, write_png
from satseg_ray.geo.raster import (
    Mask,
    OwnMask,
    Pixels,
    RasterInfo,
    Tile,
    inspect_raster,
    open_raster,
    reading,
)

Indexes = npt.NDArray[np.uint8]

PICTURE_SIDE = 256
BLOCK_BYTES = 64 << 20
SAMPLE_BLOCKS = 5
"""Blocks of a float scene, on each axis, that give its histograms their range."""

_EARTH = 6_371_008.8


class Scene(Protocol):
    """What is read of a scene: its ``SceneReader``."""

    info: RasterInfo
    bands: tuple[int, ...]
    nodata: float | None

    def read(self, window: Window) -> Tile:
        """Return the pixels of a window."""


class Labels(Protocol):
    """What is read of labels: class indexes of every pixel, in blocks."""

    def blocks(self) -> Iterator[tuple[Window, Indexes]]:
        """Yield ``(window, indexes)``, 255 where unlabelled."""


@dataclass(frozen=True)
class Subject:
    """What is measured: a scene's name, its files as the user named them, and how labels read.

    ``open_labels`` gives the labels on the scene's grid, and ``survey`` what their file holds, be
    it a class or not. What they raise becomes a fact.
    """

    name: str
    image: str
    labels: str | None = None
    open_labels: Callable[[], AbstractContextManager[Labels]] | None = None
    survey: Callable[[], LabelSurvey] | None = None


@dataclass(frozen=True)
class Measured:
    """Facts of a scene, and two pictures of it of at most 256 pixels a side.

    The pictures show every n-th pixel (:class:`Decimation`), not an average; under the labels the
    scene is grey.
    """

    facts: SceneFacts
    picture: Picture
    overlay: Picture | None = field(repr=False)

    def write_pictures(self, folder: Path) -> None:
        """Write ``<name>.image.png`` and, of labels, ``<name>.labels.png`` into ``folder``.

        Law: no two pictures share a file, whatever their scenes are called.
        """
        write_png(folder / f"{self.facts.name}{PICTURE}", self.picture)
        if self.overlay is not None:
            write_png(folder / f"{self.facts.name}{OVERLAY}", self.overlay)


def measure(
    subject: Subject,
    scene: Scene,
    rule: LabelRule,
    seen: Callable[[Tile], object] = lambda tile: None,
) -> Measured:
    """Read a scene and its labels, once each and in bounded blocks, and return what they hold.

    ``seen`` sees each block of the scene once. Labels that are refused do not stop it: the reason
    is a fact of theirs. Law: the same pixels give the same facts, however the file is compressed or
    tiled.

    Raises:
        UnreadableRaster: the scene is damaged.
        ConfigError: the settings do not fit the labels.
    """
    step = Decimation.to_fit(scene.info.height, scene.info.width, PICTURE_SIDE)
    picture = _Picture(scene.info.window, step, picture_bands(scene))
    found = _see(scene, picture, seen)
    labels, classes = _labels(subject, scene.info.window, step, rule)
    image = stretched(picture.pixels, picture.valid)
    overlay = None if classes is None else overlaid(_grey(image), classes, rule.table)
    return Measured(_facts(subject, scene, found, labels), image, overlay)


@dataclass
class _Seen:
    """What one reading of a scene leaves."""

    valid: int
    digest: str
    bands: tuple[BandFacts, ...]
    borders: tuple[Border, ...]


def _see(scene: Scene, picture: _Picture, seen: Callable[[Tile], object]) -> _Seen:
    dtype = np.dtype(scene.info.dtype)
    sample = _sample(scene) if dtype.kind == "f" else np.zeros((len(scene.bands), 0), dtype)
    tallies: list[Tally] = [tally_for(dtype, band) for band in sample]
    digest = hashlib.sha256(f"{scene.info.height}x{scene.info.width}:{dtype.str}".encode())
    edges = [_Edge(value) for value in _suspects(dtype)]
    valid = 0
    with _NotFinite.of(scene) as not_finite:
        for window in scene.info.window.blocks(*block_shape(len(scene.bands), dtype)):
            tile = scene.read(window)
            digest.update(np.ascontiguousarray(tile.pixels).data)
            valid += int(np.count_nonzero(tile.valid))
            _tally(tile, tallies)
            for edge in edges:
                edge.see(tile, scene.info)
            not_finite.see(tile)
            picture.see(tile)
            seen(tile)
    names = band_names(scene.info.descriptions, scene.bands)
    facts = zip(tallies, names, not_finite.counts, strict=True)
    bands = tuple(
        BandFacts(**(vars(tally.facts(name)) | {"not_finite": count}))
        for tally, name, count in facts
    )
    return _Seen(valid, digest.hexdigest(), bands, tuple(edge.border() for edge in edges))


def block_shape(bands: int, dtype: np.dtype[Any]) -> tuple[int, int]:
    """Return the height and width of the blocks that are read: 64 MiB at most, or 512 x 512.

    >>> block_shape(3, np.dtype("uint8")), block_shape(32, np.dtype("float32"))
    ((512, 4096), (512, 1024))
    """
    width = BLOCK_BYTES // (512 * bands * dtype.itemsize) // 512 * 512
    return 512, min(max(width, 512), 4096)


def _tally(tile: Tile, tallies: Iterable[Tally]) -> None:
    whole = bool(tile.valid.all())
    for band, tally in zip(tile.pixels, tallies, strict=True):
        tally.see(band.reshape(-1) if whole else band[tile.valid])


def _sample(scene: Scene) -> Pixels:
    """Return some valid pixels (bands, n) of a scene, from blocks spread evenly over it."""
    side = 128
    rows = _spread(scene.info.height, side)
    cols = _spread(scene.info.width, side)
    tiles = [
        scene.read(Window(row, col, side, side).intersection(scene.info.window))
        for row in rows
        for col in cols
    ]
    return np.concatenate([tile.pixels[:, tile.valid] for tile in tiles], axis=1)


def _spread(length: int, side: int) -> list[int]:
    last = max(0, length - side)
    return sorted({last * i // (SAMPLE_BLOCKS - 1) for i in range(SAMPLE_BLOCKS)})


def _suspects(dtype: np.dtype[Any]) -> tuple[int, ...]:
    """Return the values that often fill the edge of a scene without a tag."""
    return (0, 255) if dtype == np.uint8 else (0,)


class _Edge:
    """Counts the valid pixels whose bands all hold one value, and those of them on the edge."""

    def __init__(self, value: int) -> None:
        self._value, self._count, self._on_edge = value, 0, 0

    def see(self, tile: Tile, info: RasterInfo) -> None:
        pixels = tile.pixels
        differs = pixels if self._value == 0 else pixels != self._value
        hit = ~differs.any(axis=0) & tile.valid
        count = int(np.count_nonzero(hit))
        if count:
            self._count += count
            self._on_edge += int(np.count_nonzero(hit & _edge(tile.window, info)))

    def border(self) -> Border:
        return Border(self._value, self._count, self._on_edge)


def _edge(window: Window, info: RasterInfo) -> Mask:
    """Tell which pixels of a window lie on the edge of the scene."""
    edge = np.zeros(window.shape, np.bool_)
    edge[0] |= window.row == 0
    edge[-1] |= window.row_stop == info.height
    edge[:, 0] |= window.col == 0
    edge[:, -1] |= window.col_stop == info.width
    return edge


class _NotFinite:
    """Counts NaN and infinite pixels of a file's own bands, where a reader hides them.

    Of scenes that are no single file, or are read on another grid, nobody counts them.
    """

    def __init__(self, bands: tuple[int, ...], dataset: Any, counts: list[int | None]) -> None:
        self._bands, self._dataset = bands, dataset
        self.counts = counts

    @classmethod
    @contextmanager
    def of(cls, scene: Scene) -> Iterator[Self]:
        """Give the counter of a scene that is about to be read."""
        bands, info = scene.bands, scene.info
        if info.dtype != "float32":
            yield cls(bands, None, [0] * len(bands))
        elif not _is_file(info):
            yield cls(bands, None, [None] * len(bands))
        else:
            with open_raster(info.path) as dataset:
                same = inspect_raster(info.path).transform == info.transform
                same &= (dataset.height, dataset.width) == (info.height, info.width)
                yield cls(bands, dataset if same else None, [0 if same else None] * len(bands))

    def see(self, tile: Tile) -> None:
        if self._dataset is None or tile.valid.all():
            return
        window = tile.window
        place = RasterioWindow(window.col, window.row, window.width, window.height)
        with reading(self._dataset.name):
            raw = self._dataset.read(self._bands, window=place)
        found = np.count_nonzero(~np.isfinite(raw), axis=(1, 2)).tolist()
        self.counts = [(a or 0) + b for a, b in zip(self.counts, found, strict=True)]


class _Picture:
    """Collects the decimated pixels of a scene."""

    def __init__(self, scene: Window, step: Decimation, bands: tuple[int, ...]) -> None:
        self._step, self._bands = step, list(bands)
        self._shape = step.window(scene).shape
        self.valid: Mask = np.zeros(self._shape, np.bool_)
        self._pixels: Pixels | None = None

    @property
    def pixels(self) -> Pixels:
        """Raw pixels (1 or 3, rows, columns)."""
        assert self._pixels is not None
        return self._pixels

    def see(self, tile: Tile) -> None:
        if self._pixels is None:
            self._pixels = np.zeros((len(self._bands), *self._shape), tile.pixels.dtype)
        target = self._step.window(tile.window).slices()
        kept = self._step.offsets(tile.window)
        self.valid[target] = tile.valid[kept]
        self._pixels[(slice(None), *target)] = tile.pixels[(self._bands, *kept)]


def picture_bands(scene: Scene) -> tuple[int, ...]:
    """Return the positions, among the bands read, of red, green and blue, or of one grey band.

    By the names that the file gives its bands; else as Sentinel-2 (ten bands and more), Landsat
    (five and more) or a photograph has them.
    """
    names = [name.casefold() for name in band_names(scene.info.descriptions, scene.bands)]
    if {"red", "green", "blue"} <= set(names):
        return names.index("red"), names.index("green"), names.index("blue")
    if len(names) < 3:
        return (0,)
    usual = (3, 2, 1) if len(names) >= 10 else (2, 1, 0)
    return usual if len(names) >= 5 else (0, 1, 2)


def _grey(image: Picture) -> Picture:
    """Return a picture (rows, columns, 3) without its colours, which are for the classes alone."""
    luma = image.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)
    return np.repeat(luma.astype(np.uint8)[..., None], 3, axis=2)


def _labels(
    subject: Subject, scene: Window, step: Decimation, rule: LabelRule
) -> tuple[LabelFacts | None, Indexes | None]:
    """Return what the labels hold, and their decimated class indexes."""
    if subject.labels is None or subject.open_labels is None:
        return None, None
    facts = LabelFacts(subject.labels)
    try:
        if subject.survey:
            facts = replace(facts, survey=subject.survey())
        with subject.open_labels() as labels:
            read, classes = _read_labels(labels, scene, step, rule.table)
            return replace(facts, **read), classes
    except ConfigError:
        raise  # of the whole data set, not of these labels
    except SatsegError as error:
        problem = Refusal(type(error).__name__, f"{error.subject}: {error.problem}")
        return replace(facts, problem=problem), None


def _read_labels(
    labels: Labels, scene: Window, step: Decimation, table: ClassTable
) -> tuple[dict[str, Any], Indexes]:
    """Return the facts that come of reading the labels, and their decimated class indexes."""
    counts, digest = _Counts(table), hashlib.sha256()
    classes = np.full(step.window(scene).shape, IGNORE, np.uint8)
    for window, indexes in labels.blocks():
        counts.see(indexes)
        digest.update(np.ascontiguousarray(indexes).data)
        classes[step.window(window).slices()] = indexes[step.offsets(window)]
    findings = tuple(getattr(labels, "findings", ()))
    read = {"counts": counts.total(), "digest": digest.hexdigest(), "findings": findings}
    return read, classes


class _Counts:
    def __init__(self, table: ClassTable) -> None:
        self._classes = len(table)
        self._counts = np.zeros(IGNORE + 1, np.int64)

    def see(self, indexes: Indexes) -> None:
        self._counts += np.bincount(indexes.reshape(-1), minlength=IGNORE + 1)

    def total(self) -> tuple[int, ...]:
        """Return the pixels of each class, and the unlabelled."""
        return (*self._counts[: self._classes].tolist(), int(self._counts[IGNORE]))


def _facts(subject: Subject, scene: Scene, seen: _Seen, labels: LabelFacts | None) -> SceneFacts:
    info = scene.info
    declared = scene.nodata if scene.nodata != info.nodata else None
    return SceneFacts(
        name=subject.name,
        image=subject.image,
        driver=info.driver,
        suffix=PurePosixPath(subject.image).suffix.lower(),
        height=info.height,
        width=info.width,
        count=info.count,
        dtype=info.dtype,
        crs=info.crs_name,
        crs_title=info.crs_title if info.crs else None,
        transform=info.transform,
        gsd=ground_sample_distance(info),
        nodata=info.nodata,
        declared_nodata=None if _same(declared, info.nodata) else declared,
        alpha=info.alpha is not None,
        masked=_masked(info),
        palette=info.palette,
        valid=seen.valid,
        digest=seen.digest,
        bands=seen.bands,
        borders=seen.borders,
        labels=labels,
    )


def _same(left: float | None, right: float | None) -> bool:
    return left == right or (left is not None and right is not None and left != left != right)


def _masked(info: RasterInfo) -> bool:
    """Tell whether a mask band lies inside or beside the file."""
    if not _is_file(info):
        return False
    with open_raster(info.path) as dataset:
        return OwnMask.of(dataset, ()).masked


def _is_file(info: RasterInfo) -> bool:
    """Tell whether a scene is one raster file of this machine."""
    return info.driver in ("GTiff", "PNG", "JPEG") and Path(info.path).is_file()


def ground_sample_distance(info: RasterInfo) -> float | None:
    """Return the side of a pixel in metres on the ground, at the middle of a scene.

    Of the square that has the pixel's area, on a sphere; none without a CRS and a transform.
    """
    if info.crs is None or info.transform is None:
        return None
    affine = Affine.from_gdal(*info.transform)
    middle = (info.width // 2, info.height // 2)
    steps = [middle, (middle[0] + 1, middle[1]), (middle[0], middle[1] + 1)]
    xs, ys = zip(*(affine @ step for step in steps), strict=True)
    try:
        lon, lat = moved(CRS.from_wkt(info.crs), CRS.from_epsg(4326), xs, ys)
    except (RasterioError, CPLE_BaseError):  # an engineering CRS is nowhere on the ground
        return None
    if not np.isfinite([*lon, *lat]).all():
        return None
    return _square_side(np.radians(lon), np.radians(lat))


def _square_side(lon: npt.NDArray[np.float64], lat: npt.NDArray[np.float64]) -> float:
    """Return the side of the square as large as the parallelogram of three places, in metres."""
    east = (lon[1:] - lon[0]) * math.cos(lat[0]) * _EARTH
    north = (lat[1:] - lat[0]) * _EARTH
    return round(math.sqrt(abs(east[0] * north[1] - east[1] * north[0])), 6)
