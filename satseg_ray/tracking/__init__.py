"""Runs and registered models: ids in, ids out; MLflow behind them, imported when first used."""

from satseg_ray.tracking.registry import (
    ModelVersion,
    fetch,
    log_model,
    register_model,
    resolve,
    resolve_text,
)
from satseg_ray.tracking.runs import Run, Tracking, tracking_uri

__all__ = [
    "ModelVersion",
    "Run",
    "Tracking",
    "fetch",
    "log_model",
    "register_model",
    "resolve",
    "resolve_text",
    "tracking_uri",
]
