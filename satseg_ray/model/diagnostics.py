"""What can be known of a model over a split, as integers that add up in any order.

``Diagnostics`` holds a confusion matrix, how sure the model was and how often right, histograms of
each class's probability, and which patches went best and worst. Its size does not grow with the
split.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from satseg_ray.classes import IGNORE
from satseg_ray.model.calibration import BINS, Reliability
from satseg_ray.model.metrics import Confusion, Ratios

Counts: TypeAlias = NDArray[np.int64]

SCORE_BINS = 400
"""Bins of a class's probability, of equal width in log-odds: fine near 0 and 1."""

_LOG_ODDS = 16.0
_NATS = 1 << 20
_FEW = 0.02


def score_edges() -> NDArray[np.float32]:
    """Return the inner edges of the score bins as probabilities, float32 (SCORE_BINS - 1,)."""
    odds = np.linspace(-_LOG_ODDS, _LOG_ODDS, SCORE_BINS - 1)
    return np.asarray(1 / (1 + np.exp(-odds)), np.float32)


@dataclass(frozen=True)
class PatchScore:
    """How one patch went: ``loss`` is the mean cross-entropy of its labelled pixels, in nats.

    ``key`` is the patch's position in its split. ``mean_iou`` is over the classes that its labels
    or predictions hold. ``telling`` says that at least 2% of its pixels are labelled; ``varied``
    that its labels hold two classes or more.
    """

    key: int
    loss: float
    mean_iou: float
    telling: bool
    varied: bool

    @property
    def best_first(self) -> tuple[bool, bool, float, float, int]:
        """The place among the best, by mean IoU; one with little to show comes after the others."""
        return not self.telling, not self.varied, -self.mean_iou, self.loss, self.key

    @property
    def worst_first(self) -> tuple[bool, float, int]:
        """The place among the worst, by loss: a few missed pixels of a rare class are not bad."""
        return not self.telling, -self.loss, self.key


@dataclass(frozen=True)
class Extremes:
    """The ``kept`` best and worst of any number of patches: a monoid under ``+``.

    >>> scores = [PatchScore(key, key / 2, 0.5, True, True) for key in range(5)]
    >>> both = Extremes.of(scores[:3], 2) + Extremes.of(scores[3:], 2)
    >>> [s.key for s in both.best], [s.key for s in both.worst]
    ([0, 1], [4, 3])
    """

    kept: int
    best: tuple[PatchScore, ...] = ()
    worst: tuple[PatchScore, ...] = ()

    @classmethod
    def of(cls, scores: Iterable[PatchScore], kept: int) -> Extremes:
        """Return the extremes of these patches."""
        found = list(scores)
        best = sorted(found, key=lambda score: score.best_first)
        worst = sorted(found, key=lambda score: score.worst_first)
        return cls(kept, tuple(best[:kept]), tuple(worst[:kept]))

    def __add__(self, other: Extremes) -> Extremes:
        if self.kept != other.kept:
            raise ValueError(f"the best {self.kept} and the best {other.kept} do not add up")
        best = Extremes.of(self.best + other.best, self.kept).best
        return Extremes(self.kept, best, Extremes.of(self.worst + other.worst, self.kept).worst)


@dataclass(frozen=True)
class PrecisionRecall:
    """Precision and recall of the rule that a probability of at least ``threshold`` is the class.

    All float64 of one length, the threshold falling: recall rises. Only thresholds that let a
    pixel in. ``average_precision`` is ``nan`` for a class without a label.
    """

    threshold: Ratios
    precision: Ratios
    recall: Ratios
    average_precision: float


@dataclass(frozen=True, eq=False)
class Diagnostics:
    """A model over labelled pixels, counted in integers: a monoid under ``+``.

    ``sureness`` is int64 (classes, BINS, 3), by predicted class and bin of the highest
    probability: pixels, those that are right, and the sum of that probability in 1 / 65536.
    ``scores`` is int64 (classes, 2, SCORE_BINS): pixels of other classes and of the class itself
    by the class's probability.

    Law: the sum over the parts is that of the whole, in any order.
    """

    confusion: Confusion
    sureness: Counts
    scores: Counts
    patches: Extremes

    @classmethod
    def zero(cls, classes: int, kept: int = 4) -> Diagnostics:
        """Return the diagnostics of no pixel; ``kept`` patches are remembered at each end."""
        return cls(
            Confusion.zero(classes),
            np.zeros((classes, BINS, 3), np.int64),
            np.zeros((classes, 2, SCORE_BINS), np.int64),
            Extremes(kept),
        )

    @classmethod
    def of(
        cls, probabilities: NDArray[Any], mask: NDArray[Any], keys: Sequence[int], kept: int = 4
    ) -> Diagnostics:
        """Return the diagnostics of patches (n, H, W, classes) under labels (n, H, W).

        ``probabilities`` are of any real type, ``mask`` holds class indexes, 255 where unlabelled,
        and ``keys`` are n different numbers.

        Raises:
            ValueError: the shapes differ, an index is no class, or a probability of a labelled
                pixel is no number.
        """
        if probabilities.shape[:-1] != mask.shape or len(mask) != len(keys):
            raise ValueError(
                f"probabilities {probabilities.shape}, mask {mask.shape} and {len(keys)} keys "
                "are not of the same patches"
            )
        total = cls.zero(probabilities.shape[-1], kept)
        for scores, labels, key in zip(probabilities, mask, keys, strict=True):
            total += _of_patch(scores, labels, int(key), kept)
        return total

    def __add__(self, other: Diagnostics) -> Diagnostics:
        return Diagnostics(
            self.confusion + other.confusion,
            self.sureness + other.sureness,
            self.scores + other.scores,
            self.patches + other.patches,
        )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Diagnostics):
            return NotImplemented
        return (
            self.confusion == other.confusion
            and np.array_equal(self.sureness, other.sureness)
            and np.array_equal(self.scores, other.scores)
            and self.patches == other.patches
        )

    __hash__ = None  # type: ignore[assignment]  # it holds arrays

    @property
    def reliability(self) -> Reliability:
        """How sure the model was and how often right, all classes together."""
        return Reliability(self.sureness.sum(axis=0))

    @property
    def ece(self) -> float:
        """Expected calibration error: mean distance of probability from accuracy, over bins."""
        return self.reliability.error

    @property
    def class_ece(self) -> Ratios:
        """Calibration error of the pixels predicted as each class, ``nan`` without any."""
        return np.array([Reliability(table).error for table in self.sureness])

    @property
    def average_precision(self) -> Ratios:
        """Average precision of each class, float64 (classes,); ``nan`` for one without a label."""
        return np.array([curve.average_precision for curve in self.curves])

    @cached_property
    def curves(self) -> tuple[PrecisionRecall, ...]:
        """The precision-recall curve of each class, exact at the edges of the score bins.

        Average precision is that expected where the pixels of a bin come in any order.
        """
        return tuple(_curve(negatives, positives) for negatives, positives in self.scores)

    def to_dict(self, names: Sequence[str]) -> dict[str, Any]:
        """Return metrics and counts as JSON values; a ratio that is ``nan`` becomes ``None``."""
        by_class = {"average_precision": self.average_precision, "ece_by_class": self.class_ece}
        return {
            **self.confusion.to_dict(names),
            "ece": _json(self.ece),
            **{
                metric: {name: _json(value) for name, value in zip(names, values, strict=True)}
                for metric, values in by_class.items()
            },
            "sureness": self.sureness.tolist(),
            "scores": self.scores.tolist(),
            "score_edges": score_edges().tolist(),
        }


def _sureness(scores: NDArray[Any], truth: NDArray[Any]) -> Counts:
    predicted, sure = scores.argmax(axis=-1), scores.max(axis=-1)
    by_class = (predicted == c for c in range(scores.shape[-1]))
    tables = [Reliability.of(truth[own], predicted[own], sure[own]).table for own in by_class]
    return np.stack(tables)


def _of_patch(scores: NDArray[Any], labels: NDArray[Any], key: int, kept: int) -> Diagnostics:
    classes = scores.shape[-1]
    known = labels != IGNORE
    truth, pixels = labels[known].astype(np.int64), scores[known]
    if not np.isfinite(pixels).all():
        raise ValueError(f"a probability of patch {key} is no number")
    predicted = np.full(labels.shape, IGNORE, np.int64)
    predicted[known] = pixels.argmax(axis=-1)
    confusion = Confusion.from_indexes(labels, predicted, classes)
    found = [_patch_score(key, pixels, truth, confusion)] if truth.size else []
    return Diagnostics(
        confusion,
        _sureness(pixels, truth),
        np.stack([_score_counts(pixels[:, c], truth == c) for c in range(classes)]),
        Extremes.of(found, kept),
    )


def _patch_score(key: int, pixels: NDArray[Any], truth: Counts, confusion: Confusion) -> PatchScore:
    own = pixels[np.arange(len(truth)), truth].astype(np.float64)
    nats = np.rint(-np.log(np.clip(own, 1e-7, 1.0)) * _NATS).astype(np.int64)
    labelled = len(truth) / (len(truth) + confusion.unlabelled)
    return PatchScore(
        key,
        int(nats.sum()) / _NATS / len(truth),
        confusion.mean_iou,
        telling=labelled >= _FEW,
        varied=bool((confusion.counts.sum(axis=1) > 0).sum() > 1),
    )


def _score_counts(scores: NDArray[Any], own: NDArray[np.bool_]) -> Counts:
    place = np.searchsorted(score_edges(), scores.astype(np.float32), side="right")
    every = np.bincount(place, minlength=SCORE_BINS)
    positive = np.bincount(place[own], minlength=SCORE_BINS)
    return np.stack([every - positive, positive]).astype(np.int64)


def _curve(negatives: Counts, positives: Counts) -> PrecisionRecall:
    """Return the curve of the bins' counts, from the bin of the lowest probabilities on."""
    every = positives + negatives
    some = np.flatnonzero(every)[::-1]
    hits, chosen = np.cumsum(positives[some]), np.cumsum(every[some])
    lower = np.concatenate([np.zeros(1, np.float32), score_edges()])[some].astype(np.float64)
    total = int(positives.sum())
    if not total:
        return PrecisionRecall(lower, hits / chosen, np.full(len(some), math.nan), math.nan)
    area = _expected_precisions(positives[some], every[some]).sum() / total
    return PrecisionRecall(lower, hits / chosen, hits / total, float(area))


def _expected_precisions(positives: Counts, every: Counts) -> Ratios:
    """Return for each bin the sum of the precisions at its positives, expected over its orders.

    A bin does not tell in which order its pixels come. The precision at place r of a bin, where a
    positive stands, is (hits before + 1 + (r - 1)(p - 1)/(m - 1)) / (pixels before + r) for p of m.
    """
    before, hits = np.cumsum(every) - every, np.cumsum(positives) - positives
    slope = (positives - 1) / np.maximum(every - 1, 1)
    inverses = _harmonic(before + every) - _harmonic(before)
    return positives / every * ((hits + 1) * inverses + slope * (every - (before + 1) * inverses))


def _harmonic(count: Counts) -> Ratios:
    """Return 1 + 1/2 + ... + 1/count, less Euler's constant, by its series from count + 8 on."""
    far = count + 8.0
    series = np.log(far) + 1 / (2 * far) - 1 / (12 * far**2) + 1 / (120 * far**4)
    return np.asarray(series - sum(1 / (count + k) for k in range(1, 9)), np.float64)


def _json(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


def flat_metrics(diagnostics: Diagnostics, names: Sequence[str]) -> dict[str, float]:
    """Return all metrics under stable names, overall and by class; those that are ``nan`` not.

    ``mean_iou``, ``mean_f1``, ``accuracy``, ``ece``, and ``iou_<class>``, ``precision_<class>``,
    ``recall_<class>``, ``f1_<class>``, ``average_precision_<class>``, ``ece_<class>``.
    """
    return {name: value for name, value in _metrics(diagnostics, names) if not math.isnan(value)}


def _metrics(diagnostics: Diagnostics, names: Sequence[str]) -> Iterator[tuple[str, float]]:
    confusion = diagnostics.confusion
    yield "mean_iou", confusion.mean_iou
    yield "mean_f1", confusion.mean_f1
    yield "accuracy", confusion.accuracy
    yield "ece", diagnostics.ece
    by_class = {
        "iou": confusion.iou,
        "precision": confusion.precision,
        "recall": confusion.recall,
        "f1": confusion.f1,
        "average_precision": diagnostics.average_precision,
        "ece": diagnostics.class_ece,
    }
    for metric, values in by_class.items():
        for name, value in zip(names, values, strict=True):
            yield f"{metric}_{name}", float(value)
