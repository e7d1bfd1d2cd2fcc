"""Which blocks and scenes are held out: every class in every split, shares, short borders."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from satseg_ray.patches.split import TEST, TRAIN, VAL, Cells, Counts, SplitSpec

_HELD = (TEST, VAL)
_PASSES = 10
_STARTS = 12
"""Most places along each walk where a run may start."""
_TALLIES = 1 << 24
"""Most numbers that the ways of all blocks take together, or those of one start each."""
_AT_ONCE = 1 << 21
"""Cells whose options are counted at once."""
_REPAIRS = 48
"""Cells that are tried for a class that a split lacks."""
_PARTNERS = 256
"""Scenes that one scene is tried against, to change places."""
_LOST = 4.0
"""Weight of what is lost beside what is held out, against the likeness of classes."""
_SHARE = 100.0
"""Weight of the shares of the area among whole scenes: above any likeness of classes."""

Mask = npt.NDArray[np.bool_]
Float = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Block:
    """Cells to choose among: a scene's grid, ``free`` where it may be chosen here.

    ``counts`` (rows, columns, classes), the last one the unlabelled, has the pixels of all scenes
    whose cells follow these. A whole block goes to one split. In a ragged one the cells of some
    scenes do not fit these: some validation beside test is lost.
    """

    name: str
    counts: Counts
    free: Mask
    whole: bool
    ragged: bool = False

    @property
    def size(self) -> int:
        """The number of free cells."""
        return int(self.free.sum())


@dataclass(frozen=True)
class Rules:
    """Shares and seed, and the buffer in cells around what is held out."""

    spec: SplitSpec
    buffer: float

    @property
    def reach(self) -> int:
        """How many cells around a held-out one are lost to training as a whole."""
        return math.ceil(self.buffer)

    @property
    def shares(self) -> dict[int, float]:
        """The shares of the area that are held out."""
        return {TEST: self.spec.test, VAL: self.spec.val}


def choose(blocks: Sequence[Block], rules: Rules) -> list[Cells]:
    """Return the split of each cell of each block; those that are not free stay in training.

    What counts first is that each split has every class, then that what is held out resembles
    the whole and that few cells are lost to training beside it. A local optimum: block by block
    the best way while the others stay, until none changes.
    """
    order = list(range(len(blocks)))
    random.Random(rules.spec.seed).shuffle(order)
    wholes = [i for i in order if blocks[i].whole]
    divided = [i for i in order if not blocks[i].whole]
    state = _State.of(blocks, rules)
    debt = dict.fromkeys(_HELD, 0.0)
    chosen: list[Cells] = [np.full(block.free.shape, TRAIN, np.int8) for block in blocks]
    given = _Wholes([blocks[i] for i in wholes], rules, debt)
    state.add(given.tally())
    starts = _affordable(blocks, divided)
    ways = [Ways.of(blocks[i], rules, debt, starts) for i in divided]
    picked = [0] * len(ways)
    for way in ways:
        state.add(way.tallies[0])
    for _ in range(_PASSES):
        if not (_descend(ways, picked, state) | given.improve(state)):
            break
    for i, split in zip(wholes, given.split, strict=True):
        chosen[i][blocks[i].free] = split
    for i, way, pick in zip(divided, ways, picked, strict=True):
        chosen[i] = way.cells(pick)
    _repair(blocks, divided, chosen, state)
    return chosen


@dataclass
class _State:
    """What each split holds: pixels of each class (splits, classes), the cells lost to training."""

    wanted: Float
    present: Mask
    asked: tuple[int, ...]
    cells: int
    rules: Rules
    total: Float

    @classmethod
    def of(cls, blocks: Sequence[Block], rules: Rules) -> _State:
        counts = sum((b.counts[b.free].sum(axis=0) for b in blocks), np.zeros(1))
        asked = (TRAIN, *(split for split in _HELD if rules.shares[split] > 0))
        zero = np.zeros((len(SPLIT_ROWS), len(counts) + 1))
        cells = sum(block.size for block in blocks)
        return cls(_shares(counts), counts[:-1] > 0, asked, cells, rules, zero)

    def add(self, tally: Float) -> None:
        self.total = self.total + tally

    def judged(self, totals: Float) -> tuple[npt.NDArray[np.int64], Float]:
        """Return of each of ``totals`` (n, splits, classes + 1) what is missing, and the cost.

        The cost is how far the classes held out are from those of the whole (0 to 2 for each
        split), plus the share of the cells that is lost to training, and half of validation's.
        """
        counts = totals[:, :, :-1]
        missing = (counts[:, self.asked, :-1] <= 0)[..., self.present].sum(axis=(1, 2))
        held = counts[:, _HELD, :]
        sums = held.sum(axis=2, keepdims=True)
        apart = np.abs(held / np.maximum(sums, 1) - self.wanted).sum(axis=2)
        cost = np.where(sums[..., 0] > 0, apart, 0).sum(axis=1)
        val = max(self.rules.spec.val * self.cells, 1)
        lost = totals[:, TRAIN, -1] / max(self.cells, 1) + totals[:, VAL, -1] / val / 2
        return missing, cost + _LOST * lost


SPLIT_ROWS = (TRAIN, VAL, TEST)


def _shares(counts: Float) -> Float:
    shares: Float = counts / max(counts.sum(), 1)
    return shares


def _best(missing: npt.NDArray[np.int64], cost: Float) -> int:
    """Return the first of the best: the fewest missing, then the least cost."""
    return int(np.lexsort((np.round(cost, 9), missing))[0])


@dataclass(frozen=True)
class Ways:
    """The ways to hold out a run of a block's cells for test and the next one for validation.

    In a ragged block also one further along the walk. ``tallies`` (ways,
    splits, classes + 1) are the pixels that each split would have of each class, and in the last
    column the cells that it loses beside what is held out.
    """

    block: Block
    walks: npt.NDArray[np.intp]
    starts: npt.NDArray[np.intp]
    counts: tuple[int, int]
    tallies: Float

    @classmethod
    def of(cls, block: Block, rules: Rules, debt: dict[int, float], most: int) -> Ways:
        """Return them, from up to ``most`` starts, the one of the shortest border first.

        What rounding leaves is carried on in ``debt`` (cells), so that the shares hold over all.
        """
        size = block.size
        taken: dict[int, int] = {}
        for split, share in rules.shares.items():
            debt[split] += share * size
            # Not more than twice its own share, however much small scenes have left to it
            limit = min(size - sum(taken.values()), math.ceil(2 * share * size))
            taken[split] = min(limit, max(0, int(debt[split] + 0.5)))
            debt[split] -= taken[split]
        counts = taken[TEST], taken[VAL]
        walks = _walks(block, random.Random(f"{rules.spec.seed}:{block.name}"))
        starts = _starts(size - sum(counts) + 1, most) if sum(counts) else np.zeros(1, np.intp)
        walks = walks if sum(counts) else walks[:1]
        bare = cls(block, walks, starts, counts, np.zeros(0))
        return cls(block, walks, starts, counts, bare._counted(rules.reach))

    @cached_property
    def _runs(self) -> npt.NDArray[np.intp]:
        """Walk, start and gap of each way: all walks from their first cell, then further along."""
        rest = self.block.size - sum(self.counts)
        gaps = [0]
        if self.block.ragged and all(self.counts):
            lines = (length + 1 for length in self.block.free.shape)
            gaps = sorted({0, *(line for line in lines if line < rest), rest})
        walks = range(len(self.walks))
        runs = [(walk, start, gap) for start in self.starts for gap in gaps for walk in walks]
        return np.array(runs, np.intp).reshape(-1, 3)

    def _masks(self, runs: npt.NDArray[np.intp]) -> npt.NDArray[np.int8]:
        shape = self.block.free.shape
        flat = np.full((len(runs), shape[0] * shape[1]), TRAIN, np.int8)
        test, val = self.counts
        for row, (walk, start, gap) in enumerate(runs):
            after = np.arange(start + test + gap, start + test + gap + val)
            flat[row, self.walks[walk, start : start + test]] = TEST
            flat[row, self.walks[walk].take(after, mode="wrap")] = VAL
        return flat.reshape(-1, *shape)

    def _counted(self, reach: int) -> Float:
        at_once = max(1, _AT_ONCE // self.block.free.size)
        parts = range(0, len(self._runs), at_once)
        return np.concatenate(
            [tally(self._masks(self._runs[p : p + at_once]), self.block, reach) for p in parts]
        )

    def cells(self, way: int) -> Cells:
        """Return the split of each cell."""
        cells: Cells = self._masks(self._runs[way : way + 1])[0]
        return cells


def tally(masks: npt.NDArray[np.int8], block: Block, reach: int) -> Float:
    """Return of each way (n, rows, columns) the pixels of each class in each split.

    (n, splits, classes + 1); training has those of cells further than ``reach`` from what is held
    out, and in the last column the number of the others; so has validation in a ragged block.
    """
    count, classes = len(masks), block.counts.shape[2]
    pixels = np.where(block.free[..., None], block.counts, 0).reshape(-1, classes).astype(float)
    found = np.zeros((count, len(SPLIT_ROWS), classes + 1))
    held = masks != TRAIN
    near = widened(held, reach)
    found[:, TRAIN, :classes] = (~near).reshape(count, -1).astype(float) @ pixels
    test, val = masks == TEST, masks == VAL
    if block.ragged:
        found[:, VAL, classes] = (val & widened(test, 1)).sum(axis=(1, 2))
    for split, mask in ((TEST, test), (VAL, val)):
        found[:, split, :classes] = mask.reshape(count, -1).astype(float) @ pixels
    found[:, TRAIN, classes] = (near & ~held & block.free).sum(axis=(1, 2))
    return found


def widened(held: Mask, reach: int) -> Mask:
    """Return the cells (n, rows, columns) that are held out or within ``reach`` of one."""
    for axis in (1, 2):
        length = held.shape[axis]
        sums = np.zeros_like(held, np.int32).take(range(1), axis=axis)
        sums = np.concatenate([sums, np.cumsum(held, axis=axis, dtype=np.int32)], axis=axis)
        place = np.arange(length)
        stop = sums.take(np.minimum(place + reach + 1, length), axis=axis)
        held = stop > sums.take(np.maximum(place - reach, 0), axis=axis)
    return held


def _affordable(blocks: Sequence[Block], divided: Sequence[int]) -> int:
    """Return from how many starts runs are tried, so that memory stays bounded."""
    numbers = sum(8 * len(SPLIT_ROWS) * (blocks[i].counts.shape[2] + 1) for i in divided)
    return max(1, min(_STARTS, int(_TALLIES // max(numbers, 1))))


def _starts(count: int, most: int) -> npt.NDArray[np.intp]:
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(np.intp))


def _walks(block: Block, rng: random.Random) -> npt.NDArray[np.intp]:
    """Return walks (8, cells) through the free cells from each corner along each axis, seeded.

    A walk turns at the sides, so that its runs are compact. The first one turns at the short
    sides: its runs have the shortest border.
    """
    shape = block.free.shape
    long_first = shape[0] >= shape[1]
    corners = [(back, flip) for back in (False, True) for flip in (False, True)]
    rng.shuffle(corners)
    free = block.free.reshape(-1)
    walks = [
        _serpentine((shape[0], shape[1]), axis, back, flip)
        for axis in (long_first, not long_first)
        for back, flip in corners
    ]
    return np.stack([walk[free[walk]] for walk in walks])


def _serpentine(
    shape: tuple[int, int], by_rows: bool, back: bool, flip: bool
) -> npt.NDArray[np.intp]:
    """Return the positions of the cells line by line, each second line backwards."""
    lines = np.arange(shape[0] * shape[1]).reshape(shape)
    lines = lines if by_rows else lines.T
    lines = (lines[::-1] if back else lines).copy()
    turned = slice(0, None, 2) if flip else slice(1, None, 2)
    lines[turned] = lines[turned, ::-1]
    return lines.reshape(-1)


def _descend(ways: Sequence[Ways], picked: list[int], state: _State) -> bool:
    """Take block by block the best way while the others stay; tell whether one changed."""
    before = list(picked)
    for i, way in enumerate(ways):
        others = state.total - way.tallies[picked[i]]
        picked[i] = _best(*state.judged(others + way.tallies))
        state.total = others + way.tallies[picked[i]]
    return picked != before


class _Wholes:
    """Scenes that go to one split each: first by their shares in turn, then they change places."""

    def __init__(self, blocks: Sequence[Block], rules: Rules, debt: dict[int, float]) -> None:
        self._rules = rules
        self._sizes = np.array([block.size for block in blocks], float)
        self.split = np.full(len(blocks), TRAIN)
        for i, size in enumerate(self._sizes.tolist()):
            for split in _HELD:
                debt[split] += rules.shares[split] * size
                if debt[split] * 2 >= size > 0 and self.split[i] == TRAIN:
                    self.split[i] = split
                    debt[split] -= size
        classes = blocks[0].counts.shape[2] if blocks else 0
        self._pixels = np.array(
            [(*block.counts[block.free].sum(axis=0), 0) for block in blocks], float
        ).reshape(len(blocks), classes + 1)

    def tally(self) -> Float:
        """Return what the splits hold of these scenes (splits, classes + 1)."""
        rows = [self._pixels[self.split == s].sum(axis=0) for s in SPLIT_ROWS]
        return np.stack(rows) if len(self.split) else np.zeros(1)

    def improve(self, state: _State) -> bool:
        """Let scenes change places or splits where that is better; tell whether one did."""
        moved = False
        for i, split in enumerate(self.split.tolist()):
            # From training a scene only moves for a class that is missing
            if split != TRAIN or state.judged(state.total[None])[0][0]:
                moved |= self._move(i, state)
        return moved

    def _move(self, i: int, state: _State) -> bool:
        mine = int(self.split[i])
        partners = [self._partners(i, split) for split in SPLIT_ROWS if split != mine]
        to = np.repeat([s for s in SPLIT_ROWS if s != mine], [len(p) for p in partners])
        other = np.concatenate(partners)
        steps = self._steps(i, other, to)
        areas = self._areas() + self._area_steps(i, other, to)
        here = self._judge(state, state.total[None], self._areas()[None])
        missing, cost = self._judge(state, state.total + steps, areas)
        missing = np.where(self._allowed(areas, self._sizes[i]), missing, np.iinfo(np.int64).max)
        best = _best(missing, cost)
        if (missing[best], round(cost[best], 9)) >= (here[0][0], round(here[1][0], 9)):
            return False
        self.split[i] = to[best]
        if other[best] >= 0:
            self.split[other[best]] = mine
        state.total = state.total + steps[best]
        return True

    def _partners(self, i: int, split: int) -> npt.NDArray[np.intp]:
        """Return scenes of a split to change places with; -1 stands for none: a mere move."""
        found = np.flatnonzero(self.split == split)
        if self.split[i] == TRAIN:
            found = found[:0]  # they try it from their side
        some = np.linspace(0, len(found) - 1, min(len(found), _PARTNERS)).round().astype(np.intp)
        return np.concatenate([[-1], found[some]])

    def _steps(self, i: int, other: npt.NDArray[np.intp], to: npt.NDArray[np.intp]) -> Float:
        rows = np.arange(len(other))
        gain = self._pixels[i] - np.where(other[:, None] >= 0, self._pixels[other], 0)
        steps = np.zeros((len(other), len(SPLIT_ROWS), self._pixels.shape[1]))
        steps[rows, to] += gain
        steps[rows, self.split[i]] -= gain
        return steps

    def _areas(self) -> Float:
        return np.array([self._sizes[self.split == split].sum() for split in SPLIT_ROWS])

    def _area_steps(self, i: int, other: npt.NDArray[np.intp], to: npt.NDArray[np.intp]) -> Float:
        rows = np.arange(len(other))
        gain = self._sizes[i] - np.where(other >= 0, self._sizes[other], 0)
        steps = np.zeros((len(other), len(SPLIT_ROWS)))
        steps[rows, to] += gain
        steps[rows, self.split[i]] -= gain
        return steps

    def _off(self, areas: Float) -> Float:
        """Return how many cells each held-out split is off its share (n, 2)."""
        wanted = np.array([self._rules.shares[split] for split in _HELD]) * self._sizes.sum()
        off: Float = np.abs(areas[:, _HELD] - wanted)
        return off

    def _allowed(self, areas: Float, size: float) -> Mask:
        """Tell which areas (n, splits) are within one scene of the shares, and 0 for a share 0."""
        off = self._off(areas)
        near = off < np.maximum(size, self._off(self._areas()[None])) + 1e-9
        none = np.array([self._rules.shares[split] == 0 for split in _HELD])
        fine: Mask = near & ~(none & (areas[:, _HELD] > 0))
        every: Mask = np.logical_and.reduce(fine, axis=1)
        return every

    def _judge(
        self, state: _State, totals: Float, areas: Float
    ) -> tuple[npt.NDArray[np.int64], Float]:
        missing, cost = state.judged(totals)
        return missing, cost + _SHARE * self._off(areas).sum(axis=1) / max(self._sizes.sum(), 1)


def _repair(
    blocks: Sequence[Block], divided: Sequence[int], chosen: list[Cells], state: _State
) -> None:
    """Hold out single cells, or give some back, where a split still lacks a class."""
    for split in state.asked:
        for kind in np.flatnonzero(state.present):
            if state.total[split, kind] <= 0:
                _repair_one(blocks, divided, chosen, state, (split, int(kind)))


def _repair_one(
    blocks: Sequence[Block],
    divided: Sequence[int],
    chosen: list[Cells],
    state: _State,
    lack: tuple[int, int],
) -> None:
    reach = state.rules.reach
    found = []
    for place, edited in _edits(blocks, divided, chosen, lack, reach):
        both = np.stack([chosen[place], edited])
        before, after = tally(both, blocks[place], reach)
        found.append((state.total - before + after, place, edited))
    if not found:
        return
    missing, cost = state.judged(np.stack([state.total, *(total for total, _, _ in found)]))
    best = _best(missing, cost)
    if best > 0 and missing[best] < missing[0]:
        state.total, place, chosen[place] = found[best - 1]


def _edits(
    blocks: Sequence[Block],
    divided: Sequence[int],
    chosen: Sequence[Cells],
    lack: tuple[int, int],
    reach: int,
) -> Iterator[tuple[int, Cells]]:
    """Yield blocks with a cell of the class that is lacked given to the split that lacks it.

    For training its surroundings are given back too.
    """
    split, kind = lack
    spots = [
        (place, row, col)
        for place in divided
        for row, col in np.argwhere((blocks[place].counts[..., kind] > 0) & blocks[place].free)
    ]
    some = np.linspace(0, len(spots) - 1, min(len(spots), _REPAIRS)).round().astype(int)
    for place, row, col in (spots[i] for i in some):
        edited = chosen[place].copy()
        around = reach if split == TRAIN else 0
        rows = slice(max(0, row - around), row + around + 1)
        edited[rows, max(0, col - around) : col + around + 1] = split
        edited[~blocks[place].free] = TRAIN
        yield place, edited
