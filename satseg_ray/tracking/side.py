"""The place of one transaction, a DVC work tree beside that of ``data/``, and how it ends."""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from satseg_ray.errors import DatasetVersionNotFound, UnwritableProduct
from satseg_ray.products import try_lock
from satseg_ray.tracking.journal import Journal, Move, Record, Scope, sides_of, tags_of
from satseg_ray.tracking.listing import Listing, linked, made_by, pointed
from satseg_ray.tracking.pipeline import folder_of, locked_stages
from satseg_ray.tracking.repository import Repository
from satseg_ray.tracking.transactions import Transactions


@dataclass(frozen=True)
class Committed:
    """What a transaction came to: the newest version of its data set, and whether it is new."""

    tag: str
    revision: str
    changed: bool


@dataclass(frozen=True)
class Side:
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
        """Its raw data."""
        return self.root / "raw" / self.dataset

    @property
    def patches(self) -> Path:
        """Its patches."""
        return self.root / "patches" / self.dataset

    @property
    def pipeline(self) -> Path:
        """Its pipeline."""
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
        """What its versions hold, in git."""
        return f"versions/{self.dataset}.json"

    def dvc(self, *commands: tuple[str, ...]) -> None:
        """Run DVC commands here."""
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
            self.dvc(checkout_of(*targets))
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

    def refuse_loss(self) -> None:
        """Refuse to replace files in the data set's folders that no version and no stage made.

        Missing files are no loss. Where the cache has lost its listing, nothing can be told.

        Raises:
            UnwritableProduct: there are such files.
        """
        root, lock = self.repository.root, f"{folder_of(self.dataset)}/dvc.lock"
        for kind in ("raw", "patches"):
            path = self.pointer if kind == "raw" else lock
            live = (root / path).read_text("utf-8") if (root / path).is_file() else None
            texts = (self.repository.file_at("HEAD", path), live)
            sums = {pointed(text) if kind == "raw" else made_by(text, "tile") for text in texts}
            found = [Listing.read(self.repository.cache, checksum) for checksum in sums]
            listings = [listing for listing in found if listing]
            folder = root / kind / self.dataset
            files = (path for path in sorted(folder.rglob("*")) if path.is_file())
            names = ((file, file.relative_to(folder).as_posix()) for file in files)
            lost = [n for f, n in names if not any(one.holds(f, n) for one in listings)]
            if lost and (listings or sums == {None}):
                raise UnwritableProduct(
                    f"{kind}/{self.dataset}",
                    f"holds {len(lost)} new or altered files that no version has "
                    f"({', '.join(lost[:5])}{', ...' if len(lost) > 5 else ''})",
                    "Move them elsewhere or delete them, and check out again.",
                )

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

    def decide(self, paths: list[str], message: str | None) -> Committed:
        """Bring ``paths`` of the side into place, as a new version where there is a message.

        The record is made first, all that can fail with it; the journal is the decision.
        """
        tracked = [path for path in paths if not is_data(path, self.dataset)]
        record = Record.of(self.repository, self.root, tracked, message) if message else None
        moves = tuple(Move.of(self.root, path) for path in paths)
        journal = Journal(self.root.name, self.dataset, self.scope, moves, record)
        targets = [self.repository.root / path for path in paths if is_data(path, self.dataset)]
        Transactions(self.repository).decide(journal, self.held, targets)
        return newest(self.repository, self.dataset, changed=bool(record))


def summary_at(repository: Repository, revision: str, dataset: str) -> dict[str, Any]:
    """Return what a version of a data set holds, by kind; empty where there is none."""
    text = repository.file_at(revision, f"versions/{dataset}.json")
    found: dict[str, Any] = json.loads(text) if text else {}
    return found


def newest(repository: Repository, dataset: str, changed: bool = False) -> Committed:
    """Return the newest version of a data set.

    Raises:
        DatasetVersionNotFound: there is none.
    """
    tags = tags_of(repository, dataset)
    if not tags:
        raise DatasetVersionNotFound(dataset, "has no version", "Ingest it.")
    return Committed(tags[0], repository.resolve(tags[0]), changed)


def checkout_of(*targets: str) -> tuple[str, ...]:
    """Return the command that brings tracked files out of the cache."""
    return ("checkout", "--force", *targets)


def is_data(path: str, dataset: str) -> bool:
    """Tell whether a path is that of raw data or patches, which DVC tracks."""
    return path in (f"raw/{dataset}", f"patches/{dataset}")


@contextmanager
def new_side(repository: Repository, dataset: str) -> Iterator[Path]:
    """Give a folder where a transaction of a data set may work, locked while its process lives."""
    while True:
        root = repository.scratch / f"{dataset}~{secrets.token_hex(8)}"
        root.mkdir(parents=True)
        with _opened(root) as descriptor:
            # Whoever sweeps may have come between
            if try_lock(descriptor) and root.exists():
                yield root
                return


@contextmanager
def _opened(folder: Path) -> Iterator[int]:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def sweep_free(repository: Repository) -> None:
    """Remove what killed transactions of any data set left at the side and nothing needs."""
    for left in repository.scratch.glob("*~*"):
        with suppress(FileNotFoundError), _opened(left) as descriptor:
            if try_lock(descriptor):
                journal = Journal.read(repository)  # now: who had the lock may have written it
                if not journal or journal.name != left.name:
                    shutil.rmtree(left, ignore_errors=True)


def sweep(repository: Repository, dataset: str) -> None:
    """Remove what transactions of a data set left at the side."""
    for left in sides_of(repository, dataset):
        shutil.rmtree(left, ignore_errors=True)
