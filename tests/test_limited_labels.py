"""What few labels are worth: each case of the benchmark is trained once, whatever fails."""

from __future__ import annotations

import json
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.limited_labels import __main__ as limited
from satseg_ray.patches.store import PatchManifest
from satseg_ray.workspace import Workspace
from tests.test_train_loop import write_patches

CASES = 24


class Jobs:
    """Stands for the jobs: a case's IoU is its number, and some trainings fail."""

    def __init__(self) -> None:
        self.failing: set[str] = set()
        self.trained: list[str] = []
        self.failed = False
        self.told = threading.Event()

    def say(self, text: str) -> None:
        if "no other case begins" in text:
            self.told.set()

    def __call__(self, script: Path, config: Path, *flags: str) -> dict[str, Any]:
        if script.stem == "evaluate":
            share, seed = flags[1].split("-")[-2:]
            return {"iou": {"water": (int(share) + int(seed)) / 1000}}
        name = flags[flags.index("--register") + 1]
        self.trained.append(name)
        if self.failed:  # begun before the others were called off
            assert self.told.wait(30)
        if name in self.failing:
            self.failed = True
            sys.exit(18)
        return {"registered": {"version": "1"}}


@pytest.fixture
def jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Jobs:
    monkeypatch.setenv("SATSEG_WORKSPACE", str(tmp_path))
    tile(tmp_path, "p1")
    stand_in = Jobs()
    monkeypatch.setattr(limited, "call_job", stand_in)
    monkeypatch.setattr(limited, "say", stand_in.say)
    return stand_in


def tile(root: Path, version: str) -> None:
    folder = Workspace(root).patches("water")
    if not folder.exists():
        write_patches(folder, train=1)
    manifest = PatchManifest.read(folder)
    replace(manifest, lineage={"patches_version": version}).write(folder)


def table(capsys: pytest.CaptureFixture[str]) -> Any:
    return json.loads(capsys.readouterr().out.splitlines()[-1])["water_iou"]


def test_a_failed_case_costs_no_other_and_the_next_start_trains_what_is_missing(jobs, capsys):
    jobs.failing = {"limited-plain-25-0"}
    with pytest.raises(SystemExit) as failure:
        limited.main(at_once=1)
    assert failure.value.code == 18
    first = list(jobs.trained)
    assert 7 <= len(first) <= 8  # the seventh failed, and at most one had begun by then
    assert capsys.readouterr().out == ""

    jobs.failing, jobs.failed, jobs.trained = set(), False, []
    limited.main(at_once=2)
    kept = set(first) - {"limited-plain-25-0"}
    assert kept
    assert not kept & set(jobs.trained)
    assert len(kept) + len(jobs.trained) == CASES
    whole = table(capsys)
    assert set(whole) == {"0.1", "0.25", "0.5", "1.0"}
    assert whole["0.1"]["plain"]["seeds"] == [0.01, 0.011, 0.012]
    assert whole["1.0"]["helped"]["mean"] == pytest.approx(0.101)

    jobs.trained = []
    limited.main(at_once=2)
    assert not jobs.trained
    assert table(capsys) == whole


def test_other_patches_or_another_recipe_are_measured_anew(jobs, tmp_path, monkeypatch):
    limited.main(at_once=1)
    tile(tmp_path, "p2")
    jobs.trained = []
    limited.main(at_once=1)
    assert len(jobs.trained) == CASES
    tile(tmp_path, "p1")
    jobs.trained = []
    limited.main(at_once=1)
    assert not jobs.trained
    recipes = tmp_path / "recipes"
    recipes.mkdir()
    for name in limited.RECIPES:
        text = (limited.HERE / f"{name}.yaml").read_text(encoding="utf-8")
        changed = text.replace("epochs: 12", "epochs: 13") if name == "plain" else text
        (recipes / f"{name}.yaml").write_text(changed, encoding="utf-8")
    monkeypatch.setattr(limited, "HERE", recipes)
    limited.main(at_once=1)
    assert len(jobs.trained) == CASES // 2
    assert all("plain" in name for name in jobs.trained)
