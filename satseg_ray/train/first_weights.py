"""Where the first weights of a training come from: a config's words to files and lineage."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

from satseg_ray.config import TrainConfig
from satseg_ray.errors import MissingFile
from satseg_ray.lineage import START_PATCHES, file_digest, patches_seen
from satseg_ray.model.pretrained import (
    IMAGENET,
    FirstWeights,
    InputRange,
    check_source,
    fetch_imagenet,
    is_model,
    library_range,
)
from satseg_ray.model.spec import ModelSpec
from satseg_ray.model.store import model_digest, read_spec
from satseg_ray.tracking import Tracking, fetch, resolve_text
from satseg_ray.workspace import Workspace, absolute

STARTS = ("encoder_weights", "init_from")
"""The keys of a training's config that name one."""
_REGISTERED = "models:"


@dataclass(frozen=True)
class Start:
    """The files of the first weights, the input range that they expect, and where they are from."""

    weights: FirstWeights = field(default_factory=FirstWeights)
    input_range: InputRange = field(default_factory=InputRange)
    lineage: dict[str, str] = field(default_factory=dict)

    def applied(self, spec: ModelSpec) -> ModelSpec:
        """Return the spec of the model that starts so."""
        return replace(
            spec,
            input_scale=self.input_range.scale,
            input_offset=self.input_range.offset,
            lineage={**spec.lineage, **self.lineage},
        )


def find_start(config: TrainConfig, spec: ModelSpec, workspace: Workspace) -> Start:
    """Return where the first weights of a model of ``spec`` come from; random ones by default.

    Raises:
        ConfigError: a model of another kind, or ImageNet's weights cannot be downloaded.
        MissingFile, ModelVersionNotFound: nothing is there by that name.
    """
    if config.init_from:
        directory, name = _model(config.init_from, "init_from", workspace)
        weights = FirstWeights(model=str(directory))
        return _from_model("init_from", directory, name, spec, weights)
    if not config.encoder_weights:
        return Start()
    if config.encoder_weights == IMAGENET:
        folder = workspace.root / "cache" / "encoders"
        path = fetch_imagenet(config.backbone, folder)
        return _from_file(path, IMAGENET, config.backbone)
    path = absolute(config.encoder_weights, "encoder_weights")
    if path.is_file():
        return _from_file(path, str(path), config.backbone)
    directory, name = _model(config.encoder_weights, "encoder_weights", workspace)
    weights = FirstWeights(encoder=str(directory))
    return _from_model("encoder_weights", directory, name, spec, weights)


def kept_start(key: str, text: str | None) -> str | None:
    """Return a start as it may be read from any folder: a path becomes absolute.

    >>> kept_start("encoder_weights", "imagenet"), kept_start("init_from", "models:/sea/3")
    ('imagenet', 'models:/sea/3')
    """
    if not text or text == IMAGENET or text.startswith(_REGISTERED):
        return text
    return str(absolute(text, key))


def _from_file(path: Path, name: str, backbone: str) -> Start:
    lineage = {"encoder_weights": name, "encoder_weights_sha256": file_digest(path)}
    return Start(FirstWeights(encoder=str(path)), library_range(backbone), lineage)


def _from_model(
    key: str, directory: Path, name: str, spec: ModelSpec, weights: FirstWeights
) -> Start:
    source = read_spec(directory)
    check_source(key, source, spec)
    lineage = {key: name, f"{key}_sha256": model_digest(directory)}
    if seen := patches_seen(source.lineage):
        lineage[START_PATCHES] = " ".join(seen)
    return Start(weights, InputRange(source.input_scale, source.input_offset), lineage)


def _model(text: str, key: str, workspace: Workspace) -> tuple[Path, str]:
    """Return the directory of a registered model or of a path, and the name to remember it by."""
    if text.startswith(_REGISTERED):
        tracking = Tracking.open(workspace.root)
        found = resolve_text(tracking, text, key)
        return fetch(tracking, found, workspace.models()), found.uri
    path = absolute(text, key)
    for directory in (path, path / "model"):  # a run's folder has its model in it
        if is_model(directory):
            return directory, str(directory)
    raise MissingFile(
        key,
        f"{text!r} is no model directory" if path.exists() else f"there is no {text!r}",
        "Name models:/<name>@<alias>, models:/<name>/<version>, or a directory with a spec.json.",
    )
