"""Versions of data sets: what makes one, what comes back, what differs, and who keeps whom out."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from satseg_ray.__main__ import _left_behind
from satseg_ray.config import DataConfig, EvaluateConfig, TrainConfig
from satseg_ray.data.versions import data
from satseg_ray.errors import (
    ConfigError,
    DatasetNotFound,
    DatasetVersionNotFound,
    InUse,
    UnwritableProduct,
)
from satseg_ray.patches.dataset import DatasetManifest
from satseg_ray.patches.store import PatchManifest
from satseg_ray.predict.evaluate import kept_settings as evaluate_settings
from satseg_ray.tracking import Tracking, foreign_locks, repository
from satseg_ray.tracking.committing import same_files
from satseg_ray.tracking.datastore import DataStore
from satseg_ray.tracking.dvc_config import DvcConfig
from satseg_ray.tracking.history import dataset_use, difference, versions
from satseg_ray.tracking.journal import Journal, Move, Scope
from satseg_ray.tracking.side import Committed
from satseg_ray.train.job import kept_settings as train_settings
from satseg_ray.workspace import Workspace
from tests.factories import names
from tests.kills import PARAMS, content, ingest, open_store, read_tree, tile

ROOT = Path(__file__).resolve().parent.parent
JOB = ROOT / "jobs" / "data.py"


@pytest.fixture
def store(workspace: Path) -> DataStore:
    return open_store(workspace)


def raw(store: DataStore, dataset: str = "coast") -> dict[str, bytes]:
    return read_tree(store.root / "raw" / dataset)


def patches(store: DataStore, dataset: str = "coast") -> dict[str, bytes]:
    return read_tree(store.root / "patches" / dataset)


def git(store: DataStore, *arguments: str) -> str:
    command = ["git", "-C", str(store.root), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def run_dvc(store: DataStore, *arguments: str, **environment: str) -> str:
    """Run DVC as a user does, with the environment active."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    site = {"DVC_SITE_CACHE_DIR": str(store.root / ".dvc/tmp/site"), "DVC_NO_ANALYTICS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "dvc", *arguments],
        cwd=store.root,
        env=os.environ | site | {"PATH": path, "PYTHONPATH": str(ROOT)} | environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_each_change_is_a_version_with_a_tag_and_a_commit_of_its_own(store):
    made = [ingest(store, "coast", 1), tile(store, "coast", 1), ingest(store, "coast", 2)]
    assert [one.tag for one in made] == ["coast-v1", "coast-v2", "coast-v3"]
    assert all(one.changed for one in made)
    assert [git(store, "rev-parse", f"{one.tag}^{{commit}}") for one in made] == [
        one.revision for one in made
    ]
    assert git(store, "status", "--porcelain") == ""
    assert git(store, "cat-file", "-t", "coast-v1") == "tag"
    assert "coast@0000000000000001" in git(store, "log", "-1", "--format=%s", "coast-v1")


def test_the_disk_holds_one_copy_of_each_file_of_every_version(store):
    ingest(store, "coast", 1)
    tile(store, "coast", 1)
    ingest(store, "coast", 2)  # some of its files are in the cache already
    cache = [path.stat() for path in (store.root / ".dvc/cache").rglob("*") if path.is_file()]
    inodes = {found.st_ino for found in cache}
    for folder in ("raw/coast", "patches/coast"):
        for path in (store.root / folder).rglob("*"):
            if path.is_file():
                assert path.stat().st_ino in inodes, path


def test_the_same_content_is_no_new_version_and_mends_what_was_altered(store):
    first = ingest(store, "coast", 1)
    tiled = tile(store, "coast", 1)
    for folder in ("raw", "patches"):
        altered = store.root / folder / "coast" / "same.bin"
        altered.unlink()
        altered.write_bytes(b"altered")
    again = ingest(store, "coast", 1)
    assert (again.tag, again.changed) == (tiled.tag, False)
    assert raw(store) == content("raw", 1)
    again = tile(store, "coast", 1)
    assert (again.tag, again.revision, again.changed) == (tiled.tag, tiled.revision, False)
    assert patches(store) == content("patches", 1)
    assert first.revision != tiled.revision


def with_profile(store: DataStore, path: str = "") -> Committed:
    """Ingest files with a profile whose bytes are never the same."""
    with store.replacing_raw("coast") as draft:
        (draft.folder / "profile.bin").write_bytes(os.urandom(9))
        (draft.folder / "dataset.yaml").write_text(f"path: {path}")
        draft.version = "coast@1"
    assert draft.committed
    return draft.committed


def test_profiles_alone_make_no_version_and_the_first_ones_stay(store):
    first = with_profile(store)
    before = raw(store)
    again = with_profile(store)
    assert (again.tag, again.changed) == (first.tag, False)
    assert raw(store) == before
    assert git(store, "status", "--porcelain") == ""


def test_other_bytes_are_a_version_whatever_the_content_is_called(store):
    """Moved files that are kept by reference, or other code."""
    with_profile(store, "/old")
    moved = with_profile(store, "/new")
    assert (moved.tag, moved.changed) == ("coast-v2", True)
    assert raw(store)["dataset.yaml"] == b"path: /new"
    tile(store, "coast", 1)
    with store.replacing_patches("coast", PARAMS) as draft:
        (draft.folder / "a.bin").write_bytes(b"other")
        draft.version = "coast@0000000000000001/64"
    assert draft.committed
    assert draft.committed.changed
    assert patches(store) == {"a.bin": b"other"}


def test_what_is_lost_from_the_cache_comes_back_with_the_same_bytes(store):
    ingest(store, "coast", 1)
    subprocess.run(["rm", "-rf", str(store.root / ".dvc/cache")], check=True)
    assert not ingest(store, "coast", 1).changed
    ingest(store, "coast", 2)
    store.checkout("coast", "coast-v1")
    assert raw(store) == content("raw", 1)


def test_what_is_lost_and_comes_back_with_another_profile_is_a_version(store):
    with_profile(store)
    subprocess.run(["rm", "-rf", str(store.root / ".dvc/cache")], check=True)
    assert with_profile(store).tag == "coast-v2"
    made = raw(store)
    assert git(store, "status", "--porcelain") == ""
    ingest(store, "coast", 2)
    store.checkout("coast", "coast-v2")
    assert raw(store) == made


def test_a_dvc_that_fails_is_no_lost_file(store, monkeypatch):
    ingest(store, "coast", 1)
    real = repository.Repository.dvc

    def fail(self: Any, tree: Path, *commands: Any) -> None:
        if commands[0][0] == "checkout":
            raise UnwritableProduct("dvc", "failed", "Look.")
        real(self, tree, *commands)

    monkeypatch.setattr(repository.Repository, "dvc", fail)
    with pytest.raises(UnwritableProduct, match="dvc: failed"):
        ingest(store, "coast", 1)


def test_tiling_again_without_changes_keeps_the_model(store):
    ingest(store, "coast", 1)
    tile(store, "coast", 1)
    model = store.root / "pipelines/coast/model.json"
    model.write_text("{}")
    assert not tile(store, "coast", 1).changed
    assert model.read_text() == "{}"


def test_what_was_altered_in_place_is_mended_by_the_same_ingest(store):
    ingest(store, "coast", 1)
    for name in ("same.bin", "raw.yaml"):
        (store.root / "raw/coast" / name).chmod(0o644)
        (store.root / "raw/coast" / name).write_bytes(b"altered")  # in the cache as well
    assert not ingest(store, "coast", 1).changed
    assert raw(store) == content("raw", 1)
    ingest(store, "coast", 2)
    store.checkout("coast", "coast-v1")
    assert raw(store) == content("raw", 1)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_block_that_raises_leaves_all_as_it_was(store, error):
    ingest(store, "coast", 1)
    for dataset in ("coast", "new"):
        with pytest.raises(error), store.replacing_raw(dataset) as draft:  # noqa: PT012
            (draft.folder / "half").write_text("half")
            raise error("half way")
    assert raw(store) == content("raw", 1)
    assert names(store.root / "raw") == [".gitignore", "coast", "coast.dvc"]
    assert git(store, "tag") == "coast-v1"
    assert names(store.root / ".dvc/tmp/satseg") == []


def test_checkout_restores_one_data_set_alone_as_a_new_version(store):
    ingest(store, "coast", 1)
    ingest(store, "fields", 1)
    tile(store, "coast", 1)
    tile(store, "fields", 1)
    ingest(store, "coast", 2)
    tile(store, "coast", 2)

    def others() -> tuple[Any, ...]:
        tracked = git(store, "ls-files", "-s", "*fields*")
        return raw(store, "fields"), patches(store, "fields"), tracked

    before = others()
    done = store.checkout("coast", "coast-v2")
    assert (done.tag, done.changed) == ("coast-v5", True)
    assert (raw(store), patches(store)) == (content("raw", 1), content("patches", 1))
    assert others() == before
    assert git(store, "log", "-1", "--format=%P") == git(store, "rev-parse", "coast-v4^{commit}")
    assert git(store, "status", "--porcelain") == ""
    store.checkout("coast", "coast-v1")
    assert (raw(store), patches(store)) == (content("raw", 1), {})
    assert not (store.root / "pipelines" / "coast").exists()
    assert not store.checkout("coast", "coast-v1").changed


@pytest.mark.parametrize(
    "version",
    ["coast-v9", "", "-v1", "--help", "coast-v1..coast-v2", "HEAD~1", "a/../b", "x" * 200, "v1\n"],
)
def test_what_names_no_version_is_refused(store, version):
    ingest(store, "coast", 1)
    with pytest.raises(DatasetVersionNotFound) as caught:
        store.checkout("coast", version)
    assert caught.value.exit_code == 23


def test_a_version_of_another_data_set_is_refused_before_anything_changes(store):
    ingest(store, "coast", 1)
    ingest(store, "fields", 1)
    with pytest.raises(DatasetVersionNotFound, match="is no version of 'fields'"):
        store.checkout("fields", "coast-v1")
    assert raw(store, "fields") == content("raw", 1)


@pytest.mark.parametrize("name", ["a..b", "coast.dvc", "../up", ""])
def test_a_name_that_git_or_dvc_could_not_tell_is_refused(store, name):
    with pytest.raises(ConfigError), store.replacing_raw(name):
        pass


def test_names_that_begin_alike_have_numbers_of_their_own(store):
    tags = [ingest(store, name, 1).tag for name in ("a", "a-v1", "a-v1", "a")]
    tags.append(ingest(store, "a", 2).tag)
    assert tags == ["a-v1", "a-v1-v1", "a-v1-v1", "a-v1", "a-v2"]


def test_who_reads_or_writes_keeps_a_checkout_out(store):
    ingest(store, "coast", 1)
    tile(store, "coast", 1)
    for using in (store.reading_raw, store.reading_patches, store.replacing_raw):
        with using("coast"), pytest.raises(InUse):
            store.checkout("coast", "coast-v1")
    with store.reading_raw("coast"), pytest.raises(InUse), store.replacing_raw("coast"):
        pass
    with store.replacing_patches("coast", PARAMS), pytest.raises(InUse):
        store.checkout("coast", "coast-v1")
    with store.reading_raw("coast"), store.reading_raw("coast"):
        pass


def test_two_data_sets_are_written_at_once(store):
    code = (
        "import sys; from pathlib import Path\n"
        "from tests.kills import ingest, open_store\n"
        "store = open_store(Path(sys.argv[1]))\n"
        "for generation in (1, 2):\n"
        "    print(ingest(store, sys.argv[2], generation).tag)\n"
    )
    started = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(store.workspace.root), name],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        for name in ("one", "two")
    ]
    said = [process.communicate(timeout=120)[0].split() for process in started]
    assert said == [["one-v1", "one-v2"], ["two-v1", "two-v2"]]
    assert git(store, "rev-list", "--count", "HEAD") == "5"
    git(store, "fsck", "--strict", "--no-dangling")


def test_tiling_takes_in_raw_data_that_nobody_committed(store):
    folder = store.root / "raw" / "old"
    folder.mkdir(parents=True)
    (folder / "scene.bin").write_bytes(b"scene")
    assert tile(store, "old", 1).tag == "old-v1"
    ingest(store, "old", 2)
    store.checkout("old", "old-v1")
    assert raw(store, "old") == {"scene.bin": b"scene"}


def test_patches_are_recorded_with_the_raw_data_that_they_were_made_from(store):
    ingest(store, "coast", 1)
    altered = store.root / "raw" / "coast" / "same.bin"
    altered.unlink()
    altered.write_bytes(b"altered by hand")
    tiled = tile(store, "coast", 1)
    ingest(store, "coast", 2)
    store.checkout("coast", tiled.tag)
    assert altered.read_bytes() == b"altered by hand"
    store.checkout("coast", "coast-v1")
    assert raw(store) == content("raw", 1)


def test_tiling_what_is_not_there_is_refused(store):
    with pytest.raises(DatasetNotFound), store.replacing_patches("none", PARAMS):
        pass


def test_dvc_finds_the_stage_tile_up_to_date(store):
    ingest(store, "coast", 1)
    tile(store, "coast", 1)
    status = json.loads(run_dvc(store, "status", "--json"))
    assert set(status) == {f"pipelines/coast/dvc.yaml:{stage}" for stage in ("train", "evaluate")}
    pipeline = (store.root / "pipelines/coast/dvc.yaml").read_text()
    assert str(store.workspace.root) not in pipeline
    assert (
        yaml.safe_load((store.root / "pipelines/coast/params.yaml").read_text())["tile"] == PARAMS
    )


def test_versions_come_back_from_a_remote(store, tmp_path):
    run_dvc(store, "remote", "add", "--default", "shelf", str(tmp_path / "shelf"))
    ingest(store, "coast", 1)
    run_dvc(store, "push")  # --all-tags pushes the newest alone: treeverse/dvc#10617
    ingest(store, "coast", 2)
    subprocess.run(["rm", "-rf", str(store.root / ".dvc/cache")], check=True)
    store.checkout("coast", "coast-v1")
    assert raw(store) == content("raw", 1)


def test_cache_and_remote_of_the_users_own_settings_serve_side_and_main_tree(
    workspace, tmp_path, monkeypatch
):
    home = tmp_path / "dvc"
    home.mkdir()
    shelf, shared = tmp_path / "shelf", tmp_path / "shared"
    text = f"[core]\n    remote = shelf\n[cache]\n    dir = {shared}\n"
    # A path in it is relative to the file that names it
    (home / "config").write_text(text + "['remote \"shelf\"']\n    url = ../shelf\n")
    monkeypatch.setenv("DVC_GLOBAL_CONFIG_DIR", str(home))
    store = open_store(workspace)
    ingest(store, "coast", 1)
    tile(store, "coast", 1)
    assert store.repository.cache == shared
    assert not (store.root / ".dvc/cache").exists()
    run_dvc(store, "push")
    assert sorted(read_tree(shelf / "files")) == sorted(read_tree(shared / "files"))
    ingest(store, "coast", 2)
    subprocess.run(["rm", "-rf", str(shared)], check=True)
    store.checkout("coast", "coast-v2")
    assert (raw(store), patches(store)) == (content("raw", 1), content("patches", 1))


def test_a_side_tree_has_the_settings_of_all_files_with_their_paths_made_absolute(
    store, tmp_path, monkeypatch
):
    monkeypatch.setenv("DVC_GLOBAL_CONFIG_DIR", str(tmp_path / "user"))
    (tmp_path / "user").mkdir()
    (tmp_path / "user/config").write_text("[cache]\n    type = copy\n    dir = mine\n")
    local = "['remote \"cloud\"']\n    url = s3://b/p\n    credentialpath = keys\n"
    (store.root / ".dvc/config.local").write_text(local)
    side = tmp_path / "side"
    store.repository.side_tree(side)
    found = DvcConfig.read(side)
    assert found.cache == store.repository.cache == tmp_path / "user/mine"
    cloud = {"url": "s3://b/p", "credentialpath": str(store.root / ".dvc/keys")}
    assert found.settings["remote"] == {"cloud": cloud}
    assert found.settings["core"]["no_scm"] == "true"
    assert found.settings["cache"]["type"] in ("hardlink", ["hardlink", "copy"], "hardlink,copy")


def test_a_version_that_is_nowhere_any_more_is_refused_and_nothing_changes(store):
    ingest(store, "coast", 1)
    ingest(store, "coast", 2)
    subprocess.run(["rm", "-rf", str(store.root / ".dvc/cache")], check=True)
    with pytest.raises(UnwritableProduct):
        store.checkout("coast", "coast-v1")
    assert raw(store) == content("raw", 2)


def test_the_users_own_git_settings_and_commits_do_not_matter(workspace, monkeypatch, tmp_path):
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere"))
    monkeypatch.setenv("HOME", str(tmp_path))  # no identity
    store = open_store(workspace)
    ingest(store, "coast", 1)
    monkeypatch.delenv("GIT_DIR")
    (store.root / "notes.txt").write_text("mine")
    git(store, "add", "notes.txt")
    git(store, "-c", "user.name=me", "-c", "user.email=me@here", "commit", "-qm", "Notes")
    (store.root / "staged.txt").write_text("not yet")
    git(store, "add", "staged.txt")
    ingest(store, "coast", 2)
    assert git(store, "status", "--porcelain") == "A  staged.txt"
    assert git(store, "show", "HEAD:notes.txt") == "mine"


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


def write_manifests(folder: Path, scenes: dict[str, str | None], classes: list[str]) -> None:
    body = {
        "scenes": [
            {
                "name": name,
                "image_sha256": name,
                "labels": labels and f"labels/{name}.tif",
                "labels_sha256": labels,
                "source": str(folder),
            }
            for name, labels in scenes.items()
        ],
        "classes": [{"value": i, "name": name} for i, name in enumerate(classes)],
    }
    (folder / "dataset.yaml").write_text(yaml.safe_dump(body))


def two_versions(store: DataStore) -> None:
    with store.replacing_raw("coast") as draft:
        write_manifests(draft.folder, {"a": "l1", "b": "l2", "c": None}, ["land", "water"])
        draft.version, draft.figures = "coast@1", {"scenes": 3}
    with store.replacing_patches("coast", PARAMS) as draft:
        counts = {"train": {"patches": 7}, "val": {"patches": 1}}
        (draft.folder / "patches.json").write_text(json.dumps({"counts": counts}))
        draft.version, draft.figures = "coast@1/64", {"patches": 8}
    with store.replacing_raw("coast") as draft:
        write_manifests(draft.folder, {"a": "l9", "c": "l3", "d": None}, ["land", "ice"])
        draft.version, draft.figures = "coast@2", {"scenes": 3}


def test_a_difference_names_scenes_labels_classes_and_patches(store):
    two_versions(store)
    before = raw(store)
    found = difference(store, "coast", "coast-v1").to_dict()
    assert (found["old"], found["new"]) == ("coast-v1", "coast-v3")
    assert found["scenes"] == {"added": ("d",), "gone": ("b",), "changed": ()}
    assert found["labels"] == {"added": ("c",), "gone": ("b",), "changed": ("a",)}
    assert found["classes"] == {"added": ("ice",), "gone": ("water",), "changed": ()}
    assert {split: change["after"] for split, change in found["patches"].items()} == {
        "train": 7,
        "val": 1,
    }
    assert raw(store) == before
    same = difference(store, "coast", "coast-v3", "coast-v3").to_dict()
    assert same["scenes"] == {"added": (), "gone": (), "changed": ()}


def write_patches(folder: Path, files: dict[str, dict[str, bytes]]) -> None:
    """Write patches, as masks by scene, to Parquet files by path."""
    counts = dict.fromkeys(("train", "val"), 0)
    for path, masks in files.items():
        counts[path.split("/")[0]] += len(masks)
        (folder / path).parent.mkdir(exist_ok=True)
        pq.write_table(
            pa.table({"scene": list(masks), "mask": list(masks.values())}), folder / path
        )
    body = {"counts": {split: {"patches": count} for split, count in counts.items()}}
    (folder / "patches.json").write_text(json.dumps(body))


def test_a_difference_counts_patches_by_content_whichever_file_holds_them(store, capsys):
    ingest(store, "coast", 1)
    old = {
        "train/0.parquet": {"a": b"1", "b": b"2"},
        "train/1.parquet": {"c": b"3"},
        "val/0.parquet": {"d": b"4"},
    }
    new = {  # a moved, b has other labels, e came; c stays in its file, d changed its split
        "train/1.parquet": {"c": b"3"},
        "train/2.parquet": {"b": b"9", "a": b"1", "e": b"5", "d": b"4"},
    }
    for number, files in enumerate((old, new)):
        with store.replacing_patches("coast", PARAMS) as draft:
            write_patches(draft.folder, files)
            draft.version = f"coast@1/{number}"
    found = difference(store, "coast", "coast-v2").to_dict()["patches"]
    assert found == {
        "train": {"before": 3, "after": 5, "added": 3, "gone": 1},
        "val": {"before": 1, "after": 0, "added": 0, "gone": 1},
    }
    data(DataConfig(action="diff", dataset="coast", version="coast-v2"))
    assert "train    3 -> 5 patches: added 3; gone 1" in capsys.readouterr().err


def test_versions_are_listed_with_what_they_hold(store):
    two_versions(store)
    ingest(store, "air", 1)
    git(store, "tag", "coast-v77-mine")  # no version of ours
    found = versions(store)
    assert [version.tag for version in found] == ["air-v1", "coast-v1", "coast-v2", "coast-v3"]
    last = found[-1]
    assert (last.content, last.scenes, last.patches) == ("coast@2", 3, 8)
    assert (found[1].patches_content, found[1].patches) == (None, None)
    assert [version.patches_from for version in found] == [None, None, "coast@1", "coast@1"]
    assert [version.is_behind for version in found] == [False, False, False, True]
    assert [version.tag for version in versions(store, "air")] == ["air-v1"]


def test_a_workspace_without_data_has_no_versions_and_gets_no_work_tree(workspace):
    assert versions(DataStore.of(Workspace(workspace))) == []
    assert names(workspace) == []


def run_job(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(JOB), *words],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
    )


def last_line(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return result


def test_the_job_lists_and_restores_by_its_first_word(store):
    two_versions(store)
    listed = run_job("versions", "--dataset", "coast")
    assert listed.returncode == 0, listed.stderr
    assert [v["tag"] for v in last_line(listed)["versions"]] == ["coast-v1", "coast-v2", "coast-v3"]
    old, new = (line.split() for line in listed.stderr.splitlines()[-2:])
    assert (old[0], old[3:]) == ("coast-v2", ["1", "3", "1/64", "8"])
    assert new[3:] == ["2", "3", "1/64", "8", *["of", "older", "raw", "data,", "1"]]
    done = run_job("checkout", "--dataset", "coast", "--version", "coast-v1")
    assert (last_line(done)["tag"], last_line(done)["changed"]) == ("coast-v4", True)
    wrong = run_job("checkout", "--dataset", "coast", "--version", "coast-v9")
    assert (wrong.returncode, last_line(wrong)["error"]) == (23, "DatasetVersionNotFound")
    unknown = run_job("destroy")
    assert (unknown.returncode, last_line(unknown)["error"]) == (2, "ConfigError")


def test_the_job_compares(store, capsys):
    two_versions(store)
    found = data(DataConfig(action="diff", dataset="coast", version="coast-v1"))
    assert found["classes"]["added"] == ("ice",)
    assert "added 1 (ice); gone 1 (water)" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="version: is needed for diff"):
        data(DataConfig(action="diff", dataset="coast"))


STAND_IN = """
import json, sys
from pathlib import Path
from satseg_ray.tracking.datastore import DataStore
from satseg_ray.workspace import Workspace
stage, base = sys.argv[1], Path("pipelines/coast")
store = DataStore.of(Workspace(Path.cwd().parent))
if stage == "tile":
    with store.reading_raw("coast") as raw, store.replacing_patches("coast", {}) as draft:
        text = (raw / "raw.yaml").read_text()
        if "13" in text:
            sys.exit("thirteen is refused")
        (draft.folder / "patches.json").write_text(json.dumps({"of": text}))
elif stage == "train":
    with store.reading_patches("coast") as patches:
        (base / "model.json").write_text((patches / "patches.json").read_text())
else:
    (base / "evaluation.json").write_text(json.dumps({"iou": 0.5}))
"""


def with_stand_ins(store: DataStore) -> None:
    """Let the stages of the data set be small commands that use the store as the jobs do."""
    script = store.workspace.root / "stand_in.py"
    script.write_text(STAND_IN)
    path = store.root / "pipelines/coast/dvc.yaml"
    body = yaml.safe_load(path.read_text())
    for name, stage in body["stages"].items():
        stage["cmd"] = f"PYTHONPATH={ROOT} python {script} {name}"
    path.write_text(yaml.safe_dump(body))


@pytest.fixture
def described(monkeypatch: pytest.MonkeyPatch) -> None:
    from satseg_ray.tracking import reproduction

    monkeypatch.setattr(reproduction, "_described_patches", lambda folder: {"version": ""})


@pytest.mark.usefixtures("described")
def test_reproduce_with_stand_ins_for_the_stages_commits_model_and_figures(store):
    ingest(store, "coast", 1)
    tile(store, "coast", 1)
    with_stand_ins(store)
    done = store.reproduce("coast")
    assert (done.tag, done.changed) == ("coast-v3", True)
    assert git(store, "show", "HEAD:pipelines/coast/evaluation.json") == '{"iou": 0.5}'
    model = store.root / "pipelines/coast/model.json"
    of_first = model.read_text()
    assert git(store, "status", "--porcelain") == ""
    assert not store.reproduce("coast").changed
    ingest(store, "coast", 2)
    assert store.reproduce("coast").tag == "coast-v5"
    assert model.read_text() != of_first
    store.checkout("coast", "coast-v3")
    assert model.read_text() == of_first
    assert json.loads(run_dvc(store, "status", "--json")) == {}


@pytest.mark.usefixtures("described")
def test_a_stage_that_fails_with_stand_ins_leaves_patches_and_pipeline_as_they_were(store):
    ingest(store, "coast", 1)
    tile(store, "coast", 1)
    with_stand_ins(store)
    store.reproduce("coast")
    before = patches(store), read_tree(store.root / "pipelines")
    ingest(store, "coast", 13)
    with pytest.raises(UnwritableProduct, match="could not be reproduced"):
        store.reproduce("coast")
    assert (patches(store), read_tree(store.root / "pipelines")) == before
    with store.reading_patches("coast"):
        pass


def test_plain_dvc_repro_with_stand_ins_runs_the_stages(store):
    ingest(store, "coast", 1)
    tile(store, "coast", 1)
    with_stand_ins(store)
    run_dvc(store, "repro", "pipelines/coast/dvc.yaml")
    assert patches(store) == {"patches.json": b'{"of": "generation: 1\\n"}'}


def test_a_run_names_the_version_of_its_data_set(store):
    ingest(store, "coast", 1)
    tiled = tile(store, "coast", 1)
    ingest(store, "coast", 2)  # the patches stay, and are not of this
    lineage = {
        "dataset_version": "coast@0000000000000001",
        "patches_version": "coast@0000000000000001/64",
    }
    use = dataset_use(store.workspace, "coast", lineage)
    run = Tracking.open(store.workspace.root).create_run("test", "a run")
    run.log_dataset(use, "training")
    inputs: Any = run.tracking.client().get_run(run.run_id).inputs
    (found,) = inputs.dataset_inputs
    assert (found.dataset.name, found.dataset.digest) == ("coast", "0000000000000001/64")
    source = json.loads(found.dataset.source)
    assert (source["tag"], source["revision"]) == (tiled.tag, tiled.revision)
    assert [(tag.key, tag.value) for tag in found.tags] == [("mlflow.data.context", "training")]
    unknown = dataset_use(store.workspace, "coast", {"dataset_version": "coast@5"})
    assert dict(unknown.source) == {"dataset_version": "coast@5", "patches_version": "coast@5"}


def test_folders_are_the_same_by_names_and_bytes(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name / "deep").mkdir(parents=True)
        (tmp_path / name / "deep" / "a").write_text("a")
    one, two = tmp_path / "one", tmp_path / "two"
    assert same_files(one, two)
    (two / "empty").mkdir()
    assert same_files(one, two)
    (two / "b").write_text("b")
    assert not same_files(one, two)
    (one / "b").write_text("c")
    assert not same_files(one, two)


def test_a_stage_reads_its_section_and_leaves_a_result(store, tmp_path):
    ingest(store, "coast", 1)
    params, result = tmp_path / "params.yaml", tmp_path / "result.json"
    params.write_text("tile: {dataset: other}\ndata: {action: versions, dataset: coast}\n")
    flags = ["data", "--params", str(params), "--result", str(result)]
    done = subprocess.run(
        [sys.executable, "-m", "satseg_ray", *flags],
        cwd=store.root,
        env=os.environ | {"PYTHONPATH": str(ROOT), "DVC_ROOT": str(store.root)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert [version["tag"] for version in json.loads(result.read_text())["versions"]] == [
        "coast-v1"
    ]


def test_what_a_training_leaves_behind_names_no_run_and_no_folder(tmp_path):
    (tmp_path / "spec.json").write_text("{}")
    (tmp_path / "weights.h5").write_bytes(b"w")
    result = {"model": str(tmp_path), "run_id": "r", "dataset_version": "coast@1"}
    body = _left_behind("train", result | {"registered": {"name": "coast", "version": "3"}})
    assert sorted(body) == ["content", "dataset_version", "name", "version"]
    assert str(tmp_path) not in json.dumps(body)


def test_a_tag_that_cannot_be_set_is_refused_before_anything_is_decided(store):
    ingest(store, "coast", 1)
    git(store, "tag", "coast-v2/mine")
    with pytest.raises(UnwritableProduct, match="coast-v2: cannot be a tag beside coast-v2/mine"):
        ingest(store, "coast", 2)
    assert ingest(store, "fields", 1).tag == "fields-v1"
    git(store, "tag", "-d", "coast-v2/mine")
    assert Journal.read(store.repository) is None
    assert raw(store) == content("raw", 1)
    assert ingest(store, "coast", 2).tag == "coast-v2"


def test_a_folder_comes_into_place_though_it_has_the_time_of_the_older_one(tmp_path):
    root, side = tmp_path / "root", tmp_path / "side"
    for place, text in ((root, "old"), (side, "new")):
        (place / "set").mkdir(parents=True)
        (place / "set" / "a").write_text(text)
        os.utime(place / "set", ns=(10**18, 10**18))
    move = Move.of(side, "set")
    for _ in range(2):
        move.make(root, side)
        assert (root / "set" / "a").read_text() == "new"


def test_another_data_sets_version_is_refused_though_its_commit_has_both(store):
    ingest(store, "coast", 1)
    ingest(store, "fields", 1)
    with pytest.raises(DatasetVersionNotFound, match="is no version of 'coast'"):
        store.checkout("coast", "fields-v1")
    revision = git(store, "rev-parse", "fields-v1^{commit}")
    assert not store.checkout("coast", revision).changed


def test_a_version_that_was_altered_in_the_cache_is_not_given_out(store):
    ingest(store, "coast", 1)
    altered = store.root / "raw/coast/raw.yaml"
    altered.chmod(0o644)
    altered.write_bytes(b"altered")
    ingest(store, "coast", 2)
    with pytest.raises(UnwritableProduct, match=r"raw\.yaml: was altered in the cache"):
        store.checkout("coast", "coast-v1")
    assert raw(store) == content("raw", 2)
    ingest(store, "coast", 1)
    assert raw(store) == content("raw", 1)
    assert store.checkout("coast", "coast-v2").changed
    store.checkout("coast", "coast-v1")
    assert raw(store) == content("raw", 1)


def test_a_binary_in_the_pipeline_is_carried_as_it_is(store):
    ingest(store, "coast", 1)
    tile(store, "coast", 1)
    binary = store.root / "pipelines/coast/note.bin"
    binary.write_bytes(b"\xff\xfe\r\n\x00")
    ingest(store, "coast", 2)
    with_binary = tile(store, "coast", 2)
    store.checkout("coast", "coast-v2")
    assert not binary.exists()
    store.checkout("coast", with_binary.tag)
    assert binary.read_bytes() == b"\xff\xfe\r\n\x00"


def test_a_checkout_refuses_to_lose_files_that_no_version_has(store):
    ingest(store, "coast", 1)
    tile(store, "coast", 1)
    ingest(store, "coast", 2)
    mine = store.root / "raw/coast/notes.txt"
    altered = store.root / "patches/coast/same.bin"
    mine.write_text("mine")
    with pytest.raises(UnwritableProduct, match=r"raw/coast: holds 1 new .*notes\.txt"):
        store.checkout("coast", "coast-v1")
    assert mine.read_text() == "mine"
    mine.unlink()
    altered.unlink()
    altered.write_bytes(b"mine")
    with pytest.raises(UnwritableProduct, match=r"patches/coast: holds 1 new .*same\.bin"):
        store.checkout("coast", "coast-v1")
    altered.unlink()  # a missing file is no loss
    assert store.checkout("coast", "coast-v1").changed


def test_what_a_killed_job_left_goes_with_the_next_job_of_any_data_set(store):
    left = store.root / ".dvc/tmp/satseg/never~0123"
    left.mkdir(parents=True)
    with store.replacing_raw("fields") as draft:
        (draft.folder / "a").write_text("a")
        assert not left.exists()
        ingest(store, "coast", 1)
        assert draft.folder.is_dir()  # of a job that lives
    assert draft.committed


def test_a_name_too_long_for_its_tags_is_refused(store):
    assert ingest(store, "x" * 100, 1).tag == f"{'x' * 100}-v1"
    with pytest.raises(ConfigError, match="dataset: has 101 characters"):
        ingest(store, "x" * 101, 1)


SHARED = Path("/dev/shm")


@pytest.mark.skipif(not os.access(SHARED, os.W_OK), reason="there is no second disk")
def test_a_folder_on_another_disk_is_refused_before_anything_is_written(store, tmp_path):
    if SHARED.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("there is no second disk")
    with tempfile.TemporaryDirectory(dir=SHARED) as folder:
        (store.root / "patches").symlink_to(folder)
        ingested = pytest.raises(UnwritableProduct, match="is on another disk")
        with ingested, store.replacing_raw("coast"):
            raise AssertionError
    assert Journal.read(store.repository) is None


def test_signing_is_not_asked_for(store):
    git(store, "config", "tag.gpgSign", "true")
    git(store, "config", "commit.gpgSign", "true")
    git(store, "config", "gpg.program", "/bin/false")
    assert ingest(store, "coast", 1).tag == "coast-v1"


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


SLOW = """
import os, sys, time
from pathlib import Path
from satseg_ray.tracking.datastore import DataStore
from satseg_ray.workspace import Workspace
root = Path.cwd().parent
store = DataStore.of(Workspace(root))
with store.replacing_patches("coast", {}) as draft:
    (draft.folder / "late").write_text("late")
    (root / "pid").write_text(str(os.getpid()))
    time.sleep(float(sys.argv[1]))
"""


def reproducing(store: DataStore, seconds: float) -> tuple[subprocess.Popen[bytes], int]:
    """Start ``data.py reproduce`` with a stage that takes a while; return it and the stage."""
    ingest(store, "coast", 1)
    tile(store, "coast", 1)
    script, pid = store.workspace.root / "slow.py", store.workspace.root / "pid"
    script.write_text(SLOW)
    path = store.root / "pipelines/coast/dvc.yaml"
    body = yaml.safe_load(path.read_text())
    command = f"PYTHONPATH={ROOT} python {script} {seconds}"
    body["stages"] = {"tile": body["stages"]["tile"] | {"cmd": command}}
    path.write_text(yaml.safe_dump(body))
    job = subprocess.Popen(
        [sys.executable, str(JOB), "reproduce", "--dataset", "coast"],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
    )
    end = time.monotonic() + 60
    while not (pid.is_file() and pid.read_text()) and time.monotonic() < end:
        time.sleep(0.05)
    return job, int(pid.read_text())


def test_who_stops_a_reproduction_stops_its_stages_as_well(store):
    job, stage = reproducing(store, 60)
    job.terminate()
    said, _ = job.communicate(timeout=60)
    assert json.loads(said.splitlines()[-1])["error"] == "Interrupted"
    assert not psutil.pid_exists(stage) or psutil.Process(stage).status() == "zombie"
    assert patches(store) == content("patches", 1)


def test_a_stage_whose_parents_are_dead_replaces_nothing(store):
    job, stage = reproducing(store, 6)
    started = psutil.Process(stage)
    dvc = [p for p in psutil.Process(job.pid).children(True) if "dvc" in " ".join(p.cmdline())]
    job.kill()
    for process in dvc:
        process.kill()
    job.communicate()
    time.sleep(0.2)
    with store.reading_patches("coast"):
        assert patches(store) == content("patches", 1)
        psutil.wait_procs([started], timeout=30)
        assert patches(store) == content("patches", 1)


@pytest.mark.parametrize("lost", ["all", "listing", "manifest"])
def test_a_difference_to_what_is_lost_is_an_error_and_never_the_same(store, lost):
    two_versions(store)
    cache = store.root / ".dvc/cache/files/md5"
    if lost == "all":
        subprocess.run(["rm", "-rf", str(store.root / ".dvc/cache")], check=True)
    for file in [] if lost == "all" else sorted(cache.glob("*/*")):
        wanted = file.suffix == ".dir" if lost == "listing" else b"classes:" in file.read_bytes()
        if wanted:
            file.unlink()
    with pytest.raises(UnwritableProduct, match=r"coast-v1: raw/coast.*neither in the cache"):
        difference(store, "coast", "coast-v1", "coast-v1")


def test_a_damaged_file_of_a_pipeline_is_named_before_anything_is_tiled(store):
    ingest(store, "coast", 1)
    tile(store, "coast", 1)
    for name in ("params.yaml", "dvc.lock"):
        path = store.root / "pipelines/coast" / name
        whole = path.read_text()
        path.write_text("{[")
        refused = pytest.raises(ConfigError, match=rf"{name}: is no YAML")
        with refused, store.replacing_patches("coast", PARAMS):
            raise AssertionError
        path.write_text(whole)
    (store.root / ".dvc/config").write_text("garbage [[")
    with pytest.raises(UnwritableProduct, match=r"\.dvc/config: .* cannot be read"):
        ingest(store, "coast", 2)


def test_a_commit_of_dvc_that_fails_is_told_as_what_it_is(store, monkeypatch):
    ingest(store, "coast", 1)
    real = repository.Repository.dvc

    def fail(self: Any, tree: Path, *commands: Any) -> None:
        if commands[-1][0] == "commit":
            raise UnwritableProduct("dvc", "the disk is full", "Look.")
        real(self, tree, *commands)

    monkeypatch.setattr(repository.Repository, "dvc", fail)
    with pytest.raises(UnwritableProduct, match="dvc: the disk is full"):
        tile(store, "coast", 1)


def test_a_damaged_journal_is_named_with_what_to_do(store):
    ingest(store, "coast", 1)
    path = store.root / ".git/satseg/journal.json"
    for text in ("{", "[]", "{}", "\x00"):
        path.write_text(text)
        with pytest.raises(UnwritableProduct, match=r"journal\.json: is damaged .*Delete it"):
            data(DataConfig(action="versions"))


@pytest.mark.parametrize("text", ["", "[1,2", "a: 1\n", "{", "[1]", "name: 5\nclasses: 3\n"])
def test_a_damaged_manifest_is_named_with_what_to_do(tmp_path, text):
    kinds: dict[str, Any] = {"dataset.yaml": DatasetManifest, "patches.json": PatchManifest}
    for name, kind in kinds.items():
        (tmp_path / name).write_text(text)
        with pytest.raises(DatasetNotFound, match=rf"{name}: describes no .* Run jobs/"):
            kind.read(tmp_path)


def test_what_dvc_says_of_lost_files_is_told_without_its_adverts():
    said = "ERROR: failed\nIs your cache up to date?\n<https://error.dvc.org/missing-files>\n"
    lost = str(repository._failed(Path("data"), "dvc checkout", said))
    assert "neither in the cache nor in a remote" in lost
    assert "dvc fetch" in lost
    other = repository._failed(
        Path("data"), "dvc add", "ERROR: disk I/O error\n\nHaving any troubles? Hit us up at x!\n"
    )
    assert other.problem == "dvc add failed (ERROR: disk I/O error)"


def test_the_settings_of_a_training_stay_in_the_pipeline_and_make_no_version_of_patches(store):
    ingest(store, "coast", 1)
    store.keep_settings("coast", "train", {"epochs": 3})  # no pipeline, and no error
    tile(store, "coast", 1)
    params = store.root / "pipelines/coast/params.yaml"
    of_tile = yaml.safe_load(params.read_text())["tile"]
    config = TrainConfig(dataset="coast", epochs=3)
    with store.reading_patches("coast"):
        store.keep_settings("coast", "train", train_settings(config))
    evaluation = EvaluateConfig(model="m", dataset="coast", split="val", output="mine")
    store.keep_settings("coast", "evaluate", evaluate_settings(evaluation))
    kept = yaml.safe_load(params.read_text())
    assert kept["tile"] == of_tile
    assert TrainConfig(**kept["train"]) == config.model_copy(update={"register_as": "coast"})
    again = EvaluateConfig(**kept["evaluate"], model="m")
    assert again == evaluation.model_copy(update={"output": None})
    assert not tile(store, "coast", 1).changed
    assert yaml.safe_load(params.read_text()) == kept
    with store._changing("coast", Scope.PATCHES) as side:
        store._reproduction("coast").undo(side.held)
    assert yaml.safe_load(params.read_text()) == kept
    assert tile(store, "coast", 2).changed
    assert yaml.safe_load(git(store, "show", "HEAD:pipelines/coast/params.yaml")) == kept
