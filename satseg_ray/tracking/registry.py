"""Registered models: a model directory under a name, found again by version or alias."""

from __future__ import annotations

import re
import shutil
import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version as installed
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from satseg_ray.errors import ConfigError, ModelVersionNotFound
from satseg_ray.lineage import value_digest
from satseg_ray.model.backbones import ARCHITECTURES
from satseg_ray.model.segment import fill_values
from satseg_ray.model.spec import ModelSpec
from satseg_ray.model.store import model_digest, read_spec
from satseg_ray.products import fresh_directory, is_no_place, locked
from satseg_ray.tracking.runs import Run, Tracking
from satseg_ray.workspace import checked_name

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel
    from mlflow.entities.model_registry import ModelVersion as Registered
    from mlflow.models import Model, ModelSignature

CHAMPION, CHALLENGER = "champion", "challenger"
_ARTIFACT, _DIGEST = "model", "model_sha256"
_RESERVED = re.compile(r"latest|v?\d+", re.IGNORECASE)
_ADDRESS = re.compile(r"(?:models:/)?(?P<name>[^/@]+)(?:/(?P<version>\d+)|@(?P<alias>[^/@]+))?")
_EXAMPLE_SIDE = 64
_REQUIREMENTS = ("mlflow", "tensorflow", "numpy")


@dataclass(frozen=True)
class ModelVersion:
    """One registered model: ``uri`` is what ``mlflow.pyfunc.load_model`` takes.

    ``source`` is the address of its files, which no other version has.
    """

    name: str
    version: str
    run_id: str
    source: str

    @property
    def uri(self) -> str:
        """The model's address in MLflow.

        >>> ModelVersion("water", "3", "ab12", "s3://models/m-9/artifacts").uri
        'models:/water/3'
        """
        return f"models:/{self.name}/{self.version}"


def log_model(run: Run, directory: Path) -> str:
    """Store a model directory with its run, as :func:`register_model` does, under no name.

    Returns what ``mlflow.pyfunc.load_model`` takes. The same model of the same run is stored once.

    Raises:
        ModelVersionNotFound: the directory holds no model.
    """
    logged = _logged_once(run.tracking.client(), run, directory, _facts(directory))
    return str(logged.model_uri)


def register_model(
    run: Run, directory: Path, name: str, alias: str | None = CHAMPION
) -> ModelVersion:
    """Store a model directory with its run, register it under ``name`` and point ``alias`` at it.

    Spec and lineage are stored with the model and are tags of the version. MLflow loads it from
    code and graph: without a pickle, this package or an environment variable. The same model of
    the same run is registered once: again, it is the version that there is.

    Raises:
        ConfigError: the name or the alias is not allowed.
        ModelVersionNotFound: the directory holds no model.
    """
    check_name("name", name)
    if alias is not None:
        check_name("alias", alias)
    tags = _facts(directory)
    client = run.tracking.client()
    version = _registered(client, run, name, tags[_DIGEST])
    if version is None:
        logged = _logged_once(client, run, directory, tags)
        _create_name(client, name)
        # not models:/<id>: the registry would look that up in MLflow's global store, not this one
        version = client.create_model_version(
            name, logged.artifact_location, run_id=run.run_id, tags=tags, model_id=logged.model_id
        )
    if alias is not None:
        client.set_registered_model_alias(name, alias, str(version.version))
    return _version(version)


def _registered(client: MlflowClient, run: Run, name: str, digest: str) -> Registered | None:
    """Return the first version of a name that is a run's model of this digest, if there is one."""
    of_run = client.search_model_versions(f"name = '{name}' and run_id = '{run.run_id}'")
    found = [version for version in of_run if version.tags.get(_DIGEST) == digest]
    return min(found, key=lambda version: int(version.version), default=None)


def entry_alias(run: Run, name: str) -> str:
    """Return what a run's model becomes under a name: champion of one without any, else challenger.

    Only a promotion takes the title from a champion. A run whose own model is champion already,
    as it was interrupted after that, gets the same answer again.
    """
    try:
        champion = resolve(run.tracking, name)
    except ModelVersionNotFound:
        return CHAMPION
    return CHAMPION if champion.run_id == run.run_id else CHALLENGER


def resolve(tracking: Tracking, name: str, version_or_alias: str = CHAMPION) -> ModelVersion:
    """Return the version that a number or an alias of a registered name stands for.

    Raises:
        ConfigError: the name or the alias is not allowed.
        ModelVersionNotFound: there is no such model.
    """
    check_name("name", name)
    client = tracking.client()
    from mlflow.exceptions import MlflowException

    numbered = version_or_alias.isdecimal()
    if not numbered:
        check_name("alias", version_or_alias)
    find = client.get_model_version if numbered else client.get_model_version_by_alias
    try:
        return _version(find(name, version_or_alias))
    except MlflowException as error:
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise
        raise ModelVersionNotFound(
            f"models:/{name}{'/' if numbered else '@'}{version_or_alias}",
            f"is not registered in {tracking.uri}",
            "Register it with jobs/train.py --register, or name another version or alias.",
        ) from error


def resolve_text(tracking: Tracking, text: str, key: str = "models") -> ModelVersion:
    """Return the version that ``name``, ``name@alias`` or ``name/3`` stands for.

    As in MLflow a ``models:/`` before it is allowed; a name alone means its champion.
    ``key`` is the setting that it stands in.

    Raises:
        ConfigError: the text is none of these.
        ModelVersionNotFound: there is no such model.
    """
    found = _ADDRESS.fullmatch(text)
    if found is None:
        raise ConfigError(key, f"{text!r} is no model", "Write name, name@alias or name/3.")
    return resolve(tracking, found["name"], found["version"] or found["alias"] or CHAMPION)


def fetch(tracking: Tracking, version: ModelVersion, cache: Path) -> Path:
    """Return a directory with the files of a version, downloaded into ``cache`` once.

    It is what :meth:`satseg_ray.model.segmenter.Segmenter.load` takes.

    Raises:
        ModelVersionNotFound: the files of the version are gone.
    """
    directory = cache / f"{version.name}-{version.version}-{value_digest(version.source)[:12]}"
    cache.mkdir(parents=True, exist_ok=True)
    with locked(cache / f"{directory.name}.fetch", exclusive=True, wait=True):
        if not directory.is_dir():
            _download(tracking, version, directory)
    return directory / _ARTIFACT


def _download(tracking: Tracking, version: ModelVersion, directory: Path) -> None:
    tracking.client()  # imports MLflow quietly
    from mlflow.artifacts import download_artifacts
    from mlflow.exceptions import MlflowException

    with fresh_directory(directory) as scratch:
        try:
            download_artifacts(
                artifact_uri=f"{version.source}/artifacts/{_ARTIFACT}",
                dst_path=str(scratch),
                tracking_uri=tracking.uri,
            )
        except (MlflowException, OSError) as error:
            if isinstance(error, OSError) and is_no_place(error):
                raise
            raise ModelVersionNotFound(
                version.uri, f"its files are not in {version.source}", "Register the model anew."
            ) from error


def check_name(what: str, name: str) -> None:
    """Check a registered name or (``what="alias"``) an alias.

    Raises:
        ConfigError: other characters than letters, digits, ``_ - .``, or a reserved alias.
    """
    checked_name(name, what)
    if what == "alias" and (_RESERVED.fullmatch(name) or "." in name):
        raise ConfigError(
            what,
            f"{name!r} is not allowed",
            "An alias has no '.' and is neither 'latest' nor a version number.",
        )


def _logged_once(
    client: MlflowClient, run: Run, directory: Path, tags: Mapping[str, str]
) -> LoggedModel:
    """Return the run's MLflow model of these tags; one that was cut short does not count."""
    experiment = client.get_run(run.run_id).info.experiment_id
    of_run = client.search_logged_models([experiment], f"source_run_id = '{run.run_id}'")
    for logged in of_run:
        if logged.tags.get(_DIGEST) == tags[_DIGEST] and logged.status == "READY":
            return logged
    return _log_model(client, run, directory, tags)


def _log_model(
    client: MlflowClient, run: Run, directory: Path, tags: Mapping[str, str]
) -> LoggedModel:
    """Store the directory as an MLflow model of the run."""
    from mlflow.entities import LoggedModelOutput
    from mlflow.models import Model

    logged = client.create_logged_model(
        experiment_id=client.get_run(run.run_id).info.experiment_id,
        name=_ARTIFACT,
        source_run_id=run.run_id,
        tags=dict(tags),
    )
    model = Model(run_id=run.run_id, model_id=logged.model_id, metadata=dict(tags))
    with tempfile.TemporaryDirectory(prefix="satseg-register-") as scratch:
        _save_as_code(directory, model, Path(scratch))
        client.log_model_artifacts(logged.model_id, str(Path(scratch, "mlflow")))
    client.finalize_logged_model(logged.model_id, "READY")
    client.log_outputs(run.run_id, [LoggedModelOutput(logged.model_id, step=0)])
    return logged


def _save_as_code(directory: Path, model: Model, scratch: Path) -> None:
    """Write an MLflow model, code beside the model directory, to ``scratch/mlflow``."""
    import mlflow.pyfunc

    spec = read_spec(directory)
    content = shutil.copytree(directory, scratch / _ARTIFACT)  # MLflow keeps the folder's name
    # MLflow asks for type hints in place of the signature, past any filter of warnings
    with warnings.catch_warnings(record=True):
        mlflow.pyfunc.save_model(
            path=scratch / "mlflow",
            mlflow_model=model,
            python_model=Path(__file__).with_name("pyfunc_model.py"),
            artifacts={_ARTIFACT: str(content)},
            signature=_signature(spec),
            input_example=_example(spec),
            pip_requirements=[f"{name}=={installed(name)}" for name in _REQUIREMENTS],
            metadata=model.metadata,
        )


def _side(spec: ModelSpec) -> int:
    """Return the patch size that the stored graph asks for, -1 for any."""
    return -1 if ARCHITECTURES[spec.architecture].any_size else spec.patch_size


def _signature(spec: ModelSpec) -> ModelSignature:
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    def tensor(dtype: Any, channels: int) -> Schema:
        shape = (-1, _side(spec), _side(spec), channels)
        return Schema([TensorSpec(np.dtype(dtype), shape)])

    return ModelSignature(
        inputs=tensor(spec.dtype, len(spec.bands)),
        outputs=tensor(np.float32, len(spec.classes)),
    )


def _example(spec: ModelSpec) -> Any:
    """Return one small patch of the bands' means: the example is stored as text."""
    side = _EXAMPLE_SIDE if _side(spec) < 0 else spec.patch_size
    means = fill_values(spec)
    return np.broadcast_to(means, (1, side, side, len(means))).copy()


def _facts(directory: Path) -> dict[str, str]:
    """Return the tags of a model directory, and the digest of its files."""
    return _tags(read_spec(directory)) | {_DIGEST: model_digest(directory)}


def _tags(spec: ModelSpec) -> dict[str, str]:
    facts = {
        "architecture": spec.architecture,
        "backbone": spec.backbone,
        "bands": ",".join(spec.bands),
        "classes": ",".join(spec.classes.names),
        "patch_size": str(spec.patch_size),
        "temperature": str(spec.temperature),
    }
    return facts | {key: str(value) for key, value in spec.lineage.items()}


def _create_name(client: MlflowClient, name: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _version(found: Registered) -> ModelVersion:
    return ModelVersion(found.name, str(found.version), str(found.run_id), str(found.source))
