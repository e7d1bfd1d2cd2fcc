"""What a sweep is refused for before its first trial: all of its trials would fail alike."""

from __future__ import annotations

from itertools import product

from satseg_ray.config import TrainConfig
from satseg_ray.errors import ConfigError
from satseg_ray.patches.store import PatchStore
from satseg_ray.tracking.datastore import DataStore
from satseg_ray.train.job import check_classes, checked_spec
from satseg_ray.train.schedule import SCORE
from satseg_ray.tune.space import Space, ends, with_values
from satseg_ray.workspace import Workspace

_SHAPING = ("architecture", "backbone", "patch_size", "predict_stride", "loss.class_weights")
"""Keys that decide whether a network and the patches go together."""


def check_data(base: TrainConfig, space: Space, metric: str, workspace: Workspace) -> None:
    """Check that a sweep's data set is there, some trial can train on it, and it has the metric.

    Raises:
        DatasetNotFound, EmptySplit: there is nothing to train on, or to score by.
        ConfigError: no such figure; or what every combination of the space is refused for.
    """
    with DataStore.of(workspace).reading_patches(base.dataset) as patches:
        store = PatchStore.open(patches)
        store.required("val")
        check_classes(store.manifest)
        _check_metric(metric, store.manifest.classes.names)
        refused: list[ConfigError] = []
        shaping = {key: ends(space[key]) for key in _SHAPING if key in space}
        for values in product(*shaping.values()):
            try:
                checked_spec(with_values(base, dict(zip(shaping, values, strict=True))), store)
                return
            except ConfigError as error:
                refused.append(error)
        raise refused[0]


def _check_metric(metric: str, classes: tuple[str, ...]) -> None:
    figures = [SCORE, *(f"val_iou_{name}" for name in classes)]
    if metric not in figures:
        raise ConfigError(
            "metric", f"{metric!r} is no figure to be highest", f"There are {', '.join(figures)}."
        )
