"""What a transaction still has to do once it is decided: a list that survives its process."""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from satseg_ray.errors import DAMAGED, UnwritableProduct, told
from satseg_ray.products import exchange
from satseg_ray.tracking.repository import GitUse, Repository

_FILE = "journal.json"
_GONE = ".gone"
_NO_OBJECT = "0" * 40


class Scope(StrEnum):
    """What of a data set a transaction changes; one that changes patches alone reads raw data."""

    RAW = "raw"
    PATCHES = "patches"
    BOTH = "both"


@dataclass(frozen=True)
class Move:
    """A file or folder that comes to ``path`` of the work tree, from the same path at the side.

    By its ``inode`` it is known again, or, in a copy of the workspace, by its time of change, in
    nanoseconds; ``None``: ``path`` is to be empty.
    """

    path: str
    inode: int | None
    changed: int = 0

    @classmethod
    def of(cls, side: Path, path: str) -> Move:
        """Return the move that brings the work tree to what lies at ``path`` of ``side``."""
        staged = side / path
        if not os.path.lexists(staged):
            return cls(path, None)
        os.utime(staged, ns=(time.time_ns(),) * 2)  # a copied folder has the time of the old one
        found = staged.lstat()
        return cls(path, found.st_ino, found.st_mtime_ns)

    def check(self, root: Path) -> None:
        """Refuse what could not be made, while nothing is decided.

        Raises:
            UnwritableProduct: the target is on another disk.
        """
        target = root / self.path
        place = next(p for p in (target, *target.parents) if p.exists())
        if place.stat().st_dev != (root / ".dvc").stat().st_dev:
            raise UnwritableProduct(
                place,
                "is on another disk than the rest of data/",
                "Let SATSEG_WORKSPACE lead to the other disk as a whole.",
            )

    def _is(self, path: Path) -> bool:
        found = path.lstat()
        return found.st_ino == self.inode or found.st_mtime_ns == self.changed

    def make(self, root: Path, side: Path) -> None:
        """Make the move, or the rest of it: any number of times is as good as once."""
        target, staged = root / self.path, side / self.path
        present = os.path.lexists(target)
        if self.inode is None:
            if present:
                _set_aside(target, side / _GONE / self.path)
        elif os.path.lexists(staged) and not (present and self._is(target)):
            target.parent.mkdir(parents=True, exist_ok=True)
            if present and not staged.is_dir():
                staged.replace(target)
                return
            if present and exchange(staged, target):
                return
            if present:
                _set_aside(target, side / _GONE / self.path)
            staged.rename(target)


@dataclass(frozen=True)
class Record:
    """The commit and the tag of a transaction: ``entries`` of git's index replace ``paths``."""

    paths: tuple[str, ...]
    entries: tuple[str, ...]
    message: str
    date: str

    @classmethod
    def of(cls, repository: Repository, side: Path, paths: Sequence[str], message: str) -> Record:
        """Return the record of what lies at ``paths`` of ``side``; git has its bytes from now."""
        index = side / ".index"
        use = GitUse(index=index, tree=side)
        index.unlink(missing_ok=True)
        present = [path for path in paths if os.path.lexists(side / path)]
        models = ":(exclude)pipelines/*/model.json"
        if present:
            repository.git("add", "--force", "--", *present, models, use=use)
        listed = repository.git("ls-files", "--stage", "-z", use=use)
        entries = tuple(entry for entry in listed.split("\0") if entry)
        index.unlink(missing_ok=True)
        date = repository.git("log", "-1", "--format=%ct", "HEAD")
        now = max(int(date), int(side.stat().st_mtime))  # never before its parent
        return cls(tuple(paths), entries, message, f"{now} +0000")


@dataclass(frozen=True)
class Journal:
    """All that is left to do for a decided transaction; ``record`` where it makes a version.

    ``scope`` says which locks it held.
    """

    name: str
    dataset: str
    scope: Scope
    moves: tuple[Move, ...]
    record: Record | None

    def check(self, repository: Repository) -> None:
        """Refuse what could not be finished once it is decided.

        Raises:
            UnwritableProduct: a folder is on another disk, or the next tag cannot be set.
        """
        for move in self.moves:
            move.check(repository.root)
        if not self.record:
            return
        tag = next_tag(repository, self.dataset)
        if below := repository.git("tag", "--list", f"{tag}/*"):
            raise UnwritableProduct(
                tag, f"cannot be a tag beside {below.splitlines()[0]}", "Remove that tag."
            )

    def write(self, repository: Repository) -> None:
        """Decide: from here on the transaction is finished, by this process or by the next."""
        path = _journal(repository)
        path.parent.mkdir(exist_ok=True)
        partial = path.with_suffix(".partial")
        with partial.open("w", encoding="utf-8") as file:
            json.dump(asdict(self), file)
            file.flush()
            os.fsync(file.fileno())
        partial.rename(path)

    @classmethod
    def read(cls, repository: Repository) -> Journal | None:
        """Return the transaction that is decided and not finished, if there is one.

        Raises:
            UnwritableProduct: somebody has damaged the journal.
        """
        path = _journal(repository)
        try:
            return cls._of(json.loads(path.read_text("utf-8")))
        except FileNotFoundError:
            return None
        except DAMAGED as error:
            raise UnwritableProduct(
                path,
                f"is damaged ({told(error)}): what a job had decided cannot be finished",
                "Delete it, and check out the newest version of what that job changed.",
            ) from error

    @classmethod
    def _of(cls, body: Mapping[str, Any]) -> Journal:
        record = body["record"]
        if record:
            record = Record(**record | {k: tuple(record[k]) for k in ("paths", "entries")})
        moves = tuple(Move(**move) for move in body["moves"])
        return cls(body["name"], body["dataset"], Scope(body["scope"]), moves, record)

    def finish(self, repository: Repository, again: bool = False) -> None:
        """Do what is left; ``again`` says that another process may have done part of it."""
        side = repository.scratch / self.name
        for move in self.moves:
            move.make(repository.root, side)
        if self.record:
            self._commit(repository, self.record, again)
        _journal(repository).unlink()
        shutil.rmtree(side, ignore_errors=True)

    def _commit(self, repository: Repository, record: Record, again: bool) -> None:
        commit = self._made(repository) if again else None
        if not commit:
            commit = self._make(repository, record)
        if not (again and self._tagged(repository, commit)):
            tag = next_tag(repository, self.dataset)
            text, use = f"{tag}: {record.message}", GitUse(date=record.date)
            repository.git("tag", "--annotate", "-F", "-", tag, commit, text=text, use=use)
        repository.git("reset", "--quiet", "HEAD", "--", *record.paths)

    def _made(self, repository: Repository) -> str:
        mark = ("--fixed-strings", f"--grep={self._mark}")
        return repository.git("log", "-1", "--format=%H", *mark, "HEAD")

    def _tagged(self, repository: Repository, commit: str) -> bool:
        tags = repository.git("tag", "--points-at", commit).splitlines()
        return any(number_of(tag, self.dataset) for tag in tags)

    def _make(self, repository: Repository, record: Record) -> str:
        index = repository.scratch / self.name / ".commit-index"
        use = GitUse(index=index, date=record.date)
        for stale in (index, index.with_name(f"{index.name}.lock")):
            stale.unlink(missing_ok=True)
        head = repository.git("rev-parse", "HEAD")
        repository.git("read-tree", head, use=use)
        gone = [f"0 {_NO_OBJECT}\t{name}" for name in repository.files_at(head, *record.paths)]
        lines = "".join(f"{line}\0" for line in (*gone, *record.entries))
        repository.git("update-index", "-z", "--index-info", text=lines, use=use)
        tree = repository.git("write-tree", use=use)
        text = f"{record.message}\n\n{self._mark}\n"
        commit = repository.git("commit-tree", tree, "-p", head, "-F", "-", text=text, use=use)
        repository.git("update-ref", "-m", record.message, "HEAD", commit, head)
        index.unlink(missing_ok=True)
        return commit

    @property
    def _mark(self) -> str:
        return f"Transaction: {self.name}"


def number_of(tag: str, dataset: str) -> int:
    """Return N of a tag ``<dataset>-v<N>``, 0 for any other.

    >>> number_of("coast-v12", "coast"), number_of("coast-v1-v2", "coast")
    (12, 0)
    """
    found = re.fullmatch(re.escape(dataset) + r"-v([1-9][0-9]*)", tag)
    return int(found[1]) if found else 0


def own_of(version: str) -> str:
    """Return the data set of a tag, empty for any other word.

    >>> own_of("coast-v1-v2"), own_of("0a1b2c")
    ('coast-v1', '')
    """
    found = re.fullmatch(r"(.+)-v[1-9][0-9]*", version)
    return found[1] if found else ""


def tags_of(repository: Repository, dataset: str) -> list[str]:
    """Return the versions of a data set, the newest first."""
    tags = repository.git("tag", "--list", f"{dataset}-v*").splitlines()
    numbered = ((number_of(tag, dataset), tag) for tag in tags)
    return [tag for number, tag in sorted(numbered, reverse=True) if number]


def next_tag(repository: Repository, dataset: str) -> str:
    """Return the name of the next version of a data set."""
    newest = tags_of(repository, dataset)[:1]
    return f"{dataset}-v{number_of(newest[0], dataset) + 1 if newest else 1}"


def _journal(repository: Repository) -> Path:
    """Where the journal lies: among what nobody clears away, as DVC's temporary files may be."""
    return repository.git_directory / "satseg" / _FILE


def _set_aside(target: Path, aside: Path) -> None:
    aside.parent.mkdir(parents=True, exist_ok=True)
    if os.path.lexists(aside):  # nothing that a second try would need
        shutil.rmtree(aside, ignore_errors=True)
        with suppress(FileNotFoundError, IsADirectoryError):
            aside.unlink()
    target.rename(aside)


def sides_of(repository: Repository, dataset: str) -> Iterator[Path]:
    """Yield the folders that transactions of a data set left at the side."""
    yield from repository.scratch.glob(f"{dataset}~*")
