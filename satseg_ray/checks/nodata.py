"""Values that look like nodata, without a tag that says so."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from satseg_ray.checks.bands import BandFacts, Extreme
from satseg_ray.checks.facts import Border, SceneFacts
from satseg_ray.checks.words import counted, listed, number, percent
from satseg_ray.findings import Finding

_LARGEST = (3.4e38, float(np.finfo(np.float32).max), 1e20)
SENTINELS = frozenset((-999.0, -9999.0, -99999.0, -32768.0, -32767.0, 32767.0, 65535.0)).union(
    sign * float(np.float32(value)) for value in _LARGEST for sign in (-1, 1)
)
"""Values that tools write where there is no data."""

APART = 16
"""How far from the next value, at least, a value stands that is taken for no measurement."""

FEWEST = 256
"""Pixels of a band from which on a gap between its values says something."""

ISOLATED_SHARE = 0.001
BORDER_SHARE = 0.005
EDGE_SHARE = 0.1


@dataclass(frozen=True)
class _Suspect:
    scene: str
    where: str
    share: float
    high: bool = False


def suspicious_nodata(scenes: Iterable[SceneFacts]) -> Iterator[Finding]:
    """Yield a warning for each value that looks like nodata in some scenes.

    Such is one of the values that tools use for it, or any lowest or highest value in at least
    0.1% of a band, where it lies farther from all others than these from each other; and a value
    in all bands of the edge of a scene, as a rotated or mosaicked scene has it.
    """
    found: dict[float, list[_Suspect]] = defaultdict(list)
    for scene in scenes:
        for value, suspect in _of_scene(scene):
            found[value].append(suspect)
    for value, suspects in sorted(found.items()):
        yield _finding(value, suspects)


def _of_scene(scene: SceneFacts) -> Iterator[tuple[float, _Suspect]]:
    known = {scene.nodata, scene.declared_nodata}
    borders = [b for b in scene.borders if _frames(b, scene) and b.value not in known]
    for border in borders:
        share = border.count / scene.pixels
        yield float(border.value), _Suspect(scene.name, "all bands along the edge", share)
    framed = known | {float(border.value) for border in borders}
    for band in scene.bands:
        for end in (band.low, band.high):
            if end and end.value not in framed and _stands_apart(end, band):
                share = end.count / band.count
                yield end.value, _Suspect(scene.name, band.name, share, end is band.high)


def _frames(border: Border, scene: SceneFacts) -> bool:
    """Tell whether a value fills a good part of a scene's edge, and not all of the scene.

    In scenes of two values both do, and neither is nodata.
    """
    if all(band.low and band.high and band.low.next == band.high.value for band in scene.bands):
        return False
    edge = 2 * (scene.height + scene.width) - 4
    wide = min(scene.height, scene.width) > 2 and border.on_edge >= EDGE_SHARE * edge
    return wide and BORDER_SHARE * scene.pixels <= border.count < scene.valid


def _stands_apart(end: Extreme, band: BandFacts) -> bool:
    if end.value in SENTINELS and (end.next is None or end.gap() >= APART):
        return True
    if end.next is None or band.low is None or band.high is None or band.count < FEWEST:
        return False
    others = abs((band.high if end is band.low else band.low).value - end.next)
    return end.gap() > others >= APART and end.count >= ISOLATED_SHARE * band.count


def _finding(value: float, suspects: Sequence[_Suspect]) -> Finding:
    names = sorted({suspect.scene for suspect in suspects})
    places = sorted({suspect.where for suspect in suspects})
    most = max(suspect.share for suspect in suspects)
    looks = "nodata, or a mark of saturation," if suspects[0].high else "nodata"
    filled = " It fills a band: then leave that band out by bands." if most == 1 else ""
    return Finding(
        "warning",
        "suspicious-nodata",
        counted(len(names), "scene"),
        f"with {number(value)} in {listed(places)} (up to {percent(most)} of the pixels), "
        f"which looks like {looks} without a tag: {listed(names)}",
        f"Taken as data. Declare nodata: {number(value)} if it means that there is none.{filled}",
    )
