"""Rules about scenes: their files, grids, pixels and bands."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from satseg_ray.checks.bands import BandFacts
from satseg_ray.checks.collection import Collection, names, scenes_in
from satseg_ray.checks.facts import SceneFacts
from satseg_ray.checks.nodata import suspicious_nodata
from satseg_ray.checks.places import misaligned_grids, same_ground
from satseg_ray.checks.words import counted, listed, number, percent
from satseg_ray.findings import Finding

MIXED_GSD = 1.5
"""Scenes whose pixels differ by more than this factor show one thing at two sizes."""

SATURATED = 0.05

_SUFFIXES = {
    "GTiff": {".tif", ".tiff", ".gtif", ".gtiff", ".geotiff", ".cog"},
    "PNG": {".png"},
    "JPEG": {".jpg", ".jpeg", ".jpe", ".jfif"},
    "JP2OpenJPEG": {".jp2", ".j2k", ".jpx", ".jpf"},
}
_OF_SUFFIX = {suffix for suffixes in _SUFFIXES.values() for suffix in suffixes}
_TITLES = {"GTiff": "GeoTIFF", "JP2OpenJPEG": "JPEG 2000"}


def misnamed(data: Collection) -> Iterator[Finding]:
    """Files whose extension is that of another format."""
    groups: dict[tuple[str, str], list[SceneFacts]] = defaultdict(list)
    for scene in data.scenes:
        if scene.suffix in _OF_SUFFIX and scene.suffix not in _SUFFIXES.get(
            scene.driver, _OF_SUFFIX
        ):
            groups[scene.driver, scene.suffix].append(scene)
    for (driver, suffix), scenes in sorted(groups.items()):
        yield Finding(
            "warning",
            "misnamed",
            scenes_in(scenes),
            f"{_TITLES.get(driver, driver)} under a name that ends in {suffix}: {names(scenes)}",
            "Read by their content.",
        )


def no_crs(data: Collection) -> Iterator[Finding]:
    """Scenes without a CRS."""
    bare = [scene for scene in data.scenes if scene.crs is None]
    if not bare:
        return
    some = len(bare) < len(data.scenes)
    yield Finding(
        "warning" if some else "note",
        "no-crs",
        scenes_in(bare),
        f"without a CRS: {names(bare)}" + ("; the others have one" if some else ""),
        "Used as they are, in pixels" + (", not on the grid." if data.on_one_grid else "."),
    )


def mixed_crs(data: Collection) -> Iterator[Finding]:
    """Scenes in several CRSs that are not read on one grid."""
    counts = Counter(scene.crs_title for scene in data.scenes if scene.crs)
    if len(counts) > 1 and not data.on_one_grid:
        yield Finding(
            "warning",
            "mixed-crs",
            "scenes",
            f"are in {len(counts)} CRSs: {_counts(counts)}",
            "Each keeps its own. Set crs and resolution to read all on one grid.",
        )


def mixed_gsd(data: Collection) -> Iterator[Finding]:
    """Scenes whose pixels are of very different size on the ground."""
    known = sorted((s.gsd, s.name) for s in data.scenes if s.gsd)
    if not known or data.on_one_grid:
        return
    (least, fine), (most, coarse) = known[0], known[-1]
    if most > MIXED_GSD * least:
        yield Finding(
            "warning",
            "mixed-gsd",
            "scenes",
            f"have pixels from {least:.3g} m ({fine}) to {most:.3g} m ({coarse})",
            "Each is read at its own. Set crs and resolution to read all at one.",
        )


def mixed_pixels(data: Collection) -> Iterator[Finding]:
    """Scenes of several pixel types, or with several numbers of bands to read."""
    types = Counter(scene.dtype for scene in data.scenes)
    if len(types) > 1:
        yield Finding(
            "error", "mixed-dtype", "scenes",
            f"have pixels of {len(types)} types: {_counts(types)}; {_odd_ones(data, 'dtype')}",
            "Convert them to one type.",
        )  # fmt: skip
    bands = Counter(len(scene.bands) for scene in data.scenes)
    if len(bands) > 1:
        yield Finding(
            "error", "mixed-bands", "scenes",
            f"have {' or '.join(str(n) for n in sorted(bands))} bands: {_counts(bands)}",
            "Name in bands those that all have.",
        )  # fmt: skip


def _counts(counts: Counter[Any]) -> str:
    """Return what there is, the most frequent first, with how many have it."""
    ranked_items = sorted(counts.items(), key=lambda item: (-item[1], str(item[0])))
    return listed([f"{value} ({counted(count, 'scene')})" for value, count in ranked_items], 5)


def _odd_ones(data: Collection, field: str) -> str:
    """Return which scenes have not what most have."""
    ((usual, _),) = Counter(getattr(s, field) for s in data.scenes).most_common(1)
    return f"not {usual}: " + names([s for s in data.scenes if getattr(s, field) != usual])


def duplicated_images(data: Collection) -> Iterator[Finding]:
    """Scenes of exactly the same pixels."""
    groups: dict[str, list[SceneFacts]] = defaultdict(list)
    for scene in data.scenes:
        if scene.valid:
            groups[scene.digest].append(scene)
    twice = [group for group in groups.values() if len(group) > 1]
    contradicting = [group for group in twice if len(_label_digests(group)) > 1]
    if contradicting:
        yield Finding(
            "error", "contradicting-duplicates", counted(len(contradicting), "image"),
            f"there twice, with different labels: {_groups(contradicting)}",
            "Leave out all but one of each.",
        )  # fmt: skip
    same = [group for group in twice if len(_label_digests(group)) <= 1]
    if same:
        yield Finding(
            "warning", "duplicated-image", counted(len(same), "image"),
            f"there more than once, pixel for pixel: {_groups(same)}",
            "All kept; they are held out together.",
        )  # fmt: skip


def _label_digests(scenes: Iterable[SceneFacts]) -> set[str]:
    return {scene.labels.digest for scene in scenes if scene.labels and scene.labels.digest}


def _groups(groups: Sequence[Sequence[SceneFacts]]) -> str:
    return listed([" = ".join(scene.name for scene in group[:4]) for group in groups])


def empty_scenes(data: Collection) -> Iterator[Finding]:
    """Scenes without a valid pixel."""
    empty = [scene for scene in data.scenes if not scene.valid]
    if empty:
        yield Finding(
            "warning", "empty-scene", scenes_in(empty), f"without a valid pixel: {names(empty)}",
            "Kept; no patch comes of them.",
        )  # fmt: skip


def constant_bands(data: Collection) -> Iterator[Finding]:
    """Bands that hold one value in every scene, or in some."""
    held: dict[int, list[tuple[SceneFacts, BandFacts]]] = defaultdict(list)
    seen = Counter[int]()
    for scene in data.scenes:
        for index, band in enumerate(scene.bands):
            seen[index] += band.count > 0
            if band.constant and band.count > 1:
                held[index].append((scene, band))
    for index, items in sorted(held.items()):
        values = sorted({number(band.low.value) for _, band in items if band.low})
        scenes = [scene for scene, _ in items]
        dead = len(items) == seen[index] and len(values) == 1
        yield Finding(
            "warning",
            "dead-band" if dead else "constant-band",
            items[0][1].name,
            f"holds nothing but {listed(values)} in "
            + ("every scene" if dead else f"{scenes_in(scenes)}: {names(scenes)}"),
            "Kept. Leave it out by bands if it says nothing." if dead else "Kept.",
        )


def saturated(data: Collection) -> Iterator[Finding]:
    """Bands that hold the highest value of their type in many pixels."""
    top = {"uint8": 255.0, "uint16": 65535.0, "int16": 32767.0}
    found: list[tuple[float, str]] = []
    for scene in data.scenes:
        for band in scene.bands:
            if band.high and band.high.value == top.get(scene.dtype) and not band.constant:
                found.append((band.high.count / band.count, f"{scene.name} {band.name}"))
    bright = sorted(((s, name) for s, name in found if s > SATURATED), reverse=True)
    if bright:
        yield Finding(
            "note", "saturated", counted(len(bright), "band"),
            "at the top of their range in more than "
            f"{percent(SATURATED)} of the pixels: "
            + listed([f"{name} ({percent(share)})" for share, name in bright]),
            "Kept.",
        )  # fmt: skip


def _nodata_of(scene: SceneFacts) -> float | None:
    return scene.nodata if scene.declared_nodata is None else scene.declared_nodata


def _by_value(
    scenes: Iterable[SceneFacts], value_of: Callable[[SceneFacts], float | None]
) -> dict[float, list[SceneFacts]]:
    """Return the scenes that have a value, by it."""
    found: dict[float, list[SceneFacts]] = defaultdict(list)
    for scene in scenes:
        if (value := value_of(scene)) is not None:
            found[value].append(scene)
    return found


def overridden_nodata(data: Collection) -> Iterator[Finding]:
    """Nodata tags that a declared value replaces."""
    tagged = [scene for scene in data.scenes if scene.declared_nodata is not None]
    for value, scenes in _by_value(tagged, lambda scene: scene.nodata).items():
        yield Finding(
            "warning", "nodata-overridden", scenes_in(scenes),
            f"whose own nodata value {number(value)} the declared one replaces: {names(scenes)}",
            "Their pixels of that value are taken as data. Declare no nodata if they are none.",
        )  # fmt: skip


def palette_images(data: Collection) -> Iterator[Finding]:
    """Scenes whose values are places in a table of colours."""
    scenes = [scene for scene in data.scenes if scene.palette]
    if scenes:
        yield Finding(
            "warning", "palette-image", scenes_in(scenes),
            f"with a palette: their values are numbers of colours, no brightness: {names(scenes)}",
            "Read as they are. Expand them: gdal_translate -expand rgb.",
        )  # fmt: skip


def unused_nodata(data: Collection) -> Iterator[Finding]:
    """Nodata tags and values that no pixel holds."""
    whole = [scene for scene in data.scenes if scene.valid == scene.pixels]
    for value, scenes in _by_value(whole, _nodata_of).items():
        yield Finding(
            "note", "unused-nodata", scenes_in(scenes),
            f"whose nodata value {number(value)} no pixel holds: {names(scenes)}",
            "All their pixels are taken as data.",
        )  # fmt: skip


def not_finite(data: Collection) -> Iterator[Finding]:
    """Pixels that are no number."""
    found = [s for s in data.scenes if any(band.not_finite for band in s.bands)]
    if found:
        most = sum(max(band.not_finite or 0 for band in scene.bands) for scene in found)
        yield Finding(
            "note", "not-finite", scenes_in(found),
            f"with NaN or infinite pixels, about {most:,} in all: {names(found)}",
            "Taken as invalid; they never reach a model.",
        )  # fmt: skip


def nodata(data: Collection) -> Iterator[Finding]:
    """Values that look like nodata and are not declared so."""
    return suspicious_nodata(data.scenes)


def places(data: Collection) -> Iterator[Finding]:
    """Grids that are shifted against each other, and ground that several scenes show."""
    if not data.on_one_grid:
        yield from misaligned_grids(data.scenes)
    yield from same_ground(data.scenes)
