"""``python -m satseg_ray JOB``: the jobs as stages of a data set's pipeline, which DVC runs.

``--params FILE`` takes the job's config from its section of a YAML file, ``--model-file FILE`` the
model's name and version from what a training wrote, ``--result FILE`` writes what the stage leaves
behind: the same for the same work. Other flags are those of the job.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from satseg_ray.cli import main
from satseg_ray.config import (
    DataConfig,
    EvaluateConfig,
    IngestConfig,
    PredictConfig,
    PromoteConfig,
    TileConfig,
    TrainConfig,
)
from satseg_ray.model.store import model_digest
from satseg_ray.workspace import ENVIRONMENT_NAME

JOBS: dict[str, tuple[type[BaseModel], str]] = {
    "ingest": (IngestConfig, "satseg_ray.data.ingest:ingest"),
    "tile": (TileConfig, "satseg_ray.data.tile:tile"),
    "train": (TrainConfig, "satseg_ray.train.job:train"),
    "evaluate": (EvaluateConfig, "satseg_ray.predict.evaluate:evaluate"),
    "predict": (PredictConfig, "satseg_ray.predict.scene:predict"),
    "promote": (PromoteConfig, "satseg_ray.predict.promotion:promote"),
    "data": (DataConfig, "satseg_ray.data.versions:data"),
}


def run(arguments: Sequence[str]) -> None:
    """Run the job that the first argument names; exits with its code where it fails."""
    if not arguments or arguments[0] not in JOBS:
        sys.exit(f"usage: python -m satseg_ray {{{','.join(JOBS)}}} [--params FILE] [flags]")
    job, (kind, function) = arguments[0], JOBS[arguments[0]]
    own, flags = _split(arguments[1:], ("--params", "--model-file", "--result"))
    if "DVC_ROOT" in os.environ:  # a stage runs in the workspace's data/
        os.environ.setdefault(ENVIRONMENT_NAME, str(Path(os.environ["DVC_ROOT"]).parent))
    if path := own.get("--model-file"):
        model = json.loads(Path(path).read_text("utf-8"))
        flags += ["--model", model["name"], "--version", str(model["version"])]
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / f"{job}.yaml"
        config.write_text(_section(own.get("--params"), job), encoding="utf-8")
        if "--config" not in flags:
            flags = ["--config", str(config), *flags]
        result = main(kind, function, str(config), flags)
    if path := own.get("--result"):
        body = _left_behind(job, result)
        Path(path).write_text(json.dumps(body, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _split(arguments: Sequence[str], names: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """Return the values of our own flags, and the other arguments."""
    own: dict[str, str] = {}
    rest = list(arguments)
    for name in names:
        if name in rest[:-1]:
            place = rest.index(name)
            own[name] = rest[place + 1]
            del rest[place : place + 2]
    return own, rest


def _section(params: str | None, job: str) -> str:
    body = yaml.safe_load(Path(params).read_text("utf-8")) if params else None
    return yaml.safe_dump((body or {}).get(job, {}))


def _left_behind(job: str, result: Mapping[str, Any]) -> dict[str, Any]:
    """Return what of a result is the same for the same work: no run, no folder, no time."""
    if job == "train":
        registered = result["registered"] or {"name": "", "version": ""}
        return {
            "name": registered["name"],
            "version": registered["version"],
            "content": model_digest(Path(result["model"])),
            "dataset_version": result["dataset_version"],
        }
    passing = ("run_id", "directory", "lineage")
    return {key: value for key, value in result.items() if key not in passing}


if __name__ == "__main__":
    run(sys.argv[1:])
