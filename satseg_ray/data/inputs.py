"""What ingest is asked to take: paths and patterns -> scenes, each with its name and its labels."""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from satseg_ray.checks.pairing import Pairing, pair
from satseg_ray.config import IngestConfig
from satseg_ray.data.taking import SceneInput
from satseg_ray.errors import LabelsDoNotMatch, MissingFile
from satseg_ray.findings import Finding
from satseg_ray.geo.formats import is_remote
from satseg_ray.geo.labels import images_in
from satseg_ray.geo.source import SceneSource, TargetGrid, scene_source
from satseg_ray.workspace import absolute


def find_inputs(config: IngestConfig) -> tuple[list[SceneInput], tuple[Finding, ...]]:
    """Return the scenes that a config names with their labels, and what was found in pairing them.

    Raises:
        MissingFile: a path or pattern names no file.
        LabelsDoNotMatch: no scene has labels, though some are given, or nobody can tell whose.
    """
    scenes = expanded(config.scenes, "scenes")
    labels = expanded(config.labels, "labels")
    pairing = pair(scenes, labels, {path: images_in(path) for path in labels})
    _refuse_unpaired(pairing, labels)
    uses = Counter(found.labels for found in pairing.pairs)
    inputs = [
        SceneInput(
            found.name,
            found.scene,
            _source(config, found.scene),
            found.labels,
            shared=uses[found.labels] > 1,
        )
        for found in pairing.pairs
    ]
    return inputs, pairing.findings


def _refuse_unpaired(pairing: Pairing, labels: Sequence[str]) -> None:
    unclear = [finding for finding in pairing.findings if finding.level == "error"]
    if unclear:
        raise LabelsDoNotMatch(unclear[0].subject, unclear[0].problem, unclear[0].action)
    if labels and not any(found.labels for found in pairing.pairs):
        raise LabelsDoNotMatch(
            labels[0], "belongs to no scene", "Name each label file like its scene (the stem)."
        )


def _source(config: IngestConfig, path: str) -> SceneSource:
    """Return what a scene is read from, on the data set's grid where it has one."""
    source = scene_source(path)
    if config.crs and config.resolution:
        source = replace(source, grid=TargetGrid(config.crs, config.resolution))
    if config.resampling and (source.grid or len(source.files) > 1):
        source = replace(source, resampling=config.resampling)
    if config.georeference != "file":
        source = replace(source, georeference=config.georeference)
    return source


def given_scene(path: str, field: str) -> SceneSource:
    """Return what a scene is read from: a raster, a stack description, or a GDAL address.

    Raises:
        ConfigError: the path is relative in a submitted job, or the description is wrong.
        MissingFile: there is no such description.
    """
    return scene_source(path if is_remote(path) else str(absolute(path, field)))


def expanded(patterns: Sequence[str], field: str) -> list[str]:
    """Return the files of paths and patterns, in order, each once; addresses as they are.

    Raises:
        MissingFile: one names no file.
    """
    found: dict[str, None] = {}
    for pattern in patterns:
        if is_remote(pattern):
            found[pattern] = None
            continue
        path = str(absolute(pattern, field))
        matches = [path] if os.path.exists(path) else _matching(path)
        if not matches:
            raise MissingFile(path, "names no file", f"Check {field}.")
        found |= dict.fromkeys(str(Path(match)) for match in matches)
    return list(found)


def _matching(pattern: str) -> list[str]:
    """Return the files, not folders, that match a pattern, in order."""
    return sorted(name for name in glob.glob(pattern, recursive=True) if os.path.isfile(name))
