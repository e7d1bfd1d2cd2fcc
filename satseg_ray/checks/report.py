"""What ingest found, for a person and for a program: lines, ``report.json``, ``overview.html``."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from satseg_ray.checks.collection import Collection
from satseg_ray.checks.facts import SceneFacts
from satseg_ray.checks.page import page
from satseg_ray.checks.words import counted, percent
from satseg_ray.classes import ClassTable
from satseg_ray.findings import Finding
from satseg_ray.products import fresh_file

REPORT = "report.json"
OVERVIEW = "overview.html"
PICTURES = "thumbnails"
"""The folder beside both for the pictures that :class:`Measured` writes."""

_MOST_LINES = 40


@dataclass(frozen=True)
class Report:
    """A data set as its checks found it.

    ``scenes`` are those taken, in order of name; ``refused`` counts the others by the name of
    their error.
    """

    dataset: str
    classes: ClassTable
    scenes: tuple[SceneFacts, ...]
    findings: tuple[Finding, ...]
    refused: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        dataset: str,
        data: Collection,
        findings: tuple[Finding, ...],
        refused: Mapping[str, int],
    ) -> Report:
        """Return the report of what was judged."""
        return cls(dataset, data.table, data.scenes, findings, refused)

    @property
    def class_pixels(self) -> dict[str, int]:
        """The labelled pixels of each class, in the order of the classes."""
        totals = dict.fromkeys(self.classes.names, 0)
        for scene in self.scenes:
            if scene.labels:
                for name, count in zip(self.classes.names, scene.labels.counts, strict=False):
                    totals[name] += count
        return totals

    def totals(self) -> dict[str, Any]:
        """Return what all scenes have together; shares are of the labelled pixels."""
        labelled = sum(self.class_pixels.values())
        pixels = sum(scene.pixels for scene in self.scenes)
        return {
            "megapixels": round(pixels / 1e6, 6),
            "valid_share": _share(sum(s.valid for s in self.scenes), pixels),
            "labelled_scenes": sum(scene.labels is not None for scene in self.scenes),
            "labelled_share": _share(labelled, pixels),
            "classes": {
                name: {"pixels": count, "share": _share(count, labelled)}
                for name, count in self.class_pixels.items()
            },
        }

    def outcomes(self) -> dict[str, Any]:
        """Return how many scenes were taken, and how many refused for which error."""
        return {"taken": len(self.scenes), "refused": dict(sorted(self.refused.items()))}

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON values. Law: the same data give the same report."""
        return {
            "dataset": self.dataset,
            "outcomes": self.outcomes(),
            "totals": self.totals(),
            "classes": self.classes.to_list(),
            "findings": [finding.to_dict() for finding in self.findings],
            "scenes": [scene.to_dict() for scene in self.scenes],
        }

    def write(self, folder: Path) -> None:
        """Write ``report.json`` and ``overview.html`` into ``folder``.

        The page shows the pictures that lie in ``thumbnails/`` there.
        """
        with fresh_file(folder / REPORT) as partial:
            partial.write_text(_json(self.to_dict()), encoding="utf-8")
        names = {path.name for path in (folder / PICTURES).glob("*.png")}
        pictures = {name: f"{PICTURES}/{name}" for name in names}
        with fresh_file(folder / OVERVIEW) as partial:
            partial.write_text(page(self.to_dict(), pictures), encoding="utf-8")

    def lines(self) -> Iterator[str]:
        """Yield the report for a person at a terminal: the findings, then the classes."""
        for finding in self.findings[:_MOST_LINES]:
            yield str(finding)
        if len(self.findings) > _MOST_LINES:
            yield f"and {len(self.findings) - _MOST_LINES} more findings in {REPORT}"
        yield self._summary()
        width = max(len(name) for name in self.classes.names)
        labelled = sum(self.class_pixels.values())
        if labelled:
            for name, count in self.class_pixels.items():
                share = count / labelled
                yield f"  {name:<{width}}  {percent(share):>7}  {_bar(share)}".rstrip()

    def _summary(self) -> str:
        totals = self.totals()
        refused = sum(self.refused.values())
        text = f"{self.dataset}: {counted(len(self.scenes), 'scene')}, "
        text += (
            f"{totals['megapixels']:.4g} megapixels, {percent(totals['labelled_share'])} labelled"
        )
        return text + (f"; {counted(refused, 'scene')} refused" if refused else "")


def _json(body: Mapping[str, Any]) -> str:
    """Return a JSON object with sorted keys, and each scene and each finding on a line."""

    def line(value: Any) -> str:
        return json.dumps(value, sort_keys=True, allow_nan=False)

    def lines(value: Any) -> str:
        rows = ",\n".join(f"  {line(item)}" for item in value) if isinstance(value, list) else ""
        return f"[\n{rows}\n ]" if rows else line(value)

    return "{\n" + ",\n".join(f' "{key}": {lines(body[key])}' for key in sorted(body)) + "\n}\n"


def _share(part: int, whole: int) -> float:
    return round(part / whole, 9) if whole else 0.0


def _bar(share: float, width: int = 40) -> str:
    return "#" * round(share * width)
