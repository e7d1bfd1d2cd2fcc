"""What evaluations of several models on the same blocks say: figures, intervals, differences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from satseg_ray.data.rows import Work
from satseg_ray.errors import BandMismatch
from satseg_ray.model.bootstrap import (
    FEW,
    BlockCounts,
    Estimates,
    Resampling,
    differences,
    estimates,
)
from satseg_ray.model.calibration import Reliability
from satseg_ray.model.metrics import Confusion
from satseg_ray.model.spec import ModelSpec
from satseg_ray.predict.scoring import Tally
from satseg_ray.tracking import ModelVersion


@dataclass(frozen=True)
class Contender:
    """A model that is measured: its version, its files and its spec."""

    model: ModelVersion
    directory: Path
    spec: ModelSpec

    @property
    def label(self) -> str:
        """What a person reads it by.

        >>> Contender(ModelVersion("water", "3", "", ""), Path("m"), None).label
        'water/3'
        """
        return f"{self.model.name}/{self.model.version}"


@dataclass(frozen=True)
class Measured:
    """A contender's counts: by block, int64 (classes, classes) each, and left out.

    ``held_out`` tells whether it never saw the data in training; ``None`` where nobody knows.
    """

    contender: Contender
    blocks: Mapping[str, NDArray[np.int64]]
    unlabelled: int
    reliability: Reliability | None
    held_out: bool | None = None

    @classmethod
    def of(
        cls, contender: Contender, outcomes: Sequence[Work], held_out: bool | None = None
    ) -> Measured:
        """Return the sum of the pieces' counts; integers, so in any order."""
        tally = Tally(len(contender.spec.classes))
        for piece in outcomes:
            for name, counts in piece["blocks"].items():
                tally.add(name, counts)
        tables = [piece["reliability"] for piece in outcomes if piece["reliability"]]
        return cls(
            contender,
            tally.blocks,
            sum(piece["unlabelled"] for piece in outcomes),
            Reliability.total(tables) if tables else None,
            held_out,
        )

    @property
    def names(self) -> tuple[str, ...]:
        """The classes."""
        return self.contender.spec.classes.names

    @cached_property
    def confusion(self) -> Confusion:
        """The confusion matrix of all blocks."""
        zero = np.zeros((len(self.names),) * 2, np.int64)
        return Confusion(sum(self.blocks.values(), zero), self.unlabelled)


@dataclass(frozen=True)
class Comparison:
    """Models measured on the same pixels, in the order they were named.

    Raises:
        BandMismatch: one was measured on other pixels, or has other classes.
    """

    measured: Sequence[Measured]
    how: Resampling = field(default_factory=Resampling)

    def __post_init__(self) -> None:
        first = self.measured[0]
        for other in self.measured[1:]:
            if other.names != first.names or _pixels(other) != _pixels(first):
                raise BandMismatch(
                    other.contender.label,
                    f"has other classes, or sees other labelled pixels, than "
                    f"{first.contender.label}",
                    "Compare models of the same classes, bands and nodata.",
                )

    @cached_property
    def blocks(self) -> tuple[str, ...]:
        """The blocks that hold a labelled pixel, in the order in which a seed draws them."""
        return tuple(sorted(self.measured[0].blocks))

    @cached_property
    def estimates(self) -> tuple[Estimates, ...]:
        """The figures of each model with their intervals."""
        return tuple(estimates(self._counts(m), m.names, self.how) for m in self.measured)

    def difference(self, one: int, other: int) -> Estimates:
        """Return by how much the model at ``one`` is above that at ``other``, paired by block."""
        first, second = self.measured[one], self.measured[other]
        return differences(self._counts(first), self._counts(second), first.names, self.how)

    def remark(self) -> str:
        """Return what a person should know of the intervals, or nothing."""
        count = len(self.blocks)
        if count >= FEW:
            return ""
        blocks = f"a figure of {count} test block{'s' * (count != 1)}"
        if count < self.how.least:
            return f"{blocks} has no interval of {self.how.level:.0%}: that takes {self.how.least}"
        return f"{blocks} has a rough interval"

    def to_dict(self) -> dict[str, Any]:
        """Return models, differences and how they were drawn, as JSON values."""
        how = self.how
        return {
            "blocks": len(self.blocks),
            "resampling": {"resamples": how.resamples, "seed": how.seed, "level": how.level},
            "models": [
                self._model(m, e) for m, e in zip(self.measured, self.estimates, strict=True)
            ],
            "comparisons": [
                self._pair(later, earlier)
                for earlier, later in combinations(range(len(self.measured)), 2)
            ],
        }

    def counts(self) -> dict[str, dict[str, Any]]:
        """Return the confusion matrix of each block by model, as JSON values.

        For those who compare with something else on the same blocks.
        """
        return {
            m.contender.label: {name: m.blocks[name].tolist() for name in self.blocks}
            for m in self.measured
        }

    def _counts(self, measured: Measured) -> BlockCounts:
        classes = len(measured.names)
        found = [measured.blocks[name] for name in self.blocks]
        return np.stack(found) if found else np.zeros((0, classes, classes), np.int64)

    def _model(self, measured: Measured, found: Estimates) -> dict[str, Any]:
        spec, reliability = measured.contender.spec, measured.reliability
        model = measured.contender.model
        return {
            "model": model.name,
            "version": model.version,
            "held_out": measured.held_out,
            **measured.confusion.to_dict(measured.names),
            "intervals": _intervals(found, measured.names),
            "temperature": spec.temperature,
            "calibration_error": _finite(reliability.error) if reliability else None,
            "reliability": reliability.rows() if reliability else None,
        }

    def _pair(self, one: int, other: int) -> dict[str, Any]:
        """Return the difference of a later model from an earlier one, and which is better."""
        found = self.difference(one, other)
        mine, theirs = (self.measured[i].contender.label for i in (one, other))
        score = found["mean_iou"]
        better = mine if score.low > 0 else theirs if score.high < 0 else None
        body = {name: estimate.to_dict() for name, estimate in found.items()}
        return {"model": mine, "against": theirs, "better": better, "differences": body}


def _pixels(measured: Measured) -> dict[str, int]:
    """Return the labelled pixels of each block."""
    return {name: int(counts.sum()) for name, counts in measured.blocks.items()}


def _intervals(found: Estimates, names: Sequence[str]) -> dict[str, Any]:
    """Return [low, high] of each figure, those of classes by metric and class."""
    pairs = {
        name: [_finite(estimate.low), _finite(estimate.high)] for name, estimate in found.items()
    }
    overall = {name: pairs[name] for name in ("accuracy", "mean_iou", "mean_f1")}
    return overall | {
        metric: {name: pairs[f"{metric}_{name}"] for name in names} for metric in ("iou", "f1")
    }


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
