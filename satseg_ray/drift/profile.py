"""Profiles of band values: whylogs sketches of a bounded sample, merged over tiles and data sets.

whylogs is imported where it is used: it takes over a second.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt

from satseg_ray.errors import UnreadableProfile
from satseg_ray.lineage import value_digest
from satseg_ray.products import fresh_file

if TYPE_CHECKING:
    from whylogs.core.view.dataset_profile_view import DatasetProfileView

PROFILE = "profile.bin"
"""The file of a data set's profile, beside what it describes."""
QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
RANK_ERROR = 0.0036
"""By how much ranks are off, at 99% confidence: KLL's figure for the size whylogs gives it."""

_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
"""Stands where whylogs keeps the time, which would change the bytes of every run."""

Key = tuple[str, int, int]
"""What a tile is known by: scene, row, column."""


@dataclass(frozen=True)
class ProfileSpec:
    """At most ``samples`` valid pixels of each tile, chosen by ``seed`` and the tile's key."""

    samples: int = 2048
    seed: int = 0

    def chosen(self, count: int, key: Key) -> npt.NDArray[np.int64]:
        """Return which of ``count`` valid pixels are sampled, in order; all of them if few.

        Law: the same for the same seed, key and count, on any worker.
        """
        if count <= self.samples:
            return np.arange(count)
        seed = int(value_digest([self.seed, *key])[:16], 16)
        chosen = np.random.default_rng(seed).choice(count, self.samples, replace=False)
        chosen.sort()
        return chosen


@dataclass(frozen=True)
class BandSummary:
    """One band of a profile: sampled values, their moments, extremes and quantiles.

    ``not_finite`` counts values that were no number; they are in nothing else. ``quantiles`` go by
    the ranks of ``QUANTILES``. A band without values has NaN for all of them.
    """

    count: int
    not_finite: int
    mean: float
    stddev: float
    low: float
    high: float
    quantiles: tuple[float, ...]


class BandProfile:
    """A profile of the values of some bands, by name.

    Laws: merging is associative and commutative, exactly in counts and extremes, to rounding in
    mean and deviation, within KLL's rank error in quantiles; a profile survives bytes and files.
    Two profiles of one sample agree so, too, and not byte for byte: the sketch is randomised.
    """

    def __init__(self, view: DatasetProfileView) -> None:
        self.view = view

    @classmethod
    def of(
        cls,
        pixels: npt.NDArray[Any],
        valid: npt.NDArray[np.bool_],
        names: Sequence[str],
        key: Key,
        spec: ProfileSpec = ProfileSpec(),
    ) -> Self:
        """Profile a sample of a tile: ``pixels`` (bands, rows, columns), ``valid`` (rows, columns).

        ``key`` is the tile's scene, row and column.
        """
        count = int(np.count_nonzero(valid))
        places = spec.chosen(count, key)
        if count < valid.size:
            places = np.flatnonzero(valid)[places]
        rows, cols = np.unravel_index(places, valid.shape)
        values = pixels[:, rows, cols]
        return cls.of_values(dict(zip(names, values, strict=True)))

    @classmethod
    def of_values(cls, values: Mapping[str, npt.NDArray[Any]]) -> Self:
        """Profile all of some values (n,) by the name of their band."""
        return cls(_view({name: _column(array) for name, array in values.items()}))

    @classmethod
    def empty(cls, names: Sequence[str] = ()) -> Self:
        """Return a profile of no value: merging it changes nothing."""
        return cls.of_values({name: np.zeros(0) for name in names})

    def merge(self, other: Self) -> Self:
        """Return the profile of both together; a band that only one has is kept."""
        return type(self)(self.view.merge(other.view))

    def renamed(self, names: Mapping[str, str]) -> Self:
        """Return the profile with other names of bands: old name -> new name."""
        columns = self.view.get_columns()
        return type(self)(_view({names.get(old, old): columns[old] for old in columns}))

    @classmethod
    def merged(cls, parts: Iterable[Self]) -> Self:
        """Return the profile of all ``parts`` together."""
        return reduce(cls.merge, parts, cls.empty())

    @property
    def names(self) -> tuple[str, ...]:
        """The bands, in order of name."""
        return tuple(sorted(self.view.get_columns()))

    def summary(self) -> dict[str, BandSummary]:
        """Return the figures of each band."""
        columns = self.view.get_columns()
        return {name: _summary(columns[name]) for name in self.names}

    def to_bytes(self) -> bytes:
        """Return the profile as bytes, in whylogs' own format, to travel between workers."""
        data: bytes = self.view.serialize()
        return data

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Return the profile of :meth:`to_bytes`.

        Raises:
            UnreadableProfile: the bytes are no profile.
        """
        return cls._parsed(data, "profile")

    @classmethod
    def _parsed(cls, data: bytes, subject: object) -> Self:
        _whylogs()
        from whylogs.core.view.dataset_profile_view import DatasetProfileView

        try:
            return cls(DatasetProfileView.deserialize(data))
        except Exception as error:  # whatever a damaged message makes of protobuf and the sketch
            raise UnreadableProfile(
                subject, "holds no whylogs profile", "Make it again: tile the data set."
            ) from error

    def write(self, path: Path) -> None:
        """Write the profile to ``path``, complete or not at all."""
        with fresh_file(path) as partial:
            partial.write_bytes(self.to_bytes())

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read the profile at ``path``.

        Raises:
            UnreadableProfile: there is none, or it is damaged.
        """
        try:
            data = path.read_bytes()
        except OSError as error:
            raise UnreadableProfile(
                path, "cannot be read", "Make it again: tile the data set."
            ) from error
        return cls._parsed(data, path)


def _whylogs() -> None:
    """Keep whylogs from reporting its use, whatever process this is."""
    os.environ.setdefault("WHYLOGS_NO_ANALYTICS", "1")


def _column(values: npt.NDArray[Any]) -> Any:
    """Return the whylogs column of some values (n,): counts and distribution, no cardinality."""
    _whylogs()
    from whylogs.core.metrics import DistributionMetric
    from whylogs.core.metrics.column_metrics import ColumnCountsMetric
    from whylogs.core.preprocessing import NumpyView, PreprocessedColumn
    from whylogs.core.view.column_profile_view import ColumnProfileView

    numbers = np.ascontiguousarray(values, dtype=np.float64)
    finite = numbers[np.isfinite(numbers)]
    nan = int(np.count_nonzero(np.isnan(numbers)))
    distribution = DistributionMetric.zero()
    column = PreprocessedColumn()
    column.numpy = NumpyView(floats=finite)
    column.len = len(finite)
    distribution.columnar_update(column)
    counts = ColumnCountsMetric.zero()
    counts.n.set(len(numbers))
    counts.nan.set(nan)
    counts.inf.set(len(numbers) - len(finite) - nan)
    return ColumnProfileView({"counts": counts, "distribution": distribution})


def _view(columns: Mapping[str, Any]) -> DatasetProfileView:
    from whylogs.core.view.dataset_profile_view import DatasetProfileView

    return DatasetProfileView(
        columns=dict(columns), dataset_timestamp=_EPOCH, creation_timestamp=_EPOCH
    )


def _summary(column: Any) -> BandSummary:
    counts, distribution = column.get_metric("counts"), column.get_metric("distribution")
    lost = int(counts.nan.value + counts.inf.value)
    sketch = distribution.kll.value
    if sketch.is_empty():
        nan = float("nan")
        return BandSummary(0, lost, nan, nan, nan, nan, (nan,) * len(QUANTILES))
    return BandSummary(
        count=int(sketch.get_n()),
        not_finite=lost,
        mean=float(distribution.avg),
        stddev=float(distribution.stddev),
        low=float(sketch.get_min_value()),
        high=float(sketch.get_max_value()),
        quantiles=tuple(float(v) for v in sketch.get_quantiles(list(QUANTILES))),
    )


def merge_profiles(parts: Path, target: Path, names: Mapping[str, str] | None = None) -> None:
    """Merge all profiles in the folder ``parts`` into the file ``target``; the folder goes.

    ``names`` renames bands: old name -> new name.
    """
    files = sorted(parts.glob("*.bin"))
    merged = BandProfile.merged(BandProfile.read(file) for file in files)
    merged.renamed(names or {}).write(target)
    shutil.rmtree(parts)
