"""What ingest is asked to take: paths and patterns -> scenes, each with its name and its labels."""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from satseg_ray.checks.pairing import Pairing, pair
from satseg_ray.config import IngestConfig
from satseg_ray.data.taking import SceneInput
from satseg_ray.errors import ConfigError, LabelsDoNotMatch, MissingFile, SatsegError
from satseg_ray.findings import Finding
from satseg_ray.geo.formats import is_remote
from satseg_ray.geo.labels import images_in
from satseg_ray.geo.source import SceneSource, TargetGrid, scene_source
from satseg_ray.workspace import absolute


@dataclass(frozen=True)
class Inputs:
    """The scenes to take, what was found in pairing them, and the errors of others by name."""

    scenes: tuple[SceneInput, ...]
    findings: tuple[Finding, ...]
    refused: Mapping[str, SatsegError]


def find_inputs(config: IngestConfig) -> Inputs:
    """Return the scenes that a config names with their labels.

    Raises:
        ConfigError: bands and their names do not agree.
        LabelsDoNotMatch: no scene has labels, though some are given, or nobody can tell whose.
        MissingFile: a path or pattern names no file.
        SatsegError: no scene is left; or one cannot be told, and none is to be left out.
    """
    _check_bands(config)
    scenes = expanded(config.scenes, "scenes")
    labels = expanded(config.labels, "labels")
    pairing = pair(scenes, labels, {path: _images_in(path) for path in labels})
    _refuse_unpaired(pairing, labels)
    uses = Counter(found.labels for found in pairing.pairs)
    inputs: list[SceneInput] = []
    refused: dict[str, SatsegError] = {}
    for found in pairing.pairs:
        try:
            source = _source(config, found.scene)
        except SatsegError as error:
            if config.on_bad == "fail":
                raise
            refused[found.name] = error
            continue
        shared = uses[found.labels] > 1
        inputs.append(SceneInput(found.name, found.scene, source, found.labels, shared))
    if not inputs:
        raise next(iter(refused.values()))
    return Inputs(tuple(inputs), pairing.findings, refused)


def _check_bands(config: IngestConfig) -> None:
    if config.bands and config.band_names and len(config.bands) != len(config.band_names):
        raise ConfigError(
            "band_names",
            f"names {len(config.band_names)} of {len(config.bands)} bands",
            "Name each.",
        )
    for field in ("bands", "band_names"):
        given = getattr(config, field)
        twice = sorted({str(item) for item in given if given.count(item) > 1})
        if twice:
            raise ConfigError(field, f"holds {', '.join(twice)} twice", "Name each band once.")


def _images_in(path: str) -> tuple[str, ...]:
    """Return the images that a label file names; what it meets, its scene will meet again."""
    try:
        return images_in(path)
    except SatsegError:
        return ()


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
    return scene_source(given_path(path, field))


def given_path(path: str, field: str) -> str:
    """Return a path as an absolute one, and a GDAL address as it is.

    Raises:
        ConfigError: the path is relative in a submitted job.
    """
    return path if is_remote(path) else str(absolute(path, field))


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
        if os.path.isdir(path):
            raise MissingFile(path, "is a folder", f"Name its files: {path}/*.tif.")
        try:
            matches = [path] if os.path.exists(path) else _matching(path)
        except RecursionError as error:
            raise MissingFile(
                f"{path[:80]}...", "has too many folders to be a path", f"Check {field}."
            ) from error
        if not matches:
            raise MissingFile(path, "names no file", f"Check {field}.")
        found |= dict.fromkeys(str(Path(match)) for match in matches)
    return list(found)


def _matching(pattern: str) -> list[str]:
    """Return the files, not folders, that match a pattern, in order."""
    return sorted(name for name in glob.glob(pattern, recursive=True) if os.path.isfile(name))
