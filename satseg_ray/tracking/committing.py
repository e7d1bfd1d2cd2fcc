"""What a draft becomes: a new version, or the one that there is, where its bytes are the same."""

from __future__ import annotations

import filecmp
import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from satseg_ray.errors import DatasetNotFound, UnwritableProduct
from satseg_ray.patches.dataset import DatasetManifest
from satseg_ray.tracking.listing import Listing, linked, made_by, pointed, read_keys
from satseg_ray.tracking.pipeline import folder_of, write_pipeline
from satseg_ray.tracking.repository import Repository
from satseg_ray.tracking.side import Committed, Side, checkout_of


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


def commit_raw(side: Side, draft: Draft) -> Committed:
    """Make what was drafted the data set's raw data; a version where its bytes are others."""
    side.add(side.raw, ("add", f"raw/{side.dataset}"))
    made = Listing.read(side.repository.cache, pointed(side.text(side.pointer)))
    if _is_kept(side.repository, made, pointed(side.repository.file_at("HEAD", side.pointer))):
        shutil.rmtree(side.raw)
        side.take("HEAD", side.pointer)
        side.dvc(checkout_of(side.pointer))
        return side.decide([f"raw/{side.dataset}", side.pointer], None)
    side.summarize(raw=draft.part())
    return side.decide(
        [f"raw/{side.dataset}", side.pointer, side.summary], draft.version or "new data"
    )


def _is_kept(repository: Repository, made: Listing | None, committed: str | None) -> bool:
    """Tell whether what was made is committed already, and all of that can be restored."""
    known = Listing.read(repository.cache, committed)
    return bool(made and known and made.has_content_of(known) and known.whole)


def commit_patches(side: Side, draft: Draft, params: Mapping[str, Any]) -> Committed:
    """Make what was drafted the output of the stage tile; a version where anything is other."""
    live = side.repository.root / folder_of(side.dataset)
    if live.is_dir():
        shutil.copytree(live, side.pipeline)
    write_pipeline(side.pipeline, side.dataset, params)
    patches = f"patches/{side.dataset}"
    others = _record_stage(side)
    stages, settings = (f"{folder_of(side.dataset)}/{name}" for name in ("dvc.yaml", "params.yaml"))
    lock = f"{folder_of(side.dataset)}/dvc.lock"
    known = side.repository.file_at("HEAD", lock)
    made = Listing.read(side.repository.cache, made_by(side.text(lock), "tile"))
    same = side.text(stages) == side.repository.file_at("HEAD", stages) and (
        # Settings of a training make no other patches
        read_keys(side.text(settings)).get("tile")
        == read_keys(side.repository.file_at("HEAD", settings)).get("tile")
    )
    if same and not others and _is_kept(side.repository, made, made_by(known, "tile")):
        shutil.rmtree(side.patches)
        side.take("HEAD", lock)
        side.dvc(checkout_of(side.stage))
        return side.decide([patches, stages, settings, lock], None)
    parts: dict[str, Any] = {"patches": draft.part(), "model": None}
    paths = [patches, folder_of(side.dataset), side.summary]
    if others:
        paths += [f"raw/{side.dataset}", side.pointer]
        parts["raw"] = _described(side.raw)
    side.summarize(**parts)
    return side.decide(paths, draft.version or "new patches")


def _record_stage(side: Side) -> bool:
    """Let DVC record the stage tile; tell whether raw data that nobody committed went in.

    The patches are recorded with the raw data that they were made from: what is committed,
    or, where that differs, what lies in the folder.
    """
    live = side.repository.root / "raw" / side.dataset
    if not live.is_dir():
        raise DatasetNotFound(
            side.dataset, "the workspace has no data set of that name", "Run jobs/ingest.py."
        )
    commit = ("commit", "--force", side.stage)
    side.take("HEAD", side.pointer)
    if (side.root / side.pointer).is_file():
        with suppress(UnwritableProduct):  # lost from the cache
            side.dvc(checkout_of(side.pointer))
        if side.raw.is_dir() and same_files(live, side.raw):
            side.add(side.patches, commit)
            return False
        shutil.rmtree(side.raw, ignore_errors=True)
    shutil.copytree(live, side.raw, copy_function=linked)
    side.add(side.patches, ("add", f"raw/{side.dataset}"), commit)
    return True


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
