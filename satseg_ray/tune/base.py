"""What all trials of a sweep share, checked against the data set before any of them starts."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import product
from typing import Any

from satseg_ray.config import TrainConfig
from satseg_ray.errors import ConfigError, MissingFile, ModelVersionNotFound
from satseg_ray.patches.store import PatchManifest, PatchStore
from satseg_ray.train.first_weights import find_start
from satseg_ray.train.job import check_classes, checked_spec, model_spec
from satseg_ray.train.plan import check_shared
from satseg_ray.train.schedule import SCORE
from satseg_ray.tune.config import TuneConfig
from satseg_ray.tune.space import Range, Space, Value, with_values
from satseg_ray.workspace import Workspace, absolute

_OWN = ("dataset", "register", "alias", "experiment")
_PATHS = ("encoder_weights", "init_from")
_NETWORK = ("architecture", "backbone", "patch_size", "predict_stride")
"""What a network's shape and its use follow from, besides the data set."""

_START = ("architecture", "backbone", *_PATHS)
"""What the first weights follow from."""

_LOSS = tuple(f"loss.{term}" for term in ("cross_entropy", "focal", "dice", "tversky", "lovasz"))
"""The weights of a sum, of which one must be above 0."""


def base_config(config: TuneConfig) -> TrainConfig:
    """Return the config that all trials of a sweep share; its paths are absolute.

    Raises:
        ConfigError: a key of ``train`` is none, or its value is not allowed.
    """
    for key in _OWN:
        if key in config.train:
            raise ConfigError(f"train.{key}", "is set by the sweep", "Leave it out.")
    start = TrainConfig(dataset=config.dataset, experiment=config.experiment)
    given = dict(_flat(config.train, start.model_dump(by_alias=True)))
    for key in _PATHS:
        if key in given:
            given[key] = _reached(given[key], f"train.{key}")
    try:
        return with_values(start, given)
    except ConfigError as error:
        raise ConfigError(f"train.{error.subject}", error.problem, error.remedy) from error


def with_absolute_paths(config: TuneConfig) -> TuneConfig:
    """Return a sweep whose space names files by absolute paths.

    Raises:
        ConfigError: a path is relative in a submitted job.
    """
    space = dict(config.space)
    for key in _PATHS:
        if isinstance(values := space.get(key), list):
            space[key] = [_reached(value, f"space.{key}") for value in values]
    return config.model_copy(update={"space": space})


def _reached(value: Any, field: str) -> Any:
    """Return the absolute path of what is there: a trial works in another folder."""
    there = isinstance(value, str) and os.path.exists(value)
    return str(absolute(value, field)) if there else value


def _flat(
    body: Mapping[str, Any], sections: Mapping[str, Any], prefix: str = ""
) -> Iterator[tuple[str, Any]]:
    """Yield dotted keys and values; a mapping is a value where there is no such section."""
    for key, value in body.items():
        section = sections.get(key)
        if isinstance(value, Mapping) and isinstance(section, Mapping):
            yield from _flat(value, section, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def check_against(store: PatchStore, config: TuneConfig, base: TrainConfig) -> None:
    """Check the metric, and every network, batch and loss that the space can ask for.

    Raises:
        EmptySplit: nothing to train on, nothing to tell apart, or nothing to compare by.
        ConfigError: with the key in the sweep's own config.
    """
    store.required("val")
    check_classes(store.manifest)
    check_metric(config.metric, store.manifest)
    for values in combinations(config.space, _NETWORK):
        with _named(values):
            checked_spec(with_values(base, values), store)
    smallest = least(config.space, ("batch_size",))
    with _named(smallest):
        given = with_values(base, smallest)
        check_shared(given.batch_size, given.workers)
    lowest = least(config.space, _LOSS)
    with _named(lowest):
        with_values(base, lowest)


def check_metric(metric: str, manifest: PatchManifest) -> None:
    """Refuse a metric that no epoch would have.

    Raises:
        ConfigError: it is none of validation's, or of a class without a labelled pixel there.
    """
    names, pixels = manifest.classes.names, manifest.counts["val"]["pixels"]
    known = [SCORE, *(f"val_iou_{name}" for name in names if pixels.get(name))]
    if metric in known:
        return
    absent = any(metric == f"val_iou_{name}" for name in names)
    raise ConfigError(
        "metric",
        f"{metric!r} is of a class without a validation pixel"
        if absent
        else f"{metric!r} is no figure to be highest",
        f"Take one of {known}.",
    )


def check_starts(
    store: PatchStore, config: TuneConfig, base: TrainConfig, workspace: Workspace
) -> None:
    """Find all first weights that the space can ask for; ImageNet's are downloaded now.

    Raises:
        ConfigError, MissingFile, ModelVersionNotFound: with the key in the sweep's own config.
    """
    for values in combinations(config.space, _START):
        with _named(values):
            given = with_values(base, values)
            if given.encoder_weights or given.init_from:
                find_start(given, model_spec(given, store.manifest), workspace)


@contextmanager
def _named(values: Mapping[str, Value]) -> Iterator[None]:
    """Say in an error of the block which of the space's values it is of."""
    try:
        yield
    except (ConfigError, MissingFile, ModelVersionNotFound) as error:
        shown = ", ".join(f"{key} {value}" for key, value in values.items())
        subject = f"space ({shown})" if values else f"train.{error.subject}"
        raise type(error)(subject, error.problem, error.remedy) from error


def combinations(space: Space, keys: Sequence[str]) -> Iterator[dict[str, Value]]:
    """Yield every combination of the values of some keys, as far as they are in the space.

    Of a range both bounds are taken.

    >>> list(combinations({"architecture": ["unet", "fpn"], "seed": [0]}, ("architecture",)))
    [{'architecture': 'unet'}, {'architecture': 'fpn'}]
    """
    choices = {
        key: [given.low, given.high] if isinstance(given := space[key], Range) else given
        for key in keys
        if key in space
    }
    for values in product(*choices.values()):
        yield dict(zip(choices, values, strict=True))


def least(space: Space, keys: Sequence[str]) -> dict[str, Value]:
    """Return the lowest numbers that some keys can have together, as far as they are in the space.

    A range of real numbers gives its lower bound but not 0: none of its numbers is exactly that.

    >>> least({"loss.dice": Range(low=0.0, high=1.0), "batch_size": [8, 4]}, ("batch_size",))
    {'batch_size': 4}
    >>> least({"loss.dice": Range(low=0.0, high=1.0)}, ("loss.dice",))
    {'loss.dice': 1.0}
    """
    found: dict[str, Value] = {}
    for key in keys:
        given = space.get(key)
        if isinstance(given, Range):
            found[key] = given.low if given.whole or given.low else given.high
        elif given:
            found[key] = min(value for value in given if isinstance(value, int | float))
    return found
