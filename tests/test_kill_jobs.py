"""SIGKILL of ingest, tile and checkout: the old version or the new one is left, and a rerun ends.

Each kind of death comes from the job's own process, at a step that is counted, or from outside
after a seeded time. The workers are those of the session's cluster, and outlive the job.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import yaml
from rasterio.transform import from_origin

from tests.factories import write_raster
from tests.kills import git_wrapper, read_tree, site_for_dvc

pytestmark = [
    pytest.mark.slow,
    pytest.mark.ray,
]

ROOT = Path(__file__).resolve().parent.parent
SHAPE = (200, 210)
CLASSES = [{"value": 4, "name": "land"}, {"value": 9, "name": "water"}]

_SITE_FOR_RENAMES = """
import os, sys
if len(sys.orig_argv) > 1 and sys.orig_argv[1].endswith("/{job}.py"):
    calls = 0
    def wrapped(real):
        def call(*arguments, **more):
            global calls
            if not str(arguments[0]).startswith({data!r}):
                return real(*arguments, **more)
            calls += 1
            if calls == {number}:
                os.kill(os.getpid(), 9)
            return real(*arguments, **more)
        return call
    os.rename, os.replace = wrapped(os.rename), wrapped(os.replace)
    import satseg_ray.products as products
    products.exchange = wrapped(products.exchange)
"""


def scenes(folder: Path, seed: int) -> dict[str, object]:
    """The settings of an ingest of two small scenes."""
    rng = np.random.default_rng(seed)
    for number, name in enumerate(("a", "b")):
        place = {"transform": from_origin(500_000 + 50_000 * number, 4_600_000, 10, 10)}
        write_raster(
            folder / "images" / f"{name}.tif", shape=SHAPE, seed=2 * seed + number, **place
        )
        values = rng.choice(np.array([4, 9], np.uint8), SHAPE)
        write_raster(folder / "labels" / f"{name}.tif", values, **place)
    return {
        "dataset": "toy",
        "scenes": [str(folder / "images" / "*.tif")],
        "labels": [str(folder / "labels" / "*.tif")],
        "classes": CLASSES,
    }


class Jobs:
    """Runs jobs as processes on a workspace, and knows what its folders may hold."""

    def __init__(self, workspace: Path, ray_address: str, inputs: Path) -> None:
        self.workspace, self._inputs = workspace, inputs
        self._environment = os.environ | {
            "SATSEG_WORKSPACE": str(workspace),
            "RAY_ADDRESS": ray_address,
        }

    @property
    def data(self) -> Path:
        return self.workspace / "data"

    def command(self, job: str, generation: int) -> list[str]:
        """The command that makes the given generation of what a job makes."""
        flags: dict[str, list[str]] = {
            "ingest": ["--config", str(self._inputs / f"{generation}.yaml")],
            "tile": ["--dataset", "toy", "--patch-size", "32", "--stride", str(32 // generation)],
            "data": ["checkout", "--dataset", "toy", "--version", f"toy-v{generation}"],
        }
        return [sys.executable, str(ROOT / "jobs" / f"{job}.py"), *flags[job]]

    def run(self, job: str, generation: int) -> None:
        done = subprocess.run(
            self.command(job, generation),
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=200,
        )
        assert done.returncode == 0, done.stderr

    def killed(
        self, job: str, generation: int, more: Mapping[str, str], delay: float | None
    ) -> bool:
        """Start a job that dies, by itself or after ``delay`` seconds; tell whether it did."""
        log = (self.workspace.parent / "killed.log").open("wb")
        child = subprocess.Popen(
            self.command(job, generation),
            env=self._environment | dict(more),
            stdout=log,
            stderr=log,
        )
        if delay is not None:
            time.sleep(delay)
            child.kill()
        code = child.wait(timeout=200)
        log.close()
        assert code in (0, -signal.SIGKILL), Path(log.name).read_text()
        return code == -signal.SIGKILL

    def trees(self) -> dict[str, dict[str, bytes]]:
        """What readers see of the data set."""
        return {kind: self._tree(kind) for kind in ("raw", "patches")}

    def _tree(self, kind: str) -> dict[str, bytes]:
        files = read_tree(self.data / kind / "toy")
        return {name: body for name, body in files.items() if name != "profile.bin"}

    def commits(self) -> dict[str, str]:
        """The commit of every tag."""
        command = ["git", "-C", str(self.data), "show-ref", "--tags", "--dereference"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        lines = (line.split() for line in done.stdout.splitlines())
        return {ref: commit for commit, ref in lines}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    for generation in (1, 2):
        settings = scenes(folder / str(generation), generation)
        (folder / f"{generation}.yaml").write_text(yaml.safe_dump(settings))
    return folder


@pytest.fixture(scope="module")
def begun(
    ray_cluster: str, inputs: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, dict[str, dict[str, bytes]]]]:
    """A workspace with toy-v1 (ingested) and toy-v2 (tiled), and what each job makes of it."""
    home = tmp_path_factory.mktemp("begun")
    jobs = Jobs(home / "workspace", ray_cluster, inputs)
    jobs.run("ingest", 1)
    jobs.run("tile", 1)
    made = {}
    for job, generation in (("ingest", 2), ("tile", 2), ("data", 1)):
        copy = Jobs(home / job, ray_cluster, inputs)
        shutil.copytree(jobs.workspace, copy.workspace, symlinks=True)
        copy.run(job, generation)
        made[job] = copy.trees()
    return jobs.workspace, made


GENERATIONS = {"ingest": 2, "tile": 2, "data": 1}
STEPS = [*("git" for _ in range(2)), *("dvc" for _ in range(2)), *("rename" for _ in range(2))]


def prepared(kind: str, number: int, job: str, folder: Path, data: Path) -> dict[str, str]:
    """The environment in which a job dies at a step."""
    folder.mkdir()
    if kind == "git":
        word = ("read-tree", "write-tree", "commit-tree", "update-ref")[number % 4]
        wrapper = folder / "git"
        wrapper.write_text(git_wrapper(word, "orphan" if number % 2 else "before"))
        wrapper.chmod(wrapper.stat().st_mode | stat.S_IXUSR)
        return {"PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"}
    text = site_for_dvc(number, both=bool(number % 2))
    if kind == "rename":
        text = _SITE_FOR_RENAMES.format(job=job, number=number, data=str(data))
    (folder / "sitecustomize.py").write_text(text)
    return {"PYTHONPATH": f"{folder}{os.pathsep}{ROOT}"}


@pytest.mark.parametrize("job", ["ingest", "tile", "data"])
def test_a_job_that_is_killed_leaves_the_old_version_or_the_new_one(
    ray_cluster, inputs, begun, tmp_path, job
):
    """Seven deaths of each job: two each in git, in DVC and in a rename, and one at any moment."""
    base, made = begun
    rng = random.Random(job)
    deaths = [(kind, rng.randrange(1, 6)) for kind in STEPS] + [("moment", 0)]
    died: list[str] = []
    for turn, (kind, number) in enumerate(deaths):
        jobs = Jobs(tmp_path / f"workspace-{turn}", ray_cluster, inputs)
        shutil.copytree(base, jobs.workspace, symlinks=True)
        old, tags = jobs.trees(), jobs.commits()
        new = made[job]
        delay = rng.uniform(1.0, 8.0) if kind == "moment" else None
        more: dict[str, str] = {}
        if kind != "moment":
            more = prepared(kind, number, job, tmp_path / f"death-{turn}", jobs.data)
        if jobs.killed(job, GENERATIONS[job], more, delay):
            died.append(kind)
        left = jobs.trees()
        assert all(left[part] in (old[part], new[part]) for part in left), (kind, number)
        jobs.run(job, GENERATIONS[job])
        assert jobs.trees() == new, (kind, number)
        assert jobs.commits() == jobs.commits() | tags, (kind, number)
        shutil.rmtree(jobs.workspace)
    assert {"git", "dvc", "rename"} <= set(died), died
