"""``segment_tile`` = cut + predict + blend: from a scene and a core to the core's classes.

The two halves around the model are :func:`cut_batches` and :class:`Canvas`; batch prediction and
serving use the same ones, which is why both give the same pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from satseg_ray.geo.blend import RowBlender, Scores, best_class, taper
from satseg_ray.geo.grid import Lattice, Window
from satseg_ray.geo.raster import Mask, Pixels, SceneReader
from satseg_ray.geo.strips import Strip, batched, cut_patches, read_strips
from satseg_ray.model.protocol import Model
from satseg_ray.model.spec import ModelSpec


@dataclass(frozen=True)
class SegmentedTile:
    """One core: ``classes`` (rows, columns) uint8 class indexes, and where the scene is valid."""

    core: Window
    classes: npt.NDArray[np.uint8]
    valid: Mask


def fill_values(spec: ModelSpec) -> Pixels:
    """Return what an invalid pixel is fed as, in training too: each band's mean (bands,), raw.

    Rounded where the pixels are integers.
    """
    mean = np.asarray(spec.mean)
    whole = np.dtype(spec.dtype).kind in "iu"
    values: Pixels = (np.rint(mean) if whole else mean).astype(spec.dtype)
    return values


class Canvas:
    """The half after the model: blends the scores of a core's patches and keeps their classes."""

    def __init__(self, core: Window, lattice: Lattice, classes: int) -> None:
        self.core = core
        self._blender = RowBlender(lattice, lattice.covering(core), classes)
        self._classes = np.empty((core.height, core.width), np.uint8)

    def add(self, scores: Scores) -> None:
        """Add the scores (n, patch, patch, classes) float32 of the next ``n`` patches."""
        for window, sums in self._blender.add(scores):
            inside = window.intersection(self.core)
            if inside.area:
                rows, cols = inside.relative_to(window).slices()
                self._classes[inside.relative_to(self.core).slices()] = best_class(sums[rows, cols])

    def classes(self) -> npt.NDArray[np.uint8]:
        """Return the class index of each pixel of the core, once all its patches are added."""
        return self._classes


def cut_batches(
    strips: Iterator[Strip], lattice: Lattice, core: Window, spec: ModelSpec, batch: int
) -> Iterator[Pixels]:
    """Yield the core's patches in row-major order as (n, patch, patch, bands) raw values."""
    cols, fill = lattice.covering(core).cols, fill_values(spec)
    patches = (p for strip in strips for p in cut_patches(strip, lattice, cols, fill))
    return batched(patches, batch)


def segment_tile(
    reader: SceneReader,
    core: Window,
    model: Model,
    stride: int,
    on_strip: Callable[[Strip], None] = lambda strip: None,
) -> SegmentedTile:
    """Return the classes of one core of a scene.

    Law: cores of any partition of the scene, segmented in any order by the same model under one
    numerics key, put together are the whole scene segmented at once, bit for bit.
    ``stride`` is in pixels between patches; ``on_strip`` sees each strip of raw pixels.
    """
    spec = model.spec
    info = reader.info
    lattice = Lattice.of(info.height, info.width, spec.patch_size, stride)
    valid = np.zeros((core.height, core.width), np.bool_)
    canvas = Canvas(core, lattice, len(spec.classes))

    def watched() -> Iterator[Strip]:
        for strip in read_strips(reader, lattice, lattice.covering(core)):
            inside = strip.tile.window.intersection(core)
            part = strip.tile.valid[inside.relative_to(strip.tile.window).slices()]
            valid[inside.relative_to(core).slices()] = part
            on_strip(strip)
            yield strip

    for batch in cut_batches(watched(), lattice, core, spec, model.batch_size):
        canvas.add(model.predict_proba(batch))
    return SegmentedTile(core, canvas.classes(), valid)


def score_patches(model: Model, patches: Pixels) -> Scores:
    """Return probabilities (n, side, side, classes) of square patches (n, side, side, bands).

    Where the model takes smaller patches than these, as many as it takes to cover one are cut
    from it, at least a quarter over each other, and blended by their taper; a patch of the
    model's own size is scored as it is.

    Raises:
        BandMismatch: the patches are smaller than the model's, or have other bands.
    """
    side, own = patches.shape[1], model.spec.patch_size
    if side <= own:
        return model.predict_proba(patches)
    starts = _covering(side, own)
    sums = np.zeros((*patches.shape[:3], len(model.spec.classes)), np.float32)
    weights = np.zeros((side, side, 1), np.float32)
    for row in starts:
        for col in starts:
            part = (slice(None), slice(row, row + own), slice(col, col + own))
            sums[part] += model.predict_proba(patches[part]) * taper(own)[..., None]
            weights[part[1:]] += taper(own)[..., None]
    sums /= weights
    return sums


def _covering(length: int, patch: int) -> list[int]:
    """Return the fewest starts, evenly spaced and within ``length``, of patches that cover it."""
    gaps = -(-(length - patch) * 4 // (3 * patch))
    return [round(place * (length - patch) / gaps) for place in range(gaps + 1)]
