"""Label rasters of the workspace's own kind: class indexes on the scene's grid."""

from __future__ import annotations

from collections.abc import Iterator
from types import TracebackType
from typing import Self

import numpy as np

from satseg_ray.classes import IGNORE
from satseg_ray.geo.grid import Window
from satseg_ray.geo.labels.rule import Indexes
from satseg_ray.geo.raster import SceneReader


class IndexRaster:
    """Windows of a raster of class indexes, as ingest writes them; a context manager."""

    def __init__(self, path: str) -> None:
        self._reader = SceneReader(path)

    def __enter__(self) -> Self:
        self._reader.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool | None:
        return self._reader.__exit__(kind, error, trace)

    def read(self, window: Window) -> Indexes:
        """Return the class indexes (rows, columns) of a window; 255 unlabelled or outside."""
        tile = self._reader.read(window)
        return np.where(tile.valid, tile.pixels[0], np.uint8(IGNORE))

    def blocks(self) -> Iterator[tuple[Window, Indexes]]:
        """Yield the raster in row-major blocks as ``(window, indexes)``."""
        for window in self._reader.info.window.blocks():
            yield window, self.read(window)
