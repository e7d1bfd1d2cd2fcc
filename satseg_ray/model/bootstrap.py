"""Intervals by bootstrap over blocks: what another draw of test blocks would have given.

Expanded percentiles: Hesterberg, What Teachers Should Know About the Bootstrap, 2015, section 5.3.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from satseg_ray.model.metrics import Ratios, accuracies, f1s, ious, means

BlockCounts: TypeAlias = NDArray[np.int64]
"""Confusion counts of each block (blocks, classes, classes)."""

FEW = 10
"""With fewer blocks an interval is rough: a person is told."""

_AT_ONCE = 1 << 22
"""Numbers of blocks that are drawn at once."""


@dataclass(frozen=True)
class Resampling:
    """How often blocks are drawn anew, from which seed, and how much an interval covers."""

    resamples: int = 2000
    seed: int = 0
    level: float = 0.95

    @property
    def least(self) -> int:
        """The fewest blocks that can bear an interval: 6 for 95%.

        So many blocks lie on one side of the truth by chance as rarely as the interval may miss
        it there.
        """
        return math.ceil(math.log2(2 / (1 - self.level)) - 1e-9)

    def tail(self, blocks: int) -> float:
        """Return the share of draws below an interval of figures of so many blocks.

        Percentiles of few blocks are too narrow, as a normal interval is without Student's t and
        with the deviation over n in place of n - 1: by that much they are moved outwards.
        """
        normal = NormalDist()
        z, free = normal.inv_cdf((1 + self.level) / 2), blocks - 1
        t = z + (z**3 + z) / (4 * free) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * free**2)
        t += (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * free**3)
        return normal.cdf(-t * math.sqrt(blocks / free))


@dataclass(frozen=True)
class Estimate:
    """A figure with its interval; ``nan`` where it cannot be said."""

    value: float
    low: float
    high: float

    def to_dict(self) -> dict[str, float | None]:
        """Return the estimate as JSON values; ``nan`` becomes ``None``."""
        found = {"value": self.value, "low": self.low, "high": self.high}
        return {key: None if np.isnan(value) else float(value) for key, value in found.items()}


Estimates: TypeAlias = dict[str, Estimate]
"""By name: ``accuracy``, ``mean_iou``, ``mean_f1``, ``iou_<class>``, ``f1_<class>``."""


def figures(counts: NDArray[Any], names: Sequence[str]) -> dict[str, Ratios]:
    """Return every figure (...) of confusion matrices (..., classes, classes), by name.

    >>> {key: float(v) for key, v in figures(np.array([[3, 1], [0, 0]]), ["a", "b"]).items()}
    ... # doctest: +NORMALIZE_WHITESPACE
    {'accuracy': 0.75, 'mean_iou': 0.375, 'mean_f1': 0.42857142857142855,
     'iou_a': 0.75, 'iou_b': 0.0, 'f1_a': 0.8571428571428571, 'f1_b': 0.0}
    """
    iou, f1 = ious(counts), f1s(counts)
    overall = {"accuracy": accuracies(counts), "mean_iou": means(iou), "mean_f1": means(f1)}
    return (
        overall
        | {f"iou_{name}": iou[..., i] for i, name in enumerate(names)}
        | {f"f1_{name}": f1[..., i] for i, name in enumerate(names)}
    )


def estimates(blocks: BlockCounts, names: Sequence[str], how: Resampling) -> Estimates:
    """Return the figures of the sum of the blocks, with intervals by expanded percentiles.

    With fewer blocks than ``how.least`` there is no interval. Law: the order of the blocks decides
    which ones a seed draws, so callers keep one order.
    """
    values = figures(blocks.sum(axis=0), names)
    drawn = _drawn([blocks], names, how)[0]
    tail = how.tail(max(2, len(blocks)))
    return {name: _estimate(values[name], drawn[name], tail) for name in values}


def differences(
    one: BlockCounts, other: BlockCounts, names: Sequence[str], how: Resampling
) -> Estimates:
    """Return by how much the figures of ``one`` are above those of ``other``, with intervals.

    Paired: both are counts of the same blocks in the same order, and each draw takes the same
    blocks of both. So what makes a block hard for both does not widen the interval.

    Raises:
        ValueError: the blocks are not the same number.
    """
    if one.shape != other.shape:
        raise ValueError(f"blocks of shape {one.shape} and {other.shape} are no pairs")
    first, second = figures(one.sum(axis=0), names), figures(other.sum(axis=0), names)
    mine, theirs = _drawn([one, other], names, how)
    tail = how.tail(max(2, len(one)))
    return {
        name: _estimate(first[name] - second[name], mine[name] - theirs[name], tail)
        for name in first
    }


def _drawn(
    sides: Sequence[BlockCounts], names: Sequence[str], how: Resampling
) -> list[dict[str, Ratios]]:
    """Return the figures (resamples,) of each side, drawn alike."""
    count, classes = len(sides[0]), len(names)
    flat = [side.reshape(count, -1).astype(np.float64) for side in sides]
    sums: list[list[NDArray[Any]]] = [[] for _ in sides]
    if count >= how.least:
        for times in _times(count, how):
            for found, side in zip(sums, flat, strict=True):
                found.append(times @ side)  # whole numbers below 2**53: exact
    empty = np.zeros((0, classes**2))
    return [
        figures(np.concatenate([empty, *found]).reshape(-1, classes, classes), names)
        for found in sums
    ]


def _times(count: int, how: Resampling) -> Iterator[NDArray[np.float64]]:
    """Yield how often each block is drawn in each resample (some, blocks)."""
    rng = np.random.default_rng(how.seed)
    some = max(1, _AT_ONCE // count)
    for start in range(0, how.resamples, some):
        rows = range(min(some, how.resamples - start))
        draws = (rng.integers(count, size=count) for _ in rows)
        yield np.stack([np.bincount(draw, minlength=count) for draw in draws]).astype(np.float64)


def _estimate(value: Ratios, drawn: Ratios, tail: float) -> Estimate:
    known = drawn[~np.isnan(drawn)]
    if not known.size:
        return Estimate(float(value), np.nan, np.nan)
    low, high = np.quantile(known, [tail, 1 - tail])
    return Estimate(float(value), float(low), float(high))
