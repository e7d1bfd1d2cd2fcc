"""The README and the docs keep what they promise: files, flags, exit codes, commands, examples."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import rasterio
import yaml
from pydantic import BaseModel

from satseg_ray import config, errors
from satseg_ray.errors import ConfigError, SatsegError
from satseg_ray.tune.config import TuneConfig
from tests.factories import write_raster

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
PAGES = sorted(
    [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "cluster").rglob("*.md")]
)
JOBS: dict[str, type[BaseModel]] = {
    "ingest": config.IngestConfig,
    "tile": config.TileConfig,
    "train": config.TrainConfig,
    "predict": config.PredictConfig,
    "evaluate": config.EvaluateConfig,
    "promote": config.PromoteConfig,
    "tune": TuneConfig,
}
TOP = "satseg_ray|docs|jobs|tests|cluster|benchmarks|requirements"
REQUIRED = {
    "ingest": {"--dataset": "d", "--scenes": "s.tif", "--classes": '[{"value": 1, "name": "a"}]'},
    "tile": {"--dataset": "d"},
    "train": {"--dataset": "d"},
    "predict": {"--scene": "s.tif", "--model": "m"},
    "evaluate": {"--model": "m"},
    "promote": {"--model": "m"},
    "tune": {"--dataset": "d"},
}
SUGGESTED = {"tune": {"train", "space"}}
"""Keys whose values in a job's YAML are something to start from: there is no default."""


def blocks(kind: str, page: Path = README) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```$", page.read_text(), re.M | re.S)


def section(title: str) -> str:
    return README.read_text().split(f"\n## {title}", 1)[1].split("\n## ", 1)[0]


def five_commands() -> list[str]:
    return next(b for b in blocks("sh") if "jobs/evaluate.py" in b).splitlines()


def commands_of_jobs() -> list[tuple[Path, str, list[str]]]:
    """Every ``jobs/X.py ...`` of every page that has a flag: page, job, flags."""
    found = []
    for page in PAGES:
        text = page.read_text().replace("\\\n", " ")
        for job, rest in re.findall(rf"jobs/({'|'.join(JOBS)})\.py([^\n`]*)", text):
            flags = shlex.split(re.split(r"[|;]| >", rest)[0], comments=True)
            if any(flag.startswith("--") for flag in flags):
                found.append((page, job, flags))
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_and_file_that_a_page_names_exists(page: Path) -> None:
    text = page.read_text()
    links = [link.partition("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", text)]
    targets = {page.parent / link for link in links if link and "://" not in link}
    named = re.findall(rf"`((?:{TOP})/[\w./-]*\w/?)`", text)
    targets |= {ROOT / name for name in named}
    assert [str(target) for target in sorted(targets) if not target.exists()] == []


def test_the_pages_show_flags_of_every_job() -> None:
    assert {job for _, job, _ in commands_of_jobs()} == set(JOBS)
    assert len(five_commands()) == 5


@pytest.mark.parametrize(
    ("page", "job", "flags"),
    [pytest.param(*case, id=f"{case[0].stem}-{case[1]}") for case in commands_of_jobs()],
)
def test_every_flag_that_is_shown_is_one_of_the_job(
    page: Path, job: str, flags: list[str], tmp_path: Path
) -> None:
    default = ROOT / "jobs" / f"{job}.yaml"
    if "--config" in flags:
        place = flags.index("--config")
        named = flags.pop(place + 1)
        flags.pop(place)
        default = ROOT / named
        if named == "mine.yaml":
            default = tmp_path / named
            default.write_text(blocks("yaml")[0])
    given = set(yaml.safe_load(default.read_text()) or {})
    missing = [
        word
        for flag, value in REQUIRED[job].items()
        if flag not in flags and flag.removeprefix("--") not in given
        for word in (flag, value)
    ]
    config.load_config(JOBS[job], default, missing + flags)


@pytest.mark.parametrize("job", JOBS)
def test_a_jobs_yaml_holds_every_default_and_a_comment_for_each_key(job: str) -> None:
    path = ROOT / "jobs" / f"{job}.yaml"
    needed = [word for pair in REQUIRED[job].items() for word in pair]
    loaded = config.load_config(JOBS[job], path, needed)
    fields = {field.alias or name for name, field in JOBS[job].model_fields.items()}
    said = set(yaml.safe_load(path.read_text()))
    commented = set(re.findall(r"^# (\w+):", path.read_text(), re.M))
    assert said | commented == fields
    required = {name.removeprefix("--") for name in REQUIRED[job]}
    kept = required | SUGGESTED.get(job, set())
    own = {k: v for k, v in loaded.model_dump(by_alias=True).items() if k in kept}
    assert loaded == JOBS[job].model_validate(own)
    keys = [line for line in path.read_text().splitlines() if re.match(r" *\w+: +\S", line)]
    assert [line for line in keys if "  # " not in line] == []


@pytest.mark.parametrize("job", JOBS)
def test_what_only_the_user_knows_is_asked_for_in_a_sentence(job: str) -> None:
    with pytest.raises(ConfigError, match=r": is not given\. Set it in the YAML file or by a flag"):
        config.load_config(JOBS[job], ROOT / "jobs" / f"{job}.yaml", [])


def test_the_table_of_exit_codes_is_that_of_the_errors() -> None:
    rows = re.findall(r"^\| (\d+) \| `(\w+)` \|", section("Exit codes"), re.M)
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    expected = {
        kind.__name__: kind.exit_code
        for kind in kinds
        if issubclass(kind, SatsegError) and kind is not SatsegError
    }
    assert {name: int(code) for code, name in rows} == expected


def shell_environment() -> dict[str, str]:
    """What a user's shell has: nothing that this package needs, and a Ray token of its own."""
    ours = ("TF_USE_LEGACY_KERAS", "SM_FRAMEWORK", "SATSEG_CODE_REVISION", "MLFLOW_TRACKING_URI")
    return {key: value for key, value in os.environ.items() if key not in ours}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as the README supposes it: .venv, jobs, the YAML, a scene and its labels."""
    folder = tmp_path_factory.mktemp("readme")
    (folder / ".venv").symlink_to(sys.prefix)
    (folder / "jobs").symlink_to(ROOT / "jobs")
    (folder / "mine.yaml").write_text(blocks("yaml")[0])
    rng = np.random.default_rng(5)
    blobs = (rng.random((9, 9)) < 0.5).repeat(128, 0).repeat(128, 1)[:1111, :1129]
    noise = rng.integers(0, 60, (3, *blobs.shape))
    write_raster(
        folder / "workspace/input/scene.tif", (noise + np.where(blobs, 40, 150)).astype(np.uint8)
    )
    labels = np.where(blobs, 2, 1).astype(np.uint8)
    labels[:40] = 0
    write_raster(folder / "workspace/input/labels.tif", labels)
    return folder


@pytest.fixture(scope="module")
def results(folder: Path) -> list[dict]:
    """Run the five commands as they stand, but for the number of epochs; return their results."""
    results = []
    for command in five_commands():
        quick = command.replace("--epochs 20", "--epochs 1")
        done = subprocess.run(
            quick,
            shell=True,
            cwd=folder,
            env=shell_environment(),
            capture_output=True,
            text=True,
            timeout=900,
        )
        assert done.returncode == 0, f"{quick}\n{done.stderr[-3000:]}"
        results.append(json.loads(done.stdout.splitlines()[-1]))
    return results


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.tensorflow
def test_five_commands_lead_from_a_geotiff_with_labels_to_a_map(
    folder: Path, results: list[dict]
) -> None:
    ingested, tiled, trained, predicted, evaluated = results
    assert ingested["labelled"] == 1
    assert all(tiled["counts"][split]["patches"] for split in ("train", "val", "test"))
    assert trained["registered"]["name"] == "mine"
    assert evaluated["classes"] == ["land", "water"]
    assert Path(evaluated["directory"]).is_dir()
    path = folder / "workspace/predictions/scene/map.tif"
    assert predicted["map"] == str(path)
    with (
        rasterio.open(path) as made,
        rasterio.open(folder / "workspace/input/scene.tif") as scene,
    ):
        assert (made.shape, made.crs, made.transform) == (scene.shape, scene.crs, scene.transform)
        assert set(np.unique(made.read(1))) <= {1, 2}


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.tensorflow
def test_the_examples_in_python_run_on_that_model(folder: Path, results: list[dict]) -> None:
    examples = blocks("python")
    said = []
    for number, code in enumerate(examples):
        # the array is kept, so that it can be compared with the map
        keep = "\nimport numpy\nnumpy.save('tile.npy', tile.classes)\n" if number == 0 else ""
        done = subprocess.run(
            [sys.executable, "-c", code + keep],
            cwd=folder,
            env=shell_environment(),
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        said.append(done.stdout.splitlines()[-1])
    assert said == ["(512, 640) uint8 ('land', 'water')", "(1, 256, 256, 2) float32"]
    with rasterio.open(results[3]["map"]) as made:
        np.testing.assert_array_equal(made.read(1)[:512, :640], np.load(folder / "tile.npy") + 1)
