"""Calibration: one temperature for a model's logits, and how far probabilities can be trusted.

Guo et al., On Calibration of Modern Neural Networks, ICML 2017.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from satseg_ray.classes import IGNORE
from satseg_ray.model.metrics import Ratios

Logits: TypeAlias = NDArray[np.float32]

COLDEST, HOTTEST = 0.1, 10.0
"""Bounds of a temperature: where a sample has no error, none is cold enough."""

SAMPLED = 1 << 18
"""Most labelled pixels that a temperature is fitted on."""

BINS = 20
"""Bins of equal width of the highest probability."""

_UNIT = 1 << 16
_HALVINGS = 50
_DIGITS = 4
_AT_ONCE = 1 << 16


@dataclass(frozen=True)
class LogitSample:
    """Logits float32 (pixels, classes) of labelled pixels and their true classes (pixels,)."""

    logits: Logits
    truth: NDArray[np.uint8]

    @classmethod
    def of(cls, batches: Iterable[tuple[Any, Any]], most: int) -> LogitSample:
        """Return at most ``most`` labelled pixels of each patch of each batch, evenly spaced.

        A batch is logits (n, rows, columns, classes) and class indexes (n, rows, columns), 255
        where unlabelled.
        """
        logits, truth = [np.zeros((0, 0), np.float32)], [np.zeros(0, np.uint8)]
        for scores, mask in batches:
            for patch, labels in zip(scores, mask, strict=True):
                places = np.flatnonzero(np.asarray(labels) != IGNORE)
                some = evenly(len(places), most)
                truth.append(np.asarray(labels).reshape(-1)[places[some]])
                logits.append(np.asarray(patch).reshape(labels.size, -1)[places[some]])
        found = [part for part in logits if part.size]
        return cls(np.concatenate(found) if found else logits[0], np.concatenate(truth))


def evenly(count: int, most: int) -> NDArray[np.intp]:
    """Return at most ``most`` positions of ``range(count)``, evenly spaced.

    >>> evenly(10, 3).tolist(), evenly(2, 3).tolist()
    ([1, 5, 8], [0, 1])
    """
    if count <= most:
        return np.arange(count)
    return ((2 * np.arange(most) + 1) * count // (2 * most)).astype(np.intp)


def fit_temperature(sample: LogitSample) -> float:
    """Return the temperature whose softmax(logits / temperature) gives the labels the least NLL.

    The mean negative log-likelihood is convex in 1 / temperature: its slope is halved in on.
    Between 0.1 and 10, with four digits after the point; 1 without a labelled pixel, or where a
    logit is no number. The same sample gives the same temperature.
    """
    if not len(sample.truth) or not np.isfinite(sample.logits).all():
        return 1.0
    low, high = 1 / HOTTEST, 1 / COLDEST
    if _slope(sample, low) >= 0:
        return HOTTEST
    if _slope(sample, high) <= 0:
        return COLDEST
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if _slope(sample, middle) < 0 else (low, middle)
    return round(2 / (low + high), _DIGITS)


def _slope(sample: LogitSample, inverse: float) -> float:
    """Return the derivative by 1 / temperature of the summed negative log-likelihood."""
    total = 0.0
    for start in range(0, len(sample.truth), _AT_ONCE):
        logits = sample.logits[start : start + _AT_ONCE].astype(np.float64)
        logits -= logits.max(axis=1, keepdims=True)
        weights = np.exp(inverse * logits)
        expected = (weights * logits).sum(axis=1) / weights.sum(axis=1)
        truth = sample.truth[start : start + _AT_ONCE].astype(np.intp)
        total += float((expected - logits[np.arange(len(truth)), truth]).sum())
    return total


@dataclass(frozen=True, eq=False)
class Reliability:
    """Labelled pixels by how sure the model was, in integers: a monoid under ``+``.

    ``table`` is int64 (bins, 3): pixels whose highest probability lies in the bin, those of them
    that are right, and the sum of the probabilities in units of 1 / 65536.

    Law: the sum of the tables of the parts is the table of the whole, in any order.
    """

    table: NDArray[np.int64]

    @classmethod
    def zero(cls) -> Reliability:
        """Return the table of no pixel."""
        return cls(np.zeros((BINS, 3), np.int64))

    @classmethod
    def of(
        cls, truth: NDArray[Any], predicted: NDArray[Any], confidence: NDArray[Any]
    ) -> Reliability:
        """Return the table of true and predicted class indexes and the latter's probability.

        All of one shape; a pixel that is 255 in ``truth`` is left out.
        """
        known = truth != IGNORE
        right = (truth == predicted)[known]
        sure = np.nan_to_num(confidence[known].astype(np.float64))  # no number: not sure at all
        share = np.rint(sure * _UNIT).astype(np.int64)
        place = np.clip(share * BINS // _UNIT, 0, BINS - 1)
        pixels = np.bincount(place, minlength=BINS)
        hits = np.bincount(place[right], minlength=BINS)
        sums = np.bincount(place, weights=share, minlength=BINS)  # below 2**53: exact
        return cls(np.stack([pixels, hits, sums.astype(np.int64)], axis=1).astype(np.int64))

    @classmethod
    def total(cls, tables: Sequence[Any]) -> Reliability:
        """Return the sum of tables as JSON values."""
        return sum((cls(np.asarray(table, np.int64)) for table in tables), cls.zero())

    def __add__(self, other: Reliability) -> Reliability:
        return Reliability(self.table + other.table)

    @property
    def error(self) -> float:
        """The expected calibration error: the mean over pixels of |accuracy - confidence|."""
        pixels, hits, sums = self.table.T
        total = int(pixels.sum())
        return float(np.abs(hits - sums / _UNIT).sum() / total) if total else float("nan")

    def by_bin(self) -> tuple[Ratios, Ratios, Ratios]:
        """Return mean probability, accuracy (``nan`` without a pixel) and share of pixels."""
        pixels, hits, sums = self.table.T.astype(np.float64)
        with np.errstate(invalid="ignore"):
            return sums / _UNIT / pixels, hits / pixels, pixels / max(pixels.sum(), 1)

    def rows(self) -> list[dict[str, float]]:
        """Return the bins that hold a pixel as JSON values, from the least sure."""
        return [
            {
                "from": round(place / BINS, 6),
                "to": round((place + 1) / BINS, 6),
                "pixels": pixels,
                "confidence": sums / _UNIT / pixels,
                "accuracy": hits / pixels,
            }
            for place, (pixels, hits, sums) in enumerate(self.table.tolist())
            if pixels
        ]
