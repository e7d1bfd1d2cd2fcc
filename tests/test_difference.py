"""Versions as they are listed and compared, by hand and by the job."""

from __future__ import annotations

import json
import subprocess
from typing import Any

import pytest

from satseg_ray.config import DataConfig
from satseg_ray.data.versions import data
from satseg_ray.errors import (
    ConfigError,
    UnwritableProduct,
)
from satseg_ray.tracking import Tracking
from satseg_ray.tracking.datastore import DataStore
from satseg_ray.tracking.history import dataset_use, difference, versions
from satseg_ray.workspace import Workspace
from tests.factories import names
from tests.kills import PARAMS, ingest, tile
from tests.versioned import (
    git,
    last_line,
    raw,
    run_job,
    write_manifests,
    write_patches,
)


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
