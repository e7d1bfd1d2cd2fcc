"""The pipeline of one data set, tile -> train -> evaluate, as DVC reads it: no machine's paths."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from satseg_ray.errors import ConfigError, told

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
    found = _read(params)
    body = {
        "tile": dict(tile),
        "train": {"dataset": dataset, "register": dataset},
        "evaluate": {"dataset": dataset, "split": "test"},
    }
    if found:
        body = found | {"tile": dict(tile)}
    _write(params, body)
    _write(folder / "dvc.yaml", stages(dataset))


def write_settings(folder: Path, stage: str, settings: Mapping[str, Any], partial: Path) -> None:
    """Write ``settings`` over those of a stage in ``params.yaml``; ``partial`` is on its disk.

    Settings that are not given stay.
    """
    params = folder / "params.yaml"
    body = _read(params)
    found = body.get(stage)
    new = dict(found if isinstance(found, Mapping) else {}) | dict(settings)
    if new != found:
        _write(partial, body | {stage: new})
        partial.replace(params)


def locked_stages(folder: Path) -> list[str]:
    """Return the stages whose results ``dvc.lock`` in ``folder`` names."""
    found = _read(folder / "dvc.lock").get("stages", {})
    return list(found) if isinstance(found, Mapping) else []


def check_pipeline(folder: Path) -> None:
    """Refuse a pipeline whose settings or results somebody has damaged, before work is lost.

    Raises:
        ConfigError: one of its files is no YAML of keys.
    """
    for name in ("params.yaml", "dvc.lock"):
        _read(folder / name)


def _read(path: Path) -> dict[str, Any]:
    """Return what a file of a pipeline says, nothing where it is not there.

    Raises:
        ConfigError: it is damaged.
    """
    try:
        body = yaml.safe_load(path.read_text("utf-8")) if path.is_file() else None
    except (ValueError, yaml.YAMLError) as error:
        raise ConfigError(path, f"is no YAML ({told(error)})", _remedy(path)) from error
    if not isinstance(body, dict | None):
        raise ConfigError(path, f"holds a {type(body).__name__}", _remedy(path))
    return body or {}


def _remedy(path: Path) -> str:
    place = f"{path.parent.parent.name}/{path.parent.name}/{path.name}"
    return f"Mend it, or take back the last version's by 'git checkout {place}' in data/."


def _write(path: Path, body: Mapping[str, Any]) -> None:
    path.write_text(yaml.safe_dump(dict(body), sort_keys=False, allow_unicode=True), "utf-8")
