"""Transactions on small data sets, in processes that are killed where a test says.

What is killed is the process of the transaction alone. Its git and DVC are orphans: they go on, or
die at the same moment where the test says so.
"""

from __future__ import annotations

import os
import signal
import stat
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from satseg_ray.tracking.datastore import DataStore
from satseg_ray.tracking.side import Committed
from satseg_ray.workspace import Workspace

PARAMS = {"patch_size": 64, "stride": 32}

Kill = Callable[[Path], None]
"""Prepares the process of a transaction for its death; gets a folder for its own files."""


def content(kind: str, generation: int) -> dict[str, bytes]:
    """The files of a folder of one generation; some are the same in each."""
    files = {f"images/{kind}-{i}.bin": bytes([generation, i]) * 500 for i in range(5)}
    return files | {f"{kind}.yaml": f"generation: {generation}\n".encode(), "same.bin": b"s" * 999}


def read_tree(folder: Path) -> dict[str, bytes]:
    """All files of a folder; empty where it is not there."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def _fill(folder: Path, files: Mapping[str, bytes]) -> None:
    for name, body in files.items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(body)


def ingest(store: DataStore, dataset: str, generation: int) -> Committed:
    """Replace the raw data by that of a generation."""
    with store.replacing_raw(dataset) as draft:
        _fill(draft.folder, content("raw", generation))
        draft.version, draft.figures = f"{dataset}@{generation:016x}", {"scenes": 5}
    assert draft.committed
    return draft.committed


def tile(store: DataStore, dataset: str, generation: int) -> Committed:
    """Replace the patches by those of a generation."""
    with (
        store.reading_raw(dataset),
        store.replacing_patches(dataset, PARAMS) as draft,
    ):
        _fill(draft.folder, content("patches", generation))
        draft.version, draft.figures = f"{dataset}@{generation:016x}/64", {"patches": 5}
    assert draft.committed
    return draft.committed


def open_store(workspace: Path) -> DataStore:
    """The store of a workspace, recovered."""
    return DataStore.open(Workspace(workspace))


def killed(action: Callable[[], Any], kill: Kill, folder: Path, delay: float | None = None) -> bool:
    """Run a transaction in a process of its own until it dies; tell whether it did.

    With ``delay``, in seconds, it is killed from here, otherwise by what ``kill`` has prepared.
    """
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            kill(folder)
            action()
            code = 0
        finally:
            os._exit(code)
    if delay is not None:
        time.sleep(delay)
        os.kill(child, signal.SIGKILL)  # a zombie, at the worst: nobody else has its number
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status)


def no_kill(folder: Path) -> None:
    """Prepare nothing: the death comes from outside."""


def in_rename(number: int, after: bool) -> Kill:
    """Die just before, or just after, a rename or an exchange of names."""

    def prepare(folder: Path) -> None:
        calls = 0

        def wrapped(real: Callable[..., Any]) -> Callable[..., Any]:
            def rename(*arguments: Any, **more: Any) -> Any:
                nonlocal calls
                calls += 1
                if calls == number and not after:
                    os.kill(os.getpid(), signal.SIGKILL)
                answer = real(*arguments, **more)
                if calls == number:
                    os.kill(os.getpid(), signal.SIGKILL)
                return answer

            return rename

        os.rename, os.replace = wrapped(os.rename), wrapped(os.replace)
        name = "satseg_ray.tracking.journal"
        module = sys.modules[name]
        vars(module)["exchange"] = wrapped(vars(module)["exchange"])

    return prepare


_GIT = """#!/bin/sh
for word in "$@"; do
    if [ "$word" = {word} ]; then
        case {how} in
            before) kill -9 $PPID; exit 1 ;;
            orphan) kill -9 $PPID; sleep 0.3 ;;
            after) {git} "$@" > /dev/null; kill -9 $PPID; exit 0 ;;
            locks)
                for name in index HEAD packed-refs refs/heads/main; do
                    : > "$GIT_DIR/$name.lock"
                done
                kill -9 $PPID; exit 1 ;;
        esac
    fi
done
exec {git} "$@"
"""


def git_wrapper(word: str, how: str) -> str:
    """A script to stand before git on the path: see :func:`in_git`."""
    return _GIT.format(word=word, how=how, git=real_git())


def in_git(word: str, how: str) -> Kill:
    """Die while a git command runs, which does not begin, goes on alone, is done, or leaves locks.

    ``word`` is the command; ``how`` is before, orphan, after or locks.
    """

    def prepare(folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        wrapper = folder / "git"
        wrapper.write_text(git_wrapper(word, how))
        wrapper.chmod(wrapper.stat().st_mode | stat.S_IXUSR)
        os.environ["PATH"] = f"{folder}{os.pathsep}{os.environ['PATH']}"

    return prepare


def real_git() -> str:
    """The path of git."""
    places = (Path(p) / "git" for p in os.environ["PATH"].split(os.pathsep))
    return str(next(p for p in places if p.is_file()))


_SITE = """
import os, sys
if any("dvc.cli" in word for word in sys.orig_argv):
    calls = 0
    def wrapped(real):
        def call(*arguments, **more):
            global calls
            calls += 1
            if calls == {number}:
                os.kill(os.getppid(), 9)
                if {both}:
                    os.kill(os.getpid(), 9)
            return real(*arguments, **more)
        return call
    for name in ("link", "unlink", "remove", "rename", "replace", "chmod"):
        setattr(os, name, wrapped(getattr(os, name)))
"""


def site_for_dvc(number: int, both: bool) -> str:
    """What Python runs as it starts, to die in DVC: see :func:`in_dvc`."""
    return _SITE.format(number=number, both=both)


def in_dvc(number: int, both: bool) -> Kill:
    """Die before a change that DVC makes to the disk; ``both``: DVC dies with it."""

    def prepare(folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        (folder / "sitecustomize.py").write_text(site_for_dvc(number, both))
        os.environ["PYTHONPATH"] = str(folder)

    return prepare
