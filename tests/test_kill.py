"""SIGKILL at any point: a data set is its old or its new version, and nothing committed is lost."""

from __future__ import annotations

import hashlib
import json
import random
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from satseg_ray.errors import InUse
from satseg_ray.products import locked
from satseg_ray.tracking import transactions
from satseg_ray.tracking.datastore import DataStore
from satseg_ray.tracking.journal import Journal, Scope, tags_of
from satseg_ray.workspace import Workspace
from tests.kills import (
    Kill,
    content,
    in_dvc,
    in_git,
    in_rename,
    ingest,
    killed,
    no_kill,
    open_store,
    read_tree,
    tile,
)

COAST, FIELDS = "coast", "fields"
Trees = tuple[Mapping[str, bytes], Mapping[str, bytes]]


@dataclass
class World:
    """A workspace, and what it must hold: the raw data and patches of each version."""

    workspace: Path
    versions: dict[str, Trees] = field(default_factory=dict)
    commits: dict[str, str] = field(default_factory=dict)

    @property
    def data(self) -> Path:
        return self.workspace / "data"

    def trees(self, dataset: str = COAST) -> Trees:
        return read_tree(self.data / "raw" / dataset), read_tree(self.data / "patches" / dataset)

    def git(self, *arguments: str) -> str:
        command = ["git", "-C", str(self.data), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    def note(self, store: DataStore) -> None:
        """Note the newest version as what the folders hold now, and that no older one moved."""
        newest = tags_of(store.repository, COAST)[0]
        self.versions.setdefault(newest, self.trees())
        found = {tag: self.git("rev-parse", f"{tag}^{{commit}}") for tag in self.versions}
        assert found == found | self.commits
        self.commits = found


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Two data sets; of the first, three versions."""
    world = World(tmp_path_factory.mktemp("begun") / "workspace")
    store = open_store(world.workspace)
    for make, generation in ((ingest, 1), (tile, 1), (ingest, 2)):
        make(store, COAST, generation)
        world.note(store)
    ingest(store, FIELDS, 7)
    return world


@pytest.fixture
def world(begun: World, tmp_path: Path) -> World:
    """A copy of that workspace for one test; hard links as they were."""
    workspace = tmp_path / "workspace"
    subprocess.run(["cp", "-a", str(begun.workspace), str(workspace)], check=True)
    return World(workspace, dict(begun.versions), dict(begun.commits))


@dataclass(frozen=True)
class Step:
    """A transaction, and what the folders of the data set hold once it is done."""

    act: Callable[[DataStore], Any]
    after: Trees


def step(world: World, action: str, generation: int = 3, version: str = "coast-v1") -> Step:
    raw, patches = world.trees()
    after: Trees
    if action == "ingest":
        after = content("raw", generation), patches
        return Step(lambda store: ingest(store, COAST, generation), after)
    if action == "tile":
        after = raw, content("patches", generation)
        return Step(lambda store: tile(store, COAST, generation), after)
    return Step(lambda store: store.checkout(COAST, version), world.versions[version])


def check_killed(world: World, step: Step, kill: Kill, delay: float | None = None) -> bool:
    """Kill a transaction, and check what holds at any point; tell whether it died."""
    old, others = world.trees(), world.trees(FIELDS)
    before = set(world.git("tag").split())
    died = killed(
        lambda: step.act(open_store(world.workspace)), kill, world.workspace.parent / "kill", delay
    )
    for kind, was, will in zip(world.trees(), old, step.after, strict=True):
        assert kind in (was, will)  # without any recovery
    with DataStore.of(Workspace(world.workspace)).reading_raw(COAST):
        assert world.trees() in (old, step.after)  # both folders of one version
    store = open_store(world.workspace)
    step.act(store)
    assert world.trees() == step.after
    assert world.trees(FIELDS) == others
    assert len(set(world.git("tag").split()) - before) == int(old != step.after)
    check_tidy(world)
    world.note(store)
    check_objects(world)
    return died


def check_tidy(world: World) -> None:
    git = world.data / ".git"
    assert not [*git.glob("*.lock"), *(git / "refs").rglob("*.lock")]
    assert not list((world.data / ".dvc/tmp/satseg").iterdir())
    assert world.git("status", "--porcelain") == ""
    world.git("fsck", "--no-dangling", "--strict")


def check_objects(world: World) -> None:
    """Every version's bytes are in the cache under their own checksums; DVC is not asked."""
    for version, trees in world.versions.items():
        raw = yaml.safe_load(world.git("show", f"{version}:raw/{COAST}.dvc"))["outs"][0]["md5"]
        assert tracked(world, raw) == trees[0]
        if trees[1]:
            lock = yaml.safe_load(world.git("show", f"{version}:pipelines/{COAST}/dvc.lock"))
            assert tracked(world, lock["stages"]["tile"]["outs"][0]["md5"]) == trees[1]


def tracked(world: World, md5: str) -> dict[str, bytes]:
    """The files of a folder that DVC knows by a checksum."""

    def cached(checksum: str) -> bytes:
        body = (world.data / ".dvc/cache/files/md5" / checksum[:2] / checksum[2:]).read_bytes()
        assert hashlib.md5(body).hexdigest() == checksum.removesuffix(".dir")
        return body

    return {entry["relpath"]: cached(entry["md5"]) for entry in json.loads(cached(md5))}


def check_versions(world: World) -> None:
    """Every version there ever was comes back with its bytes."""
    store = open_store(world.workspace)
    for version, trees in world.versions.items():
        store.checkout(COAST, version)
        assert world.trees() == trees, version


@pytest.mark.parametrize(
    ("action", "word", "how"),
    [
        ("ingest", "add", "before"),
        ("ingest", "update-ref", "orphan"),
        ("tile", "update-ref", "before"),
        ("tile", "update-ref", "locks"),
        ("checkout", "tag", "before"),
        ("checkout", "reset", "locks"),
    ],
)
def test_killed_inside_git(world, action, word, how):
    assert check_killed(world, step(world, action), in_git(word, how))


@pytest.mark.parametrize(
    ("action", "number", "both"),
    [
        ("ingest", 2, True),
        ("ingest", 5, False),
        ("tile", 9, True),
        ("checkout", 1, False),
        ("checkout", 6, True),
    ],
)
def test_killed_inside_dvc(world, action, number, both):
    assert check_killed(world, step(world, action), in_dvc(number, both))


@pytest.mark.parametrize(
    ("action", "number", "after"),
    [
        ("ingest", 1, False),
        ("ingest", 1, True),
        ("tile", 2, True),
        ("checkout", 2, True),
        ("checkout", 4, True),
    ],
)
def test_killed_inside_a_rename(world, action, number, after):
    assert check_killed(world, step(world, action), in_rename(number, after))


@pytest.fixture
def soon() -> Iterator[None]:
    """Let a test that hangs fail."""

    def stop(*_: object) -> None:
        raise TimeoutError

    old = signal.signal(signal.SIGALRM, stop)
    signal.alarm(40)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, old)


def decided(world: World, action: str, generation: int) -> None:
    """Let a transaction die when it is decided, and nothing of it in place in git."""
    act = step(world, action, generation).act
    store = open_store(world.workspace)
    assert killed(lambda: act(store), in_git("update-ref", "before"), world.workspace.parent / "k")
    assert Journal.read(store.repository)


@pytest.mark.usefixtures("soon")
def test_who_reads_patches_is_in_nobodys_way_when_an_ingest_dies(world):
    reader = DataStore.of(Workspace(world.workspace))
    with reader.reading_patches(COAST):
        decided(world, "ingest", 4)
        store = open_store(world.workspace)
        assert ingest(store, FIELDS, 8).tag == "fields-v2"
        assert ingest(store, COAST, 5).tag == "coast-v5"
    check_tidy(world)


@pytest.mark.usefixtures("soon")
def test_who_reads_raw_data_recovers_a_tile_by_itself(world):
    reader = DataStore.of(Workspace(world.workspace))
    with reader.reading_raw(COAST):
        decided(world, "tile", 4)
        store = open_store(world.workspace)
        assert world.trees()[1] == content("patches", 4)
        assert tile(store, COAST, 5).tag == "coast-v5"
    check_tidy(world)


@pytest.mark.usefixtures("soon")
def test_a_transaction_that_another_process_ends_meanwhile_is_no_concern(world, monkeypatch):
    store = open_store(world.workspace)
    seen = iter([Journal("coast~0", COAST, Scope.BOTH, (), None)])
    real = Journal.read
    monkeypatch.setattr(Journal, "read", lambda at: next(seen, None) or real(at))
    with store.reading_raw(COAST), store.reading_patches(COAST):
        store.recover()
    check_tidy(world)


@pytest.mark.parametrize("number", [2, 3, 4])
def test_a_copy_of_a_workspace_finishes_what_was_decided_in_the_first_one(world, number):
    """Inodes differ there."""
    work = step(world, "checkout")
    store = open_store(world.workspace)
    assert killed(
        lambda: work.act(store), in_rename(number, after=True), world.workspace.parent / "k"
    )
    assert Journal.read(store.repository)
    copy = World(world.workspace.with_name("copy"))
    subprocess.run(["cp", "-a", str(world.workspace), str(copy.workspace)], check=True)
    open_store(copy.workspace)
    assert copy.trees() == work.after
    check_tidy(copy)


@pytest.mark.usefixtures("soon")
def test_what_an_orphan_still_holds_keeps_its_own_data_set_waiting_alone(world, monkeypatch):
    monkeypatch.setattr(transactions, "_PATIENCE", 0.3)
    decided(world, "ingest", 4)
    raw = world.data / "raw" / COAST
    store = DataStore.of(Workspace(world.workspace))
    with locked(raw, exclusive=True):  # as its orphan would
        store.recover()
        with store.reading_raw(FIELDS):
            pass
        with pytest.raises(InUse), store.reading_raw(COAST):
            pass
    with store.reading_raw(COAST):
        assert world.trees()[0] == content("raw", 4)
    check_tidy(world)


def test_killed_at_any_moment(world):
    sweep(world, random.Random(0), 4)


@pytest.mark.slow
def test_killed_thirty_times_in_a_row_at_any_moment(world):
    sweep(world, random.Random(30), 30)


def sweep(world: World, chance: random.Random, kills: int) -> None:
    """Kill transactions one after the other at random moments of the time that they take."""
    died = 0
    for generation in range(10, 10 + kills):
        action = chance.choice(["ingest", "tile", "checkout"])
        older = [v for v, trees in world.versions.items() if trees != world.trees()]
        work = step(world, action, generation, chance.choice(older))
        died += check_killed(world, work, no_kill, chance.uniform(0.0, 0.8))
    assert died >= kills // 3
    check_versions(world)
