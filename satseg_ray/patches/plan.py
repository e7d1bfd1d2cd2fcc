"""The plan of a data set's patches: every one with its split, no ground in two of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from satseg_ray.findings import Finding
from satseg_ray.geo.grid import Lattice, Window
from satseg_ray.patches import ground
from satseg_ray.patches.blocks import Places, places_of
from satseg_ray.patches.choose import Block, Rules, choose
from satseg_ray.patches.ground import known
from satseg_ray.patches.ground_grid import GroundGrid
from satseg_ray.patches.sample import SampleSpec, centred
from satseg_ray.patches.split import (
    SPLITS,
    TEST,
    TRAIN,
    VAL,
    Cells,
    Counts,
    PatchKey,
    SceneSize,
    SplitSpec,
)

_SAME_PLACE = 0.5
"""Scenes that share more of the smaller one's ground than this are one place: held out together."""

Rows = npt.NDArray[np.int64]
"""Planned patches of one scene (n, 3): split, row, column."""


@dataclass(frozen=True)
class PatchPlan:
    """How patches are cut: side, stride of the training patches, the split, the sample."""

    patch_size: int = 256
    stride: int = 128
    split: SplitSpec = field(default_factory=SplitSpec)
    sample: SampleSpec = field(default_factory=SampleSpec)

    @property
    def buffer(self) -> int:
        """Pixels that training patches keep from what is held out."""
        return self.split.apart(self.patch_size)

    @property
    def counts_classes(self) -> bool:
        """Whether the plan depends on what is in the scenes, not on their sizes alone."""
        chosen = self.split.by != "given" and self.split.val + self.split.test > 0
        return chosen or bool(self.sample.rare)


@dataclass(frozen=True)
class Planned:
    """The patches of a data set in a stated order, and what a person should know of them.

    ``places`` says of scenes which blocks of the ground they share.
    """

    keys: list[PatchKey]
    findings: list[Finding]
    places: Places = field(default_factory=dict)


def plan_patches(
    scenes: Sequence[SceneSize], plan: PatchPlan, names: Sequence[str] = ()
) -> Planned:
    """Return every patch of a data set with its split; ``names`` are those of the classes.

    Held-out patches of a scene lie side by side and never overlap, so each of their pixels counts
    once in a metric. Laws: no pixel, and no ground that two scenes show, is in patches of two
    splits, and scenes of the same pixels show the same ground; a training patch keeps the buffer
    from every held-out patch, in its own pixels.

    Raises:
        ConfigError: a split is given and does not name exactly these scenes.
    """
    scenes = _copies_together(sorted(scenes, key=lambda scene: scene.name))
    plan.split.check_given(scene.name for scene in scenes)
    pairs = _neighbours(scenes, plan)
    cells = _assigned(scenes, plan, pairs)
    rows = [
        np.concatenate([_held_out(scene, plan, own), _training(scene, plan, own)])
        for scene, own in zip(scenes, cells, strict=True)
    ]
    rows, lost = _without_shared_ground(scenes, rows, plan, pairs)
    lacking = missing_classes(_held_pixels(scenes, rows, plan), names)
    findings = [*lost, *_empty_splits(rows, plan), *lacking]
    places = _places(scenes, plan, pairs)
    return Planned(list(_keys(scenes, rows, plan.patch_size)), findings, places)


def _copies_together(scenes: Sequence[SceneSize]) -> list[SceneSize]:
    """Return the scenes with all of the same pixels where the first of them lies."""
    first: dict[str, SceneSize] = {}
    copies = Counter(scene.pixels for scene in scenes)
    found = []
    for scene in scenes:
        if scene.pixels and copies[scene.pixels] > 1:
            place = first.setdefault(scene.pixels, scene).footprint
            scene = replace(scene, footprint=place or ground.nowhere(scene.pixels))
        found.append(scene)
    return found


def _window(scene: SceneSize) -> Window:
    return Window(0, 0, scene.height, scene.width)


def _neighbours(scenes: Sequence[SceneSize], plan: PatchPlan) -> list[tuple[int, int]]:
    """Return the pairs of scenes whose patches may meet, those that overhang with their padding."""
    side = plan.patch_size
    near = [
        Window(0, 0, scene.height + side, scene.width + side).grown(plan.buffer) for scene in scenes
    ]
    return ground.neighbours(near, [scene.footprint for scene in scenes])


# --- the split of each cell


def _assigned(
    scenes: Sequence[SceneSize], plan: PatchPlan, pairs: Sequence[tuple[int, int]]
) -> list[Cells]:
    shapes = [(g.rows.count, g.cols.count) for g in (s.cells(plan.patch_size) for s in scenes)]
    if plan.split.by == "given":
        splits = [SPLITS.index(plan.split.given[scene.name]) for scene in scenes]
        return [np.full(s, split, np.int8) for s, split in zip(shapes, splits, strict=True)]
    if plan.split.by == "scenes":
        return _by_scenes(scenes, plan, pairs)
    return _by_blocks(scenes, plan, pairs)


def _by_scenes(
    scenes: Sequence[SceneSize], plan: PatchPlan, pairs: Sequence[tuple[int, int]]
) -> list[Cells]:
    """Hold out whole scenes; those that show one place mostly go together."""
    same = [(a, b) for a, b in pairs if _is_one_place(scenes[a], scenes[b])]
    members = _together(len(scenes), same)
    blocks = []
    for own in members:
        counts = np.concatenate([_flat(scenes[i].classes) for i in own])[None]
        free = np.ones(counts.shape[:2], np.bool_)
        blocks.append(Block(scenes[own[0]].name, counts, free, whole=True))
    chosen = choose(blocks, Rules(plan.split, 0))
    split = {i: cells[0, 0] for own, cells in zip(members, chosen, strict=True) for i in own}
    return [np.full(scene.classes.shape[:2], split[i], np.int8) for i, scene in enumerate(scenes)]


def _places(
    scenes: Sequence[SceneSize], plan: PatchPlan, pairs: Sequence[tuple[int, int]]
) -> Places:
    """Return which scenes show the ground of one block: those that are held out together."""
    divided = plan.split.by == "blocks"
    same = [(a, b) for a, b in pairs if divided or _is_one_place(scenes[a], scenes[b])]
    groups = [[scenes[i] for i in own] for own in _together(len(scenes), same)]
    return places_of(groups, plan.patch_size, divided)


def _flat(counts: Counts) -> Counts:
    return counts.reshape(-1, counts.shape[2])


def _is_one_place(a: SceneSize, b: SceneSize) -> bool:
    if a.footprint is None or b.footprint is None:
        return False
    shared = ground.shared_share(_window(a), a.footprint, _window(b), b.footprint)
    return shared > _SAME_PLACE


def _by_blocks(
    scenes: Sequence[SceneSize], plan: PatchPlan, pairs: Sequence[tuple[int, int]]
) -> list[Cells]:
    """Hold out blocks of the ground: near scenes share one grid of cells, that of their first.

    So dates of one place hold out the same ground, and a mosaic holds out compact parts of it.
    """
    members = _together(len(scenes), pairs)
    grids = [GroundGrid.of([scenes[i] for i in own], plan.patch_size) for own in members]
    rules = Rules(plan.split, plan.buffer / plan.patch_size)
    chosen = choose([grid.block for grid in grids], rules)
    found = {
        scene: cells.reshape(-1)[place]
        for own, grid, cells in zip(members, grids, chosen, strict=True)
        for scene, place in zip(own, grid.places, strict=True)
    }
    return [found[scene] for scene in range(len(scenes))]


def _together(count: int, pairs: Sequence[tuple[int, int]]) -> list[list[int]]:
    """Return the positions 0 to ``count - 1`` in groups that pairs join, in order of the first."""
    first = list(range(count))

    def root(i: int) -> int:
        while first[i] != i:
            first[i] = first[first[i]]
            i = first[i]
        return i

    for a, b in pairs:
        low, high = sorted((root(a), root(b)))
        first[high] = low
    members: dict[int, list[int]] = {}
    for i in range(count):
        members.setdefault(root(i), []).append(i)
    return list(members.values())


# --- the patches


def _held_out(scene: SceneSize, plan: PatchPlan, cells: Cells) -> Rows:
    places = np.argwhere(cells != TRAIN)
    splits = cells[places[:, 0], places[:, 1]].astype(np.int64)
    return np.concatenate([splits[:, None], places * plan.patch_size], axis=1)


def _training(scene: SceneSize, plan: PatchPlan, cells: Cells) -> Rows:
    """Return the lattice's patches and those centred on rare classes, away from what is held."""
    lattice = Lattice.of(scene.height, scene.width, plan.patch_size, plan.stride)
    starts = np.indices((lattice.rows.count, lattice.cols.count)).reshape(2, -1).T * plan.stride
    size = scene.height, scene.width
    anchors = scene.anchors if plan.sample.rare else ()
    extra = [centred(anchor, plan.patch_size, size) for anchor in anchors]
    if extra:
        more = np.array(sorted({(window.row, window.col) for window in extra}), np.int64)
        on_lattice = ((more % plan.stride == 0) & (more <= starts[-1])).all(axis=1)
        starts = np.concatenate([starts, more[~on_lattice]])
    free = starts[~_near_held(starts, cells, plan)]
    return np.concatenate([np.full((len(free), 1), TRAIN), free], axis=1)


def _near_held(starts: npt.NDArray[np.int64], cells: Cells, plan: PatchPlan) -> Any:
    """Tell which patches (n, 2) overlap, grown by the buffer, a cell that is held out."""
    side = plan.patch_size
    sums = np.pad(np.cumsum(np.cumsum(cells != TRAIN, 0), 1), ((1, 0), (1, 0)))
    first = np.clip((starts - plan.buffer) // side, 0, cells.shape)
    stop = np.clip(-(-(starts + side + plan.buffer) // side), 0, cells.shape)
    (top, left), (bottom, right) = first.T, stop.T
    held = sums[bottom, right] - sums[top, right] - sums[bottom, left] + sums[top, left]
    return held > 0


def _keys(scenes: Sequence[SceneSize], rows: Sequence[Rows], patch: int) -> Iterator[PatchKey]:
    """Yield the keys in their order."""
    ordered = [own[np.lexsort(own.T[::-1])] for own in rows]
    for split in sorted(SPLITS):
        for scene, own in zip(scenes, ordered, strict=True):
            for _, row, col in own[own[:, 0] == SPLITS.index(split)].tolist():
                yield PatchKey(split, scene.name, Window(row, col, patch, patch))


# --- the same ground in two scenes


def _without_shared_ground(
    scenes: Sequence[SceneSize],
    rows: list[Rows],
    plan: PatchPlan,
    pairs: Sequence[tuple[int, int]],
) -> tuple[list[Rows], list[Finding]]:
    """Leave out patches whose ground another scene holds out otherwise: test, then val stays."""
    before = _per_split(rows)
    for split in (TEST, VAL):
        gone = [np.zeros(len(own), np.bool_) for own in rows]
        has = [bool((own[:, 0] == split).any()) for own in rows]
        for a, b in pairs:
            for held, other in ((a, b), (b, a)):
                if has[held]:
                    stays = _placed(scenes[held], rows[held], plan, split)
                    for less in range(split):
                        mine = rows[other][:, 0] == less
                        goes = _placed(scenes[other], rows[other], plan, less)
                        gone[other][mine] |= ground.on_ground_of(stays, goes)
        rows = [own[~out] for own, out in zip(rows, gone, strict=True)]
    return rows, _lost_to_shared_ground(before, before - _per_split(rows))


def _per_split(rows: Sequence[Rows]) -> Counts:
    found: Counts = np.stack([np.bincount(own[:, 0], minlength=3) for own in rows]).sum(axis=0)
    return found


def _placed(scene: SceneSize, rows: Rows, plan: PatchPlan, split: int) -> ground.Patches:
    """Return the patches of a split on the ground; those of training with the buffer around."""
    margin = plan.buffer if split == TRAIN else 0
    starts = rows[rows[:, 0] == split][:, 1:] - margin
    windows = np.concatenate([starts, np.full_like(starts, plan.patch_size + 2 * margin)], axis=1)
    return ground.Patches(windows, known(scene.footprint))


def _lost_to_shared_ground(before: Counts, lost: Counts) -> list[Finding]:
    """Return what is said of the patches left out: a warning where half of a split is gone."""
    if not lost.any():
        return []
    much = bool((lost * 2 > before).any())
    return [
        Finding(
            "warning" if much else "note",
            "same-ground",
            "scenes",
            f"{lost[TRAIN]} of {before[TRAIN]} training and {lost[VAL]} of {before[VAL]} "
            "validation patches lie on ground, or within the buffer of ground, that another "
            "scene holds out",
            "They are left out."
            + (" Hold out blocks (split.by), or take a smaller split.buffer." if much else ""),
        )
    ]


# --- what a person should know


def _held_pixels(
    scenes: Sequence[SceneSize], rows: Sequence[Rows], plan: PatchPlan
) -> dict[str, Counts]:
    """Return the labelled pixels of each class in each split, by cells that its patches touch."""
    total: dict[str, Counts] = {split: np.zeros(0, np.int64) for split in SPLITS}
    for scene, own in zip(scenes, rows, strict=True):
        for index, split in enumerate(SPLITS):
            starts = own[own[:, 0] == index][:, 1:]
            touched = np.zeros(scene.classes.shape[:2], np.bool_)
            for shift in np.ndindex(2, 2):
                corner = starts + np.array(shift) * (plan.patch_size - 1)
                place = np.minimum(corner // plan.patch_size, np.array(touched.shape) - 1)
                touched[place[:, 0], place[:, 1]] = True
            counts = scene.classes[touched].sum(axis=0)[:-1]
            total[split] = counts + total[split] if len(total[split]) else counts
    return total


def missing_classes(
    pixels: Mapping[str, Sequence[int] | Counts], names: Sequence[str]
) -> list[Finding]:
    """Return a finding for each class that a split lacks; ``pixels`` by split and class index.

    A class that no split has is named once; a split without any is left to others.
    """
    counts = np.stack([np.asarray(pixels[split], np.int64) for split in SPLITS])
    if not counts.any():
        return []
    found = []
    for index in range(counts.shape[1]):
        name = names[index] if names else str(index)
        has = dict(zip(SPLITS, counts[:, index] > 0, strict=True))
        if not any(has.values()):
            found.append(_missing(name, "every split"))
        else:
            found += [_missing(name, s) for s in SPLITS if not has[s] and any(pixels[s])]
    return found


def _missing(name: str, split: str) -> Finding:
    return Finding(
        "warning",
        "class-missing-in-split",
        split,
        f"no patch holds the class {name!r}",
        "Figures of it say nothing there: label more, take smaller patches, or other shares.",
    )


def _empty_splits(rows: Sequence[Rows], plan: PatchPlan) -> list[Finding]:
    """Return a finding for each split that was asked for and has no patch."""
    counts = _per_split(rows)
    spec = plan.split
    given = set(spec.given.values())
    asked = {"val": spec.val > 0, "test": spec.test > 0}
    wanted = given if spec.by == "given" else {split for split, some in asked.items() if some}
    return [
        Finding(
            "warning",
            "empty-split",
            split,
            "the split holds no patch",
            "Take smaller patches, other shares, or more scenes.",
        )
        for index, split in enumerate(SPLITS)
        if split in wanted and not counts[index]
    ]
