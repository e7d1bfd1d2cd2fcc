"""All that the rules judge together."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from satseg_ray.checks.classfiles import ClassFile
from satseg_ray.checks.facts import LabelFacts, SceneFacts
from satseg_ray.checks.words import counted, listed
from satseg_ray.classes import ClassTable
from satseg_ray.geo.labels import LabelRule


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
    def declared_colors(self) -> frozenset[str]:
        """The colours of classes, and those that are ignored."""
        ignored = [item for item in self.rule.ignore if isinstance(item, str)]
        return frozenset(c.upper() for c in (*(item.color for item in self.table), *ignored))

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


def names(scenes: Iterable[SceneFacts]) -> str:
    """Return the first names of some scenes, and how many there are besides."""
    return listed([scene.name for scene in scenes])


def scenes_in(scenes: Sequence[SceneFacts]) -> str:
    """Return how many scenes these are, in words."""
    return counted(len(scenes), "scene")
