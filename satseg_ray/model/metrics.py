"""Metrics as a monoid: a confusion matrix in integers, added in any order, read at the end."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from satseg_ray.classes import IGNORE

Ratios: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Confusion:
    """Pixels counted by true class (rows) and predicted class (columns).

    ``counts`` is int64 (classes, classes); ``unlabelled`` is the number of pixels left out.
    A class that neither labels nor predictions hold has the ratio ``nan`` and does not count in
    a mean.

    Law: the sum of the matrices of the parts is the matrix of the whole, in any order.

    >>> part = Confusion.from_indexes(np.array([0, 0, 255]), np.array([0, 1, 1]), 2)
    >>> (part + part).counts.tolist(), (part + part).unlabelled
    ([[2, 2], [0, 0]], 2)
    """

    counts: NDArray[np.int64]
    unlabelled: int = 0

    def __post_init__(self) -> None:
        if self.counts.ndim != 2 or self.counts.shape[0] != self.counts.shape[1]:
            raise ValueError(f"counts of shape {self.counts.shape} are no square matrix")

    @classmethod
    def zero(cls, classes: int) -> Confusion:
        """Return the matrix of no pixel: the neutral element of the addition."""
        return cls(np.zeros((classes, classes), np.int64))

    @classmethod
    def from_indexes(cls, truth: NDArray[Any], predicted: NDArray[Any], classes: int) -> Confusion:
        """Return the matrix of class indexes of the same shape, integers of any kind.

        A pixel that is 255 (``IGNORE``) in either is left out and counted as unlabelled.

        Raises:
            ValueError: the shapes differ, or an index is no class.
        """
        if truth.shape != predicted.shape:
            raise ValueError(f"truth {truth.shape} and predicted {predicted.shape} differ in shape")
        known = (truth != IGNORE) & (predicted != IGNORE)
        rows, columns = truth[known].astype(np.int64), predicted[known].astype(np.int64)
        for name, indexes in (("truth", rows), ("predicted", columns)):
            if indexes.size and not 0 <= indexes.min() <= indexes.max() < classes:
                raise ValueError(f"{name} holds an index outside 0..{classes - 1}")
        flat = np.bincount(rows * classes + columns, minlength=classes**2)
        counts = flat.astype(np.int64).reshape(classes, classes)
        return cls(counts, int(known.size - rows.size))

    def __add__(self, other: Confusion) -> Confusion:
        if self.counts.shape != other.counts.shape:
            raise ValueError(f"{self.counts.shape} and {other.counts.shape} do not add up")
        return Confusion(self.counts + other.counts, self.unlabelled + other.unlabelled)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Confusion):
            return NotImplemented
        return self.unlabelled == other.unlabelled and np.array_equal(self.counts, other.counts)

    __hash__ = None  # type: ignore[assignment]  # it holds an array

    @property
    def pixels(self) -> int:
        """Labelled pixels counted."""
        return int(self.counts.sum())

    @property
    def iou(self) -> Ratios:
        """Intersection over union of each class, float64 (classes,)."""
        return ious(self.counts)

    @property
    def f1(self) -> Ratios:
        """Harmonic mean of precision and recall of each class, float64 (classes,)."""
        return f1s(self.counts)

    @property
    def precision(self) -> Ratios:
        """Share of each class's predictions that are right, ``nan`` if there are none."""
        return _ratio(self._hits, self._predicted)

    @property
    def recall(self) -> Ratios:
        """Share of each class's labels that are found, ``nan`` if there are none."""
        return _ratio(self._hits, self._labelled)

    @property
    def accuracy(self) -> float:
        """Share of labelled pixels that are right, ``nan`` without any."""
        return float(accuracies(self.counts))

    @property
    def mean_iou(self) -> float:
        """Mean of :attr:`iou` over the classes present, ``nan`` without any."""
        return float(means(self.iou))

    @property
    def mean_f1(self) -> float:
        """Mean of :attr:`f1` over the classes present, ``nan`` without any."""
        return float(means(self.f1))

    def to_dict(self, names: Sequence[str]) -> dict[str, Any]:
        """Return matrix and metrics as JSON values; a ratio that is ``nan`` becomes ``None``."""
        ratios = {"iou": self.iou, "f1": self.f1, "precision": self.precision}
        ratios["recall"] = self.recall
        return {
            "classes": list(names),
            "confusion": self.counts.tolist(),
            "pixels": self.pixels,
            "unlabelled": self.unlabelled,
            "accuracy": _json(self.accuracy),
            "mean_iou": _json(self.mean_iou),
            "mean_f1": _json(self.mean_f1),
        } | {
            metric: {name: _json(value) for name, value in zip(names, values, strict=True)}
            for metric, values in ratios.items()
        }

    @property
    def _hits(self) -> NDArray[np.int64]:
        return np.diagonal(self.counts)

    @property
    def _labelled(self) -> NDArray[np.int64]:
        return np.asarray(self.counts.sum(axis=1))

    @property
    def _predicted(self) -> NDArray[np.int64]:
        return np.asarray(self.counts.sum(axis=0))


def ious(counts: NDArray[Any]) -> Ratios:
    """Return the IoU of each class (..., classes) of matrices (..., classes, classes)."""
    hits, labelled, predicted = _margins(counts)
    return _ratio(hits, labelled + predicted - hits)


def f1s(counts: NDArray[Any]) -> Ratios:
    """Return the F1 of each class (..., classes) of matrices (..., classes, classes)."""
    hits, labelled, predicted = _margins(counts)
    return _ratio(2 * hits, labelled + predicted)


def accuracies(counts: NDArray[Any]) -> Ratios:
    """Return the share of right pixels (...) of matrices (..., classes, classes)."""
    hits, labelled, _ = _margins(counts)
    return _ratio(hits.sum(axis=-1), labelled.sum(axis=-1))


def means(ratios: Ratios) -> Ratios:
    """Return the means (...) of ratios (..., classes) over the classes present."""
    present = ~np.isnan(ratios)
    return _ratio(np.where(present, ratios, 0).sum(axis=-1), present.sum(axis=-1))


def _margins(counts: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Return hits, labelled and predicted pixels of each class."""
    hits = np.diagonal(counts, axis1=-2, axis2=-1)
    return hits, counts.sum(axis=-1), counts.sum(axis=-2)


def _ratio(part: Any, whole: Any) -> Ratios:
    with np.errstate(invalid="ignore"):
        return np.asarray(np.true_divide(part, whole), np.float64)  # 0 / 0 is nan; x / 0 cannot be


def _json(value: float) -> float | None:
    return None if math.isnan(value) else float(value)
