"""From the facts of all scenes to findings: one small function a rule, all of them in ``RULES``.

A rule sees everything at once and says each kind of thing once, with a count and the first names.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import PurePosixPath
from typing import Any

from satseg_ray.checks.bands import BandFacts
from satseg_ray.checks.classfiles import ClassFile, contradictions
from satseg_ray.checks.facts import LabelFacts, SceneFacts
from satseg_ray.checks.nodata import suspicious_nodata
from satseg_ray.checks.places import misaligned_grids, same_ground
from satseg_ray.checks.words import counted, listed, number, percent
from satseg_ray.classes import ClassTable
from satseg_ray.findings import Finding
from satseg_ray.geo.labels import LabelRule

MIXED_GSD = 1.5
"""Scenes whose pixels differ by more than this factor show one thing at two sizes."""

RARE = 0.01
SATURATED = 0.05

_SUFFIXES = {
    "GTiff": {".tif", ".tiff", ".gtif", ".gtiff", ".geotiff", ".cog"},
    "PNG": {".png"},
    "JPEG": {".jpg", ".jpeg", ".jpe", ".jfif"},
    "JP2OpenJPEG": {".jp2", ".j2k", ".jpx", ".jpf"},
}
_OF_SUFFIX = {suffix for suffixes in _SUFFIXES.values() for suffix in suffixes}
_TITLES = {"GTiff": "GeoTIFF", "JP2OpenJPEG": "JPEG 2000"}


@dataclass(frozen=True)
class Collection:
    """What the rules judge: all scenes in order of name, how labels are read, and class files.

    ``on_one_grid`` says that scenes are read on one target grid, so theirs may differ.
    """

    scenes: tuple[SceneFacts, ...]
    rule: LabelRule
    class_files: tuple[ClassFile, ...] = ()
    on_one_grid: bool = False

    @property
    def table(self) -> ClassTable:
        """The declared classes."""
        return self.rule.table

    @cached_property
    def labelled(self) -> tuple[tuple[SceneFacts, LabelFacts], ...]:
        """The scenes that have a label file, with what it holds."""
        return tuple((scene, scene.labels) for scene in self.scenes if scene.labels)

    @cached_property
    def class_pixels(self) -> tuple[int, ...]:
        """The pixels of each class over all scenes and, last, the unlabelled."""
        totals = [0] * (len(self.table) + 1)
        for _, labels in self.labelled:
            for index, count in enumerate(labels.counts):
                totals[index] += count
        return tuple(totals)


Rule = Callable[[Collection], Iterable[Finding]]


def apply_rules(collection: Collection, others: Iterable[Finding] = ()) -> tuple[Finding, ...]:
    """Return what all rules find, with the findings of ``others``: errors first, then warnings."""
    found = {*others, *(finding for rule in RULES for finding in rule(collection))}
    return ranked(found)


def ranked(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Return findings by level, errors first, then by code and subject."""
    order = {"error": 0, "warning": 1, "note": 2}
    return tuple(sorted(findings, key=lambda f: (order[f.level], f.code, f.subject, f.problem)))


def strict(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Return the findings with every warning made an error."""
    raised = [
        replace(f, level="error", action=f"Refused, as strict: otherwise: {f.action}")
        if f.level == "warning"
        else f
        for f in findings
    ]
    return ranked(raised)


def _names(scenes: Iterable[SceneFacts]) -> str:
    return listed([scene.name for scene in scenes])


def _scenes(scenes: Sequence[SceneFacts]) -> str:
    return counted(len(scenes), "scene")


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
            _scenes(scenes),
            f"{_TITLES.get(driver, driver)} under a name that ends in {suffix}: {_names(scenes)}",
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
        _scenes(bare),
        f"without a CRS: {_names(bare)}" + ("; the others have one" if some else ""),
        "Used as they are, in pixels.",
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
    return f"not {usual}: " + _names([s for s in data.scenes if getattr(s, field) != usual])


def label_sizes(data: Collection) -> Iterator[Finding]:
    """Label rasters of another size than their scene; swapped where two sizes fit crosswise."""
    wrong = [
        (scene, labels)
        for scene, labels in data.labelled
        if labels.survey and labels.survey.shape != scene.shape
    ]
    swapped = _swapped(wrong)
    if swapped:
        pairs = [f"{a.name} and {b.name}" for a, b in swapped]
        yield Finding(
            "error",
            "swapped-labels",
            listed(pairs),
            "the labels of each have the size of the other: "
            + listed([f"{_size(a)} and {_size(b)} pixels" for a, b in swapped]),
            "Exchange the names of the two label files.",
        )
    crossed = {scene.name for pair in swapped for scene in pair}
    rest = [(scene, labels) for scene, labels in wrong if scene.name not in crossed]
    if rest:
        texts = [
            f"{scene.name} is {_size(scene)}, its labels {_size(labels.survey)}"
            for scene, labels in rest
        ]
        yield Finding(
            "error",
            "label-size",
            counted(len(rest), "scene"),
            f"have labels of another size: {listed(texts)}",
            "Give labels on the scene's own grid.",
        )


def _size(of: Any) -> str:
    return f"{of.height} x {of.width}"


def _swapped(
    wrong: Sequence[tuple[SceneFacts, LabelFacts]],
) -> list[tuple[SceneFacts, SceneFacts]]:
    """Return the scenes whose labels fit each other, where no third one would do."""
    fits: dict[tuple[Any, Any], list[SceneFacts]] = defaultdict(list)
    for scene, labels in wrong:
        fits[scene.shape, labels.survey.shape if labels.survey else None].append(scene)
    return [
        (here[0], fits[theirs, shape][0])
        for (shape, theirs), here in sorted(fits.items())
        if shape < theirs and len(here) == 1 and len(fits.get((theirs, shape), ())) == 1
    ]


def unknown_codes(data: Collection) -> Iterator[Finding]:
    """Values and colours in label rasters that neither the classes nor ``ignore`` name."""
    pixels: dict[str, Counter[str]] = {"value": Counter(), "colour": Counter()}
    holders: dict[str, list[SceneFacts]] = {"value": [], "colour": []}
    further = Counter[str]()
    for scene, labels in data.labelled:
        if labels.survey is None:
            continue
        what = "value" if labels.survey.kind == "value" else "colour"
        unknown = dict(labels.survey.unknown(data.rule))
        pixels[what].update(unknown)
        further[what] += labels.survey.others[1]
        if unknown or labels.survey.others[0]:
            holders[what].append(scene)
    for what, counts in pixels.items():
        if counts:
            items = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
            named = listed([f"{code} ({n:,} pixels)" for code, n in items], 12)
            rest = f" and other rare ones ({further[what]:,} pixels)" if further[what] else ""
            yield Finding(
                "error",
                f"unknown-{what}",
                f"the labels of {_scenes(holders[what])}",
                f"hold {what}s that no class has: {named}{rest}; in {_names(holders[what])}",
                "Add them to classes, or to ignore where they mean unlabelled.",
            )


def palette_order(data: Collection) -> Iterator[Finding]:
    """Palette files that give one index several colours."""
    palettes: dict[tuple[str, ...], list[SceneFacts]] = defaultdict(list)
    for scene, labels in data.labelled:
        if labels.survey and labels.survey.kind == "palette":
            palettes[labels.survey.palette].append(scene)
    if _agree(palettes):
        return
    paths = [s.labels.path for group in palettes.values() for s in group if s.labels]
    folders = Counter("/".join(PurePosixPath(path).parent.parts[-2:]) for path in paths)
    yield Finding(
        "note",
        "palette-order",
        counted(len(paths), "label file"),
        f"with palettes whose colours stand in {len(palettes)} different orders: "
        + listed([f"{count} in {folder}" for folder, count in sorted(folders.items())], 6),
        "Read by colour.",
    )


def _agree(palettes: Iterable[tuple[str, ...]]) -> bool:
    """Tell whether no index has two colours."""
    seen: dict[int, str] = {}
    return all(
        seen.setdefault(index, color) == color
        for palette in palettes
        for index, color in enumerate(palette)
    )


def refused_labels(data: Collection) -> Iterator[Finding]:
    """Labels that could not be read for a reason that no other rule names."""
    explained = {"UnknownClassValue"}
    groups: dict[str, list[tuple[SceneFacts, str]]] = defaultdict(list)
    for scene, labels in data.labelled:
        sized = labels.survey is not None and labels.survey.shape != scene.shape
        if labels.problem and labels.problem["code"] not in explained and not sized:
            groups[labels.problem["code"]].append((scene, labels.problem["text"]))
    for code, items in sorted(groups.items()):
        yield Finding(
            "error",
            "labels-refused",
            f"the labels of {_scenes([scene for scene, _ in items])}",
            f"{code}: {listed([text for _, text in items])}",
            "Correct them, or leave them out.",
        )


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
            "All kept: held-out scores may count what training has seen.",
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
            "warning", "empty-scene", _scenes(empty), f"without a valid pixel: {_names(empty)}",
            "Kept; no patch comes of them.",
        )  # fmt: skip


def bare_labels(data: Collection) -> Iterator[Finding]:
    """Scenes whose labels say nothing, or one thing alone."""
    none, one = [], []
    for scene, labels in data.labelled:
        if labels.counts and not labels.labelled:
            none.append(scene)
        elif sum(count > 0 for count in labels.counts[:-1]) == 1:
            one.append(scene)
    if none:
        yield Finding(
            "warning", "no-labelled-pixel", _scenes(none),
            f"whose labels leave every pixel unlabelled: {_names(none)}",
            "Kept; nothing is learned from them.",
        )  # fmt: skip
    if one:
        yield Finding(
            "note", "one-class-scene", _scenes(one), f"of one class alone: {_names(one)}", "Kept."
        )


def class_shares(data: Collection) -> Iterator[Finding]:
    """Classes that never occur, or hardly ever."""
    *counts, _ = data.class_pixels
    total = sum(counts)
    if not total:
        return
    shares = {item.name: n / total for item, n in zip(data.table, counts, strict=True)}
    absent = [name for name, share in shares.items() if not share]
    if absent:
        yield Finding(
            "warning", "absent-class", listed(absent, 6),
            "declared in classes, and no pixel has it", "Kept; it cannot be learned or scored.",
        )  # fmt: skip
    rare = [f"{name} ({percent(share)})" for name, share in shares.items() if 0 < share < RARE]
    if rare:
        yield Finding(
            "note", "rare-class", listed(rare, 6),
            f"below {percent(RARE)} of the labelled pixels",
            "Kept. Patches can be centred on rare classes.",
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
            + ("every scene" if dead else f"{_scenes(scenes)}: {_names(scenes)}"),
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


def unused_nodata(data: Collection) -> Iterator[Finding]:
    """Nodata tags and values that no pixel holds."""
    tags: dict[float, list[SceneFacts]] = defaultdict(list)
    for scene in data.scenes:
        nodata = scene.declared_nodata if scene.declared_nodata is not None else scene.nodata
        if nodata is not None and scene.valid == scene.pixels:
            tags[nodata].append(scene)
    for value, scenes in tags.items():
        yield Finding(
            "note", "unused-nodata", _scenes(scenes),
            f"whose nodata value {number(value)} no pixel holds: {_names(scenes)}",
            "All their pixels are taken as data.",
        )  # fmt: skip


def not_finite(data: Collection) -> Iterator[Finding]:
    """Pixels that are no number."""
    found = [s for s in data.scenes if any(band.not_finite for band in s.bands)]
    if found:
        most = sum(max(band.not_finite or 0 for band in scene.bands) for scene in found)
        yield Finding(
            "note", "not-finite", _scenes(found),
            f"with NaN or infinite pixels, about {most:,} in all: {_names(found)}",
            "Taken as invalid; they never reach a model.",
        )  # fmt: skip


def class_files(data: Collection) -> Iterator[Finding]:
    """Class files beside the labels that say other than the labels, or than ``classes``."""
    colors = Counter[str]()
    for _, labels in data.labelled:
        if labels.survey and labels.survey.kind != "value":
            colors.update(dict(labels.survey.codes))
    for file in data.class_files:
        if problems := contradictions(file, data.table, colors):
            yield Finding(
                "warning", "class-file", file.path, "; ".join(problems),
                "Not used: classes of the configuration are.",
            )  # fmt: skip


def nodata(data: Collection) -> Iterator[Finding]:
    """Values that look like nodata and are not declared so."""
    return suspicious_nodata(data.scenes)


def places(data: Collection) -> Iterator[Finding]:
    """Grids that are shifted against each other, and ground that several scenes show."""
    if not data.on_one_grid:
        yield from misaligned_grids(data.scenes)
    yield from same_ground(data.scenes)


RULES: tuple[Rule, ...] = (
    misnamed,
    no_crs,
    mixed_crs,
    mixed_gsd,
    mixed_pixels,
    places,
    label_sizes,
    unknown_codes,
    palette_order,
    refused_labels,
    class_files,
    duplicated_images,
    empty_scenes,
    bare_labels,
    class_shares,
    constant_bands,
    saturated,
    nodata,
    unused_nodata,
    not_finite,
)
