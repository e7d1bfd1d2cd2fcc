"""Workspaces of versioned data sets as tests read them, and DVC and the job as a user runs them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from satseg_ray.tracking.datastore import DataStore
from tests.kills import read_tree

ROOT = Path(__file__).resolve().parent.parent


JOB = ROOT / "jobs" / "data.py"


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
