"""The worker of a prediction: loads the model once, then turns cores of a scene into files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from os import getpid
from pathlib import Path
from socket import gethostname
from time import process_time, time
from typing import Any

import numpy as np

from satseg_ray.data.rows import Reporter, Work
from satseg_ray.geo.cog import class_values, write_core
from satseg_ray.geo.grid import Lattice, Window
from satseg_ray.geo.quicklook import Decimation, Preview, visible_bands
from satseg_ray.geo.raster import RasterInfo, SceneReader
from satseg_ray.geo.source import SceneSource
from satseg_ray.model.protocol import Model
from satseg_ray.model.segment import SegmentedTile, segment_tile
from satseg_ray.model.spec import ModelSpec


@dataclass(frozen=True)
class SceneTask:
    """One prediction as every worker sees it: the scene, the model's spec, the folder of cores."""

    scene: str | SceneSource
    spec: ModelSpec
    folder: str
    preview_step: int


def load_segmenter(directory: str, batch_size: int, threads: int) -> Model:
    """Return the model of a directory, traced for the spec's pixel type and ready.

    TensorFlow is imported here and nowhere before.
    """
    from satseg_ray.model.segmenter import Segmenter

    segmenter = Segmenter.load(directory, batch_size, threads)
    side, bands = segmenter.spec.patch_size, len(segmenter.spec.bands)
    segmenter.predict_proba(np.zeros((1, side, side, bands), segmenter.spec.dtype))
    return segmenter


def core_row(core: Window) -> Work:
    """Return the row that carries a core to a worker."""
    return {
        "key": f"{core.row:07d}-{core.col:07d}",
        "core": [core.row, core.col, core.height, core.width],
    }


class TilePredictor:
    """A Ray Data actor: one copy of the model; each call makes one core."""

    def __init__(self, task: SceneTask, load: Callable[[], Model], reporter: Reporter) -> None:
        self._task = task
        self._reporter = reporter
        self._model = load()

    def __call__(self, row: dict[str, Any]) -> dict[str, str]:
        """Predict the core of a row and write it; the outcome has its timings."""
        return self._reporter.run(self._predict, row)

    def _predict(self, row: Work) -> Work:
        start, used = time(), process_time()
        core = Window(*row["core"])
        task, spec = self._task, self._task.spec
        step = Decimation(task.preview_step)
        preview = Preview(core, step, visible_bands(spec.bands))
        with SceneReader(task.scene, spec.band_indexes, spec.nodata) as reader:
            tile = segment_tile(reader, core, self._model, spec.stride, preview.see)
        values = class_values(tile.classes, tile.valid, spec.classes)
        write_core(Path(task.folder), core, values)
        _write_preview(task, tile, preview, step)
        return {
            "pixels": core.area,
            "valid": int(tile.valid.sum()),
            "class_pixels": _class_pixels(tile, len(spec.classes)),
            "patches": _patches(reader.info, spec, core),
            "worker": f"{gethostname()}:{getpid()}",
            "start": start,
            "end": time(),
            "cpu_seconds": process_time() - used,
            "numerics_key": self._model.numerics_key().to_dict(),
        }


def _patches(scene: RasterInfo, spec: ModelSpec, core: Window) -> int:
    lattice = Lattice.of(scene.height, scene.width, spec.patch_size, spec.stride)
    return lattice.covering(core).count


def preview_file(folder: Path, core: Window) -> Path:
    """Return the file that holds the decimated pixels of one core."""
    return folder / f"preview-{core.row:07d}-{core.col:07d}.npz"


def _write_preview(
    task: SceneTask, tile: SegmentedTile, preview: Preview, step: Decimation
) -> None:
    rows, cols = step.offsets(tile.core)
    np.savez(
        preview_file(Path(task.folder), tile.core),
        image=preview.image if preview.image is not None else np.zeros((1, 0, 0), np.uint8),
        classes=tile.classes[rows, cols],
        valid=tile.valid[rows, cols],
    )


def _class_pixels(tile: SegmentedTile, classes: int) -> list[int]:
    counts = np.zeros(classes, np.int64)
    for block in tile.core.blocks():
        place = block.relative_to(tile.core).slices()
        counts += np.bincount(tile.classes[place][tile.valid[place]], minlength=classes)
    return [int(count) for count in counts]
