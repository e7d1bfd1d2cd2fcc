"""Class maps on disk: the cores that workers write, and the COG made of them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import numpy.typing as npt
import rasterio
import rasterio.shutil
from rasterio._err import CPLE_BaseError
from rasterio.enums import ColorInterp
from rasterio.errors import RasterioError
from rasterio.transform import Affine

from satseg_ray.classes import ClassTable
from satseg_ray.errors import MissingFile, UnreadableRaster, UnwritableProduct
from satseg_ray.geo.grid import Window
from satseg_ray.geo.raster import RasterInfo, check_whole, quiet_georeference
from satseg_ray.products import fresh_file

BLOCK = 512
_TRANSPARENT = (0, 0, 0, 0)


@dataclass(frozen=True)
class MapFormat:
    """What every class map of one scene has: its grid, its classes, and its tags."""

    grid: RasterInfo
    classes: ClassTable
    tags: Mapping[str, str]


@contextmanager
def _fresh_raster(target: Path) -> Iterator[Path]:
    """Give a name to write a raster to, which becomes ``target`` once it has been read back.

    GDAL does not tell that a disk is full when it closes a file: reading does.

    Raises:
        UnwritableProduct: it could not be written whole.
    """
    with fresh_file(target) as partial:
        try:
            yield partial
        except (CPLE_BaseError, RasterioError) as error:
            raise _unwritable(target, error.__cause__ or error) from error
        try:
            check_whole(partial)
        except (MissingFile, UnreadableRaster) as error:
            raise _unwritable(target, error) from error


def _unwritable(target: Path, error: BaseException) -> UnwritableProduct:
    text = " ".join(str(error).split()).rstrip(".")
    return UnwritableProduct(
        target, f"cannot be written ({text})", "Look for space on the disk, and start again."
    )


def class_values(
    classes: npt.NDArray[np.uint8], valid: npt.NDArray[np.bool_], table: ClassTable
) -> npt.NDArray[np.uint8]:
    """Return map values for class indexes; nodata where a pixel is not valid or has no class."""
    lookup = np.full(256, table.nodata, np.uint8)
    lookup[: len(table)] = table.values
    values = lookup[classes]
    values[~valid] = table.nodata
    return values


def core_file(directory: Path, core: Window) -> Path:
    """Return the file of one core; the name follows from the window, so a retry overwrites it."""
    return directory / f"core-{core.row:07d}-{core.col:07d}.tif"


def write_core(directory: Path, core: Window, values: npt.NDArray[np.uint8]) -> Path:
    """Write the values (rows, columns) of one core, complete or not at all."""
    target = core_file(directory, core)
    profile = {"height": core.height, "width": core.width, "count": 1, "dtype": "uint8"}
    layout = {"tiled": True, "blockxsize": BLOCK, "blockysize": BLOCK}
    with (
        _fresh_raster(target) as partial,
        quiet_georeference(),
        rasterio.open(
            partial, "w", driver="GTiff", compress="zstd", zstd_level=1, **layout, **profile
        ) as file,
    ):
        file.write(values, 1)
    return target


def assemble_cog(target: Path, form: MapFormat, directory: Path, cores: Sequence[Window]) -> None:
    """Write the COG of a scene from the cores in ``directory``, complete or not at all.

    One pass of GDAL's COG driver over a view of the cores: memory does not grow with the scene.
    Overviews are by nearest neighbour, as classes have no mean.
    """
    view = directory / "cores.vrt"
    with _fresh_raster(target) as partial:
        view.write_bytes(_view_of_cores(form, cores))
        try:
            rasterio.shutil.copy(
                view,
                partial,
                driver="COG",
                blocksize=BLOCK,
                compress="DEFLATE",
                level=6,
                overview_resampling="nearest",
                bigtiff="IF_SAFER",
            )
        finally:
            partial.with_name(partial.name + ".aux.xml").unlink(missing_ok=True)


def _view_of_cores(form: MapFormat, cores: Sequence[Window]) -> bytes:
    grid = form.grid
    size = {"rasterXSize": str(grid.width), "rasterYSize": str(grid.height)}
    root = ElementTree.Element("VRTDataset", size)
    if grid.crs:
        ElementTree.SubElement(root, "SRS").text = grid.crs
    if grid.transform:
        ElementTree.SubElement(root, "GeoTransform").text = ", ".join(map(repr, grid.transform))
    metadata = ElementTree.SubElement(root, "Metadata")
    for key, value in sorted(_map_tags(form).items()):
        ElementTree.SubElement(metadata, "MDI", key=key).text = value
    band = ElementTree.SubElement(root, "VRTRasterBand", dataType="Byte", band="1")
    ElementTree.SubElement(band, "Description").text = "class"
    ElementTree.SubElement(band, "NoDataValue").text = str(form.classes.nodata)
    ElementTree.SubElement(band, "ColorInterp").text = "Palette"
    _add_colors(band, form.classes)
    for core in cores:
        _add_core(band, core)
    return ElementTree.tostring(root)


def _map_tags(form: MapFormat) -> dict[str, str]:
    names = {f"CLASS_{c.value}": c.name for c in form.classes}
    return names | {"CLASSES": json.dumps(form.classes.to_list())} | dict(form.tags)


def color_map(table: ClassTable) -> dict[int, tuple[int, int, int, int]]:
    """Return ``value -> (red, green, blue, alpha)`` for all 256 values; unused ones are clear."""
    return dict.fromkeys(range(256), _TRANSPARENT) | {c.value: (*c.rgb, 255) for c in table}


def _add_colors(band: ElementTree.Element, table: ClassTable) -> None:
    colors = ElementTree.SubElement(band, "ColorTable")
    for _, rgba in sorted(color_map(table).items()):
        entry = {f"c{i}": str(level) for i, level in enumerate(rgba, start=1)}
        ElementTree.SubElement(colors, "Entry", entry)


def _add_core(band: ElementTree.Element, core: Window) -> None:
    source = ElementTree.SubElement(band, "SimpleSource")
    name = core_file(Path(), core).name
    ElementTree.SubElement(source, "SourceFilename", relativeToVRT="1").text = name
    ElementTree.SubElement(source, "SourceBand").text = "1"
    size = {"xSize": str(core.width), "ySize": str(core.height)}
    ElementTree.SubElement(source, "SrcRect", {"xOff": "0", "yOff": "0", **size})
    ElementTree.SubElement(
        source, "DstRect", {"xOff": str(core.col), "yOff": str(core.row), **size}
    )


def write_label_raster(
    target: Path, grid: RasterInfo, indexes: Any, table: ClassTable, ignore: int
) -> None:
    """Write class indexes as a GeoTIFF on a scene's grid, with colours, complete or not at all.

    ``indexes`` yields ``(window, array)`` pairs that partition the grid.
    """
    colors = dict.fromkeys(range(256), _TRANSPARENT)
    colors |= {index: (*c.rgb, 255) for index, c in enumerate(table)}
    profile: dict[str, Any] = {
        "driver": "GTiff", "height": grid.height, "width": grid.width, "count": 1,
        "dtype": "uint8", "nodata": ignore, "compress": "deflate",
    }  # fmt: skip
    if grid.crs:
        profile["crs"] = grid.crs
    if grid.transform:
        profile["transform"] = Affine.from_gdal(*grid.transform)
    if min(grid.height, grid.width) >= BLOCK:
        profile |= {"tiled": True, "blockxsize": BLOCK, "blockysize": BLOCK}
    with (
        _fresh_raster(target) as partial,
        quiet_georeference(),
        rasterio.open(partial, "w", **profile) as file,
    ):
        file.write_colormap(1, colors)
        file.colorinterp = [ColorInterp.palette]
        for window, values in indexes:
            place = rasterio.windows.Window(window.col, window.row, window.width, window.height)
            file.write(values, 1, window=place)
