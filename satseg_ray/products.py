"""Files and folders that appear complete or not at all, and the locks that keep jobs apart."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from satseg_ray.errors import InUse, UnwritableProduct

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NO_PLACE = (
    *_FULL,
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST),
)


_CANNOT_EXCHANGE = (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP)
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2
_REMEDY = "Look at the disk's space and rights."
_READ_ONLY = (errno.EACCES, errno.EPERM, errno.EROFS)
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
    with placed(target):
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
    target = Path(os.path.realpath(target))  # a link stays one
    partial = target.with_name(f".{target.name}.{secrets.token_hex(_TOKEN // 2)}.partial")
    with placed(target):
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
def locked(target: Path, exclusive: bool = False, wait: bool = False) -> Iterator[tuple[int, ...]]:
    """Keep ``target`` from changing while the block runs, or with ``exclusive`` from any use.

    The lock ends with the process that holds it, however it ends. The block gets the lock's
    descriptors, one or none: a child that inherits them (``pass_fds``) keeps the lock as well.

    Raises:
        InUse: another job writes it, or with ``exclusive`` reads it, and ``wait`` is not asked for.
    """
    target = Path(os.path.realpath(target))
    if not exclusive and not target.exists():  # nothing to protect
        yield ()
        return
    path = target.with_name(f".{target.name}.lock")
    mode = fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH
    try:
        lock = _taken(path, mode if wait else mode | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise InUse(
            target, "is in use by another job", "Wait for that job to end, or stop it."
        ) from error
    except OSError as error:
        if exclusive or error.errno not in _READ_ONLY:
            raise
        lock = None  # where nobody can write there is nothing to wait for
    try:
        yield () if lock is None else (lock,)
    finally:
        if lock is not None:
            if exclusive:  # a reader's lock is shared: others may be about to take it
                path.unlink(missing_ok=True)
            os.close(lock)


def try_lock(descriptor: int) -> bool:
    """Lock an open file or folder for this process alone; tell whether nobody else had."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except BlockingIOError:
        return False


def _taken(path: Path, mode: int) -> int:
    """Return the descriptor of a lock that is held; a file removed meanwhile is no lock."""
    while True:
        # To be read and written: a shared lock on NFS asks for the one, an exclusive for the other
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(lock, mode)
            if os.path.samestat(os.fstat(lock), path.stat()):
                return lock
        except FileNotFoundError:
            pass
        except BaseException:
            os.close(lock)
            raise
        os.close(lock)


@contextmanager
def placed(target: Path) -> Iterator[None]:
    """Turn what the system says of ``target``'s place in the block into an error with a remedy.

    A disk without space, or without inodes, is named by the file that it had no place for.

    Raises:
        UnwritableProduct: there is no space for it, or no right to write.
    """
    try:
        yield
    except shutil.Error as error:
        if not isinstance(error.args[0], list):
            raise
        _, name, why = error.args[0][0]  # of a folder that was copied: each file, from, to, why
        raise UnwritableProduct(name, f"cannot be written ({why})", _REMEDY) from error
    except OSError as error:
        name = error.filename
        elsewhere = name and not Path(os.fsdecode(name)).is_relative_to(target.parent)
        if not is_no_place(error) or (elsewhere and error.errno not in _FULL):
            raise
        raise unwritable(os.fsdecode(name) if elsewhere else target, error) from error


def is_no_place(error: OSError) -> bool:
    """Tell whether an error means that there is no space, or no right to write."""
    return error.errno in _NO_PLACE


def unwritable(target: object, error: OSError) -> UnwritableProduct:
    """Return the fact that ``target`` cannot be written, for what the system says."""
    return UnwritableProduct(target, f"cannot be written ({error.strerror})", _REMEDY)


def exchange(one: Path, other: Path) -> bool:
    """Let two names change places in one step, so that neither is ever missing.

    Returns ``False``, with nothing done, where the system or the file system cannot.
    """
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except AttributeError:
        return False
    names = os.fsencode(one), os.fsencode(other)
    if rename(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in _CANNOT_EXCHANGE:
        return False
    raise OSError(number, os.strerror(number), str(one), None, str(other))


def _swap(partial: Path, target: Path) -> None:
    if partial.exists() and target.exists() and exchange(partial, target):
        return  # the older one is removed under the name of the partial one
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
