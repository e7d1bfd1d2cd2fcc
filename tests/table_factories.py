"""One small scene as every kind of image, and what is on it as every kind of label."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyproj
import rasterio
import shapely
import yaml
from PIL import Image
from rasterio.transform import Affine, from_origin

from satseg_ray.classes import ClassDef, ClassTable
from satseg_ray.geo.labels import BitField, LabelRule
from satseg_ray.geo.source import BandFile, SceneSource, TargetGrid, scene_source
from tests.factories import GRID, write_raster
from tests.label_factories import frame_of, geojson, write_json, write_vectors

UTM = "EPSG:32618"
HEIGHT, WIDTH = 60, 70
TABLE = ClassTable(
    (
        ClassDef(7, "land", "#C8B27D"),
        ClassDef(0, "water", "#1F6FD0"),
        ClassDef(3, "roof", "#D0021B"),
    )
)
GREY = "#9B9B9B"
LAND, WATER, ROOF, NOTHING = 0, 1, 2, 255

SHAPES: tuple[tuple[str, list[tuple[float, float]]], ...] = (
    ("roof", [(5.13, 4.27), (41.71, 9.32), (30.44, 21.9), (44.6, 39.83), (8.37, 50.21)]),
    ("water", [(25.29, 15.77), (60.61, 18.14), (58.33, 47.61), (27.87, 44.39)]),
    ("land", [(50.17, 40.69), (83.3, 36.41), (79.61, 71.23), (47.83, 66.57)]),
)
"""Polygons in pixels; the second lies over the first, the third partly beyond the image."""


@dataclass(frozen=True)
class Scene:
    """An image as ingest is given it, and what was written into it.

    ``pixels`` (bands, rows, columns) and ``valid`` (rows, columns) are those of its own grid,
    ``crs`` and ``transform`` say where that lies; ``grid`` is the CRS of another one that it is
    read on. ``off`` is how far a lossy format may take a value.
    """

    source: SceneSource
    pixels: np.ndarray
    crs: str | None = UTM
    transform: Affine = GRID
    valid: np.ndarray = field(default_factory=lambda: np.ones((HEIGHT, WIDTH), bool))
    off: float = 0.0
    grid: str | None = None

    @property
    def image_name(self) -> str:
        """The name of its file."""
        return Path(self.source.files[0].path).name

    def positions(self, height: int, width: int, transform: Any) -> tuple[np.ndarray, np.ndarray]:
        """Return columns and rows, in the image's own pixels, of the centres of what is read."""
        rows, cols = np.mgrid[:height, :width] + 0.5
        if self.grid is None:
            return cols, rows
        x, y = Affine.from_gdal(*transform) @ (cols, rows)
        assert self.crs is not None
        change = pyproj.Transformer.from_crs(self.grid, self.crs, always_xy=True)
        cols, rows = ~self.transform @ change.transform(x, y)
        return cols, rows


def pixels_of(bands: int, dtype: str) -> np.ndarray:
    """Smooth pixels over much of a type, each band another way up."""
    rows, cols = np.mgrid[:HEIGHT, :WIDTH]
    top = {"uint8": 1, "int16": 60, "uint16": 150, "float32": 0.013}[dtype]
    bottom = {"int16": -8000.0, "float32": -1.0}.get(dtype, 0.0)
    waves = [rows * (1 + b % 3) + cols * (1 + b % 2) + b for b in range(bands)]
    return (np.stack(waves) * top + bottom).astype(dtype)


def geotiff(dtype: str, bands: int = 3, **options: Any) -> Callable[[Path], Scene]:
    def make(folder: Path) -> Scene:
        pixels = pixels_of(bands, dtype)
        return Scene(plain(write_raster(folder / "scene.tif", pixels, **options)), pixels)

    return make


def plain(path: Path | str) -> SceneSource:
    return scene_source(str(path))


def float_with_holes(folder: Path) -> Scene:
    pixels = pixels_of(2, "float32")
    pixels[0, 3:9, 5:20] = np.nan
    pixels[1, 30, 40:50] = np.inf
    valid = np.isfinite(pixels).all(axis=0)
    return Scene(plain(write_raster(folder / "scene.tif", pixels)), pixels, valid=valid)


def cog(folder: Path) -> Scene:
    pixels = pixels_of(3, "uint8")
    tif = write_raster(folder / "plain.tif", pixels)
    rasterio.shutil.copy(tif, folder / "scene.tif", driver="COG", blocksize=128)
    return Scene(plain(folder / "scene.tif"), pixels)


def photograph(suffix: str, world: str | None) -> Callable[[Path], Scene]:
    """A picture of a suffix, with or without a world file beside it: it never has a CRS."""

    def make(folder: Path) -> Scene:
        pixels = pixels_of(3, "uint8")
        path = folder / f"scene{suffix}"
        Image.fromarray(np.moveaxis(pixels, 0, -1)).save(path, **_LOSSY.get(suffix, {}))
        if world:
            c, f = GRID @ (0.5, 0.5)
            (folder / f"scene{world}").write_text(f"10\n0\n0\n-10\n{c}\n{f}\n")
        return Scene(plain(path), pixels, crs=None, off=16 if suffix == ".jpg" else 0)

    return make


_LOSSY: dict[str, dict[str, Any]] = {".jpg": {"quality": 95, "subsampling": 0}}


def jpeg2000(folder: Path) -> Scene:
    pixels = pixels_of(3, "uint16")
    path = write_raster(
        folder / "scene.jp2", pixels, driver="JP2OpenJPEG", QUALITY="100", REVERSIBLE="YES"
    )
    return Scene(plain(path), pixels)


def stack(folder: Path) -> Scene:
    """Three bands of 10 m in one file and one of 20 m in another, by a description."""
    fine, coarse = pixels_of(3, "uint16"), pixels_of(1, "uint16")[:, ::2, ::2]
    write_raster(folder / "fine.tif", fine)
    write_raster(folder / "coarse.tif", coarse, transform=from_origin(GRID.c, GRID.f, 20, 20))
    body = {
        "files": [
            {"path": "fine.tif", "names": ["blue", "green", "red"]},
            {"path": "coarse.tif", "names": ["swir"]},
        ],
        "resampling": "nearest",
    }
    (folder / "scene.yaml").write_text(yaml.safe_dump(body))
    wide = np.kron(coarse, np.ones((1, 2, 2), np.uint16))
    return Scene(plain(folder / "scene.yaml"), np.concatenate([fine, wide]))


TILE = (9_673, 12_293, 15)


def slippy_tile(folder: Path) -> Scene:
    x, y, zoom = TILE
    pixels = pixels_of(3, "uint8")
    path = folder / f"OAM-{x}-{y}-{zoom}.png"
    Image.fromarray(np.moveaxis(pixels, 0, -1)).save(path)
    side = 2 * np.pi * 6_378_137 / 2**zoom
    left, top = x * side - np.pi * 6_378_137, np.pi * 6_378_137 - y * side
    transform = from_origin(left, top, side / WIDTH, side / HEIGHT)
    source = SceneSource((BandFile(str(path)),), georeference="xyz")
    return Scene(source, pixels, "EPSG:3857", transform)


def on_a_grid(folder: Path) -> Scene:
    pixels = pixels_of(3, "uint16")
    path = write_raster(folder / "scene.tif", pixels)
    grid = TargetGrid("EPSG:3857", 12.5)
    source = SceneSource((BandFile(str(path)),), grid=grid, resampling="nearest")
    return Scene(source, pixels, grid=grid.crs)


IMAGES: dict[str, Callable[[Path], Scene]] = {
    "uint8": geotiff("uint8"),
    "int16": geotiff("int16"),
    "uint16": geotiff("uint16", tiled=True, blockxsize=32, blockysize=16, compress="deflate"),
    "float32-nan": float_with_holes,
    "cog": cog,
    "32-bands": geotiff("uint16", 32),
    "png-world": photograph(".png", ".pgw"),
    "png": photograph(".png", None),
    "jpeg-world": photograph(".jpg", ".jgw"),
    "jpeg": photograph(".jpg", None),
    "jpeg2000": jpeg2000,
    "stack": stack,
    "slippy-tile": slippy_tile,
    "target-grid": on_a_grid,
    "vsicurl": geotiff("uint8"),
}


# --- labels


@dataclass(frozen=True)
class Truth:
    """What labels say of positions (columns, rows) in the image's own pixels."""

    at: Callable[[np.ndarray, np.ndarray], np.ndarray]
    near: Callable[[np.ndarray, np.ndarray], np.ndarray]


@dataclass(frozen=True)
class LabelFile:
    """A label file, how it is read, and what it says."""

    path: Path
    rule: LabelRule
    truth: Truth


def drawn(height: int, width: int) -> np.ndarray:
    """Class indexes (rows, columns) of the shapes, by asking for every centre."""
    rows, cols = np.mgrid[:height, :width] + 0.5
    return in_shapes(cols, rows)


def in_shapes(cols: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Class indexes at positions in the image, later shapes over earlier ones."""
    found = np.full(cols.shape, NOTHING, np.uint8)
    for name, corners in SHAPES:
        inside = shapely.contains_xy(shapely.Polygon(corners), cols, rows)
        found[inside] = TABLE.names.index(name)
    return found


def near_an_edge(cols: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Tell which positions lie so near an outline that a bent edge may decide."""
    lines = shapely.union_all([shapely.Polygon(c).exterior for _, c in SHAPES])
    return np.asarray(shapely.distance(shapely.points(cols, rows), lines) < 5e-3)


OUTLINES = Truth(in_shapes, near_an_edge)


def cells(values: np.ndarray) -> Truth:
    """What a raster on the image's own grid says: the pixel that a position lies in."""

    def at(cols: np.ndarray, rows: np.ndarray) -> np.ndarray:
        c, r = np.floor(cols).astype(int), np.floor(rows).astype(int)
        inside = (c >= 0) & (c < WIDTH) & (r >= 0) & (r < HEIGHT)
        return np.where(inside, values[r.clip(0, HEIGHT - 1), c.clip(0, WIDTH - 1)], NOTHING)

    def near(cols: np.ndarray, rows: np.ndarray) -> np.ndarray:
        return (np.abs(cols - np.rint(cols)) < 5e-3) | (np.abs(rows - np.rint(rows)) < 5e-3)

    return Truth(at, near)


def classes() -> np.ndarray:
    """A class index, or 255, for each pixel: blocks of 5 x 7."""
    rng = np.random.default_rng(5)
    small = rng.choice([LAND, WATER, ROOF, NOTHING], (HEIGHT // 5, WIDTH // 7))
    return np.kron(small, np.ones((5, 7), np.int64)).astype(np.uint8)


def _placed(scene: Scene) -> dict[str, Any]:
    if scene.crs is None:
        return {"crs": None, "transform": None}
    return {"crs": scene.crs, "transform": scene.transform}


def index_raster(folder: Path, scene: Scene) -> LabelFile:
    values = np.full(256, 99, np.uint8)
    values[[LAND, WATER, ROOF, NOTHING]] = 7, 0, 3, 200
    path = write_raster(folder / "labels.tif", values[classes()], **_placed(scene))
    return LabelFile(path, LabelRule(TABLE, ignore=(200,)), cells(classes()))


def palette_png(folder: Path, scene: Scene) -> LabelFile:
    """Colours in an order that is no class's value and no class's position."""
    order = {ROOF: 0, NOTHING: 1, LAND: 2, WATER: 3}
    lookup = np.zeros(256, np.uint8)
    lookup[list(order)] = list(order.values())
    image = Image.fromarray(lookup[classes()], mode="P")
    colors = [
        TABLE.classes[ROOF].color,
        GREY,
        TABLE.classes[LAND].color,
        TABLE.classes[WATER].color,
    ]
    image.putpalette([value for color in colors for value in bytes.fromhex(color[1:])])
    image.save(folder / "labels.png")
    return LabelFile(folder / "labels.png", LabelRule(TABLE, ignore=(GREY,)), cells(classes()))


def rgb_raster(folder: Path, scene: Scene) -> LabelFile:
    lookup = np.zeros((256, 3), np.uint8)
    for index, item in enumerate(TABLE):
        lookup[index] = tuple(bytes.fromhex(item.color[1:]))
    lookup[NOTHING] = tuple(bytes.fromhex(GREY[1:]))
    colors = np.moveaxis(lookup[classes()], -1, 0)
    path = write_raster(folder / "labels.tif", colors, **_placed(scene))
    return LabelFile(path, LabelRule(TABLE, ignore=(GREY,)), cells(classes()))


def qa_bits(folder: Path, scene: Scene) -> LabelFile:
    """A QA band of 16 bits: bit 0 is fill, bit 5 water, bits 8 and 9 roof at 2 and 3, land at 1."""
    rng = np.random.default_rng(8)
    noise = rng.integers(0, 8, (HEIGHT, WIDTH)) << 10  # bits that mean nothing here
    word = np.zeros((HEIGHT, WIDTH), np.int64)
    found = classes()
    word[found == WATER] = 1 << 5
    word[found == ROOF] = rng.integers(2, 4, (HEIGHT, WIDTH))[found == ROOF] << 8
    word[found == LAND] = 1 << 8
    words = np.where(found == NOTHING, 1, word | noise).astype(np.uint16)
    fields = (
        BitField("water", 5, 1, (1,)), BitField("roof", 8, 2, (2, 3)), BitField("land", 8, 2, (1,)),
    )  # fmt: skip
    path = write_raster(folder / "qa.tif", words, **_placed(scene))
    return LabelFile(path, LabelRule(TABLE, ignore=(1,), bits=fields), cells(found))


def vectors(suffix: str, crs: str | None) -> Callable[[Path, Scene], LabelFile]:
    """Shapes in a CRS, whatever the scene's; without one they are in the image's pixels."""

    def make(folder: Path, scene: Scene) -> LabelFile:
        shapes: list[Any] = [shapely.Polygon(corners) for _, corners in SHAPES]
        if crs is not None:
            own = scene.crs or UTM
            change = pyproj.Transformer.from_crs(own, crs, always_xy=True).transform
            shapes = [_moved(shape, scene.transform, change) for shape in shapes]
        kinds = [name for name, _ in SHAPES]
        path = folder / f"labels{suffix}"
        if suffix == ".geojson":
            write_json(path, geojson(shapes, kind=kinds))
        else:
            write_vectors(path, frame_of(shapes, crs, kind=kinds))
        return LabelFile(path, LabelRule(TABLE, attribute="kind"), OUTLINES)

    return make


def _moved(shape: Any, transform: Affine, change: Callable[..., Any]) -> Any:
    return shapely.Polygon([change(*(transform @ corner)) for corner in shape.exterior.coords[:-1]])


def _coco(scene: Scene, outlines: list[Any]) -> dict[str, Any]:
    """A COCO file of two images, of which the second is the scene."""
    size = {"height": HEIGHT, "width": WIDTH}
    categories = {name: 10 + at for at, (name, _) in enumerate(SHAPES)}
    other = {"id": 99, "image_id": 1, "category_id": 10, "segmentation": [[0, 0, 9, 0, 9, 9]]}
    return {
        "images": [
            {"id": 1, "file_name": "other.png", **size},
            {"id": 2, "file_name": f"folder/{scene.image_name}", **size},
        ],
        "categories": [{"id": number, "name": name} for name, number in categories.items()],
        "annotations": [other] + [
            {"id": at, "image_id": 2, "category_id": categories[name], "segmentation": outline}
            for at, ((name, _), outline) in enumerate(zip(SHAPES, outlines, strict=True))
        ],
    }  # fmt: skip


def coco_polygons(flat: bool) -> Callable[[Path, Scene], LabelFile]:
    def make(folder: Path, scene: Scene) -> LabelFile:
        rings = [[value for corner in corners for value in corner] for _, corners in SHAPES]
        body = _coco(scene, rings if flat else [[ring] for ring in rings])
        return LabelFile(write_json(folder / "coco.json", body), LabelRule(TABLE), OUTLINES)

    return make


def coco_rle(packed: bool) -> Callable[[Path, Scene], LabelFile]:
    def make(folder: Path, scene: Scene) -> LabelFile:
        rows, cols = np.mgrid[:HEIGHT, :WIDTH] + 0.5
        masks = [shapely.contains_xy(shapely.Polygon(c), cols, rows) for _, c in SHAPES]
        runs = [runs_of(mask) for mask in masks]
        rles = [
            {"size": [HEIGHT, WIDTH], "counts": packed_runs(run) if packed else run} for run in runs
        ]
        path = write_json(folder / "coco.json", _coco(scene, rles))
        return LabelFile(path, LabelRule(TABLE), cells(drawn(HEIGHT, WIDTH)))

    return make


def runs_of(mask: np.ndarray) -> list[int]:
    """COCO's RLE of a mask: runs of 0, 1, 0 ... down the columns."""
    pixels = mask.T.ravel().astype(np.int8)
    edges = np.flatnonzero(np.diff(pixels, prepend=0, append=pixels[-1] ^ 1))
    return [int(run) for run in np.diff(edges, prepend=0)]


def packed_runs(runs: list[int]) -> str:
    """COCO's compressed RLE: each run from the one before last, 5 bits a character."""
    text = ""
    for at, run in enumerate(runs):
        left = run - (runs[at - 2] if at > 2 else 0)
        more = True
        while more:
            part, left = left & 0x1F, left >> 5
            more = left != (-1 if part & 0x10 else 0)
            text += chr((part | 0x20 * more) + 48)
    return text


def labelme(folder: Path, scene: Scene) -> LabelFile:
    body: dict[str, Any] = {
        "version": "5.2.1",
        "flags": {},
        "shapes": [
            {"label": name, "points": corners, "shape_type": "polygon"} for name, corners in SHAPES
        ],
        "imagePath": scene.image_name,
        "imageData": None,
        "imageHeight": HEIGHT,
        "imageWidth": WIDTH,
    }
    return LabelFile(write_json(folder / "labelme.json", body), LabelRule(TABLE), OUTLINES)


def via(folder: Path, scene: Scene) -> LabelFile:
    regions = [
        {
            "shape_attributes": {
                "name": "polygon",
                "all_points_x": [x for x, _ in corners],
                "all_points_y": [y for _, y in corners],
            },
            "region_attributes": {"kind": name},
        }
        for name, corners in SHAPES
    ]
    entry = {"filename": scene.image_name, "size": 1, "regions": regions, "file_attributes": {}}
    body = {"_via_settings": {}, "_via_img_metadata": {f"{scene.image_name}1": entry}}
    path = write_json(folder / "via.json", body)
    return LabelFile(path, LabelRule(TABLE, attribute="kind"), OUTLINES)


RASTERS: dict[str, Callable[[Path, Scene], LabelFile]] = {
    "index-raster": index_raster,
    "palette-png": palette_png,
    "rgb-raster": rgb_raster,
    "qa-bits": qa_bits,
}
PLACED: dict[str, Callable[[Path, Scene], LabelFile]] = {
    "geojson": vectors(".geojson", "EPSG:4326"),
    "geopackage": vectors(".gpkg", "EPSG:5070"),
    "shapefile": vectors(".shp", "EPSG:32617"),
    "geoparquet": vectors(".parquet", "EPSG:3857"),
}
IN_PIXELS: dict[str, Callable[[Path, Scene], LabelFile]] = {
    "geojson-in-pixels": vectors(".geojson", None),
    "geopackage-in-pixels": vectors(".gpkg", None),
    "shapefile-in-pixels": vectors(".shp", None),
    "geoparquet-in-pixels": vectors(".parquet", None),
}
ANNOTATIONS: dict[str, Callable[[Path, Scene], LabelFile]] = {
    "coco-lists": coco_polygons(flat=False),
    "coco-flat": coco_polygons(flat=True),
    "coco-rle": coco_rle(packed=False),
    "coco-rle-packed": coco_rle(packed=True),
    "labelme": labelme,
    "via": via,
}
LABELS = RASTERS | PLACED | IN_PIXELS | ANNOTATIONS
