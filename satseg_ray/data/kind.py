"""Scenes of one data set are of one kind: the same bands, of the same type, in the same order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

from satseg_ray.data.rows import Work
from satseg_ray.errors import BandMismatch, ConfigError, SatsegError
from satseg_ray.geo.raster import RasterInfo, misplaced_bands
from satseg_ray.patches.dataset import SceneRecord


@dataclass(frozen=True)
class Taken:
    """A scene that ingest took: its record, and what its raster says of itself."""

    record: SceneRecord
    info: RasterInfo

    @classmethod
    def of(cls, outcome: Work) -> Self:
        """Return the scene of a worker's outcome."""
        body: dict[str, Any] = dict(outcome["info"])
        for key in ("transform", "descriptions"):
            body[key] = tuple(body[key]) if body[key] is not None else None
        return cls(SceneRecord.from_dict(outcome["record"]), RasterInfo(**body))

    @property
    def given(self) -> str:
        """The path of the scene as it was given."""
        return self.record.origin[0]


@dataclass(frozen=True)
class Bands:
    """The bands that a data set reads: names, 1-based positions, and the type of all of them."""

    names: tuple[str, ...]
    indexes: tuple[int, ...]
    dtype: str


def bands_of(
    scenes: Sequence[Taken], indexes: Sequence[int], names: Sequence[str]
) -> tuple[Bands, dict[str, SatsegError]]:
    """Return the bands that most scenes have, and the errors of those that have others, by name.

    ``indexes`` and ``names`` are what a person asked for; empty means all but an alpha band, under
    the names that the first scene gives them.

    Raises:
        BandMismatch, ConfigError: no scene has what is asked for.
    """
    fitting = [s for s in scenes if s.info.count >= max(indexes, default=1)] or scenes
    kinds = Counter(_kind(scene.info, indexes) for scene in fitting)
    kind = kinds.most_common(1)[0][0]  # of equals the first
    first = next(scene.info for scene in scenes if _kind(scene.info, indexes) == kind)
    read = tuple(indexes) or first.color_bands
    if min(read) < 1 or max(read) > first.count:
        raise BandMismatch(
            first.path, f"has {first.count} bands, bands is {list(read)}", "Correct bands."
        )
    if names and len(names) != len(read):
        raise ConfigError("band_names", f"names {len(names)} of {len(read)} bands", "Name each.")
    named = tuple(names) or tuple(first.descriptions[i - 1] or f"band_{i}" for i in read)
    bands = Bands(named, read, first.dtype)
    odd = {scene.record.name: _difference(scene, first, bands, indexes) for scene in scenes}
    return bands, {name: error for name, error in odd.items() if error}


def _kind(info: RasterInfo, indexes: Sequence[int]) -> tuple[str, str]:
    """Return what scenes must have in common, in words: the bands that are read, and their type."""
    if indexes:
        short = max(indexes) > info.count
        return f"{info.count} bands" if short else "the bands that are read", info.dtype
    bands = len(info.color_bands)
    within = info.alpha if info.alpha and info.alpha <= bands else None
    return f"{bands} bands" + (f" with alpha in band {within}" if within else ""), info.dtype


def _difference(
    scene: Taken, first: RasterInfo, bands: Bands, indexes: Sequence[int]
) -> BandMismatch | None:
    info = scene.info
    own, usual = _kind(info, indexes), _kind(first, indexes)
    if own != usual:
        return BandMismatch(
            scene.given,
            f"has {own[0]} of {own[1]}, {first.path} has {usual[0]} of {usual[1]}",
            "Give scenes of one kind.",
        )
    if strangers := misplaced_bands(info, bands.names, bands.indexes):
        return BandMismatch(
            scene.given,
            f"has {strangers}, not in the order {', '.join(bands.names)}",
            "Give scenes of one order, and bands or band_names that agree with theirs.",
        )
    return None
