"""What all trials of a sweep share, checked against the data set before any of them starts."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from itertools import product
from typing import Any

from satseg_ray.config import TrainConfig
from satseg_ray.errors import ConfigError
from satseg_ray.patches.store import PatchStore
from satseg_ray.train.job import check_classes, checked_spec
from satseg_ray.train.schedule import SCORE
from satseg_ray.tune.config import TuneConfig
from satseg_ray.tune.space import Space, Value, with_values
from satseg_ray.workspace import absolute

_OWN = ("dataset", "register", "alias", "experiment")
_PATHS = ("encoder_weights", "init_from")
_NETWORK = ("architecture", "patch_size")
"""What a network's shape follows from, besides the data set."""


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
        if isinstance(text := given.get(key), str) and os.path.exists(text):
            given[key] = str(absolute(text, f"train.{key}"))  # a trial works in another folder
    try:
        return with_values(start, given)
    except ConfigError as error:
        raise ConfigError(f"train.{error.subject}", error.problem, error.remedy) from error


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
    """Check the metric, and every network that the space can ask for, on a data set.

    Raises:
        EmptySplit: nothing to train on, nothing to tell apart, or nothing to compare by.
        ConfigError: with the key in the sweep's own config.
    """
    store.required("val")
    check_classes(store.manifest)
    known = [SCORE, *(f"val_iou_{name}" for name in store.manifest.classes.names)]
    if config.metric not in known:
        raise ConfigError(
            "metric", f"{config.metric!r} is no figure to be highest", f"Take one of {known}."
        )
    for values in networks(config.space):
        try:
            checked_spec(with_values(base, values), store)
        except ConfigError as error:
            shown = ", ".join(f"{key} {value}" for key, value in values.items())
            raise ConfigError(
                f"space ({shown})" if values else f"train.{error.subject}",
                error.problem,
                error.remedy,
            ) from error


def networks(space: Space) -> Iterator[dict[str, Value]]:
    """Yield every combination of the space's values that decide a network's shape.

    >>> list(networks({"architecture": ["unet", "fpn"], "loss.dice": [0.0, 1.0]}))
    [{'architecture': 'unet'}, {'architecture': 'fpn'}]
    """
    choices = {key: given for key in _NETWORK if isinstance(given := space.get(key), list)}
    for values in product(*choices.values()):
        yield dict(zip(choices, values, strict=True))
