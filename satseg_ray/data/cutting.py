"""The workers that cut patches: a unit of a scene is read once, and written split by split."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from satseg_ray.data.rows import Reporter, Work
from satseg_ray.drift.profile import BandProfile
from satseg_ray.geo.grid import Window
from satseg_ray.geo.labels import IndexRaster
from satseg_ray.geo.raster import SceneReader, Tile
from satseg_ray.patches.dataset import DatasetManifest, SceneRecord
from satseg_ray.patches.sample import REASONS, Sampling
from satseg_ray.patches.schema import Indexes, PatchStack, cut_patches, patch_schema
from satseg_ray.patches.split import SPLITS, PatchKey
from satseg_ray.patches.stats import SplitStats
from satseg_ray.patches.store import PartWriter, new_part

PROFILES = "profiles"
_READ = 2048
"""Side in pixels of what a task holds at a time, so that its memory does not grow with units."""
_ALL_VALID = np.ones((1, 1), np.bool_)


def plan_units(keys: Sequence[PatchKey], side: int) -> list[list[PatchKey]]:
    """Return the patches in units of work: those of a scene that start in one square of ``side``.

    Law: every patch is in exactly one unit; a unit's bounding box is at most ``side`` plus a
    patch on each axis.
    """

    def place(key: PatchKey) -> tuple[str, int, int]:
        return key.scene, key.window.row // side, key.window.col // side

    return [list(unit) for _, unit in groupby(sorted(keys, key=place), key=place)]


def bounding_box(windows: Sequence[Window]) -> Window:
    """Return the smallest window that holds all of ``windows``."""
    row, col = min(w.row for w in windows), min(w.col for w in windows)
    height = max(w.row_stop for w in windows) - row
    return Window(row, col, height, max(w.col_stop for w in windows) - col)


@dataclass(frozen=True)
class UnitCutter:
    """Cuts units of patches in a worker: reads the unit once, writes one file for each split."""

    dataset: DatasetManifest
    raw: str
    folder: str
    reporter: Reporter
    sampling: Sampling

    def row(self, unit: Sequence[PatchKey]) -> dict[str, Any]:
        """Return the row that carries a unit to a worker."""
        corner = bounding_box([key.window for key in unit])
        return {
            "key": f"{unit[0].scene}-{corner.row:07d}-{corner.col:07d}",
            "scene": unit[0].scene,
            "patches": json.dumps(
                [[k.split, k.window.row, k.window.col, k.window.height] for k in unit]
            ),
        }

    def prepare(self) -> None:
        """Import what profiles need."""
        BandProfile.empty(self.dataset.bands)

    def tile_unit(self, row: Work) -> dict[str, str]:
        """Cut and write one unit; its outcome has the statistics of each split."""
        return self.reporter.run(self._cut, row)

    def _cut(self, row: Work) -> Work:
        scene = next(s for s in self.dataset.scenes if s.name == row["scene"])
        patches = json.loads(row["patches"])
        keys = [PatchKey(s, scene.name, Window(r, c, h, h)) for s, r, c, h in patches]
        with ExitStack() as open_parts:
            made = _Made(self.dataset, Path(self.folder), row["key"], open_parts)
            for square, stacks in self._read(scene, keys):
                made.profile(scene.name, square.image)
                for stack in stacks:
                    made.take(self._sampled(stack, made.dropped))
        made.write_profile()
        return {
            "stats": {split: asdict(found) for split, found in made.stats.items()},
            "planned": len(keys),
            "dropped": dict(made.dropped),
        }

    def _sampled(self, stack: PatchStack, dropped: Counter[str]) -> PatchStack:
        """Return the patches that are kept, and count the others by the reason."""
        kept: list[int] = []
        for position, key in enumerate(stack.keys):
            valid = _ALL_VALID if stack.valid is None else stack.valid[position]
            if reason := self.sampling.why_dropped(key, stack.mask[position], valid):
                dropped[reason] += 1
            else:
                kept.append(position)
        return stack.take(kept)

    def _read(
        self, scene: SceneRecord, keys: Sequence[PatchKey]
    ) -> Iterator[tuple[_Square, Iterator[PatchStack]]]:
        """Yield each small part of the unit, and its patches split by split."""
        raw = Path(self.raw)
        with (
            SceneReader(
                scene.source.within(raw), self.dataset.band_indexes, self.dataset.nodata
            ) as image,
            IndexRaster(raw / str(scene.labels)) as labels,
        ):
            for info in (image.info, labels.info):
                scene.check_size(info.path, info.height, info.width)
            for part in plan_units(keys, _READ):
                window = bounding_box([key.window for key in part])
                square = _Square(image.read(window), labels.read(window))
                yield square, square.cut(part)


@dataclass(frozen=True)
class _Square:
    """What is read at a time: imagery, and class indexes (rows, columns)."""

    image: Tile
    classes: Indexes

    def cut(self, keys: Sequence[PatchKey]) -> Iterator[PatchStack]:
        """Yield the patches, those of one split together."""
        for split in SPLITS:
            if chosen := [key for key in keys if key.split == split]:
                yield cut_patches(self.image, self.classes, chosen)


class _Made:
    """What one unit makes: a file and statistics of each split, and a profile of what was read."""

    def __init__(
        self, dataset: DatasetManifest, folder: Path, key: str, open_parts: ExitStack
    ) -> None:
        self._dataset, self._folder, self._key = dataset, folder, key
        self._open_parts = open_parts
        self._parts: dict[str, PartWriter] = {}
        self._profile = BandProfile.empty(dataset.bands)
        zero = SplitStats.zero(len(dataset.classes), len(dataset.bands))
        self.stats = dict.fromkeys(SPLITS, zero)
        self.dropped: Counter[str] = Counter(dict.fromkeys(REASONS, 0))

    def take(self, stack: PatchStack) -> None:
        """Write patches of one split."""
        if not len(stack):
            return
        split = stack.keys[0].split
        if split not in self._parts:
            path = self._folder / split / f"{self._key}.parquet"
            side, bands = stack.mask.shape[-1], len(self._dataset.bands)
            part = new_part(path, patch_schema(side, bands, self._dataset.dtype))
            self._parts[split] = self._open_parts.enter_context(part)
        self._parts[split].write(stack)
        found = SplitStats.of_stack(stack, len(self._dataset.classes), split == SPLITS[0])
        self.stats[split] = self.stats[split].add(found)

    def profile(self, scene: str, tile: Tile) -> None:
        """Take a sample of a tile into the profile."""
        key = (scene, tile.window.row, tile.window.col)
        part = BandProfile.of(tile.pixels, tile.valid, self._dataset.bands, key)
        self._profile = self._profile.merge(part)

    def write_profile(self) -> None:
        """Leave the profile where the driver finds it."""
        self._profile.write(self._folder / PROFILES / f"{self._key}.bin")
