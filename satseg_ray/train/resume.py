"""The record of a training that is not finished: how the same command finds its run again."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from satseg_ray.errors import InUse
from satseg_ray.lineage import value_digest
from satseg_ray.products import fresh_file, locked
from satseg_ray.workspace import Workspace

FOLDER = "unfinished"


@dataclass(frozen=True)
class Unfinished:
    """The place of one training's record; there is one while the training is not finished.

    The record is ``runs/unfinished/<digest>.json`` in the workspace, with the id of the run. The
    digest is of what the training is: its settings, data, code and MLflow.
    """

    path: Path

    def run_id(self) -> str | None:
        """Return the id of the run that goes on, ``None`` where none does."""
        try:
            found: str = json.loads(self.path.read_text(encoding="utf-8"))["run_id"]
        except (FileNotFoundError, ValueError, KeyError):
            return None
        return found

    def begin(self, run_id: str) -> None:
        """Record that this run is the one to go on."""
        with fresh_file(self.path) as partial:
            partial.write_text(json.dumps({"run_id": run_id}), encoding="utf-8")

    def end(self) -> None:
        """Forget the run: the same command starts a new one."""
        self.path.unlink(missing_ok=True)


def forget(workspace: Workspace, run_id: str) -> None:
    """Remove the record of a run that nobody goes on with, where there is one."""
    for path in (workspace.root / "runs" / FOLDER).glob("*.json"):
        record = Unfinished(path)
        if record.run_id() == run_id:
            record.end()


@contextmanager
def unfinished(
    workspace: Workspace, facts: Mapping[str, Any], wait: bool = False
) -> Iterator[Unfinished]:
    """Give the record of the training of these facts, which nobody else has in the block.

    The lock ends with its process, so a driver that was killed does not keep it.

    Raises:
        InUse: the same training is under way, and ``wait`` is not asked for.
    """
    path = workspace.root / "runs" / FOLDER / f"{value_digest(facts)[:16]}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    record = Unfinished(path)
    try:
        with locked(path, exclusive=True, wait=wait):
            yield record
    except InUse as error:
        if os.path.realpath(error.subject) != os.path.realpath(path):
            raise
        raise InUse(
            f"run {record.run_id()}",
            "is this training, and is under way",
            "Wait for it, stop it, or give another setting, such as seed.",
        ) from error
