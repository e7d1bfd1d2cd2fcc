"""What a split is: the words of the plan, and how the patches of a data set are divided."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from satseg_ray.errors import ConfigError
from satseg_ray.geo.grid import Lattice, Window
from satseg_ray.patches.ground import Footprint

SplitName = Literal["train", "val", "test"]
SPLITS = ("train", "val", "test")
TRAIN, VAL, TEST = range(3)


class SplitSpec(BaseModel):
    """What is held out: blocks of each scene, whole scenes, or the scenes that are named.

    Training patches keep ``buffer`` pixels (None: the side of a patch) from what is held out, in
    their scene and on the same ground in others.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    by: Literal["blocks", "scenes", "given"] = Field(
        "blocks", description="Holds out blocks of each scene, whole scenes, or those of given."
    )
    val: float = Field(0.1, ge=0, lt=1, description="Share of the area for validation.")
    test: float = Field(0.2, ge=0, lt=1, description="Share of the area for the test.")
    seed: int = Field(
        0,
        ge=0,
        lt=1 << 63,
        description="Decides among blocks whose classes are those of the whole alike.",
    )
    buffer: int | None = Field(
        None,
        ge=0,
        le=1 << 20,
        description="Pixels from training to held-out patches; null: a patch's side.",
    )
    given: dict[str, SplitName] = Field({}, description="By given: the split of each scene.")

    @field_validator("given")
    @classmethod
    def _in_order(cls, given: dict[str, SplitName]) -> dict[str, SplitName]:
        return dict(sorted(given.items()))

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if self.val + self.test >= 1:
            raise ValueError("val and test together leave nothing for training")
        if bool(self.given) != (self.by == "given"):
            raise ValueError("given names the split of each scene, with 'by: given' alone")
        return self

    def apart(self, patch_size: int) -> int:
        """Return the pixels that training patches keep from what is held out."""
        return patch_size if self.buffer is None else self.buffer

    def check_given(self, scenes: Iterable[str]) -> None:
        """Refuse a ``given`` that is not about exactly these scenes.

        Raises:
            ConfigError: it names a scene that has no labels or is none, or leaves one out.
        """
        if self.by != "given":
            return
        known = set(scenes)
        if strangers := sorted(set(self.given) - known):
            raise ConfigError(
                "split.given", f"names {strangers[0]!r}, which is no labelled scene", "Correct it."
            )
        if missing := sorted(known - set(self.given)):
            raise ConfigError(
                "split.given", f"does not name the scene {missing[0]!r}", "Give its split."
            )


@dataclass(frozen=True, order=True)
class PatchKey:
    """One planned patch: its split, its scene and its window there."""

    split: str
    scene: str
    window: Window


Cells = npt.NDArray[np.int8]
"""The split of each cell of a scene's patch-sized grid."""

Counts = npt.NDArray[np.int64]

Anchor = tuple[int, int]
"""A pixel of a rare class: row and column."""


@dataclass(frozen=True)
class SceneSize:
    """Name and size of a scene in pixels, what is in it and where it lies.

    ``classes`` counts the pixels of each class in each cell of the patch-sized grid, int64
    (rows, columns, classes), the last one the unlabelled: what is held out is chosen so that it
    resembles the whole. ``footprint`` is its ground, None where that is not known: it is then
    the ground of no other scene. ``anchors`` are pixels of rare classes. ``pixels`` is a digest of
    its pixels: two scenes of the same show the same place.
    """

    name: str
    height: int
    width: int
    classes: Counts = field(compare=False)
    footprint: Footprint | None = None
    anchors: tuple[Anchor, ...] = ()
    pixels: str | None = None

    def cells(self, patch: int) -> Lattice:
        """Return the patch-sized grid."""
        return Lattice.of(self.height, self.width, patch, patch)
