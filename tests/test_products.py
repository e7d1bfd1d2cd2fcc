"""Files and folders that appear whole or not at all, also on a full disk, and their locks."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from satseg_ray.errors import InUse, UnwritableProduct
from satseg_ray.products import fresh_directory, fresh_file, locked
from tests.factories import names, write_raster

ROOT = Path(__file__).resolve().parent.parent


def test_a_fresh_directory_replaces_the_old_one_on_success(tmp_path):
    target = tmp_path / "deep" / "set"
    for text in ("old", "new"):
        with fresh_directory(target) as folder:
            (folder / f"{text}.txt").write_text(text)
    assert names(target) == ["new.txt"]
    assert names(target.parent) == ["set"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("existed", [True, False])
def test_a_fresh_directory_leaves_the_old_one_or_nothing_on_failure(tmp_path, error, existed):
    target = tmp_path / "set"
    if existed:
        with fresh_directory(target) as folder:
            (folder / "old.txt").write_text("old")
    with pytest.raises(error), fresh_directory(target) as folder:  # noqa: PT012
        (folder / "new.txt").write_text("new")
        raise error("half way")
    assert names(tmp_path) == (["set"] if existed else [])
    assert not existed or names(target) == ["old.txt"]


def test_where_the_new_one_cannot_be_put_in_place_the_old_one_stays(tmp_path):
    target = tmp_path / "set"
    with fresh_directory(target) as folder:
        (folder / "old.txt").write_text("old")
    with pytest.raises(FileNotFoundError), fresh_directory(target) as folder:
        folder.rmdir()
    assert names(tmp_path) == ["set"]
    assert names(target) == ["old.txt"]


def killed_while_writing(target: Path) -> None:
    """Start a process that writes ``target`` and kill it half way."""
    code = (
        "import sys, time; from pathlib import Path\n"
        "from satseg_ray.products import fresh_directory\n"
        "with fresh_directory(Path(sys.argv[1])) as folder:\n"
        "    (folder / 'half').write_text('half')\n"
        "    print('ready', flush=True)\n"
        "    time.sleep(60)\n"
    )
    command = [sys.executable, "-c", code, str(target)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        writer.stdout.readline()
        writer.kill()


def test_what_a_killed_process_left_goes_with_the_next_one_and_its_lock_at_once(tmp_path):
    target = tmp_path / "set"
    killed_while_writing(target)
    killed_while_writing(tmp_path / "set.v2")
    with fresh_directory(target):
        pass
    other, mine = [name for name in names(tmp_path) if not name.endswith(".lock")]
    assert mine == "set"
    assert other.startswith(".set.v2.")


def test_an_older_product_that_a_killed_process_had_put_aside_comes_back(tmp_path):
    target = tmp_path / "set"
    with fresh_directory(target) as folder:
        (folder / "old.txt").write_text("old")
    target.rename(tmp_path / ".set.old.partial")  # killed between the two renames
    with pytest.raises(ValueError, match="again"), fresh_directory(target):
        raise ValueError("again")
    assert names(target) == ["old.txt"]
    assert names(tmp_path) == ["set"]


def test_a_lock_is_one_for_many_processes_that_come_and_go(tmp_path):
    code = (
        "import sys; from pathlib import Path\n"
        "from satseg_ray.products import locked\n"
        "folder = Path(sys.argv[1])\n"
        "for _ in range(300):\n"
        "    with locked(folder / 'set', exclusive=True, wait=True):\n"
        "        (folder / 'inside').mkdir()\n"
        "        (folder / 'inside').rmdir()\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    writers = [subprocess.Popen(command, cwd=ROOT) for _ in range(4)]
    assert [writer.wait(timeout=60) for writer in writers] == [0, 0, 0, 0]
    assert names(tmp_path) == []


def test_readers_that_come_and_go_never_refuse_each_other(tmp_path):
    code = (
        "import sys; from pathlib import Path\n"
        "from satseg_ray.products import locked\n"
        "for _ in range(3000):\n"
        "    with locked(Path(sys.argv[1])):\n"
        "        pass\n"
    )
    (tmp_path / "set").mkdir()
    command = [sys.executable, "-c", code, str(tmp_path / "set")]
    readers = [subprocess.Popen(command, cwd=ROOT) for _ in range(3)]
    assert [reader.wait(timeout=60) for reader in readers] == [0, 0, 0]


def test_a_product_behind_a_link_stays_there(tmp_path):
    (tmp_path / "big").mkdir()
    (tmp_path / "big" / "old.txt").write_text("old")
    (tmp_path / "set").symlink_to(tmp_path / "big")
    for text in ("new", "newer"):
        with fresh_directory(tmp_path / "set") as folder:
            (folder / f"{text}.txt").write_text(text)
        assert names(tmp_path) == ["big", "set"]
        assert names(tmp_path / "big") == [f"{text}.txt"]
    assert (tmp_path / "set").is_symlink()


def test_an_error_of_another_place_is_not_blamed_on_the_product(tmp_path):
    elsewhere = PermissionError(errno.EACCES, "Permission denied", "/elsewhere/file")
    with pytest.raises(PermissionError), fresh_directory(tmp_path / "set"):
        raise elsewhere


def test_a_disk_that_is_full_elsewhere_is_named_by_the_file(tmp_path):
    full = OSError(errno.ENOSPC, "No space left on device", "/elsewhere/file")
    with (
        pytest.raises(UnwritableProduct, match=r"^/elsewhere/file: cannot be written \(No space"),
        fresh_directory(tmp_path / "set"),
    ):
        raise full


def test_a_folder_that_could_not_be_copied_is_named_by_its_first_file(tmp_path):
    full = shutil.Error([("/from/a", "/to/a", "[Errno 28] No space left on device")])
    with (
        pytest.raises(UnwritableProduct, match=r"^/to/a: cannot be written .*No space"),
        fresh_directory(tmp_path / "set"),
    ):
        raise full


def test_who_reads_keeps_writers_out_and_other_readers_in(tmp_path):
    target = tmp_path / "set"
    with fresh_directory(target):
        pass
    refused = pytest.raises(InUse, match="set: is in use by another job")
    with locked(target), locked(target), refused, fresh_directory(target):
        pass
    with (
        fresh_directory(target),
        pytest.raises(InUse),
        locked(target),
    ):
        pass
    with fresh_directory(target):
        pass


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is forbidden to root")
def test_a_folder_without_the_right_to_write_is_named(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(UnwritableProduct, match="set: cannot be written"):  # noqa: SIM117
        with fresh_directory(tmp_path / "deep" / "set"):
            pass
    tmp_path.chmod(0o700)


def test_a_parent_that_is_a_file_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UnwritableProduct, match="set: cannot be written"):  # noqa: SIM117
        with fresh_directory(tmp_path / "file" / "set"):
            pass


def test_a_fresh_file_that_fails_keeps_the_old_one(tmp_path):
    target = tmp_path / "a.txt"
    target.write_text("old")
    with pytest.raises(ValueError, match="half"), fresh_file(target) as partial:  # noqa: PT012
        partial.write_text("new")
        raise ValueError("half")
    assert (names(tmp_path), target.read_text()) == (["a.txt"], "old")


FULL = """
import json, resource, signal, sys
from pathlib import Path
import numpy as np
from satseg_ray.classes import ClassDef, ClassTable
from satseg_ray.errors import UnwritableProduct
from satseg_ray.geo import cog
from satseg_ray.geo.grid import TileGrid, Window
from satseg_ray.geo.raster import inspect_raster

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
folder, kind = Path(sys.argv[1]), sys.argv[2]
table = ClassTable((ClassDef(0, "a"), ClassDef(1, "b")))
info = inspect_raster(folder / "scene.tif")
values = np.random.default_rng(0).integers(0, 2, info.window.shape, dtype=np.uint8)
cores = TileGrid(info.height, info.width, 512, 512).cores
if kind == "map":
    for core in cores:
        cog.write_core(folder, core, values[core.slices()])

def write(target):
    if kind == "map":
        cog.assemble_cog(target, cog.MapFormat(info, table, {}), folder, cores)
    elif kind == "labels":
        blocks = ((w, values[w.slices()]) for w in info.window.blocks())
        cog.write_label_raster(target, info, blocks, table, 255)
    else:
        cog.write_core(target.parent, Window(0, 0, *values.shape), values)

target = folder / "target" / ("core-0000000-0000000.tif" if kind == "core" else "whole.tif")
target.parent.mkdir()
write(target)
whole = target.stat().st_size
target.unlink()
for percent in (1, 50, 80, 90, 95, 97, 99, 100):
    limit = whole * percent // 100 + (percent == 100)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        write(target)
        outcome = "written"
    except UnwritableProduct:
        outcome = "refused"
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
    left = sorted(path.name for path in target.parent.iterdir())
    print(json.dumps([percent, outcome, left]))
    target.unlink(missing_ok=True)
"""


@pytest.mark.parametrize("kind", ["core", "map", "labels"])
def test_a_raster_that_the_disk_cannot_hold_is_refused_and_leaves_nothing(tmp_path, kind):
    write_raster(tmp_path / "scene.tif", shape=(700, 900), bands=1)
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path), kind], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    for line in done.stdout.splitlines():
        percent, outcome, left = json.loads(line)
        assert (outcome, len(left)) == (("written", 1) if percent == 100 else ("refused", 0)), line
