"""Git and DVC of others: who holds their locks, and which locks nobody holds any more."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil

from satseg_ray.errors import InUse
from satseg_ray.products import try_lock

_LEADING = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_COMMON_DIR", "DVC_ROOT")
"""Variables that lead git or DVC to a work tree, wherever they start."""
_PATIENCE = 5.0
"""Seconds that somebody else's git or DVC gets to end by itself."""


@contextmanager
def alone(root: Path, *folders: Path, patience: float | None = None) -> Iterator[None]:
    """Keep DVC commands of others out of the work tree, and clear locks of dead processes.

    Whoever lives gets ``patience``, in seconds, to end by himself.

    Raises:
        InUse: a living process holds git's or DVC's lock, or DVC writes one of ``folders``.
    """
    end = time.monotonic() + (_PATIENCE if patience is None else patience)
    path = root / ".dvc" / "tmp" / "lock"  # as DVC itself takes it
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as lock:
        while not try_lock(lock.fileno()):
            if time.monotonic() > end:
                raise _in_use(path, "a DVC command")
            time.sleep(0.05)
        _refuse_writers(root, folders)
        _clear_stale_locks(root, end)
        yield


def _refuse_writers(root: Path, folders: Sequence[Path]) -> None:
    """Refuse folders that a living DVC process has entered as being written."""
    path = root / ".dvc" / "tmp" / "rwlock"
    try:
        writers = json.loads(path.read_text("utf-8")).get("write", {})
        entered = path.stat().st_mtime
    except (OSError, ValueError):
        return
    for name, entry in writers.items():
        busy = any(Path(name) in (f, *f.parents) or f in Path(name).parents for f in folders)
        if busy and _lived_at(int(entry["pid"]), entered):
            raise _in_use(name, f"process {entry['pid']} ({entry.get('cmd', 'dvc')})")


def _clear_stale_locks(root: Path, end: float) -> None:
    """Remove git's lock files whose owner is dead.

    Raises:
        InUse: a living process holds one, longer than to ``end``.
    """
    git = root / ".git"
    for path in [*git.glob("*.lock"), *(git / "refs").rglob("*.lock")]:
        while (owner := _owner(path, root)) is not None:
            if time.monotonic() > end:
                raise _in_use(path, f"process {owner.pid}")
            time.sleep(0.05)
        path.unlink(missing_ok=True)


def _lived_at(pid: int, moment: float) -> bool:
    """Tell whether a process that was there at a moment is alive; its number may be another's."""
    try:
        process = psutil.Process(pid)
        zombie = process.status() == psutil.STATUS_ZOMBIE
        return not zombie and process.create_time() <= moment + 1
    except psutil.NoSuchProcess:
        return False


def _owner(path: Path, root: Path) -> psutil.Process | None:
    """Return a living process that may have made a lock file: older than it, and at work here.

    Processes of other machines cannot be seen.
    """
    try:
        made = path.stat().st_mtime
    except FileNotFoundError:
        return None
    for process in psutil.process_iter():
        try:
            older = process.pid != os.getpid() and process.create_time() <= made + 1
            if older and _works_on(process, path, root):
                return process
        except psutil.NoSuchProcess:
            continue
    return None


def _works_on(process: psutil.Process, path: Path, root: Path) -> bool:
    """Tell whether a process has ``path`` open, or is git or DVC and works below ``root``."""
    try:
        command = process.cmdline()
        tool = process.name().startswith("git") or "dvc" in map(os.path.basename, command[:3])
        if tool and any(place.is_relative_to(root) for place in _places(process, command)):
            return process.status() != psutil.STATUS_ZOMBIE
        return any(file.path == str(path) for file in process.open_files())
    except psutil.AccessDenied:  # another user's: it may be
        return process.name().startswith("git")


def _places(process: psutil.Process, command: Sequence[str]) -> Iterator[Path]:
    """Yield where a process works: its folder, and what its environment and words lead to."""
    here = process.cwd()
    environment = process.environ()
    words = [environment[name] for name in _LEADING if name in environment]
    words += [word.rpartition("=")[2] for word in command[1:]]
    for word in ("", *words):
        yield Path(os.path.realpath(os.path.join(here, word)))


def _in_use(path: object, whom: str) -> InUse:
    return InUse(path, f"is held by {whom}", "Wait for it to end, or stop it.")
