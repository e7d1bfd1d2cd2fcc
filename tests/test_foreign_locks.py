"""Locks of git and DVC: whose they are, who waits for them, and when they are cleared."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from satseg_ray.errors import (
    InUse,
)
from satseg_ray.tracking import foreign_locks
from tests.kills import content, ingest
from tests.versioned import (
    raw,
)

HOLD = (
    "import os, sys, time\n"
    "lock = os.open(sys.argv[1], os.O_CREAT | os.O_WRONLY)\n"
    "print('held', flush=True)\n"
    "time.sleep(60)\n"
)


@pytest.mark.parametrize("name", ["index.lock", "HEAD.lock", "refs/heads/main.lock"])
def test_a_lock_of_git_goes_with_its_owner_and_not_before(store, monkeypatch, name):
    monkeypatch.setattr(foreign_locks, "_PATIENCE", 0.2)
    ingest(store, "coast", 1)
    lock = store.root / ".git" / name
    command = [sys.executable, "-c", HOLD, str(lock)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as owner:
        assert owner.stdout is not None
        owner.stdout.readline()
        with pytest.raises(InUse, match=str(owner.pid)):
            ingest(store, "coast", 2)
        assert lock.exists()
        owner.kill()
    assert raw(store) == content("raw", 1)
    assert lock.exists()
    assert ingest(store, "coast", 2).tag == "coast-v2"
    assert not lock.exists()


@pytest.mark.parametrize("way", ["environment", "relative", "words"])
def test_a_git_that_works_here_from_elsewhere_keeps_its_lock(store, monkeypatch, tmp_path, way):
    monkeypatch.setattr(foreign_locks, "_PATIENCE", 0.2)
    ingest(store, "coast", 1)
    where = {"GIT_DIR": str(store.root / ".git"), "GIT_WORK_TREE": str(store.root)}
    if way == "relative":
        where = {name: os.path.relpath(value, tmp_path) for name, value in where.items()}
    words = [f"--git-dir={where['GIT_DIR']}", f"--work-tree={where['GIT_WORK_TREE']}"]
    begun = tmp_path / "begun"
    editor = {"GIT_EDITOR": f"touch {begun}; sleep 60; false"}
    who = ["-c", "user.name=me", "-c", "user.email=me@here"]
    (store.root / ".gitignore").write_text("mine")
    with subprocess.Popen(
        ["git", *who, *(words if way == "words" else ()), "commit", "--all", "--quiet"],
        cwd=tmp_path,
        env=os.environ | editor | (where if way != "words" else {}),
        start_new_session=True,
    ) as owner:
        end = time.monotonic() + 60
        while not begun.exists() and time.monotonic() < end:
            time.sleep(0.05)
        assert (store.root / ".git/index.lock").exists()
        with pytest.raises(InUse, match=str(owner.pid)):
            ingest(store, "coast", 2)
        assert (store.root / ".git/index.lock").exists()
        os.killpg(owner.pid, signal.SIGKILL)
    assert ingest(store, "coast", 2).tag == "coast-v2"
    assert not (store.root / ".git/index.lock").exists()


def test_a_command_of_dvc_that_is_at_work_keeps_transactions_out(store, monkeypatch):
    monkeypatch.setattr(foreign_locks, "_PATIENCE", 0.2)
    ingest(store, "coast", 1)
    code = (
        "import sys, time, zc.lockfile\n"
        "lock = zc.lockfile.LockFile(sys.argv[1])\n"
        "print('held', flush=True)\n"
        "time.sleep(60)\n"
    )
    command = [sys.executable, "-c", code, str(store.root / ".dvc/tmp/lock")]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as owner:
        assert owner.stdout is not None
        owner.stdout.readline()
        with pytest.raises(InUse, match="a DVC command"):
            ingest(store, "coast", 2)
        owner.kill()
    assert ingest(store, "coast", 2).changed


@pytest.mark.parametrize(("alive", "folder"), [(True, "raw/coast"), (False, "raw/coast")])
def test_what_dvc_has_entered_as_being_written_counts_while_its_process_lives(store, alive, folder):
    ingest(store, "coast", 1)
    with subprocess.Popen(["sleep", "60"]) as process:
        if not alive:
            process.kill()
            process.wait()
        entry = {str(store.root / folder): {"pid": process.pid, "cmd": "dvc repro"}}
        (store.root / ".dvc/tmp/rwlock").write_text(json.dumps({"write": entry}))
        if alive:
            with pytest.raises(InUse, match="dvc repro"):
                ingest(store, "coast", 2)
        else:
            assert ingest(store, "coast", 2).changed
        process.kill()


def test_the_end_of_long_work_waits_for_a_lock_and_says_for_whom(store, capfd):
    ingest(store, "coast", 1)
    code = "import fcntl, sys, time; f = open(sys.argv[1], 'a'); fcntl.flock(f, fcntl.LOCK_EX)\n"
    code += "print('held', flush=True); time.sleep(7)"
    command = [sys.executable, "-c", code, str(store.root / ".dvc/tmp/lock")]
    with store.replacing_raw("coast") as draft:
        (draft.folder / "a").write_text("hours of work")
        other = subprocess.Popen(command, stdout=subprocess.PIPE)
        assert other.stdout is not None
        other.stdout.readline()
    assert other.poll() is not None or other.wait(1) == 0
    other.stdout.close()
    assert draft.committed
    assert draft.committed.tag == "coast-v2"
    assert capfd.readouterr().err.count("is held by a DVC command") == 1
