"""What DVC lists of a folder that it tracks: the checksum of each file, and where its bytes are."""

from __future__ import annotations

import filecmp
import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

_BLOCK = 1 << 20
_PROFILE = "profile.bin"  # as drift names it, which is no layer below


@dataclass(frozen=True)
class Listing:
    """The files of a tracked folder, as md5 by relative path; their bytes are in ``cache``."""

    cache: Path
    files: Mapping[str, str]

    @classmethod
    def read(cls, cache: Path, checksum: str | None) -> Listing | None:
        """Return what DVC listed under a checksum, ``None`` where the cache has lost that."""
        if not checksum:
            return None
        try:
            entries = json.loads(_place(cache, checksum).read_bytes())
            return cls(cache, {entry["relpath"]: entry["md5"] for entry in entries})
        except (OSError, ValueError):
            return None

    def has_content_of(self, other: Listing) -> bool:
        """Tell whether two folders are equal, but for profiles: sketches differ in each run."""
        return _counted(self.files) == _counted(other.files)

    @property
    def whole(self) -> bool:
        """Whether the cache has all files."""
        return all(_place(self.cache, md5).is_file() for md5 in self.files.values())

    def mend(self, added: Path, kept: Path) -> None:
        """Mend what was altered in the cache, with what was ``kept`` of a folder just ``added``.

        Files that were not in the cache before share their bytes, and are not read.
        """
        for name, md5 in self.files.items():
            good, file = kept / name, added / name
            if os.path.samefile(good, file) or filecmp.cmp(good, file, shallow=False):
                continue
            cached = _place(self.cache, md5)
            for target in (cached, file):
                partial = target.with_name(f".{target.name}.mended")
                linked(str(good if target is cached else cached), str(partial))
                partial.chmod(0o444)
                partial.replace(target)

    def altered(self, folder: Path) -> list[str]:
        """Return the names of files in a folder whose bytes are not those listed."""
        return [
            name
            for name, md5 in self.files.items()
            if not (folder / name).is_file() or _md5(folder / name) != md5
        ]

    def holds(self, file: Path, name: str) -> bool:
        """Tell whether the bytes of ``file`` are those listed under a name."""
        md5 = self.files.get(name)
        if md5 is None:
            return False
        cached = _place(self.cache, md5)
        same = cached.is_file() and os.path.samefile(cached, file)
        return same or _md5(file) == md5

    def relink(self, folder: Path) -> None:
        """Make files of a folder that are copies of what is in the cache second names of it."""
        for name, md5 in self.files.items():
            cached, file = _place(self.cache, md5), folder / name
            if os.path.samefile(cached, file) or not filecmp.cmp(cached, file, shallow=False):
                continue
            partial = file.with_name(f".{file.name}.linked")
            linked(str(cached), str(partial))
            partial.replace(file)

    def forget(self, names: list[str]) -> None:
        """Remove files from the cache, so that DVC fetches them again."""
        for name in names:
            _place(self.cache, self.files[name]).unlink(missing_ok=True)


def pointed(pointer: str | None) -> str | None:
    """Return the checksum in the text of a ``.dvc`` file."""
    return _first_output(read_keys(pointer))


def made_by(lock: str | None, stage: str) -> str | None:
    """Return the checksum of a stage's first output in the text of a ``dvc.lock``."""
    stages = read_keys(lock).get("stages")
    made = stages.get(stage) if isinstance(stages, Mapping) else None
    return _first_output(made if isinstance(made, Mapping) else {})


def read_keys(text: str | None) -> Mapping[str, Any]:
    """Return what DVC wrote; a file that somebody damaged names nothing."""
    try:
        body = yaml.safe_load(text or "")
    except yaml.YAMLError:
        return {}
    return body if isinstance(body, Mapping) else {}


def _first_output(body: Mapping[str, Any]) -> str | None:
    outs = body.get("outs")
    first = outs[0] if isinstance(outs, list) and outs else None
    found = first.get("md5") if isinstance(first, Mapping) else None
    return found if isinstance(found, str) else None


def linked(source: str, target: str) -> None:
    """Give a file a second name, or copy it where the disk cannot."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _counted(files: Mapping[str, str]) -> dict[str, str]:
    return {name: md5 for name, md5 in files.items() if name != _PROFILE}


def _place(cache: Path, checksum: str) -> Path:
    return cache / "files" / "md5" / checksum[:2] / checksum[2:]


def _md5(path: Path) -> str:
    digest = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()
