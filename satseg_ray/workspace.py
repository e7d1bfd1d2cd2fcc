"""Where everything lies in a workspace, and which names may become folders."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from satseg_ray.errors import ConfigError
from satseg_ray.lineage import value_digest
from satseg_ray.process import in_submitted_job

ENVIRONMENT_NAME = "SATSEG_WORKSPACE"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")
_LONGEST = 100


def checked_name(name: str, field: str) -> str:
    """Return ``name`` if it may become a folder.

    Raises:
        ConfigError: it has other characters than letters, digits, ``_``, ``-`` and ``.``.
    """
    if not _NAME.fullmatch(name):
        raise ConfigError(
            field, f"is {name!r}", "Use letters, digits, '_', '-' and '.', at most 128 of them."
        )
    return name


def checked_dataset(name: str) -> str:
    """Return ``name`` if a data set may have it: its versions' tags are longer by a number.

    Raises:
        ConfigError: it may not become a folder, or is longer than 100 characters.
    """
    if len(name) > _LONGEST:
        raise ConfigError(
            "dataset", f"has {len(name)} characters", f"Use a name of at most {_LONGEST}."
        )
    return checked_name(name, "dataset")


def name_from(text: str) -> str:
    """Return a name that may become a folder, from any text such as a file's stem.

    Where the text has to change it gets a digest, so that two texts stay two names.

    >>> name_from("coast-1"), name_from("scène 1")
    ('coast-1', 'sc-ne-1-50639e30')
    """
    name = re.sub(r"[^A-Za-z0-9_.-]+", "-", text).lstrip("_.-")[:100]
    return name if name == text else f"{name or 'scene'}-{value_digest(text)[:8]}"


@dataclass(frozen=True)
class Workspace:
    """The folders of one workspace; ``root`` is absolute."""

    root: Path

    @classmethod
    def resolve(cls, setting: str | None = None) -> Workspace:
        """Return the workspace of a setting, of ``SATSEG_WORKSPACE``, or ``./workspace``.

        Raises:
            ConfigError: the path is relative in a job submitted to a cluster, where it would be
                lost with the copy of the working directory.
        """
        text = setting or os.environ.get(ENVIRONMENT_NAME) or "workspace"
        return cls(absolute(text, ENVIRONMENT_NAME))

    def raw(self, dataset: str) -> Path:
        """The scenes and labels of a data set."""
        return self.root / "data" / "raw" / checked_dataset(dataset)

    def patches(self, dataset: str) -> Path:
        """The patches of a data set."""
        return self.root / "data" / "patches" / checked_dataset(dataset)

    def report(self, dataset: str) -> Path:
        """What was found in a data set that was refused."""
        return self.root / "reports" / checked_dataset(dataset)

    def run(self, run_id: str) -> Path:
        """The model and the checkpoints of a training run."""
        return self.root / "runs" / checked_name(run_id, "run_id")

    def sweep(self, name: str) -> Path:
        """The state and the figures of a sweep."""
        return self.root / "sweeps" / checked_name(name, "name")

    def models(self) -> Path:
        """Registered models as they were fetched for use, by content."""
        return self.root / "cache" / "models"

    def promotions(self) -> Path:
        """The locks of promotions."""
        return self.root / "cache" / "promotions"

    def prediction(self, name: str) -> Path:
        """The products of one prediction."""
        return self.root / "predictions" / checked_name(name, "output")

    def evaluation(self, name: str) -> Path:
        """The figures of one evaluation."""
        return self.root / "evaluations" / checked_name(name, "output")


def absolute(path: str, field: str) -> Path:
    """Return ``path`` as an absolute path.

    Raises:
        ConfigError: it is relative in a submitted job.
    """
    if not os.path.isabs(path) and in_submitted_job():
        raise ConfigError(
            field,
            f"is the relative path {path!r} in a submitted job, which runs in a copy of the folder",
            "Give an absolute path that every node reaches.",
        )
    return Path(os.path.abspath(path))
