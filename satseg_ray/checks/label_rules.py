"""Rules about labels: their sizes, codes, palettes, classes and class files."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Any

from satseg_ray.checks.classfiles import contradictions
from satseg_ray.checks.collection import Collection, names, scenes_in
from satseg_ray.checks.facts import LabelFacts, SceneFacts
from satseg_ray.checks.survey import LabelSurvey
from satseg_ray.checks.words import counted, listed, percent
from satseg_ray.findings import Finding

RARE = 0.01
_MOST_ALIKE = 3
_WORDS = {"color": "colour", "bits": "value"}


def label_sizes(data: Collection) -> Iterator[Finding]:
    """Label rasters of another size than their scene; swapped where two sizes fit crosswise."""
    wrong = {scene: shape for scene, labels in data.labelled if (shape := _misfit(scene, labels))}
    swapped = _swapped(wrong)
    if swapped:
        yield Finding(
            "error",
            "swapped-labels",
            listed([f"{a.name} and {b.name}" for a, b in swapped]),
            "the labels of each have the size of the other: "
            + listed([f"{_size(a.shape)} and {_size(b.shape)} pixels" for a, b in swapped]),
            "Exchange the names of the two label files.",
        )
    crossed = {scene for pair in swapped for scene in pair}
    rest = {scene: shape for scene, shape in wrong.items() if scene not in crossed}
    if rest:
        texts = [f"{s.name} is {_size(s.shape)}, its labels {_size(t)}" for s, t in rest.items()]
        yield Finding(
            "error",
            "label-size",
            scenes_in(list(rest)),
            f"with labels of another size: {listed(texts)}",
            "Give labels on the scene's own grid.",
        )


def _misfit(scene: SceneFacts, labels: LabelFacts) -> tuple[int, int] | None:
    """Return the size of a label raster that was refused and is not that of its scene."""
    shape = labels.survey.shape if labels.survey and labels.problem else None
    return None if shape == scene.shape else shape


def _size(shape: tuple[int, int]) -> str:
    return f"{shape[0]} x {shape[1]}"


def _swapped(
    wrong: Mapping[SceneFacts, tuple[int, int]],
) -> list[tuple[SceneFacts, SceneFacts]]:
    """Return the scenes whose labels fit each other, where no third one would do."""
    fits: dict[tuple[Any, Any], list[SceneFacts]] = defaultdict(list)
    for scene, shape in wrong.items():
        fits[scene.shape, shape].append(scene)
    return [
        (here[0], fits[theirs, shape][0])
        for (shape, theirs), here in sorted(fits.items())
        if shape < theirs and len(here) == 1 and len(fits.get((theirs, shape), ())) == 1
    ]


def unknown_codes(data: Collection) -> Iterator[Finding]:
    """Values, colours and names in labels that neither the classes nor ``ignore`` name."""
    groups: dict[str, list[tuple[SceneFacts, LabelSurvey]]] = defaultdict(list)
    for scene, labels in data.labelled:
        if labels.survey and (labels.survey.unknown or labels.survey.unnamed):
            groups[labels.survey.by].append((scene, labels.survey))
    for by, items in sorted(groups.items()):
        what, unit = _WORDS.get(by, by), "features" if by == "name" else "pixels"
        counts = Counter[str]()
        for _, survey in items:
            counts.update(dict(survey.unknown))
        ranked_codes = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
        rest = sum(survey.unnamed for _, survey in items)
        scenes = [scene for scene, _ in items]
        yield Finding(
            "error",
            f"unknown-{what}",
            f"the labels of {scenes_in(scenes)}",
            f"hold {what}s that no class has: "
            + listed([f"{code} ({n:,} {unit})" for code, n in ranked_codes], 12)
            + (f" and rare ones ({rest:,} {unit})" if rest else "")
            + f"; in {names(scenes)}",
            "Add them to classes, or to ignore where they mean unlabelled.",
        )


def palette_order(data: Collection) -> Iterator[Finding]:
    """Palette files in which a class's colour does not always stand at one index."""
    declared = data.declared_colors
    orders: dict[tuple[str, ...], list[str]] = defaultdict(list)
    places: dict[str, set[int]] = defaultdict(set)
    for _, labels in data.labelled:
        if labels.survey and labels.survey.palette:
            found = [color for color in labels.survey.palette if color in declared]
            orders[tuple(dict.fromkeys(found))].append(labels.path)
            for color in set(found):
                places[color].add(labels.survey.palette.index(color))
    if all(len(indexes) == 1 for indexes in places.values()):
        return
    paths = [path for group in orders.values() for path in group]
    folders = Counter("/".join(PurePosixPath(path).parent.parts[-2:]) for path in paths)
    yield Finding(
        "note",
        "palette-order",
        counted(len(paths), "label file"),
        f"with palettes whose colours stand in {len(orders)} different orders: "
        + listed([f"{count} in {folder}" for folder, count in sorted(folders.items())], 6),
        "Read by colour.",
    )


def label_findings(data: Collection) -> Iterator[Finding]:
    """What the readers of labels found, many of one kind as one."""
    groups: dict[tuple[str, str], dict[Finding, None]] = defaultdict(dict)
    for _, labels in data.labelled:
        for finding in labels.findings:
            groups[finding.level, finding.code][finding] = None
    for items in groups.values():
        found = sorted(items)
        if len(found) <= _MOST_ALIKE:
            yield from found
        else:
            texts = [f"{finding.subject}: {finding.problem}" for finding in found]
            subject = f"{len(found)} times"
            yield replace(found[0], subject=subject, problem=listed(texts))


def refused_labels(data: Collection) -> Iterator[Finding]:
    """Labels that could not be read for a reason that no other rule names."""
    groups: dict[str, list[tuple[SceneFacts, str]]] = defaultdict(list)
    for scene, labels in data.labelled:
        unknown = labels.survey is not None and labels.survey.unknown
        if not labels.problem or _misfit(scene, labels):
            continue
        if labels.problem.code != "UnknownClassValue" or not unknown:
            groups[labels.problem.code].append((scene, labels.problem.text))
    for code, items in sorted(groups.items()):
        yield Finding(
            "error",
            "labels-refused",
            f"the labels of {scenes_in([scene for scene, _ in items])}",
            f"{code}: {listed(list(dict.fromkeys(text for _, text in items)))}",
            "Correct them, or leave them out.",
        )


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
            "warning", "no-labelled-pixel", scenes_in(none),
            f"whose labels leave every pixel unlabelled: {names(none)}",
            "Kept; nothing is learned from them.",
        )  # fmt: skip
    if one:
        yield Finding(
            "note", "one-class-scene", scenes_in(one), f"of one class alone: {names(one)}", "Kept."
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


def class_files(data: Collection) -> Iterator[Finding]:
    """Class files beside the labels that say other than the labels, or than ``classes``."""
    colors = _mask_colors(data)
    for file in data.class_files:
        if problems := contradictions(file, data.table, colors):
            yield Finding(
                "warning", "class-file", file.path, "; ".join(problems),
                "Not used: classes of the configuration are.",
            )  # fmt: skip


def _mask_colors(data: Collection) -> Counter[str]:
    """Return the pixels of each colour in the masks; those of ignored colours are not counted."""
    own = {item.name: item.color.upper() for item in data.table}
    colors = Counter[str]()
    for _, labels in data.labelled:
        if labels.survey and labels.survey.by == "color":
            colors.update({own[name]: count for name, count in labels.survey.known})
            colors.update(dict(labels.survey.unknown))
    ignored = data.declared_colors - set(own.values())
    return colors + Counter(dict.fromkeys(ignored, 1)) if colors else colors
