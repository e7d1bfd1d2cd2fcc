"""From the facts of all scenes to findings: one small function a rule, all of them in ``RULES``.

A rule sees everything at once and says each kind of thing once, with a count and the first names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

from satseg_ray.checks import image_rules, label_rules
from satseg_ray.checks.collection import Collection
from satseg_ray.findings import Finding

Rule = Callable[[Collection], Iterable[Finding]]

RULES: tuple[Rule, ...] = (
    image_rules.misnamed,
    image_rules.no_crs,
    image_rules.mixed_crs,
    image_rules.mixed_gsd,
    image_rules.mixed_pixels,
    image_rules.places,
    label_rules.label_sizes,
    label_rules.unknown_codes,
    label_rules.palette_order,
    label_rules.label_findings,
    label_rules.refused_labels,
    label_rules.class_files,
    image_rules.duplicated_images,
    image_rules.empty_scenes,
    label_rules.bare_labels,
    label_rules.class_shares,
    image_rules.constant_bands,
    image_rules.saturated,
    image_rules.nodata,
    image_rules.overridden_nodata,
    image_rules.palette_images,
    image_rules.unused_nodata,
    image_rules.not_finite,
)


def apply_rules(collection: Collection, others: Iterable[Finding] = ()) -> tuple[Finding, ...]:
    """Return what all rules find, with the findings of ``others``: errors first, then warnings."""
    found = {*others, *(finding for rule in RULES for finding in rule(collection))}
    return ranked(found)


def ranked(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Return findings by level, errors first, then by code and subject."""
    order = {"error": 0, "warning": 1, "note": 2}
    return tuple(sorted(findings, key=lambda f: (order[f.level], f.code, f.subject, f.problem)))


_STRICT = "Correct it, or run without --strict, where it is a warning:"


def strict(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Return the findings with every warning made an error."""
    raised = [
        replace(f, level="error", action=f"{_STRICT} {f.action}") if f.level == "warning" else f
        for f in findings
    ]
    return ranked(raised)
