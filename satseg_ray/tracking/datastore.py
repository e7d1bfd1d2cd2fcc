"""Versions of data sets: each change is prepared at the side, decided in one step, then made.

A transaction works in a DVC work tree of its own that shares the cache with ``data/``. Nothing
that readers see changes before the journal is written; afterwards whatever is left is done by this
process, or by the next one that asks for any data set. What is prepared comes into place by
exchange: a folder is its old or its new version at any moment, and never absent.
"""

from __future__ import annotations

import filecmp
import json
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from satseg_ray.errors import (
    ConfigError,
    DatasetNotFound,
    DatasetVersionNotFound,
    InUse,
    UnwritableProduct,
)
from satseg_ray.lineage import file_digest
from satseg_ray.patches.dataset import DatasetManifest
from satseg_ray.patches.store import PatchManifest
from satseg_ray.products import exchange, fresh_directory, locked, placed
from satseg_ray.tracking.journal import Journal, Move, Record, Scope, own_of, sides_of, tags_of
from satseg_ray.tracking.listing import Listing, linked, made_by, pointed
from satseg_ray.tracking.pipeline import folder_of, locked_stages, write_pipeline
from satseg_ray.tracking.repository import Repository
from satseg_ray.tracking.transactions import Transactions
from satseg_ray.workspace import Workspace

_HELD = "SATSEG_REPRODUCING"
"""The data set whose locks a parent process holds for its stages, and what its marker says."""


@dataclass(frozen=True)
class Committed:
    """What a transaction came to: the newest version of its data set, and whether it is new."""

    tag: str
    revision: str
    changed: bool


@dataclass
class Draft:
    """A folder to write into. ``version`` names its content, ``figures`` say how much it is.

    ``committed`` is there once the block has ended. Bytes alone decide whether it is a new version.
    """

    folder: Path
    version: str = ""
    figures: Mapping[str, int] = field(default_factory=dict)
    committed: Committed | None = None

    def part(self) -> dict[str, Any]:
        """Return what is kept of it in git."""
        return {"version": self.version, **self.figures}

    def result(self) -> dict[str, Any]:
        """Return what became of it, for a job's result: nothing where another process commits."""
        made = self.committed
        return {"tag": made.tag, "revision": made.revision, "new": made.changed} if made else {}


@dataclass(frozen=True)
class _Side:
    """The place of one transaction: a DVC work tree beside that of ``repository``.

    ``held`` are the data set's locks, for the processes that change what others see.
    """

    repository: Repository
    dataset: str
    scope: Scope
    root: Path
    held: tuple[int, ...]

    @property
    def raw(self) -> Path:
        return self.root / "raw" / self.dataset

    @property
    def patches(self) -> Path:
        return self.root / "patches" / self.dataset

    @property
    def pipeline(self) -> Path:
        return self.root / folder_of(self.dataset)

    @property
    def pointer(self) -> str:
        """The file by which DVC tracks the raw data."""
        return f"raw/{self.dataset}.dvc"

    @property
    def stage(self) -> str:
        """The stage that makes the patches, as DVC addresses it."""
        return f"{folder_of(self.dataset)}/dvc.yaml:tile"

    @property
    def summary(self) -> str:
        return f"versions/{self.dataset}.json"

    def dvc(self, *commands: tuple[str, ...]) -> None:
        self.repository.dvc(self.root, *commands)

    def take(self, revision: str, *paths: str) -> None:
        """Take tracked files as they were at a revision."""
        for name in self.repository.files_at(revision, *paths):
            target = self.root / name
            target.parent.mkdir(parents=True, exist_ok=True)
            text = self.repository.file_at(revision, name)
            target.write_bytes(str(text).encode("utf-8", "surrogateescape"))

    def restore(self) -> None:
        """Bring what the tracked files here name out of the cache, or of a remote.

        Raises:
            UnwritableProduct: it is in neither.
        """
        targets = [self.pointer] if (self.root / self.pointer).is_file() else []
        made = locked_stages(self.pipeline)
        targets += [f"{folder_of(self.dataset)}/dvc.yaml:{stage}" for stage in made]
        if not targets:
            return
        try:
            self.dvc(_checkout(*targets))
            self._verify()
        except UnwritableProduct:
            if not self.repository.dvc_config.has_remotes:
                raise
            self.dvc(("pull", "--force", *targets))
            self._verify()

    def _verify(self) -> None:
        """Read what came back, for files are links into the cache, which root can alter.

        Raises:
            UnwritableProduct: its bytes are not those of the version. The cache forgets them.
        """
        for folder, checksum in ((self.raw, self._raw_sum()), (self.patches, self._patches_sum())):
            listing = Listing.read(self.repository.cache, checksum)
            if listing and (bad := listing.altered(folder)):
                listing.forget(bad)
                shutil.rmtree(folder)
                raise UnwritableProduct(
                    f"{folder.name}/{bad[0]}",
                    f"was altered in the cache, as were {len(bad) - 1} other files",
                    "Ingest or tile the same inputs again, or get the files from a remote.",
                )

    def _raw_sum(self) -> str | None:
        return pointed(self.text(self.pointer))

    def _patches_sum(self) -> str | None:
        return made_by(self.text(f"{folder_of(self.dataset)}/dvc.lock"), "tile")

    def text(self, path: str) -> str:
        """Return a tracked file of this side, nothing where it is not there."""
        file = self.root / path
        return file.read_text("utf-8", errors="surrogateescape") if file.is_file() else ""

    def add(self, folder: Path, *commands: tuple[str, ...]) -> None:
        """Let DVC put a folder of files just made into its cache, and mend altered ones there."""
        kept = self.root / "kept"
        shutil.copytree(folder, kept, copy_function=linked)
        self.dvc(*commands)
        checksum = self._raw_sum() if folder == self.raw else self._patches_sum()
        listing = Listing.read(self.repository.cache, checksum)
        if listing:
            listing.mend(folder, kept)
        shutil.rmtree(kept)

    def summarize(self, **parts: Mapping[str, Any] | None) -> None:
        """Write what this version holds: the newest one's summary with ``parts`` in it."""
        body = summary_at(self.repository, "HEAD", self.dataset) | {"dataset": self.dataset}
        path = self.root / self.summary
        path.parent.mkdir(exist_ok=True)
        body = {name: part for name, part in (body | parts).items() if part is not None}
        text = json.dumps(body, indent=2, sort_keys=True)
        path.write_text(text + "\n", encoding="utf-8")


def summary_at(repository: Repository, revision: str, dataset: str) -> dict[str, Any]:
    """Return what a version of a data set holds, by kind; empty where there is none."""
    text = repository.file_at(revision, f"versions/{dataset}.json")
    found: dict[str, Any] = json.loads(text) if text else {}
    return found


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
        if self._held_by_parent(dataset):
            yield folder
            return
        while True:
            self.transactions.recover(dataset)
            with locked(folder):
                left = self.transactions.is_left(dataset)
                half = folder.parent.name == "patches" and self._marker(dataset).exists()
                if not left and not half:
                    yield folder
                    return
            if half:
                with self._changing(dataset, Scope.PATCHES):
                    pass

    def _marker(self, dataset: str) -> Path:
        """The file that is there while DVC works in the folders that readers see."""
        return self.repository.scratch / f"{dataset}.reproducing"

    def _held_by_parent(self, dataset: str) -> bool:
        return self._in_stage() and os.environ.get(_HELD, "").partition(":")[0] == dataset

    def _in_stage(self) -> bool:
        """Tell whether this process is the command of a stage that ``dvc repro`` runs here."""
        place = os.environ.get("DVC_ROOT")
        return bool(os.environ.get("DVC_STAGE") and place) and (
            Path(os.path.realpath(str(place))) == self.root
        )

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
            draft.committed = self._commit_raw(side, draft)

    @contextmanager
    def replacing_patches(self, dataset: str, params: Mapping[str, Any]) -> Iterator[Draft]:
        """Give a folder to write into; at the end it is the output of the data set's stage tile.

        ``params`` are the settings of the job, all of them. Inside ``dvc repro`` the folder is put
        in place and nothing is committed: that is DVC's part then.

        Raises:
            InUse: another job writes the data set, or reads or writes its patches.
            UnwritableProduct: there is no space for it, or no right to write.
        """
        if self._in_stage():
            with self._stage_output(dataset) as draft:
                yield draft
            return
        with self._changing(dataset, Scope.PATCHES) as side:
            draft = Draft(side.patches)
            draft.folder.mkdir(parents=True)
            yield draft
            draft.committed = self._commit_patches(side, draft, params)

    @contextmanager
    def _stage_output(self, dataset: str) -> Iterator[Draft]:
        target = self.workspace.patches(dataset)
        with ExitStack() as stack:
            if self._held_by_parent(dataset):
                partial = target.with_name(f".{target.name}.stage.partial")
                shutil.rmtree(partial, ignore_errors=True)
                partial.mkdir(parents=True)
            else:
                partial = stack.enter_context(fresh_directory(target))
            draft = Draft(partial)
            yield draft
            if self._held_by_parent(dataset):
                with self.transactions.deciding():
                    self._check_marker(dataset, target)
                    if not (target.is_dir() and exchange(partial, target)):
                        shutil.rmtree(target, ignore_errors=True)
                        partial.rename(target)
                shutil.rmtree(partial, ignore_errors=True)
            draft.committed = Committed("", self.repository.git("rev-parse", "HEAD"), True)

    def _check_marker(self, dataset: str, target: Path) -> None:
        """Refuse what a stage made whose parent is dead, and undone by another job.

        Raises:
            InUse: it is.
        """
        said = os.environ[_HELD].partition(":")[2]
        try:
            alive = self._marker(dataset).read_text("utf-8") == said
        except FileNotFoundError:
            alive = False
        if not alive:
            raise InUse(target, "is another job's by now", "Reproduce it again.")

    @contextmanager
    def _changing(self, dataset: str, scope: Scope) -> Iterator[_Side]:
        """Give the side of a transaction under the locks of what it will change."""
        self._check_name(dataset)
        repository = self.repository
        target = self.root / ("patches" if scope is Scope.PATCHES else "raw") / dataset
        with placed(target), self.transactions.changing(dataset, scope) as held:
            repository.refuse_others(target)
            for kind in ("raw", "patches"):
                Move(f"{kind}/{dataset}", None).check(self.root)
            self._sweep(dataset)
            side = _Side(repository, dataset, scope, _new_side(repository, dataset), held)
            try:
                if scope is not Scope.RAW and self._marker(dataset).exists():
                    self._undo_reproduction(dataset, held)
                repository.side_tree(side.root)
                yield side
            finally:
                if not self.transactions.is_left(dataset):
                    self._sweep(dataset)  # again: a DVC without its job may have worked on

    def _sweep(self, dataset: str) -> None:
        for left in sides_of(self.repository, dataset):
            shutil.rmtree(left, ignore_errors=True)

    def reproduce(self, dataset: str) -> Committed:
        """Let DVC run those stages of the pipeline that are not up to date; commit the outcome.

        Where a stage fails, or the process dies, patches and pipeline come back as they were.

        Raises:
            ConfigError: the data set has no pipeline: it was never tiled.
            UnwritableProduct: a stage failed; its own error is on stderr.
            InUse: another job writes the data set, or reads or writes its patches.
        """
        live = self.root / folder_of(dataset)
        if not (live / "dvc.yaml").is_file():
            raise ConfigError("dataset", f"{dataset!r} has no pipeline", "Tile it first.")
        with self._changing(dataset, Scope.PATCHES) as side:
            marker = self._marker(dataset)
            token = secrets.token_hex(8)
            marker.write_text(token, "utf-8")
            try:
                more = {_HELD: f"{dataset}:{token}", "SATSEG_WORKSPACE": str(self.workspace.root)}
                Repository(self.root, side.held).reproduce(f"{folder_of(dataset)}/dvc.yaml", more)
                done = self._commit_reproduced(side, live)
            except BaseException:
                self._undo_reproduction(dataset, side.held)
                raise
            marker.unlink()
            return done

    def _commit_reproduced(self, side: _Side, live: Path) -> Committed:
        shutil.copytree(live, side.pipeline)
        tracked = [path for path in side.pipeline.iterdir() if path.name != "model.json"]
        same = all(
            self.repository.file_at("HEAD", f"{folder_of(side.dataset)}/{path.name}")
            == side.text(f"{folder_of(side.dataset)}/{path.name}")
            for path in tracked
        )
        if same:
            return self.newest(side.dataset)
        parts = {"patches": _described_patches(self.root / "patches" / side.dataset)}
        if (side.pipeline / "model.json").is_file():
            parts["model"] = {"version": file_digest(side.pipeline / "model.json")[:16]}
        side.summarize(**parts)
        return self._decide(side, [folder_of(side.dataset), side.summary], "reproduced")

    def _undo_reproduction(self, dataset: str, held: tuple[int, ...]) -> None:
        """Bring back the committed patches and pipeline, which DVC may have been changing."""
        with self.transactions.deciding():  # from here on no stage puts its patches in place
            self._marker(dataset).write_text("", "utf-8")
        root = _new_side(self.repository, dataset)
        side = _Side(self.repository, dataset, Scope.PATCHES, root, held)
        side.repository.side_tree(side.root)
        side.take("HEAD", folder_of(dataset))
        side.restore()
        self._decide(side, [f"patches/{dataset}", folder_of(dataset)], None)
        self._marker(dataset).unlink(missing_ok=True)

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

    def _commit_raw(self, side: _Side, draft: Draft) -> Committed:
        side.add(side.raw, ("add", f"raw/{side.dataset}"))
        made = Listing.read(self.repository.cache, pointed(side.text(side.pointer)))
        if self._is_kept(made, pointed(self.repository.file_at("HEAD", side.pointer))):
            shutil.rmtree(side.raw)
            side.take("HEAD", side.pointer)
            side.dvc(_checkout(side.pointer))
            return self._decide(side, [f"raw/{side.dataset}", side.pointer], None)
        side.summarize(raw=draft.part())
        return self._decide(
            side, [f"raw/{side.dataset}", side.pointer, side.summary], draft.version or "new data"
        )

    def _is_kept(self, made: Listing | None, committed: str | None) -> bool:
        """Tell whether what was made is committed already, and all of that can be restored."""
        known = Listing.read(self.repository.cache, committed)
        return bool(made and known and made.has_content_of(known) and known.whole)

    def _commit_patches(self, side: _Side, draft: Draft, params: Mapping[str, Any]) -> Committed:
        live = self.root / folder_of(side.dataset)
        if live.is_dir():
            shutil.copytree(live, side.pipeline)
        write_pipeline(side.pipeline, side.dataset, params)
        patches = f"patches/{side.dataset}"
        others = self._record_stage(side)
        written = [f"{folder_of(side.dataset)}/{name}" for name in ("dvc.yaml", "params.yaml")]
        lock = f"{folder_of(side.dataset)}/dvc.lock"
        known = self.repository.file_at("HEAD", lock)
        made = Listing.read(self.repository.cache, made_by(side.text(lock), "tile"))
        same = all(side.text(path) == self.repository.file_at("HEAD", path) for path in written)
        if same and not others and self._is_kept(made, made_by(known, "tile")):
            shutil.rmtree(side.patches)
            side.take("HEAD", lock)
            side.dvc(_checkout(side.stage))
            return self._decide(side, [patches, *written, lock], None)
        parts: dict[str, Any] = {"patches": draft.part(), "model": None}
        paths = [patches, folder_of(side.dataset), side.summary]
        if others:
            paths += [f"raw/{side.dataset}", side.pointer]
            parts["raw"] = _described(side.raw)
        side.summarize(**parts)
        return self._decide(side, paths, draft.version or "new patches")

    def _record_stage(self, side: _Side) -> bool:
        """Let DVC record the stage tile; tell whether raw data that nobody committed went in.

        The patches are recorded with the raw data that they were made from: what is committed,
        or, where that differs, what lies in the folder.
        """
        live = self.root / "raw" / side.dataset
        if not live.is_dir():
            raise DatasetNotFound(
                side.dataset, "the workspace has no data set of that name", "Run jobs/ingest.py."
            )
        commit = ("commit", "--force", side.stage)
        side.take("HEAD", side.pointer)
        if (side.root / side.pointer).is_file():
            with suppress(UnwritableProduct):  # lost from the cache
                side.dvc(_checkout(side.pointer))
                if same_files(live, side.raw):
                    side.add(side.patches, commit)
                    return False
            shutil.rmtree(side.raw, ignore_errors=True)
        shutil.copytree(live, side.raw, copy_function=linked)
        side.add(side.patches, ("add", f"raw/{side.dataset}"), commit)
        return True

    def _decide(self, side: _Side, paths: list[str], message: str | None) -> Committed:
        """Bring ``paths`` of the side into place, as a new version where there is a message.

        The record is made first, all that can fail with it; the journal is the decision.
        """
        tracked = [path for path in paths if not _is_data(path, side.dataset)]
        record = Record.of(self.repository, side.root, tracked, message) if message else None
        moves = tuple(Move.of(side.root, path) for path in paths)
        journal = Journal(side.root.name, side.dataset, side.scope, moves, record)
        targets = [self.root / path for path in paths if _is_data(path, side.dataset)]
        self.transactions.decide(journal, side.held, targets)
        return self.newest(side.dataset, changed=bool(record))

    def newest(self, dataset: str, changed: bool = False) -> Committed:
        """Return the newest version of a data set.

        Raises:
            DatasetVersionNotFound: there is none.
        """
        tags = tags_of(self.repository, dataset)
        if not tags:
            raise DatasetVersionNotFound(dataset, "has no version", "Ingest it.")
        return Committed(tags[0], self.repository.resolve(tags[0]), changed)

    def checkout(self, dataset: str, version: str) -> Committed:
        """Restore a version of one data set, its raw data and patches, as a new version.

        All or nothing; the other data sets stay as they are.

        Raises:
            DatasetVersionNotFound: no version of that name, or not of this data set.
            InUse: a job reads or writes the data set.
            UnwritableProduct: its files are neither in the cache nor in a remote.
        """
        revision = self.repository.resolve(version)
        with self._changing(dataset, Scope.BOTH) as side:
            self._take_version(side, revision, version)
            tracked = [side.pointer, folder_of(dataset), side.summary]
            same = self._same_at(revision, tracked)
            paths = [f"raw/{dataset}", f"patches/{dataset}", *tracked]
            return self._decide(side, paths, None if same else f"{version} again")

    def _take_version(self, side: _Side, revision: str, version: str) -> None:
        foreign = own_of(version) not in ("", side.dataset)
        if foreign or not summary_at(side.repository, revision, side.dataset):
            raise DatasetVersionNotFound(
                version, f"is no version of {side.dataset!r}", "List them by jobs/data.py versions."
            )
        side.take(revision, side.pointer, folder_of(side.dataset), side.summary)
        side.restore()

    def _same_at(self, revision: str, paths: list[str]) -> bool:
        return not self.repository.git("diff", "--name-only", revision, "HEAD", "--", *paths)


def _checkout(*targets: str) -> tuple[str, ...]:
    return ("checkout", "--force", *targets)


def same_files(one: Path, other: Path) -> bool:
    """Tell whether two folders hold the same files; those that share their bytes are not read."""
    names = [
        {path.relative_to(folder) for path in folder.rglob("*") if not path.is_dir()}
        for folder in (one, other)
    ]
    return names[0] == names[1] and all(
        os.path.samefile(one / name, other / name)
        or filecmp.cmp(one / name, other / name, shallow=False)
        for name in names[0]
    )


def _described(raw: Path) -> dict[str, Any]:
    """Return the summary of raw data that no ingest has committed."""
    try:
        manifest = DatasetManifest.read(raw)
    except DatasetNotFound:
        return {"version": ""}
    return {"version": manifest.version, "scenes": len(manifest.scenes)}


def _described_patches(patches: Path) -> dict[str, Any]:
    """Return the summary of patches that a stage made."""
    manifest = PatchManifest.read(patches)
    count = sum(int(split["patches"]) for split in manifest.counts.values())
    return {"version": manifest.lineage.get("patches_version", ""), "patches": count}


def _is_data(path: str, dataset: str) -> bool:
    return path in (f"raw/{dataset}", f"patches/{dataset}")


def _new_side(repository: Repository, dataset: str) -> Path:
    return repository.scratch / f"{dataset}~{secrets.token_hex(8)}"
