"""The repository as a whole: locks, set-up, options and what importing the package costs."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import rasterio

from tests.factories import write_raster

ROOT = Path(__file__).resolve().parent.parent
LOCKS = sorted((ROOT / "requirements").glob("*.lock"))
ADDRESS = re.compile(r"https?://(?!127\.0\.0\.1|localhost)[^\s\"'<>)`\]]+")
INDEX_WORDS = re.compile(r"--(?:extra-)?index-url|--find-links|/simple/?$|pypi|artifactory", re.I)
MACHINE_PATH = re.compile(r"(?<![\w.~}$])/(?:work|root|home|Users|opt|mnt)/\w")


def tracked_texts() -> list[tuple[Path, str]]:
    """Every text file that git tracks, but the locks and this file."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("not a git work tree")
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout
    texts = []
    for name in filter(None, listed.split("\0")):
        path = ROOT / name
        if path in (Path(__file__).resolve(), *LOCKS) or not path.is_file():
            continue
        body = path.read_bytes()
        if b"\0" not in body[:8192]:
            texts.append((path.relative_to(ROOT), body.decode("utf-8", "replace")))
    return texts


def test_there_are_three_locks() -> None:
    assert [lock.stem for lock in LOCKS] == ["all", "demo", "runtime"]


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.stem)
def test_every_locked_package_is_pinned_and_hashed(lock: Path) -> None:
    entries = re.split(r"\n(?=\S)", lock.read_text().strip())
    for entry in entries:
        pin, *hashes = entry.replace("\\\n", "\n").split("\n")
        assert re.fullmatch(r"[a-z0-9._-]+==[^\s;]+( ; .+)?", pin.strip()), pin
        assert hashes, f"{pin} has no hash"
        assert all(re.fullmatch(r"--hash=sha256:[0-9a-f]{64}", h.strip()) for h in hashes), pin


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.stem)
def test_no_lock_names_an_index_or_a_path(lock: Path) -> None:
    text = lock.read_text()
    assert "://" not in text
    assert "/" not in text
    assert "--index" not in text
    assert "--find-links" not in text


def test_the_runtime_lock_is_part_of_the_whole_one() -> None:
    pins = {
        lock.stem: set(re.findall(r"^[a-z0-9._-]+==\S+", lock.read_text(), re.M)) for lock in LOCKS
    }
    assert pins["runtime"] < pins["all"]
    assert not pins["demo"] & pins["all"]


def test_no_file_names_a_package_index() -> None:
    found = [
        (str(path), address)
        for path, text in tracked_texts()
        for address in ADDRESS.findall(text)
        if INDEX_WORDS.search(address)
    ]
    assert not found


def test_no_file_names_a_path_of_one_machine() -> None:
    found = [
        (str(path), line.strip())
        for path, text in tracked_texts()
        for line in text.splitlines()
        if MACHINE_PATH.search(line)
    ]
    assert not found


@pytest.mark.parametrize("version", [None, "3.12.1", "3.9.2"])
def test_a_python_that_cannot_run_it_gets_one_sentence(tmp_path: Path, version: str | None) -> None:
    """A stand-in for python3 reports ``version``; no other Python is on the PATH."""
    make = shutil.which("make")
    if make is None:
        pytest.skip("make is not installed")
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / "requirements").mkdir()
    for name in ("pyproject.toml", "requirements/all.lock", "requirements/demo.lock"):
        (tmp_path / name).touch()
    tools = tmp_path / "bin"
    tools.mkdir()
    (tools / "sh").symlink_to(shutil.which("sh") or "/bin/sh")
    if version is not None:
        fake = tools / "python3"
        fake.write_text(
            f'#!/bin/sh\n[ "$1" = --version ] && echo "Python {version}" && exit 0\nexit 1\n'
        )
        fake.chmod(0o755)
    done = subprocess.run(
        [make, "test"], cwd=tmp_path, env={"PATH": str(tools)}, capture_output=True, text=True
    )
    said = [line for line in done.stderr.splitlines() if not line.startswith("make")]
    is_what = "missing" if version is None else f"Python {version}"
    assert done.returncode != 0
    assert said == [
        f"satseg_ray needs Python 3.11 with its venv module, and 'python3' is {is_what}: "
        "name one with 'make PYTHON=/path/to/python3.11 test'."
    ]
    assert not (tmp_path / ".venv").exists()


@pytest.mark.parametrize("module", ["geo", "patches", "classes", "lineage", "errors"])
def test_reading_tiles_never_imports_tensorflow_or_ray(module: str) -> None:
    code = (
        f"import sys, satseg_ray.{module}; "
        "print(*sorted({'tensorflow', 'keras', 'ray', 'mlflow'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == ""


def test_a_slow_sample_is_seeded_and_leaves_the_other_tests(tmp_path: Path) -> None:
    (tmp_path / "test_many.py").write_text(
        "import pytest\n"
        "@pytest.mark.slow\n@pytest.mark.parametrize('n', range(20))\n"
        "def test_slow(n): pass\n"
        "def test_fast(): pass\n"
    )

    def collected(seed: int) -> list[str]:
        done = subprocess.run(
            [
                *(sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "tests.conftest"),
                *("-p", "no:cacheprovider", "-c", str(ROOT / "pyproject.toml")),
                *("--rootdir", str(tmp_path), "--slow-sample", "3", "--slow-seed", str(seed)),
                str(tmp_path / "test_many.py"),
            ],
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return [line for line in done.stdout.splitlines() if "::" in line]

    first = collected(1)
    assert len(first) == 4
    assert any(line.endswith("test_fast") for line in first)
    assert collected(1) == first
    assert collected(2) != first


@pytest.mark.parametrize("name", ["a.tif", "a.png"])
def test_the_raster_factory_writes_what_it_was_asked(tmp_path: Path, name: str) -> None:
    values = np.arange(77, dtype="uint8").reshape(7, 11) % 2
    path = write_raster(tmp_path / name, values, nodata=9, palette={0: (1, 2, 3), 1: (4, 5, 6)})
    with rasterio.open(path) as src:
        np.testing.assert_array_equal(src.read(1), values)
        assert src.nodata == 9
        assert src.colormap(1)[1][:3] == (4, 5, 6)
