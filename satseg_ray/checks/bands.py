"""Statistics of one band, block by block: integers exactly, floats over a range of a sample."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self

import numpy as np
import numpy.typing as npt

BINS = 64
Values = npt.NDArray[Any]


@dataclass(frozen=True)
class Extreme:
    """The lowest or highest value of a band, how many pixels hold it, and the value next to it.

    ``next`` is none where the band holds no other value.
    """

    value: float
    count: int
    next: float | None

    def gap(self) -> float:
        """Return how far the next value is."""
        return 0.0 if self.next is None else abs(self.next - self.value)


@dataclass(frozen=True)
class BandFacts:
    """What the valid pixels of one band hold.

    ``histogram`` has 64 bins over ``span`` (its stop belongs to no bin): all values of 8-bit bands,
    of others 2% to 98% of the pixels and a margin; what lies outside is in the first and the last
    bin. ``not_finite`` counts NaN and infinite pixels, which are not valid; it is none where
    nobody counted them. Without a valid pixel all else is none, or empty.
    """

    name: str
    count: int
    low: Extreme | None
    high: Extreme | None
    mean: float | None
    span: tuple[float, float] | None
    histogram: tuple[int, ...]
    not_finite: int | None = None

    @property
    def constant(self) -> bool:
        """Tell whether all valid pixels hold one value."""
        return self.low is not None and self.low.next is None

    @classmethod
    def from_dict(cls, body: dict[str, Any]) -> Self:
        """Return the facts that :func:`dataclasses.asdict` gave, by way of JSON."""
        extremes = {key: Extreme(**body[key]) if body[key] else None for key in ("low", "high")}
        span = tuple(body["span"]) if body["span"] else None
        return cls(**(body | extremes | {"span": span, "histogram": tuple(body["histogram"])}))


class Tally(Protocol):
    """Takes the valid values (n,) of a band, block by block."""

    def see(self, values: Values) -> None:
        """Take some values; the order of the blocks does not matter to the counts."""

    def facts(self, name: str) -> BandFacts:
        """Return what was seen."""


def tally_for(dtype: np.dtype[Any], sample: Values) -> Tally:
    """Return the tally of a band of this type; ``sample`` (n,) gives floats their range."""
    return FloatTally(*_range_of(sample)) if dtype.kind == "f" else IntegerTally(dtype)


class IntegerTally:
    """Counts every value of an integer type of up to 16 bits, so that all facts are exact."""

    def __init__(self, dtype: np.dtype[Any]) -> None:
        limits = np.iinfo(dtype)
        self._first = int(limits.min)
        self._span = int(limits.max) - int(limits.min) + 1
        self._unsigned = np.dtype(f"uint{8 * dtype.itemsize}")
        self._counts = np.zeros(self._span, np.int64)

    def see(self, values: Values) -> None:
        """Take some values (n,)."""
        if self._unsigned.itemsize == 1:
            self._counts += _byte_counts(np.ascontiguousarray(values))
        else:
            shifted = values.view(self._unsigned) - self._unsigned.type(-self._first)
            self._counts += np.bincount(shifted, minlength=self._span)

    def facts(self, name: str) -> BandFacts:
        """Return what was seen."""
        held = np.flatnonzero(self._counts)
        if not len(held):
            return _nothing(name)
        counts = self._counts[held]
        values = held + self._first
        low = Extreme(*_plain(values[0], counts[0]), _item(values[1:2]))
        high = Extreme(*_plain(values[-1], counts[-1]), _item(values[-2:-1]))
        span = (0.0, 256.0) if self._span == 256 else _inner_range(values, counts)
        exact = sum(v * c for v, c in zip(values.tolist(), counts.tolist(), strict=True))
        total = int(counts.sum())
        where = _bins(values, span)
        return BandFacts(
            name, total, low, high, exact / total, span,
            tuple(np.bincount(where, counts, BINS).astype(np.int64).tolist()),
        )  # fmt: skip


class FloatTally:
    """Extremes and sums exactly, the histogram over the range it is given."""

    def __init__(self, start: float, stop: float) -> None:
        self._span = (start, stop)
        self._histogram = np.zeros(BINS, np.int64)
        self._count, self._sum = 0, 0.0
        self._low = self._high = Extreme(math.inf, 0, None)

    def see(self, values: Values) -> None:
        """Take some values (n,), all of them finite."""
        if not len(values):
            return
        self._histogram += _byte_counts(_bins(values, self._span))[:BINS]
        self._count += len(values)
        self._sum += float(values.sum(dtype=np.float64))
        self._low = _lower(self._low, _lowest(values, np.min, math.inf))
        high = _lowest(values, np.max, -math.inf)
        self._high = _lower(self._high, _negative(high))

    def facts(self, name: str) -> BandFacts:
        """Return what was seen."""
        if not self._count:
            return _nothing(name)
        return BandFacts(
            name,
            self._count,
            self._low,
            _negative(self._high),
            self._sum / self._count,
            self._span,
            tuple(self._histogram.tolist()),
        )


def _byte_counts(values: Values) -> npt.NDArray[np.int64]:
    """Return how often each of 256 bytes occurs; pairs of them are counted in half the time."""
    even = len(values) // 2 * 2
    pairs = np.bincount(values[:even].view(np.uint16), minlength=1 << 16).reshape(256, 256)
    rest = np.bincount(values[even:], minlength=256)
    counts: npt.NDArray[np.int64] = pairs.sum(axis=0) + pairs.sum(axis=1) + rest
    return counts


def _plain(value: Any, count: Any) -> tuple[float, int]:
    return float(value), int(count)


def _item(values: Values) -> float | None:
    return float(values[0]) if len(values) else None


def _inner_range(values: Values, counts: Values) -> tuple[float, float]:
    """Return the range of values between 2% and 98% of the pixels, a tenth wider on each side.

    It does not reach beyond the values that there are.
    """
    before = np.cumsum(counts)
    start, stop = (float(values[np.searchsorted(before, q * before[-1])]) for q in (0.02, 0.98))
    start, stop = _widened(start, stop, float(values[0]), float(values[-1]))
    first = math.floor(start)
    width = -(-(math.floor(stop) + 1 - first) // BINS)  # whole values in a bin, or it is a comb
    return float(first), float(first + BINS * width)


def _range_of(sample: Values) -> tuple[float, float]:
    """Return the range for the histogram of a band of which ``sample`` is known."""
    seen = sample[np.isfinite(sample)].astype(np.float64)
    if not len(seen):
        return (0.0, 1.0)
    start, stop = np.percentile(seen, (2, 98), method="nearest").tolist()
    return _widened(start, stop, float(seen.min()), float(seen.max()))


def _widened(start: float, stop: float, least: float, most: float) -> tuple[float, float]:
    margin = (stop - start) / 10
    start, stop = max(start - margin, least), min(stop + margin, most)
    return (start, stop) if stop > start else (start, start + 1.0)


def _bins(values: Values, span: tuple[float, float]) -> npt.NDArray[np.uint8]:
    """Return the bin of each value; those outside of the span are in the first and the last."""
    wide = values.astype(np.float64) if values.dtype.kind != "f" else values
    with np.errstate(over="ignore"):  # the largest floats less the lowest: in the last bin
        places = (wide - wide.dtype.type(span[0])) * wide.dtype.type(BINS / (span[1] - span[0]))
    np.clip(places, 0, BINS - 1, out=places)
    return places.astype(np.uint8)


def _lowest(values: Values, of: Any, beyond: float) -> Extreme:
    """Return the lowest of some values or, with ``np.max``, the highest."""
    value = of(values)
    others = values != value
    count = len(values) - int(np.count_nonzero(others))
    following = of(values, where=others, initial=beyond) if count < len(values) else None
    return Extreme(float(value), count, None if following is None else float(following))


def _negative(end: Extreme) -> Extreme:
    return Extreme(-end.value, end.count, None if end.next is None else -end.next)


def _lower(left: Extreme, right: Extreme) -> Extreme:
    """Return the lowest of two parts together."""
    if right.value < left.value:
        left, right = right, left
    same = left.value == right.value
    others = [left.next, right.next if same else right.value]
    known = [v for v in others if v is not None and math.isfinite(v)]
    return Extreme(
        left.value, left.count + (right.count if same else 0), min(known) if known else None
    )


def _nothing(name: str) -> BandFacts:
    return BandFacts(name, 0, None, None, None, None, ())


def band_names(descriptions: Sequence[str], indexes: Sequence[int]) -> tuple[str, ...]:
    """Return what the bands at 1-based ``indexes`` are called: by the file, else by number."""
    named = [descriptions[i - 1] if i <= len(descriptions) else "" for i in indexes]
    return tuple(name or f"band_{i}" for name, i in zip(named, indexes, strict=True))
