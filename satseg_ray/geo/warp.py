"""A raster seen on another grid, without a file in between."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

from rasterio.crs import CRS
from rasterio.enums import Resampling
from rasterio.transform import Affine
from rasterio.vrt import WarpedVRT

from satseg_ray.geo.raster import RasterInfo

Method = Literal["nearest", "bilinear", "cubic", "average"]


@contextmanager
def warped(dataset: Any, onto: RasterInfo, method: Method = "nearest") -> Iterator[Any]:
    """Give an open raster as if it lay on the grid of ``onto``, which has a CRS and a transform.

    Every pixel is transformed exactly (no tolerance), so that it does not depend on the window
    that is read.
    """
    with WarpedVRT(
        dataset,
        crs=CRS.from_wkt(str(onto.crs)),
        transform=Affine.from_gdal(*(onto.transform or ())),
        width=onto.width,
        height=onto.height,
        resampling=Resampling[method],
        tolerance=0,
    ) as view:
        yield view
