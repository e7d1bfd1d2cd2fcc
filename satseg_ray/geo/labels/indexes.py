"""Label rasters of the workspace's own kind: class indexes on the scene's grid."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from rasterio.windows import Window as RasterioWindow

from satseg_ray.classes import IGNORE
from satseg_ray.findings import Finding
from satseg_ray.geo.cog import write_label_raster
from satseg_ray.geo.grid import Window
from satseg_ray.geo.labels.opening import open_labels
from satseg_ray.geo.labels.rule import Indexes, LabelRule
from satseg_ray.geo.raster import RasterInfo, inspect_raster, open_raster, reading


class IndexRaster:
    """Windows of a raster of class indexes, as ingest writes them; a context manager.

    Such a raster has no other mask than its index 255, so it is read as it is.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.info = inspect_raster(path)
        self._context: AbstractContextManager[Any] = open_raster(path)
        self._dataset: Any = None

    def __enter__(self) -> Self:
        self._dataset = self._context.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool | None:
        return self._context.__exit__(kind, error, trace)

    def read(self, window: Window, out: Indexes | None = None) -> Indexes:
        """Return the class indexes (rows, columns) of a window; 255 unlabelled or outside.

        ``out`` (rows, columns) is written to where it is given.

        Raises:
            UnreadableRaster: the file is damaged.
        """
        indexes = np.empty(window.shape, np.uint8) if out is None else out
        inside = window.intersection(self.info.window)
        if inside != window:
            indexes[:] = IGNORE
        if inside.area:
            place = RasterioWindow(inside.col, inside.row, inside.width, inside.height)
            rows, cols = inside.relative_to(window).slices()
            with reading(self.info.path):
                self._dataset.read(1, window=place, out=indexes[rows, cols])
        return indexes

    def blocks(self) -> Iterator[tuple[Window, Indexes]]:
        """Yield the raster in row-major blocks as ``(window, indexes)``."""
        for window in self.info.window.blocks():
            yield window, self.read(window)


def burn_labels(
    path: str,
    rule: LabelRule,
    scene: RasterInfo,
    target: Path,
    image_name: str | None = None,
    image: RasterInfo | None = None,
) -> tuple[Finding, ...]:
    """Write the labels of a scene, of whatever kind, as class indexes on its grid to ``target``.

    Arguments and errors are those of :func:`open_labels`; returns what was found in them.
    """
    with open_labels(path, rule, scene, image_name, image) as labels:
        write_label_raster(target, scene, labels.blocks(), rule.table, IGNORE)
        return labels.findings
