"""The workers of an evaluation: predict a piece, compare it with its labels, count in integers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from satseg_ray.classes import IGNORE
from satseg_ray.data.rows import Reporter, Work
from satseg_ray.geo.grid import Window
from satseg_ray.geo.labels import LabelReader, LabelRule
from satseg_ray.geo.raster import Mask, SceneReader
from satseg_ray.model.figures import Sample
from satseg_ray.model.metrics import Confusion
from satseg_ray.model.protocol import Model
from satseg_ray.model.segment import SegmentedTile, fill_values, segment_tile
from satseg_ray.patches.schema import Indexes
from satseg_ray.patches.store import PatchBatch, PatchStore
from satseg_ray.predict.tiles import visible_bands

SHOWN = 6
"""The most samples that a person is shown of one evaluation."""

_SAMPLE_SIDE = 512
_BAND = 512


@dataclass(frozen=True)
class SplitTask:
    """Patches of one split; ``folder`` takes the samples of all pieces."""

    patches: str
    split: str
    folder: str


@dataclass(frozen=True)
class LabelledScene:
    """A scene with a label raster; ``folder`` takes a sample of each piece."""

    scene: str
    labels: str
    rule: LabelRule
    folder: str


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
        spec = self._model.spec
        positions = range(row["start"], row["stop"])
        batch = self._reader.read(positions)
        filled = np.where(batch.valid[..., None], batch.image, fill_values(spec))
        predicted = best(self._model.predict_proba(filled.astype(spec.dtype)))
        counts = Confusion.from_indexes(batch.mask, predicted, len(spec.classes))
        varieties = [variety(mask) for mask in batch.mask]
        offered = np.argsort(varieties, kind="stable")[::-1][:SHOWN].tolist()
        samples = [self._sample(positions[i], i, batch, predicted) for i in offered]
        for sample in samples:
            write_sample(Path(self._task.folder), sample)
        return outcome(counts, samples)

    def _sample(self, position: int, index: int, batch: PatchBatch, predicted: Indexes) -> Sample:
        scene, row, col = self._reader.key(position)
        image = np.moveaxis(batch.image[index], -1, 0)[list(visible_bands(self._model.spec))]
        title = f"{scene} row {row} col {col}"
        return Sample(title, image, batch.valid[index], batch.mask[index], predicted[index])


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
            LabelReader(self._task.labels, self._task.rule) as labels,
        ):
            tile = segment_tile(reader, core, self._model, spec.stride)
            confusion = Confusion.zero(len(spec.classes))
            for band in core.bands(_BAND):
                truth, predicted, _ = _compared(labels, tile, band)
                confusion += Confusion.from_indexes(truth, predicted, len(spec.classes))
            part = _middle(core)
            image = reader.read(part).pixels[list(visible_bands(spec))]
            truth, predicted, valid = _compared(labels, tile, part)
        sample = Sample(f"row {part.row} col {part.col}", image, valid, truth, predicted)
        write_sample(Path(self._task.folder), sample)
        return outcome(confusion, [sample])


def best(scores: npt.NDArray[np.float32]) -> Indexes:
    """Return the class index of the highest of scores (..., classes)."""
    indexes: Indexes = scores.argmax(axis=-1).astype(np.uint8)
    return indexes


def _compared(
    labels: LabelReader, tile: SegmentedTile, window: Window
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


def variety(mask: Indexes) -> float:
    """Return the entropy in nats of the labels of a mask: how much it has to show."""
    counts = np.bincount(mask[mask != IGNORE])
    shares = counts[counts > 0] / max(int(counts.sum()), 1)
    return float(-(shares * np.log(shares)).sum())


def outcome(counts: Confusion, samples: Sequence[Sample]) -> Work:
    """Return confusion counts, and the titles of samples by their variety, as JSON values."""
    return {
        "counts": counts.counts.tolist(),
        "unlabelled": counts.unlabelled,
        "samples": [[variety(sample.truth), sample.title] for sample in samples],
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
