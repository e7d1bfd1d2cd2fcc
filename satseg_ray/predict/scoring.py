"""The workers of an evaluation: predict a piece, compare it with its labels, count in integers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from satseg_ray.classes import IGNORE
from satseg_ray.data.rows import Reporter, Work
from satseg_ray.geo.blend import best_class
from satseg_ray.geo.grid import Window
from satseg_ray.geo.labels import IndexRaster
from satseg_ray.geo.quicklook import visible_bands
from satseg_ray.geo.raster import Mask, SceneReader
from satseg_ray.geo.source import SceneSource
from satseg_ray.model.calibration import Reliability
from satseg_ray.model.figures import Sample
from satseg_ray.model.metrics import Confusion
from satseg_ray.model.protocol import Model
from satseg_ray.model.segment import SegmentedTile, fill_values, score_patches, segment_tile
from satseg_ray.patches.blocks import Blocks
from satseg_ray.patches.schema import Indexes
from satseg_ray.patches.store import PatchBatch, PatchStore

SHOWN = 6
"""The most samples that a person is shown of one evaluation."""

_SAMPLE_SIDE = 512


@dataclass(frozen=True)
class SplitTask:
    """Patches of one split; ``folder`` takes ``shown`` samples of each piece.

    Pixels are counted by ``blocks``.
    """

    patches: str
    split: str
    folder: str
    blocks: Blocks
    shown: int = 1


@dataclass(frozen=True)
class LabelledScene:
    """A scene with a raster of class indexes; ``folder`` takes a sample of each piece.

    Pixels are counted by squares of ``block`` pixels.
    """

    scene: SceneSource
    labels: str
    folder: str
    block: int = 512


class Tally:
    """Confusion counts by block, integers, and what was left out; added up piece by piece."""

    def __init__(self, classes: int) -> None:
        self.blocks: dict[str, NDArray[np.int64]] = {}
        self.unlabelled = 0
        self._classes = classes

    def count(self, block: str, truth: Indexes, predicted: Indexes) -> None:
        """Count pixels of true and predicted class indexes that lie in a block."""
        found = Confusion.from_indexes(truth, predicted, self._classes)
        self.unlabelled += found.unlabelled
        if found.pixels:
            self.add(block, found.counts)

    def add(self, block: str, counts: NDArray[np.int64]) -> None:
        """Add confusion counts (classes, classes) to those of a block."""
        self.blocks[block] = self.blocks.get(block, 0) + np.asarray(counts, np.int64)

    def count_window(self, window: Window, side: int, truth: Indexes, predicted: Indexes) -> None:
        """Count the pixels of a scene's window by squares of ``side`` pixels of the scene."""
        for row in range(window.row // side, -(-window.row_stop // side)):
            for col in range(window.col // side, -(-window.col_stop // side)):
                square = Window(row * side, col * side, side, side).intersection(window)
                place = square.relative_to(window).slices()
                self.count(f"{row} {col}", truth[place], predicted[place])


class SplitScorer:
    """A Ray Data actor: scores the patches of a row, which names their positions in a split."""

    def __init__(self, task: SplitTask, load: Callable[[], Model], reporter: Reporter) -> None:
        self._task, self._reporter = task, reporter
        self._reader = PatchStore.open(task.patches).required(task.split)
        self._model = load()

    def __call__(self, row: dict[str, Any]) -> dict[str, str]:
        """Return the confusion counts of the row's patches."""
        return self._reporter.run(self._score, row)

    def _score(self, row: Work) -> Work:
        spec, size = self._model.spec, self._model.batch_size
        tally, reliability = Tally(len(spec.classes)), Reliability.zero()
        samples = list[Sample]()
        for start in range(row["start"], row["stop"], size):
            positions = range(start, min(start + size, row["stop"]))
            batch = self._reader.read(positions)
            filled = np.where(batch.valid[..., None], batch.image, fill_values(spec))
            scores = score_patches(self._model, filled)
            predicted = best_class(scores)
            for i, position in enumerate(positions):
                block = self._task.blocks.name(*self._reader.key(position))
                tally.count(block, batch.mask[i], predicted[i])
            reliability += Reliability.of(batch.mask, predicted, scores.max(axis=-1))
            samples += [self._sample(p, i, batch, predicted[i]) for i, p in enumerate(positions)]
            samples = sorted(samples, key=variety, reverse=True)[: self._task.shown]
        return outcome(self._task.folder, tally, samples, reliability)

    def _sample(self, position: int, index: int, batch: PatchBatch, predicted: Indexes) -> Sample:
        scene, row, col = self._reader.key(position)
        image = np.moveaxis(batch.image[index], -1, 0)[list(visible_bands(self._model.spec.bands))]
        title = f"{scene} row {row} col {col}"
        return Sample(title, image, batch.valid[index], batch.mask[index], predicted)


class SceneScorer:
    """A Ray Data actor: scores one core of a labelled scene."""

    def __init__(self, task: LabelledScene, load: Callable[[], Model], reporter: Reporter) -> None:
        self._task, self._reporter = task, reporter
        self._model = load()

    def __call__(self, row: dict[str, Any]) -> dict[str, str]:
        """Return the confusion counts of the row's core."""
        return self._reporter.run(self._score, row)

    def _score(self, row: Work) -> Work:
        core, spec = Window(*row["core"]), self._model.spec
        with (
            SceneReader(self._task.scene, spec.band_indexes, spec.nodata) as reader,
            IndexRaster(self._task.labels) as labels,
        ):
            tile = segment_tile(reader, core, self._model, spec.stride)
            tally = Tally(len(spec.classes))
            for block in core.blocks():
                truth, predicted, _ = _compared(labels, tile, block)
                tally.count_window(block, self._task.block, truth, predicted)
            part = _middle(core)
            image = reader.read(part).pixels[list(visible_bands(spec.bands))]
            truth, predicted, valid = _compared(labels, tile, part)
        sample = Sample(f"row {part.row} col {part.col}", image, valid, truth, predicted)
        return outcome(self._task.folder, tally, [sample])


def _compared(
    labels: IndexRaster, tile: SegmentedTile, window: Window
) -> tuple[Indexes, Indexes, Mask]:
    """Return true and predicted class indexes of a window in the core, and where it is valid."""
    place = window.relative_to(tile.core).slices()
    valid = tile.valid[place]
    return np.where(valid, labels.read(window), np.uint8(IGNORE)), tile.classes[place], valid


def _middle(core: Window) -> Window:
    """Return the square in the middle of a core that a person is shown."""
    height, width = min(core.height, _SAMPLE_SIDE), min(core.width, _SAMPLE_SIDE)
    row, col = core.row + (core.height - height) // 2, core.col + (core.width - width) // 2
    return Window(row, col, height, width)


def variety(sample: Sample) -> float:
    """Return the entropy in nats of a sample's labels: how much it has to show."""
    counts = np.bincount(sample.truth[sample.truth != IGNORE])
    shares = counts[counts > 0] / max(int(counts.sum()), 1)
    return float(-(shares * np.log(shares)).sum())


def outcome(
    folder: str, tally: Tally, samples: Sequence[Sample], reliability: Reliability | None = None
) -> Work:
    """Write samples and return the counts of each block and the samples' titles, as JSON values."""
    for sample in samples:
        write_sample(Path(folder), sample)
    return {
        "blocks": {name: counts.tolist() for name, counts in tally.blocks.items()},
        "unlabelled": tally.unlabelled,
        "reliability": None if reliability is None else reliability.table.tolist(),
        "samples": [[variety(sample), sample.title] for sample in samples],
    }


def write_sample(folder: Path, sample: Sample) -> None:
    """Write a sample so that the driver can draw it."""
    folder.mkdir(exist_ok=True)
    np.savez(
        folder / f"{sample.title}.npz",
        image=sample.image,
        valid=sample.valid,
        truth=sample.truth,
        predicted=sample.predicted,
    )


def read_sample(folder: Path, title: str) -> Sample:
    """Return the sample that :func:`write_sample` wrote."""
    with np.load(folder / f"{title}.npz") as file:
        return Sample(title, file["image"], file["valid"], file["truth"], file["predicted"])
