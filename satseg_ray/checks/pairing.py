"""Which label file belongs to which scene, and what each scene is called. Paths alone decide."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from satseg_ray.checks.words import counted, listed
from satseg_ray.findings import Finding
from satseg_ray.lineage import value_digest
from satseg_ray.workspace import name_from

FEATURE_SUFFIXES = frozenset(
    (".geojson", ".json", ".gpkg", ".shp", ".parquet", ".geoparquet", ".fgb", ".kml", ".gml")
)
"""Label files of these may describe more than one scene."""

_LABEL_WORDS = "masks?|labels?|gt|seg|segmentation|annotations?|ann|coco|lbl|classes|groundtruth"
_SCENE_WORDS = "images?|img|sat|scene|rgb|ortho"
_ALWAYS: Mapping[str, tuple[str, ...]] = {}


@dataclass(frozen=True)
class Pair:
    """A scene under its unique name, and its label file if it has one; paths as they were given."""

    name: str
    scene: str
    labels: str | None


@dataclass(frozen=True)
class Pairing:
    """Every scene once, in the order given, and what could not be paired."""

    pairs: tuple[Pair, ...]
    findings: tuple[Finding, ...]


def pair(
    scenes: Sequence[str], labels: Sequence[str], speaks_of: Mapping[str, Sequence[str]] = _ALWAYS
) -> Pairing:
    """Give each scene its labels, by the first of these ways that knows one of them.

    Equal stems; the image names that an annotation file ``speaks_of``; stems without words such
    as ``_mask``; alone together in a folder. Where several files have one stem the folders decide:
    the longest common beginning of both paths, then the longest common end. One file of features
    that names no image serves the scenes of its stem, and all where there are none.

    Laws: each scene stands in exactly one pair; a raster serves at most one scene; no label file
    is left out without a finding; the order of ``labels`` does not matter.

    >>> pair(["a/x.tif", "b/x.tif"], ["b/x_mask.png"]).pairs[1]
    Pair(name='b-x', scene='b/x.tif', labels='b/x_mask.png')
    """
    files = sorted(set(labels))
    search = _Search(list(scenes), files, speaks_of)
    found = search.all_together() or search.one_by_one()
    names = scene_names(scenes)
    pairs = tuple(Pair(names[scene], scene, found.get(scene)) for scene in scenes)
    return Pairing(pairs, tuple(_findings(pairs, files, search)))


class _Search:
    """Pairs what each way in turn can tell apart; what one pairs, the next no longer sees."""

    def __init__(
        self, scenes: list[str], labels: list[str], speaks_of: Mapping[str, Sequence[str]]
    ) -> None:
        self._scenes, self._labels = scenes, labels
        self._names = {k: {_base(name) for name in names} for k, names in speaks_of.items()}
        self.unclear: list[tuple[list[str], list[str]]] = []
        self.keys_of_labels: set[str] = set()

    def all_together(self) -> dict[str, str]:
        """Return the pairs of a single label file that is for the one, or for all, scenes."""
        if len(self._labels) != 1:
            return {}
        (only,) = self._labels
        if len(self._scenes) == 1:
            return {self._scenes[0]: only}
        if PurePosixPath(only).suffix.lower() not in FEATURE_SUFFIXES or self._names.get(only):
            return {}
        plain = _plain(only, _LABEL_WORDS)
        named = [s for s in self._scenes if _stem(s) == _stem(only)] or [
            s for s in self._scenes if _plain(s, _SCENE_WORDS) == plain
        ]
        return dict.fromkeys(named or self._scenes, only)

    def one_by_one(self) -> dict[str, str]:
        """Return the pairs that the ways find, each among the files that are left."""
        found: dict[str, str] = {}
        self._match(found, _stem, _stem)
        found |= self._by_names(found)
        self._match(found, lambda p: _plain(p, _SCENE_WORDS), lambda p: _plain(p, _LABEL_WORDS))
        alone = _alone(self._scenes) & _alone(self._labels)
        self._match(found, lambda p: _folder_in(p, alone), lambda p: _folder_in(p, alone))
        return found

    def _match(
        self, found: dict[str, str], of_scene: Callable[[str], str], of_label: Callable[[str], str]
    ) -> None:
        """Pair what is left and has one key; a key that stands for nothing is empty."""
        used = set(found.values()) | {path for _, paths in self.unclear for path in paths}
        waiting = found.keys() | {path for paths, _ in self.unclear for path in paths}
        groups: dict[str, tuple[list[str], list[str]]] = defaultdict(lambda: ([], []))
        for scene in self._scenes:
            if scene not in waiting:
                groups[of_scene(scene)][0].append(scene)
        for label in self._labels:
            if label not in used:
                groups[of_label(label)][1].append(label)
        for key, (scenes, labels) in groups.items():
            if key and scenes and labels:
                pairs = _nearest(scenes, labels)
                found.update(pairs)
                rest = [s for s in scenes if s not in pairs]
                taken = set(pairs.values())
                left = [label for label in labels if label not in taken]
                if rest and left:
                    self.unclear.append((rest, left))

    def _by_names(self, found: Mapping[str, str]) -> dict[str, str]:
        """Return the pairs of scenes left and the annotation files that name them."""
        speakers: dict[str, list[str]] = defaultdict(list)
        for label in self._labels:
            for name in self._names.get(label, ()):
                speakers[name].append(label)
        pairs: dict[str, str] = {}
        for scene in self._scenes:
            files = speakers.get(_base(scene), [])
            if scene in found or not files:
                continue
            nearest = files[0] if len(files) == 1 else _Folders(files).nearest(scene)
            if nearest is None:
                self.unclear.append(([scene], files))
            else:
                pairs[scene] = nearest
        return pairs


def _nearest(scenes: Sequence[str], labels: Sequence[str]) -> dict[str, str]:
    """Return the pairs of scenes and labels of one key that their folders tell from the others."""
    if len(scenes) == len(labels) == 1:
        return {scenes[0]: labels[0]}
    to_label, to_scene = _Folders(labels), _Folders(scenes)
    nearest = {scene: to_label.nearest(scene) for scene in scenes}
    pairs = {s: label for s, label in nearest.items() if label and to_scene.nearest(label) == s}
    return pairs or _by_folder_names(scenes, labels)


def _by_folder_names(scenes: Sequence[str], labels: Sequence[str]) -> dict[str, str]:
    """Return the pairs that have alone the same of those folders in which scenes differ."""
    folders = [set(PurePosixPath(scene).parent.parts) for scene in scenes]
    telling = set[str]().union(*folders) - set[str].intersection(*folders)
    telling &= {part for label in labels for part in PurePosixPath(label).parent.parts}
    keyed: dict[tuple[str, ...], tuple[list[str], list[str]]] = defaultdict(lambda: ([], []))
    for paths, side in ((scenes, 0), (labels, 1)):
        for path in paths:
            parts = PurePosixPath(path).parent.parts
            keyed[tuple(part for part in parts if part in telling)][side].append(path)
    return {s[0]: found[0] for s, found in keyed.values() if len(s) == len(found) == 1}


class _Folders:
    """Files by the beginning and the end of their folders, for those nearest to another file."""

    def __init__(self, paths: Iterable[str]) -> None:
        self._at: dict[tuple[tuple[str, ...], tuple[str, ...]], list[str]] = defaultdict(list)
        for path in paths:
            for key in _ends(path):
                self._at[key].append(path)

    def nearest(self, path: str) -> str | None:
        """Return the one file with the most folders in common, none where two have as many."""
        for key in _ends(path):  # the longest beginning first, then the longest end
            if (found := self._at.get(key)) is not None:
                return found[0] if len(found) == 1 else None
        return None


def _ends(path: str) -> Iterator[tuple[tuple[str, ...], tuple[str, ...]]]:
    parts = PurePosixPath(path).parent.parts
    for first in range(len(parts), -1, -1):
        for last in range(first, len(parts) + 1):
            yield parts[:first], parts[last:]


def _stem(path: str) -> str:
    return PurePosixPath(path).stem


def _base(path: str) -> str:
    """Return the file name of a path, which an annotation tool on Windows may have written."""
    return re.split(r"[/\\]", path)[-1]


def _plain(path: str, words: str) -> str:
    """Return the stem in small letters without one of the ``words`` before or behind it."""
    stem = _stem(path).casefold()
    return re.sub(rf"^(?:{words})[-_. ]+|[-_. ]+(?:{words})$", "", stem)


def _alone(paths: Sequence[str]) -> set[str]:
    counts = Counter(str(PurePosixPath(path).parent) for path in paths)
    return {folder for folder, count in counts.items() if count == 1}


def _folder_in(path: str, folders: set[str]) -> str:
    folder = str(PurePosixPath(path).parent)
    return folder if folder in folders else ""


def scene_names(scenes: Sequence[str]) -> dict[str, str]:
    """Return a unique name for each scene: its stem, with the folders that tell it from others.

    >>> scene_names(["d/tile_1/images/p.jpg", "d/tile_2/images/p.jpg", "d/q.tif"])["d/q.tif"]
    'q'
    >>> scene_names(["d/tile_1/images/p.jpg", "d/tile_2/images/p.jpg"])["d/tile_2/images/p.jpg"]
    'tile_2-p'
    """
    groups: dict[str, list[str]] = defaultdict(list)
    for scene in scenes:
        groups[_stem(scene)].append(scene)
    texts = {s: text for group in groups.values() for s, text in _told_apart(group).items()}
    names = {scene: name_from(text) for scene, text in texts.items()}
    counts = Counter(name.casefold() for name in names.values())
    return {
        scene: name
        if counts[name.casefold()] == 1
        else f"{name[:100]}-{_told_digest(scene, texts)}"
        for scene, name in names.items()
    }


def _told_digest(scene: str, texts: Mapping[str, str]) -> str:
    """Return letters for what tells a scene from the others, wherever all of them lie."""
    return value_digest([texts[scene], PurePosixPath(scene).suffix])[:8]


def _told_apart(scenes: Sequence[str]) -> dict[str, str]:
    """Return a text for each scene of one stem: without the folders that all of them share."""
    if len(scenes) == 1:
        return {scenes[0]: _stem(scenes[0])}
    folders = {scene: PurePosixPath(scene).parent.parts for scene in scenes}
    first = _common(list(folders.values()))
    last = _common([parts[first:][::-1] for parts in folders.values()])
    middle = {scene: parts[first : len(parts) - last] for scene, parts in folders.items()}
    texts = {scene: "-".join((*parts, _stem(scene))) for scene, parts in middle.items()}
    counts = Counter(texts.values())
    return {
        scene: text if counts[text] == 1 else f"{text}{PurePosixPath(scene).suffix}"
        for scene, text in texts.items()
    }


def _common(paths: Sequence[Sequence[str]]) -> int:
    """Return how many first parts all ``paths`` share."""
    count = 0
    for parts in zip(*paths, strict=False):
        if len(set(parts)) > 1:
            break
        count += 1
    return count


def _findings(pairs: Sequence[Pair], labels: Sequence[str], search: _Search) -> Iterator[Finding]:
    used = {pair.labels for pair in pairs}
    unclear = {path for _, paths in search.unclear for path in paths} - used
    waiting = {path for paths, _ in search.unclear for path in paths}
    for scenes, files in search.unclear:
        yield Finding(
            "error",
            "ambiguous-labels",
            listed(short(scenes)),
            f"cannot tell which of {listed(short(files))} is for which scene",
            "Put scene and labels of one name into folders of one name, or rename them.",
        )
    if labels and not used - {None} and not unclear:
        yield Finding(
            "error",
            "nothing-paired",
            "labels",
            f"none of {listed(short(labels))} belongs to a scene by its name",
            "Name each label file like its scene (the stem).",
        )
        return
    spoken_of = used | unclear
    yield from _left_over(pairs, [p for p in labels if p not in spoken_of], waiting)


def short(paths: Sequence[str]) -> list[str]:
    """Return paths as people name them: the file and the two folders that it is in."""
    return ["/".join(PurePosixPath(path).parts[-3:]) for path in paths]


def _left_over(
    pairs: Sequence[Pair], orphans: Sequence[str], waiting: set[str]
) -> Iterator[Finding]:
    bare = [p.scene for p in pairs if p.labels is None and p.scene not in waiting]
    if bare and len(bare) < len(pairs):
        yield Finding(
            "warning",
            "unlabelled-scene",
            counted(len(bare), "scene"),
            f"without labels: {listed(short(bare))}",
            "Kept, all of it unlabelled.",
        )
    if orphans:
        yield Finding(
            "warning",
            "orphan-label",
            counted(len(orphans), "label file"),
            f"without a scene of that name: {listed(short(orphans))}",
            "Left out.",
        )
