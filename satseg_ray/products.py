"""Files and folders that appear complete or not at all, and the locks that keep jobs apart."""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from satseg_ray.errors import InUse, UnwritableProduct

_NO_PLACE = (
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG),
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST),
)


_TOKEN = 8
"""Letters that tell one writer's folder from another's."""


@contextmanager
def fresh_file(target: Path) -> Iterator[Path]:
    """Give a name to write to; that file becomes ``target``, replacing an older one, at the end.

    Where the block raises, nothing is left and an older ``target`` stays as it was.

    Raises:
        UnwritableProduct: there is no space for it, or no right to write.
    """
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    with _placed(target):
        try:
            yield partial
            partial.replace(target)
        finally:
            partial.unlink(missing_ok=True)


@contextmanager
def fresh_directory(target: Path) -> Iterator[Path]:
    """Give a folder to write into; it becomes ``target``, replacing an older one, at the end.

    Where the block raises, nothing is left and an older ``target`` stays as it was. What a killed
    process left is removed by the next one. While the block runs nobody else reads or writes
    ``target``, as far as they ask by :func:`locked`.

    Raises:
        InUse: another job reads or writes it.
        UnwritableProduct: there is no space for it, or no right to write.
    """
    partial = target.with_name(f".{target.name}.{secrets.token_hex(_TOKEN // 2)}.partial")
    with _placed(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        with locked(target, exclusive=True):
            _sweep(target)
            partial.mkdir()
            try:
                yield partial
                _swap(partial, target)
            finally:
                shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def locked(target: Path, exclusive: bool = False, wait: bool = False) -> Iterator[None]:
    """Keep ``target`` from changing while the block runs, or with ``exclusive`` from any use.

    The lock ends with the process that holds it, however it ends.

    Raises:
        InUse: another job writes it, or with ``exclusive`` reads it, and ``wait`` is not asked for.
    """
    if not target.parent.is_dir():  # nothing to protect
        yield
        return
    path = target.with_name(f".{target.name}.lock")
    mode = fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH
    try:
        lock = _taken(path, mode if wait else mode | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise InUse(
            target, "is in use by another job", "Wait for that job to end, or stop it."
        ) from error
    with lock:
        try:
            yield
        finally:
            _let_go(path, lock)


def _taken(path: Path, mode: int) -> IO[str]:
    """Return the open file of a lock that is held; one that was removed meanwhile is no lock."""
    while True:
        lock = path.open("a")
        try:
            fcntl.flock(lock, mode)
            if path.exists() and os.path.samestat(os.fstat(lock.fileno()), path.stat()):
                return lock
        except FileNotFoundError:
            pass  # removed between the two looks
        except BaseException:
            lock.close()
            raise
        lock.close()


def _let_go(path: Path, lock: IO[str]) -> None:
    """Remove the file of a lock if nobody else holds it."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return
    path.unlink(missing_ok=True)


@contextmanager
def _placed(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in _NO_PLACE:
            raise
        raise UnwritableProduct(
            target, f"cannot be written ({error.strerror})", "Look at the disk's space and rights."
        ) from error


def _swap(partial: Path, target: Path) -> None:
    old = _old(target)
    if target.exists():
        target.replace(old)
    try:
        partial.replace(target)
    except BaseException:  # a signal, too: the older one comes back
        if old.exists() and not target.exists():
            old.replace(target)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _sweep(target: Path) -> None:
    """Remove what killed processes left; an older product they had put aside comes back."""
    if _old(target).exists() and not target.exists():
        _old(target).replace(target)
    for stale in target.parent.glob(f".{target.name}.{'[0-9a-f]' * _TOKEN}.partial"):
        shutil.rmtree(stale, ignore_errors=True)
    shutil.rmtree(_old(target), ignore_errors=True)


def _old(target: Path) -> Path:
    return target.with_name(f".{target.name}.old.partial")
