"""Which planned patches are kept, and where more are centred on rare classes."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, model_validator

from satseg_ray.classes import IGNORE, ClassTable
from satseg_ray.errors import ConfigError
from satseg_ray.geo.grid import Window
from satseg_ray.patches.split import Anchor, PatchKey

Reason = Literal["unlabelled", "few_valid", "few_labelled", "background"]
REASONS: tuple[Reason, ...] = ("unlabelled", "few_valid", "few_labelled", "background")


class SampleSpec(BaseModel):
    """Which training patches are kept, and more of them for rare classes.

    All of it is about training alone: of validation and test only patches without any label are
    dropped, so that metrics count every labelled pixel held out.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    min_valid: float = Field(0.0, ge=0, le=1, description="Least share of valid pixels.")
    min_labelled: float = Field(
        0.0, ge=0, le=1, description="Least share of labelled pixels; 0: at least one."
    )
    background: str | None = Field(
        None, description="The class of which patches without another one are thinned."
    )
    keep_background: float = Field(
        1.0, ge=0, le=1, description="Share of those patches that is kept."
    )
    rare: list[str] = Field([], description="Classes that more patches are centred on.")
    rare_per_cell: int = Field(
        0, ge=0, le=64, description="Such patches for each rare class in each patch-sized cell."
    )

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if bool(self.rare) != (self.rare_per_cell > 0):
            raise ValueError("rare and rare_per_cell go together")
        if self.keep_background < 1 and self.background is None:
            raise ValueError("keep_background needs the name of the background class")
        return self

    def resolved(self, classes: ClassTable, seed: int) -> Sampling:
        """Return the rules with class indexes.

        Raises:
            ConfigError: a name is that of no class.
        """
        for name in filter(None, (self.background, *self.rare)):
            if name not in classes.names:
                raise ConfigError(
                    "sample", f"names the class {name!r}, there is none",
                    f"The classes are {', '.join(classes.names)}.",
                )  # fmt: skip
        background = None if self.background is None else classes.names.index(self.background)
        rare = tuple(sorted({classes.names.index(name) for name in self.rare}))
        return Sampling(self, background, rare, seed)


@dataclass(frozen=True)
class Sampling:
    """A :class:`SampleSpec` with class indexes and the seed of the split."""

    spec: SampleSpec
    background: int | None = None
    rare: tuple[int, ...] = ()
    seed: int = 0

    def why_dropped(
        self, key: PatchKey, mask: npt.NDArray[np.uint8], valid: npt.NDArray[np.bool_]
    ) -> Reason | None:
        """Return why a patch is left out, None where it is kept.

        ``mask`` (side, side) has class indexes, 255 where unlabelled. Law: the answer depends on
        the patch and the seed alone, not on the order or on other patches.
        """
        labelled = int(np.count_nonzero(mask != IGNORE))
        if not labelled:
            return "unlabelled"
        if key.split != "train":
            return None
        if np.count_nonzero(valid) < self.spec.min_valid * valid.size:
            return "few_valid"
        if labelled < self.spec.min_labelled * mask.size:
            return "few_labelled"
        return "background" if self._thinned(key, mask, labelled) else None

    def _thinned(self, key: PatchKey, mask: npt.NDArray[np.uint8], labelled: int) -> bool:
        if self.background is None or self.spec.keep_background == 1:
            return False
        if np.count_nonzero(mask == self.background) < labelled:
            return False
        place = (self.seed, key.scene, key.window.row, key.window.col)
        return _fraction(place) >= self.spec.keep_background

    def anchors(
        self, cell: npt.NDArray[np.uint8], scene: str, corner: tuple[int, int]
    ) -> list[Anchor]:
        """Return pixels of the rare classes in a cell of class indexes, spread over them.

        ``corner`` is the cell's first row and column in the scene. Each class gives as many
        as ``rare_per_cell``, or all it has; evenly spaced in row-major order from a seeded start.
        """
        found: list[Anchor] = []
        for kind in self.rare:
            pixels = np.flatnonzero(cell == kind)
            count = min(self.spec.rare_per_cell, len(pixels))
            shift = _fraction((self.seed, scene, *corner, kind))
            for k in range(count):
                row, col = divmod(int(pixels[int((k + shift) * len(pixels) / count)]), len(cell[0]))
                found.append((corner[0] + row, corner[1] + col))
        return found


def _fraction(place: Sequence[Any]) -> float:
    """Return a number from 0 to below 1 that the values of ``place`` alone decide on."""
    text = "\0".join(map(str, place)).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=6).digest()) / (1 << 48)


def centred(anchor: Anchor, patch: int, size: tuple[int, int]) -> Window:
    """Return the patch around a pixel, moved so far that it lies within the scene of ``size``.

    A scene that is smaller than a patch is overhung at its end, like everywhere.
    """
    row, col = (
        max(0, min(place - patch // 2, length - patch))
        for place, length in zip(anchor, size, strict=True)
    )
    return Window(row, col, patch, patch)
