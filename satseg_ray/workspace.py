"""Where everything lies in a workspace, and folders that appear complete or not at all."""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from socket import gethostname

from satseg_ray.errors import ConfigError, UnwritableProduct
from satseg_ray.lineage import value_digest
from satseg_ray.process import in_submitted_job

ENVIRONMENT_NAME = "SATSEG_WORKSPACE"
_NO_PLACE = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")


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
        return self.root / "data" / "raw" / checked_name(dataset, "dataset")

    def patches(self, dataset: str) -> Path:
        """The patches of a data set."""
        return self.root / "data" / "patches" / checked_name(dataset, "dataset")

    def run(self, run_id: str) -> Path:
        """The model and the checkpoints of a training run."""
        return self.root / "runs" / checked_name(run_id, "run_id")

    def models(self) -> Path:
        """Registered models as they were fetched for use, by content."""
        return self.root / "cache" / "models"

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


@contextmanager
def fresh_directory(target: Path) -> Iterator[Path]:
    """Give a folder to write into; it becomes ``target``, replacing an older one, at the end.

    Where the block raises, nothing is left and an older ``target`` stays as it was. What a killed
    process left is removed by the next one on that machine.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    for stale in target.parent.glob(f".{target.name}.{gethostname()}.*.partial"):
        if not _alive(stale):
            _sweep(stale, target)
    partial = target.with_name(f".{target.name}.{gethostname()}.{os.getpid()}.partial")
    partial.mkdir()
    try:
        yield partial
        _swap(partial, target)
    except OSError as error:
        if error.errno not in _NO_PLACE:
            raise
        raise UnwritableProduct(
            target, f"cannot be written ({error.strerror})", "Look at the disk's space and rights."
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _swap(partial: Path, target: Path) -> None:
    old = partial.with_name(partial.name.removesuffix(".partial") + ".old.partial")
    if target.exists():
        target.replace(old)
    try:
        partial.replace(target)
    except BaseException:  # a signal, too: the older one comes back
        if old.exists() and not target.exists():
            old.replace(target)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _sweep(stale: Path, target: Path) -> None:
    """Remove what a killed process left; an older product it had put aside comes back."""
    if stale.name.endswith(".old.partial") and not target.exists():
        stale.replace(target)
    else:
        shutil.rmtree(stale, ignore_errors=True)


def _alive(partial: Path) -> bool:
    """Tell whether another process writes a folder; one of this number may be of an earlier one."""
    pid = partial.name.removesuffix(".old.partial").removesuffix(".partial").rpartition(".")[2]
    return pid.isdigit() and int(pid) != os.getpid() and Path(f"/proc/{pid}").exists()
