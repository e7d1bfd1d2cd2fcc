"""The versions of data sets as a list, and what differs between two of them."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

import yaml

from satseg_ray.errors import DatasetVersionNotFound, UnwritableProduct
from satseg_ray.patches.contents import patch_digests
from satseg_ray.tracking.datastore import DataStore
from satseg_ray.tracking.journal import number_of, tags_of
from satseg_ray.tracking.listing import made_by
from satseg_ray.tracking.pipeline import folder_of
from satseg_ray.tracking.repository import REMEDY_OF_LOSS
from satseg_ray.tracking.runs import DatasetUse
from satseg_ray.tracking.side import summary_at
from satseg_ray.workspace import Workspace

_TAG = re.compile(r"(.+)-v[1-9][0-9]*")
_FORMAT = "%(refname:short)%09%(*objectname)%09%(taggerdate:iso-strict)"


@dataclass(frozen=True)
class DatasetVersion:
    """One version: its tag, the git revision and the time of its commit, and what it holds.

    ``content`` and ``patches_content`` are the versions by digest, ``None`` where there is none;
    ``patches_from`` is the content of the raw data that the patches were made from.
    """

    tag: str
    revision: str
    date: str
    dataset: str
    content: str | None
    scenes: int | None
    patches_content: str | None
    patches: int | None
    patches_from: str | None = None

    @property
    def is_behind(self) -> bool:
        """Whether its patches were made from other raw data than it has."""
        return self.patches_from != self.content if self.patches_content else False

    def to_dict(self) -> dict[str, Any]:
        """Return the version as JSON values."""
        return asdict(self)


@dataclass(frozen=True)
class Change:
    """Names that are there now, that are gone, and that are there with other content."""

    added: tuple[str, ...]
    gone: tuple[str, ...]
    changed: tuple[str, ...]

    @classmethod
    def between(cls, old: Mapping[str, Any], new: Mapping[str, Any]) -> Change:
        """Return the change from one table of names to another.

        >>> Change.between({"a": 1, "b": 2}, {"b": 3, "c": 4})
        Change(added=('c',), gone=('a',), changed=('b',))
        """
        both = old.keys() & new.keys()
        return cls(
            tuple(sorted(new.keys() - old.keys())),
            tuple(sorted(old.keys() - new.keys())),
            tuple(sorted(name for name in both if old[name] != new[name])),
        )


@dataclass(frozen=True)
class PatchChange:
    """How many patches a split has before and after, and how many are added and gone.

    A patch whose pixels or labels are others is both: one is gone, and one is added.
    """

    before: int
    after: int
    added: int
    gone: int


@dataclass(frozen=True)
class Difference:
    """What differs between two versions of a data set; ``patches`` by split."""

    old: str
    new: str
    scenes: Change
    labels: Change
    classes: Change
    patches: Mapping[str, PatchChange]

    def to_dict(self) -> dict[str, Any]:
        """Return the difference as JSON values."""
        return asdict(self)


def versions(store: DataStore, dataset: str | None = None) -> list[DatasetVersion]:
    """Return the versions of a data set, or of all, the oldest first of each; none is no error."""
    if not store.repository.git_directory.is_dir():
        return []
    listed = store.repository.git("for-each-ref", f"--format={_FORMAT}", "refs/tags")
    rows = [line.split("\t") for line in listed.splitlines()]
    found = []
    for tag, revision, date in rows:
        match = _TAG.fullmatch(tag)
        if match and revision and dataset in (None, match[1]):
            found.append((match[1], tag, revision, date))
    texts = store.repository.files_in([f"{row[2]}:versions/{row[0]}.json" for row in found])
    made = [
        _version(*row, json.loads(text)) for row, text in zip(found, texts, strict=True) if text
    ]
    made.sort(key=lambda version: (version.dataset, number_of(version.tag, version.dataset)))
    # The first version of some patches is the one that tiled its raw data
    sources = {(v.dataset, v.patches_content): v.content for v in reversed(made)}
    return [
        replace(v, patches_from=sources[v.dataset, v.patches_content]) if v.patches_content else v
        for v in made
    ]


def _version(
    dataset: str, tag: str, revision: str, date: str, body: Mapping[str, Any]
) -> DatasetVersion:
    raw, patches = body.get("raw", {}), body.get("patches", {})
    return DatasetVersion(
        tag=tag,
        revision=revision,
        date=date,
        dataset=dataset,
        content=raw.get("version") or None,
        scenes=raw.get("scenes"),
        patches_content=patches.get("version") or None,
        patches=_count(patches),
    )


def _count(patches: Mapping[str, Any]) -> int | None:
    """Return how many patches a summary tells of, in all or by split."""
    counts = [count for name, count in patches.items() if name.endswith("_patches")]
    found: int | None = patches.get("patches", sum(counts) if counts else None)
    return found


def dataset_use(workspace: Workspace, dataset: str, lineage: Mapping[str, str]) -> DatasetUse:
    """Return patches as what a run uses, from their own lineage.

    Where they are committed, the source names the oldest version that holds them and the
    raw data that they were made from.
    """
    content = lineage.get("patches_version") or lineage["dataset_version"]
    made_from = lineage["dataset_version"]
    found = [
        version
        for version in versions(DataStore.of(workspace), dataset)
        if version.patches_content == content and version.content in (None, made_from)
    ]
    source = {"dataset_version": lineage["dataset_version"], "patches_version": content}
    if found:
        source |= {"tag": found[0].tag, "revision": found[0].revision}
    return DatasetUse(dataset, content.rpartition("@")[2], source)


def difference(store: DataStore, dataset: str, old: str, new: str | None = None) -> Difference:
    """Compare two versions of a data set without checking out either; ``None``: the newest.

    Raises:
        DatasetVersionNotFound: one of them is no version of this data set.
        UnwritableProduct: files of one of them are neither in the cache nor in a remote.
    """
    if new is None:
        new = next(iter(tags_of(store.repository, dataset)), "HEAD")
    one, other = (_Manifests.read(store, dataset, version) for version in (old, new))
    return Difference(
        old=old,
        new=new,
        scenes=Change.between(one.scenes, other.scenes),
        labels=Change.between(one.labels, other.labels),
        classes=Change.between(one.classes, other.classes),
        patches=_patch_changes(one, other),
    )


@dataclass(frozen=True)
class _Manifests:
    """What the manifests of a version say, by name; plain values, whatever version wrote them."""

    scenes: Mapping[str, Any]
    labels: Mapping[str, Any]
    classes: Mapping[str, Any]
    patches: Mapping[str, int]
    files: _VersionFiles

    @classmethod
    def read(cls, store: DataStore, dataset: str, version: str) -> _Manifests:
        revision = store.repository.resolve(version)
        if not summary_at(store.repository, revision, dataset):
            raise DatasetVersionNotFound(
                version, f"has no data set {dataset!r}", "List them by jobs/data.py versions."
            )
        pointer, lock = store.repository.files_in(
            [f"{revision}:raw/{dataset}.dvc", f"{revision}:{folder_of(dataset)}/dvc.lock"]
        )
        files = _VersionFiles(version, dataset, _files_at(store, revision))
        raw = files.text("raw", "dataset.yaml") if pointer else None
        patches = files.text("patches", "patches.json") if made_by(lock, "tile") else None
        body = yaml.safe_load(raw or "") or {}
        scenes = body.get("scenes", [])
        counts = json.loads(patches or "{}").get("counts", {})
        return cls(
            scenes={scene["name"]: _without(scene, "labels") for scene in scenes},
            labels={s["name"]: s.get("labels_sha256") for s in scenes if s.get("labels")},
            classes={entry["name"]: entry for entry in body.get("classes", [])},
            patches={split: int(count["patches"]) for split, count in counts.items()},
            files=files,
        )


def _without(scene: Mapping[str, Any], word: str) -> dict[str, Any]:
    """Return what a scene is by itself: not its labels, nor where it came from."""
    return {k: v for k, v in scene.items() if word not in k and "source" not in k}


def _files_at(store: DataStore, revision: str) -> Any:
    """Return the files that git and DVC track as they were, from DVC's cache or a remote."""
    from dvc.api import DVCFileSystem

    config = {"core": {"site_cache_dir": str(store.root / ".dvc" / "tmp" / "site")}}
    return DVCFileSystem(str(store.root), rev=revision, config=config)


@dataclass(frozen=True)
class _VersionFiles:
    """The files of a version of a data set, in DVC's file system ``files``.

    What is missing in cache and remotes alike is an error: never no file.
    """

    version: str
    dataset: str
    files: Any

    def text(self, kind: str, name: str) -> str | None:
        """Return a file of the tracked folder of a kind, ``None`` where it has no such file."""
        folder = f"{kind}/{self.dataset}"
        with self._found(folder):
            if self.files.exists(f"{folder}/{name}"):
                text: str = self.files.read_text(f"{folder}/{name}")
                return text
            if not self.files.find(folder):
                raise FileNotFoundError(folder)  # what DVC lists of it is lost
        return None

    def listed(self, split: str) -> dict[str, str]:
        """Return the checksum of each Parquet file of a split, by path."""
        place = f"patches/{self.dataset}/{split}"
        with self._found(place):
            found = self.files.find(place, detail=True) if self.files.isdir(place) else {}
        return {
            path: entry["dvc_info"]["md5"]
            for path, entry in found.items()
            if path.endswith(".parquet")
        }

    def digests(self, paths: Iterable[str]) -> Counter[bytes]:
        """Return the patches of files by their content."""
        found: Counter[bytes] = Counter()
        for path in paths:
            with self._found(path), self.files.open(path, "rb") as file:
                found += patch_digests(file)
        return found

    @contextmanager
    def _found(self, path: str) -> Iterator[None]:
        """Turn what DVC says of what it does not find into an error with a remedy."""
        from dvc.exceptions import DvcException
        from dvc_data.index.index import DataIndexError, StorageError

        try:
            yield
        except (OSError, DvcException, DataIndexError, StorageError) as error:
            raise UnwritableProduct(
                f"{self.version}: {path}",
                "has files that are neither in the cache nor in a remote",
                REMEDY_OF_LOSS,
            ) from error


def _patch_changes(one: _Manifests, other: _Manifests) -> dict[str, PatchChange]:
    """Return what differs in each split; files that both have are not read."""
    changes = {}
    for split in sorted(one.patches.keys() | other.patches.keys()):
        old, new = one.files.listed(split), other.files.listed(split)
        same = old.items() & new.items()
        before = one.files.digests(path for path, md5 in old.items() if (path, md5) not in same)
        after = other.files.digests(path for path, md5 in new.items() if (path, md5) not in same)
        changes[split] = PatchChange(
            one.patches.get(split, 0),
            other.patches.get(split, 0),
            added=(after - before).total(),
            gone=(before - after).total(),
        )
    return changes
