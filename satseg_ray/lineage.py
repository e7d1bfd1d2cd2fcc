"""Where a product comes from: digests and the code revision, carried as plain tags."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_CHUNK = 1 << 20

START_PATCHES = "start_patches"
"""The key of a model's lineage for the patches that its first weights were trained on."""


def file_digest(path: Path) -> str:
    """Return the SHA-256 of the bytes of ``path`` as hex."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def value_digest(value: Any) -> str:
    """Return the SHA-256 of a JSON value as hex; the order of keys does not matter.

    >>> value_digest({"a": 1, "b": 2}) == value_digest({"b": 2, "a": 1})
    True
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def patches_seen(lineage: Mapping[str, str]) -> tuple[str, ...]:
    """Return the versions of patches that a model, and what it started from, was trained on.

    >>> patches_seen({"patches_version": "sea@2", "start_patches": "sea@1 land@7"})
    ('sea@2', 'sea@1', 'land@7')
    """
    own = lineage.get("patches_version", "")
    seen = [own, *lineage.get(START_PATCHES, "").split()]
    return tuple(dict.fromkeys(version for version in seen if version))


def code_revision() -> str:
    """Return the revision of the running code, with ``+dirty`` where files differ from it.

    ``SATSEG_CODE_REVISION`` wins over git. A submitted copy of the code has no git: there it is
    ``source-`` and the digest of the package's own files.
    """
    if revision := os.environ.get("SATSEG_CODE_REVISION"):
        return revision
    root = Path(__file__).resolve().parent.parent
    revision = _git(root, "rev-parse", "HEAD") if (root / ".git").exists() else ""
    if not revision:
        return f"source-{_source_digest(Path(__file__).resolve().parent)[:16]}"
    changed = _git(root, "status", "--porcelain", "--untracked-files=no")
    return f"{revision}+dirty" if changed else revision


def _source_digest(package: Path) -> str:
    files = sorted(package.rglob("*.py"))
    return value_digest({str(path.relative_to(package)): file_digest(path) for path in files})


def _git(root: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
