"""Versions of data sets: what makes one, what comes back, and who keeps whom out."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
import yaml

from satseg_ray.config import DataConfig
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
from satseg_ray.tracking import repository
from satseg_ray.tracking.committing import same_files
from satseg_ray.tracking.datastore import DataStore
from satseg_ray.tracking.dvc_config import DvcConfig
from satseg_ray.tracking.journal import Journal, Move
from satseg_ray.tracking.side import Committed
from tests.factories import names
from tests.kills import PARAMS, content, ingest, open_store, read_tree, tile
from tests.versioned import (
    ROOT,
    git,
    patches,
    raw,
    run_dvc,
)


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
