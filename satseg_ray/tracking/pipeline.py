"""The pipeline of one data set, tile -> train -> evaluate, as DVC reads it: no machine's paths."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

STAGES = ("tile", "train", "evaluate")


def folder_of(dataset: str) -> str:
    """Return where the pipeline of a data set lies in the work tree."""
    return f"pipelines/{dataset}"


def stages(dataset: str) -> dict[str, Any]:
    """Return the body of ``dvc.yaml``; paths are relative to the work tree's root."""
    folder = folder_of(dataset)
    params = f"{folder}/params.yaml"
    patches, model = f"patches/{dataset}", f"{folder}/model.json"
    evaluation = f"{folder}/evaluation.json"

    def stage(name: str, options: str, deps: list[str], made: Mapping[str, Any]) -> dict[str, Any]:
        command = f"python -m satseg_ray {name} --params {params}{options}"
        params_of = {"params": [{params: [name]}]}
        return {"wdir": "../..", "cmd": command, "deps": deps} | params_of | dict(made)

    metrics = {"metrics": [{evaluation: {"cache": False}}]}
    read = f" --model-file {model} --result {evaluation}"
    return {
        "stages": {
            "tile": stage("tile", "", [f"raw/{dataset}"], {"outs": [patches]}),
            "train": stage("train", f" --result {model}", [patches], {"outs": [model]}),
            "evaluate": stage("evaluate", read, [model, patches], metrics),
        }
    }


def write_pipeline(folder: Path, dataset: str, tile: Mapping[str, Any]) -> None:
    """Write ``dvc.yaml`` and ``params.yaml``; the settings of train and evaluate stay."""
    folder.mkdir(parents=True, exist_ok=True)
    params = folder / "params.yaml"
    found = yaml.safe_load(params.read_text("utf-8")) if params.is_file() else None
    body = {
        "tile": dict(tile),
        "train": {"dataset": dataset, "register": dataset},
        "evaluate": {"dataset": dataset, "split": "test"},
    }
    if isinstance(found, dict):
        body = found | {"tile": dict(tile)}
    _write(params, body)
    _write(folder / "dvc.yaml", stages(dataset))


def locked_stages(folder: Path) -> list[str]:
    """Return the stages whose results ``dvc.lock`` in ``folder`` names."""
    path = folder / "dvc.lock"
    if not path.is_file():
        return []
    body = yaml.safe_load(path.read_text("utf-8")) or {}
    return list(body.get("stages", {}))


def _write(path: Path, body: Mapping[str, Any]) -> None:
    path.write_text(yaml.safe_dump(dict(body), sort_keys=False, allow_unicode=True), "utf-8")
