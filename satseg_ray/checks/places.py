"""Where scenes lie towards each other: grids shifted by part of a pixel, ground shown twice."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

import shapely
from rasterio.transform import Affine

from satseg_ray.checks.facts import SceneFacts
from satseg_ray.checks.words import counted, listed
from satseg_ray.findings import Finding

MOST_SHIFT = 0.02
"""Part of a pixel by which grids may be off and still count as aligned."""

SAME_GROUND = 0.05
"""Share of the smaller scene that another one shows, too, above which it is said."""


def misaligned_grids(scenes: Iterable[SceneFacts]) -> Iterator[Finding]:
    """Yield a finding where scenes of one CRS and pixel size lie on shifted grids.

    A warning where such scenes overlap, else a note.
    """
    groups: dict[object, list[SceneFacts]] = defaultdict(list)
    for scene in scenes:
        if scene.crs and scene.transform and not Affine.from_gdal(*scene.transform).is_degenerate:
            sides = tuple(round(scene.transform[i], 9) for i in (1, 2, 4, 5))
            groups[scene.crs, sides].append(scene)
    off: list[tuple[float, SceneFacts, SceneFacts]] = []
    for first, *others in groups.values():
        shifts = [(_shift(first, other), first, other) for other in others]
        off += [item for item in shifts if item[0] > MOST_SHIFT]
    if not off:
        return
    overlap = any(_overlap(first, other) > 0 for _, first, other in off)
    most, first, other = max(off, key=lambda item: item[0])
    yield Finding(
        "warning" if overlap else "note",
        "misaligned-grids",
        counted(len(off), "scene"),
        f"on grids shifted by part of a pixel, up to {most:.2f} ({other.name} against "
        f"{first.name}): {listed([scene.name for _, _, scene in off])}",
        "Each is read on its own grid. Set crs and resolution to read all on one.",
    )


def _shift(scene: SceneFacts, other: SceneFacts) -> float:
    """Return the part of a pixel, on the axis where it is more, between two grids."""
    ours = Affine.from_gdal(*(scene.transform or ()))
    theirs = Affine.from_gdal(*(other.transform or ()))
    place = ~ours @ (theirs @ (0, 0))
    return max(float(abs(v - round(v))) for v in place)


def _overlap(scene: SceneFacts, other: SceneFacts) -> float:
    """Return the share of the smaller of two scenes that both show, by their bounds."""
    if scene.crs != other.crs or not scene.bounds or not other.bounds:
        return 0.0
    boxes = [shapely.box(*scene.bounds), shapely.box(*other.bounds)]
    return _share(*boxes)


def _share(left: shapely.Geometry, right: shapely.Geometry) -> float:
    smaller = min(left.area, right.area)
    return float(left.intersection(right).area / smaller) if smaller else 0.0


def same_ground(scenes: Iterable[SceneFacts]) -> Iterator[Finding]:
    """Yield a note where scenes of one CRS show the same ground."""
    groups: dict[str, list[SceneFacts]] = defaultdict(list)
    for scene in scenes:
        if scene.crs and scene.bounds:
            groups[scene.crs].append(scene)
    shared = sorted(name for group in groups.values() for name in _sharing(group))
    if shared:
        yield Finding(
            "note",
            "same-ground",
            counted(len(shared), "scene"),
            f"that show ground another scene shows, too: {listed(shared)}",
            "All kept. They belong into one split, or held-out scores are too good.",
        )


def _sharing(scenes: Sequence[SceneFacts]) -> set[str]:
    """Return the names of the scenes that show much of what another one shows."""
    places: dict[tuple[float, ...], list[str]] = defaultdict(list)
    for scene in scenes:
        places[scene.bounds or ()].append(scene.name)
    names = list(places.values())
    boxes = [shapely.box(*bounds) for bounds in places]
    shared = {name for group in names if len(group) > 1 for name in group}
    for left, right in shapely.STRtree(boxes).query(boxes, predicate="intersects").T.tolist():
        if left < right and _share(boxes[left], boxes[right]) > SAME_GROUND:
            shared |= {*names[left], *names[right]}
    return shared
