"""Versions of data sets: each change is prepared at the side, decided in one step, then made.

A transaction works in a DVC work tree of its own that shares the cache with ``data/``. Nothing
that readers see changes before the journal is written; afterwards whatever is left is done by this
process, or by the next one that asks for any data set. What is prepared comes into place by
exchange: a folder is its old or its new version at any moment, and never absent.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from satseg_ray.errors import ConfigError, DatasetVersionNotFound, SatsegError
from satseg_ray.products import locked, placed
from satseg_ray.progress import say
from satseg_ray.tracking.committing import Draft, commit_patches, commit_raw
from satseg_ray.tracking.foreign_locks import alone
from satseg_ray.tracking.journal import Move, Scope, own_of
from satseg_ray.tracking.pipeline import check_pipeline, folder_of, write_settings
from satseg_ray.tracking.repository import Repository
from satseg_ray.tracking.reproduction import Reproduction
from satseg_ray.tracking.side import Committed, Side, new_side, summary_at, sweep, sweep_free
from satseg_ray.tracking.transactions import Transactions
from satseg_ray.workspace import Workspace


@dataclass(frozen=True)
class DataStore:
    """The versioned data sets of a workspace; ``repository`` is its ``data/``.

    >>> import tempfile
    >>> store = DataStore.open(Workspace(Path(tempfile.mkdtemp())))
    >>> with store.replacing_raw("coast") as draft:
    ...     _ = (draft.folder / "a.txt").write_text("a")
    ...     draft.version = "coast@1"
    >>> draft.committed.tag, draft.committed.changed
    ('coast-v1', True)
    """

    workspace: Workspace
    repository: Repository

    @classmethod
    def open(cls, workspace: Workspace) -> DataStore:
        """Return the store, made if need be, after finishing what a killed job left.

        Raises:
            UnwritableProduct: there is no space for it, or no right to write.
        """
        root = Path(os.path.realpath(workspace.root / "data"))
        with placed(root / "raw"):
            store = cls(workspace, Repository(root).created())
            store.recover()
        return store

    @classmethod
    def of(cls, workspace: Workspace) -> DataStore:
        """Return the store to read from: nothing is made."""
        return cls(workspace, Repository(Path(os.path.realpath(workspace.root / "data"))))

    @property
    def root(self) -> Path:
        """The work tree."""
        return self.repository.root

    @property
    def transactions(self) -> Transactions:
        """The locks and decisions of the work tree."""
        return Transactions(self.repository)

    def recover(self) -> None:
        """Finish what a killed process had decided, where nobody stands in the way."""
        self.transactions.recover()

    @contextmanager
    def reading_raw(self, dataset: str) -> Iterator[Path]:
        """Give the folder of a data set's scenes and labels, which nobody changes meanwhile.

        Raises:
            InUse: another job writes it.
        """
        with self._reading(self.workspace.raw(dataset), dataset) as folder:
            yield folder

    @contextmanager
    def reading_patches(self, dataset: str) -> Iterator[Path]:
        """Give the folder of a data set's patches, which nobody changes meanwhile.

        Raises:
            InUse: another job writes it.
        """
        with self._reading(self.workspace.patches(dataset), dataset) as folder:
            yield folder

    @contextmanager
    def _reading(self, folder: Path, dataset: str) -> Iterator[Path]:
        if self._reproduction(dataset).is_held_by_parent:
            yield folder
            return
        while True:
            self.transactions.recover(dataset)
            with locked(folder):
                left = self.transactions.is_left(dataset)
                half = (
                    folder.parent.name == "patches" and self._reproduction(dataset).marker.exists()
                )
                if not left and not half:
                    yield folder
                    return
            if half:
                with self._changing(dataset, Scope.PATCHES):
                    pass

    @contextmanager
    def replacing_raw(self, dataset: str) -> Iterator[Draft]:
        """Give a folder to write into; at the end it is the data set's raw data, as a version.

        Where the block raises, or its process dies, all is as before.

        Raises:
            InUse: another job reads or writes it.
            UnwritableProduct: there is no space for it, or no right to write.
        """
        with self._changing(dataset, Scope.RAW) as side:
            draft = Draft(side.raw)
            draft.folder.mkdir(parents=True)
            yield draft
            draft.committed = commit_raw(side, draft)

    @contextmanager
    def replacing_patches(self, dataset: str, params: Mapping[str, Any]) -> Iterator[Draft]:
        """Give a folder to write into; at the end it is the output of the data set's stage tile.

        ``params`` are the settings of the job, all of them. Inside ``dvc repro`` the folder is put
        in place and nothing is committed: that is DVC's part then.

        Raises:
            ConfigError: a file of its pipeline is damaged.
            InUse: another job writes the data set, or reads or writes its patches.
            UnwritableProduct: there is no space for it, or no right to write.
        """
        reproduction = self._reproduction(dataset)
        if reproduction.in_stage:
            with reproduction.stage_output() as draft:
                yield draft
            return
        with self._changing(dataset, Scope.PATCHES) as side:
            check_pipeline(self.root / folder_of(dataset))
            draft = Draft(side.patches)
            draft.folder.mkdir(parents=True)
            yield draft
            draft.committed = commit_patches(side, draft, params)

    @contextmanager
    def _changing(self, dataset: str, scope: Scope) -> Iterator[Side]:
        """Give the side of a transaction under the locks of what it will change."""
        self._check_name(dataset)
        repository = self.repository
        target = self.root / ("patches" if scope is Scope.PATCHES else "raw") / dataset
        with (
            placed(target),
            self.transactions.changing(dataset, scope) as held,
            ExitStack() as stack,
        ):
            with alone(self.root, target):
                pass
            for kind in ("raw", "patches"):
                Move(f"{kind}/{dataset}", None).check(self.root)
            sweep(repository, dataset)
            sweep_free(repository)
            root = stack.enter_context(new_side(repository, dataset))
            side = Side(repository, dataset, scope, root, held)
            try:
                if scope is not Scope.RAW and self._reproduction(dataset).marker.exists():
                    self._reproduction(dataset).undo(held)
                repository.side_tree(side.root)
                yield side
            finally:
                if not self.transactions.is_left(dataset):
                    sweep(repository, dataset)  # again: a DVC without its job may have worked on

    def keep_settings(self, dataset: str, stage: str, settings: Mapping[str, Any]) -> None:
        """Write ``settings`` over those of a stage of the data set's pipeline.

        To be called inside :meth:`reading_patches`, which keeps out all who change the pipeline.
        :meth:`reproduce` uses them, and the next version has them. Inside ``dvc repro``, where
        they come from there, and without a pipeline nothing is done.
        """
        folder = self.root / folder_of(dataset)
        if self._reproduction(dataset).in_stage or not (folder / "params.yaml").is_file():
            return
        try:
            self.repository.scratch.mkdir(parents=True, exist_ok=True)
            with self.transactions.deciding():  # other readers may end at the same time
                partial = self.repository.scratch / f".{dataset}.params.partial"
                write_settings(folder, stage, settings, partial)
        except (SatsegError, OSError) as error:
            say(f"warning: the settings are not kept for 'jobs/data.py reproduce': {error}")

    def _reproduction(self, dataset: str) -> Reproduction:
        return Reproduction(self.workspace, self.repository, dataset)

    def reproduce(self, dataset: str) -> Committed:
        """Let DVC run those stages of the pipeline that are not up to date; commit the outcome.

        Where a stage fails, or the process dies, patches and pipeline come back as they were.

        Raises:
            ConfigError: the data set has no pipeline, as it was never tiled, or a damaged one.
            UnwritableProduct: a stage failed; its own error is on stderr.
            InUse: another job writes the data set, or reads or writes its patches.
        """
        live = self.root / folder_of(dataset)
        if not (live / "dvc.yaml").is_file():
            raise ConfigError("dataset", f"{dataset!r} has no pipeline", "Tile it first.")
        check_pipeline(live)
        with self._changing(dataset, Scope.PATCHES) as side:
            return self._reproduction(dataset).run(side)

    def _check_name(self, dataset: str) -> None:
        self.workspace.raw(dataset)
        if ".." in dataset or dataset.endswith(".dvc"):
            raise ConfigError(
                "dataset",
                f"is {dataset!r}",
                "Use a name without '..' and without '.dvc' at its end.",
            )
        for kind in ("raw", "patches"):
            if (self.root / kind / dataset).is_symlink():
                raise ConfigError(
                    "dataset",
                    f"{kind}/{dataset} is a link, which DVC does not track",
                    "Let SATSEG_WORKSPACE lead to the other disk as a whole.",
                )

    def checkout(self, dataset: str, version: str) -> Committed:
        """Restore a version of one data set, its raw data and patches, as a new version.

        All or nothing; the other data sets stay as they are.

        Raises:
            DatasetVersionNotFound: no version of that name, or not of this data set.
            InUse: a job reads or writes the data set.
            UnwritableProduct: its files are neither in the cache nor in a remote, or
                what lies in its folders is committed nowhere and would be lost.
        """
        revision = self.repository.resolve(version)
        with self._changing(dataset, Scope.BOTH) as side:
            self._take_version(side, revision, version)
            side.refuse_loss()
            tracked = [side.pointer, folder_of(dataset), side.summary]
            same = self._same_at(revision, tracked)
            paths = [f"raw/{dataset}", f"patches/{dataset}", *tracked]
            return side.decide(paths, None if same else f"{version} again")

    def _take_version(self, side: Side, revision: str, version: str) -> None:
        foreign = own_of(version) not in ("", side.dataset)
        if foreign or not summary_at(side.repository, revision, side.dataset):
            raise DatasetVersionNotFound(
                version, f"is no version of {side.dataset!r}", "List them by jobs/data.py versions."
            )
        side.take(revision, side.pointer, folder_of(side.dataset), side.summary)
        side.restore()

    def _same_at(self, revision: str, paths: list[str]) -> bool:
        return not self.repository.git("diff", "--name-only", revision, "HEAD", "--", *paths)
