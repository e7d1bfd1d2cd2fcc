"""``dvc repro`` of one data set's pipeline: its locks, its stages, and the way back."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from satseg_ray.errors import InUse, UnwritableProduct
from satseg_ray.lineage import file_digest
from satseg_ray.patches.store import PatchManifest
from satseg_ray.products import exchange, fresh_directory
from satseg_ray.tracking.committing import Draft
from satseg_ray.tracking.journal import Scope
from satseg_ray.tracking.listing import Listing, made_by
from satseg_ray.tracking.pipeline import folder_of
from satseg_ray.tracking.repository import Repository, clean_environment
from satseg_ray.tracking.side import Committed, Side, new_side, newest
from satseg_ray.tracking.transactions import Transactions
from satseg_ray.workspace import Workspace

_HELD = "SATSEG_REPRODUCING"
"""The data set whose locks a parent process holds for its stages, and what its marker says."""
_GRACE = 20.0
"""Seconds that stages get to end when they are told to."""


@dataclass(frozen=True)
class Reproduction:
    """The reproduction of one data set, as the process that runs it and its stages see it."""

    workspace: Workspace
    repository: Repository
    dataset: str

    @property
    def marker(self) -> Path:
        """The file that is there while DVC works in the folders that readers see."""
        return self.repository.scratch / f"{self.dataset}.reproducing"

    @property
    def is_held_by_parent(self) -> bool:
        """Whether this is a stage whose parent process holds the locks of the data set."""
        return self.in_stage and os.environ.get(_HELD, "").partition(":")[0] == self.dataset

    @property
    def in_stage(self) -> bool:
        """Whether this process is the command of a stage that ``dvc repro`` runs here."""
        place = os.environ.get("DVC_ROOT")
        return bool(os.environ.get("DVC_STAGE") and place) and (
            Path(os.path.realpath(str(place))) == self.repository.root
        )

    @contextmanager
    def stage_output(self) -> Iterator[Draft]:
        """Give a folder to write into, which is put in place as DVC expects of a stage."""
        target = self.workspace.patches(self.dataset)
        with ExitStack() as stack:
            if self.is_held_by_parent:
                partial = target.with_name(f".{target.name}.stage.partial")
                shutil.rmtree(partial, ignore_errors=True)
                partial.mkdir(parents=True)
            else:
                partial = stack.enter_context(fresh_directory(target))
            draft = Draft(partial)
            yield draft
            if self.is_held_by_parent:
                with Transactions(self.repository).deciding():
                    self._check_marker(target)
                    if not (target.is_dir() and exchange(partial, target)):
                        shutil.rmtree(target, ignore_errors=True)
                        partial.rename(target)
                shutil.rmtree(partial, ignore_errors=True)
            draft.committed = Committed("", self.repository.git("rev-parse", "HEAD"), True)

    def _check_marker(self, target: Path) -> None:
        """Refuse what a stage made whose parent is dead, and undone by another job.

        Raises:
            InUse: it is.
        """
        said = os.environ[_HELD].partition(":")[2]
        try:
            alive = self.marker.read_text("utf-8") == said
        except FileNotFoundError:
            alive = False
        if not alive:
            raise InUse(target, "is another job's by now", "Reproduce it again.")

    def run(self, side: Side) -> Committed:
        """Let DVC run the stages that are not up to date, and commit the outcome.

        Raises:
            UnwritableProduct: a stage failed; all is as before.
        """
        token = secrets.token_hex(8)
        folder = folder_of(self.dataset)
        self.marker.write_text(token, "utf-8")
        try:
            more = {_HELD: f"{self.dataset}:{token}", "SATSEG_WORKSPACE": str(self.workspace.root)}
            held = Repository(self.repository.root, side.held)
            _run_stages(held, f"{folder}/dvc.yaml", more)
            done = self._commit_reproduced(side, self.repository.root / folder)
        except BaseException:
            self.undo(side.held)
            raise
        self.marker.unlink()
        return done

    def _commit_reproduced(self, side: Side, live: Path) -> Committed:
        shutil.copytree(live, side.pipeline)
        if self.repository.dvc_config.links_hard:
            made = made_by(side.text(f"{folder_of(side.dataset)}/dvc.lock"), "tile")
            if listing := Listing.read(self.repository.cache, made):
                listing.relink(self.workspace.patches(self.dataset))
        tracked = [path for path in side.pipeline.iterdir() if path.name != "model.json"]
        same = all(
            self.repository.file_at("HEAD", f"{folder_of(side.dataset)}/{path.name}")
            == side.text(f"{folder_of(side.dataset)}/{path.name}")
            for path in tracked
        )
        if same:
            return newest(self.repository, side.dataset)
        parts = {"patches": _described_patches(self.repository.root / "patches" / side.dataset)}
        if (side.pipeline / "model.json").is_file():
            parts["model"] = {"version": file_digest(side.pipeline / "model.json")[:16]}
        side.summarize(**parts)
        return side.decide([folder_of(side.dataset), side.summary], "reproduced")

    def undo(self, held: tuple[int, ...]) -> None:
        """Bring back the committed patches and pipeline, which DVC may have been changing.

        Settings stay: DVC changes none.
        """
        with Transactions(self.repository).deciding():
            # From here on no stage puts its patches in place
            self.marker.write_text("", "utf-8")
        with new_side(self.repository, self.dataset) as root:
            side = Side(self.repository, self.dataset, Scope.PATCHES, root, held)
            side.repository.side_tree(side.root)
            side.take("HEAD", folder_of(self.dataset))
            params = f"{folder_of(self.dataset)}/params.yaml"
            if (self.repository.root / params).is_file():  # with settings that no version has yet
                side.pipeline.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(self.repository.root / params, side.root / params)
            side.restore()
            side.decide([f"patches/{self.dataset}", folder_of(self.dataset)], None)
        self.marker.unlink(missing_ok=True)


def _described_patches(patches: Path) -> dict[str, Any]:
    """Return the summary of patches that a stage made."""
    manifest = PatchManifest.read(patches)
    count = sum(int(split["patches"]) for split in manifest.counts.values())
    return {"version": manifest.lineage.get("patches_version", ""), "patches": count}


def _run_stages(repository: Repository, pipeline: str, environment: Mapping[str, str]) -> None:
    """Run ``dvc repro`` of a ``dvc.yaml`` in the work tree; stages write to stderr.

    Raises:
        UnwritableProduct: a stage failed.
    """
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    site = str(repository.root / ".dvc" / "tmp" / "site")
    more = {"DVC_NO_ANALYTICS": "1", "DVC_SITE_CACHE_DIR": site, "PATH": path}
    process = subprocess.Popen(
        [sys.executable, "-m", "dvc", "repro", pipeline],
        cwd=repository.root,
        env=clean_environment() | more | dict(environment),
        stdout=sys.stderr.fileno(),
        pass_fds=repository.held,
        start_new_session=True,
    )
    try:
        code = process.wait()
    except BaseException:
        _end_group(process)
        raise
    if code:
        raise UnwritableProduct(pipeline, "could not be reproduced", "Its stages say why, above.")


def _end_group(leader: subprocess.Popen[bytes]) -> None:
    """End a process that leads a group, and all its group; those that do not listen are killed."""
    for number, seconds in ((signal.SIGTERM, _GRACE), (signal.SIGKILL, _GRACE)):
        with suppress(ProcessLookupError):
            os.killpg(leader.pid, number)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            leader.poll()
            if not _lives(leader.pid):
                return
            time.sleep(0.05)


def _lives(group: int) -> bool:
    """Tell whether a process of a group is alive."""
    for process in psutil.process_iter():
        with suppress(ProcessLookupError, psutil.NoSuchProcess):
            if os.getpgid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE:
                return True
    return False
