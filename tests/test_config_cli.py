"""From a YAML file and flags to a config or one sentence, and from a job to its exit code."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import requests
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE, TEMPORARILY_UNAVAILABLE

from satseg_ray import errors
from satseg_ray.cli import main
from satseg_ray.config import (
    EvaluateConfig,
    IngestConfig,
    LabelOptions,
    PredictConfig,
    PromoteConfig,
    ShapeOptions,
    TileConfig,
    TrainConfig,
    load_config,
)
from satseg_ray.errors import ConfigError, MissingFile, SatsegError
from satseg_ray.workspace import Workspace, absolute, checked_name

ROOT = Path(__file__).resolve().parent.parent
KINDS = {
    "ingest": IngestConfig,
    "tile": TileConfig,
    "train": TrainConfig,
    "evaluate": EvaluateConfig,
    "predict": PredictConfig,
    "promote": PromoteConfig,
}
SUBMITTED = {"RAY_JOB_CONFIG_JSON_ENV_VAR": "{}"}


def write_yaml(folder: Path, text: str) -> Path:
    path = folder / "job.yaml"
    path.write_text(text)
    return path


def run_job(job: str, *flags: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(ROOT / "jobs" / f"{job}.py"), *flags],
        capture_output=True,
        text=True,
        env=os.environ | environment,
        timeout=120,
    )


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (MlflowException("API request to http://x failed with exception refused"), 28),
        (MlflowException("database is locked", TEMPORARILY_UNAVAILABLE), 28),
        (requests.ConnectionError("refused"), 28),
        (MlflowException("a run has no such state", INVALID_PARAMETER_VALUE), None),
        (OSError("no file"), None),
    ],
)
def test_an_mlflow_that_is_away_is_told_in_a_sentence(tmp_path, monkeypatch, capsys, error, code):
    def run(config):
        raise error

    module = types.ModuleType("breaking")
    module.run = run  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "breaking", module)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    script = write_yaml(tmp_path, "dataset: a\n").with_suffix(".py")
    with pytest.raises(SystemExit if code else type(error)) as met:
        main(TileConfig, "breaking:run", str(script), [])
    if code:
        assert met.value.code == code
        assert json.loads(capsys.readouterr().out)["problem"].startswith("does not answer: ")


def test_flags_win_over_the_file_and_the_file_over_defaults(tmp_path):
    path = write_yaml(tmp_path, "dataset: coast\npatch_size: 64\nsplit: {val: 0.3}\n")
    config = load_config(TileConfig, path, ["--patch-size", "128", "--split.seed=7"])
    assert (config.dataset, config.patch_size, config.stride) == ("coast", 128, 128)
    assert (config.split.val, config.split.test, config.split.seed) == (0.3, 0.2, 7)


@pytest.mark.parametrize("flag", ["--patch-size", "--patch_size"])
@pytest.mark.parametrize("joined", [True, False])
def test_a_flag_is_written_with_dashes_or_underscores(tmp_path, flag, joined):
    flags = [f"{flag}=96"] if joined else [flag, "96"]
    path = write_yaml(tmp_path, "dataset: coast\n")
    assert load_config(TileConfig, path, flags).patch_size == 96


@pytest.mark.parametrize("form", [["--config", "{}"], ["--config={}"]])
def test_config_names_another_file(tmp_path, form):
    path = write_yaml(tmp_path, "dataset: coast\n")
    flags = [part.format(path) for part in form]
    config = load_config(TileConfig, tmp_path / "absent.yaml", [*flags, "--stride", "64"])
    assert (config.dataset, config.stride) == ("coast", 64)


def test_lists_and_nulls_come_through_flags(tmp_path):
    path = write_yaml(tmp_path, "dataset: a\nscenes: [x]\nnodata: 3\nclasses: []\n")
    flags = ["--scenes", "a_b.tif", "--scenes", "c-d.tif", "--nodata", "null", "--bands", "1,4"]
    config = load_config(IngestConfig, path, flags)
    assert config.scenes == ["a_b.tif", "c-d.tif"]
    assert (config.nodata, config.bands) == (None, [1, 4])


def test_every_key_that_a_remedy_for_labels_names_is_one():
    known = set(LabelOptions.model_fields) | {"classes"}
    known |= {f"shapes.{key}" for key in ShapeOptions.model_fields}
    folder = ROOT / "satseg_ray" / "geo" / "labels"
    text = "\n".join(path.read_text() for path in folder.glob("*.py"))
    named = r'(?:ConfigError\(|check_attribute\(path,|named \+?= \[\()\s*"([^"]+)"'
    keys = set(re.findall(named, text))
    assert keys >= {"shapes.attribute", "shapes.layer", "shapes.names", "shapes.every"}
    assert keys <= known
    assert "labels_crs" not in text


def test_any_word_of_a_qa_band_may_be_ignored(tmp_path):
    path = write_yaml(tmp_path, "dataset: a\nscenes: [x]\nclasses: []\nignore: [21824, '65535']\n")
    assert load_config(IngestConfig, path, []).ignore == [21824, 65535]


@pytest.mark.parametrize("text", ["0,255,#9B9B9B", '[0, 255, "#9B9B9B"]'])
def test_values_and_colours_to_ignore_come_through_a_flag(tmp_path, text):
    path = write_yaml(tmp_path, "dataset: a\nscenes: [x]\nclasses: []\n")
    config = load_config(IngestConfig, path, ["--ignore", text])
    assert config.ignore == [0, 255, "#9B9B9B"]


@pytest.mark.parametrize("text", ["65536", "-1", "water", "#12"])
def test_what_is_neither_a_value_nor_a_colour_is_refused(tmp_path, text):
    path = write_yaml(tmp_path, "dataset: a\nscenes: [x]\nclasses: []\n")
    with pytest.raises(ConfigError, match=text):
        load_config(IngestConfig, path, ["--ignore", text])


@pytest.mark.parametrize("text", ["true", "[true]"])
def test_a_truth_is_no_value_to_ignore(tmp_path, text):
    path = write_yaml(tmp_path, f"dataset: a\nscenes: [x]\nclasses: []\nignore: {text}\n")
    with pytest.raises(ConfigError, match="ignore"):
        load_config(IngestConfig, path, [])


@pytest.mark.parametrize("name", ["''", '"a\\nb"', '"\\e[31m"', "x" * 101, "x" * 100_000])
def test_a_class_has_a_name_that_can_be_printed(tmp_path, name):
    text = f"dataset: a\nscenes: [x]\nclasses: [{{value: 1, name: {name}}}]\n"
    with pytest.raises(ConfigError, match=r"value 1 has the name .* printable letters") as raised:
        load_config(IngestConfig, write_yaml(tmp_path, text), [])
    assert len(str(raised.value)) < 1000


@pytest.mark.parametrize(
    ("given", "missing"),
    [("crs: EPSG:32631", "resolution"), ("resolution: 10", "crs")],
)
def test_half_a_grid_is_told_by_the_key_that_is_missing(tmp_path, given, missing):
    path = write_yaml(tmp_path, f"dataset: a\nscenes: [x]\nclasses: []\n{given}\n")
    with pytest.raises(ConfigError, match=rf"job\.yaml, {missing}: is not given, and ") as raised:
        load_config(IngestConfig, path, [])
    assert len(str(raised.value)) < 300 + len(str(path))


def test_register_is_the_name_of_the_flag(tmp_path):
    path = write_yaml(tmp_path, "dataset: coast\n")
    config = load_config(TrainConfig, path, ["--register", "water", "--epochs", "5"])
    assert (config.register_as, config.epochs) == ("water", 5)


def test_loss_augmentation_and_sampling_are_keys_and_flags(tmp_path):
    text = "dataset: a\nloss: {lovasz: 0.5, class_weights: {water: 3}}\naugment: {zoom: 0.5}\n"
    flags = ["--loss.focal=1", "--loss.dice", "0", "--augment.band-dropout", "0.1"]
    flags += ["--train-share", "0.25", "--rare-sampling=0.5", "--epoch-steps", "40"]
    config = load_config(TrainConfig, write_yaml(tmp_path, text), flags)
    assert (config.loss.lovasz, config.loss.focal, config.loss.dice) == (0.5, 1, 0)
    assert config.loss.class_weights == {"water": 3}
    assert (config.augment.zoom, config.augment.band_dropout) == (0.5, 0.1)
    assert (config.train_share, config.rare_sampling, config.epoch_steps) == (0.25, 0.5, 40)


@pytest.mark.parametrize("value", ["none", "balanced", '{"water": 3, "land": 0.5}'])
def test_class_weights_come_through_a_flag(tmp_path, value):
    path = write_yaml(tmp_path, "dataset: a\n")
    weights = load_config(TrainConfig, path, ["--loss.class-weights", value]).loss.class_weights
    assert weights == (json.loads(value) if value.startswith("{") else value)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--loss.focal", "-1"], "loss.focal"),
        (["--loss.dice=0", "--loss.cross-entropy=0"], "no term of the loss"),
        (["--loss.class-weights", "even"], "class_weights"),
        (["--augment.zoom", "9"], "augment.zoom"),
        (["--train-share", "0"], "train_share"),
    ],
)
def test_what_no_training_can_do_is_refused(tmp_path, flags, words):
    with pytest.raises(ConfigError, match=words):
        load_config(TrainConfig, write_yaml(tmp_path, "dataset: a\n"), flags)


@pytest.mark.parametrize(
    ("text", "flags", "words"),
    [
        ("dataset: a\npatchsize: 64\n", [], ("job.yaml", "patchsize", "64", "patch_size")),
        (
            "dataset: a\nsplit: {vall: 0.1}\n",
            [],
            ("job.yaml", "split.vall", "0.1", "The keys are by, val, test, seed, buffer, given."),
        ),
        ("dataset: a\npatch_size: many\n", [], ("job.yaml", "patch_size", "'many'")),
        ("dataset: a\npatch_size: 8\n", [], ("job.yaml", "patch_size", "8", "16")),
        ("dataset: a\n", ["--patch-size", "8"], ("job.yaml", "patch_size", "8", "16")),
        ("dataset: a\n", ["--split.val", "0.9"], ("job.yaml", "split", "leave nothing")),
        ("dataset: a\n", ["--no-such-flag", "3"], ("job.yaml", "--no-such-flag")),
        ("dataset: a\n", ["stray"], ("job.yaml", "stray")),
        ("patch_size: 64\n", [], ("job.yaml", "dataset", "is not given")),
        ("dataset: [a\n", [], ("job.yaml",)),
        ("dataset: " + "[" * 3000, [], ("job.yaml", "nests lists or keys too deep")),
        ("dataset: a\nunit: " + "1" * 5000, [], ("job.yaml",)),
        (f"dataset: a\nsplit: {{buffer: {10**30}}}\n", [], ("job.yaml", "split.buffer", "1048576")),
        (f"dataset: a\nsplit: {{seed: {10**30}}}\n", [], ("job.yaml", "split.seed")),
        (f"dataset: a\nstride: {10**30}\n", [], ("job.yaml", "stride")),
        (f"dataset: a\nunit: {10**30}\n", [], ("job.yaml", "unit")),
        ("- a\n- b\n", [], ("job.yaml",)),
        ("just text\n", [], ("job.yaml",)),
    ],
)
def test_what_is_wrong_in_a_config_is_one_line_with_file_key_and_value(
    tmp_path, text, flags, words
):
    path = write_yaml(tmp_path, text)
    with pytest.raises(ConfigError) as raised:
        load_config(TileConfig, path, flags)
    message = str(raised.value)
    assert "\n" not in message
    assert message.endswith(".")
    assert not [word for word in words if word not in message], message


def test_a_class_with_a_wrong_colour_is_named(tmp_path):
    text = "dataset: a\nscenes: [x]\nclasses: [{value: 1, name: land, color: red}]\n"
    with pytest.raises(ConfigError, match="'red' is no colour"):
        load_config(IngestConfig, write_yaml(tmp_path, text), [])


def test_an_empty_file_leaves_everything_to_flags(tmp_path):
    config = load_config(TileConfig, write_yaml(tmp_path, "# nothing\n"), ["--dataset", "a"])
    assert config == TileConfig(dataset="a")


def test_the_environment_sets_no_key(tmp_path, monkeypatch):
    monkeypatch.setenv("DATASET", "from_environment")
    monkeypatch.setenv("STRIDE", "7")
    with pytest.raises(ConfigError, match="dataset: is not given"):
        load_config(TileConfig, write_yaml(tmp_path, "patch_size: 64\n"), [])


def test_a_missing_config_file_is_named_by_its_path(tmp_path):
    with pytest.raises(MissingFile, match=r"absent\.yaml.*--config"):
        load_config(TileConfig, tmp_path / "absent.yaml", [])


@pytest.mark.parametrize(
    ("flags", "force"),
    [
        (["--force"], True),
        (["--force", "--batch-size", "2"], True),
        (["--force", "false"], False),
        (["--force=true"], True),
        ([], False),
    ],
)
def test_a_flag_that_is_yes_or_no_may_stand_alone(tmp_path, flags, force):
    path = write_yaml(tmp_path, "model: water\n")
    assert load_config(PromoteConfig, path, flags).force is force
    assert load_config(PromoteConfig, path, [*flags, "--experiment", "a"]).force is force


def test_configs_are_frozen(tmp_path):
    config = PredictConfig(scene="a.tif", model="m")
    with pytest.raises(ValueError, match="frozen"):
        config.model = "other"


@pytest.mark.parametrize("job", KINDS)
def test_the_default_file_of_each_job_has_only_keys_of_that_job(job):
    needed = {
        "ingest": ["--dataset=a", "--scenes=a.tif", '--classes=[{"value": 1, "name": "land"}]'],
        "evaluate": ["--model=a", "--dataset=a"],
        "predict": ["--model=a", "--scene=a.tif"],
        "promote": ["--model=a"],
    }
    kind: type[Any] = KINDS[job]
    load_config(kind, ROOT / "jobs" / f"{job}.yaml", needed.get(job, ["--dataset=a"]))


def test_help_exits_0_and_names_the_flags():
    done = run_job("tile", "--help")
    assert done.returncode == 0
    assert "--patch-size" in done.stdout
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("flags", "kind", "code"),
    [
        (["--config", "absent.yaml"], "MissingFile", 10),
        (["--dataset", "a", "--oops", "1"], "ConfigError", 2),
        (["--dataset", "no_such_set"], "DatasetNotFound", 15),
    ],
)
def test_an_error_is_a_sentence_on_stderr_a_json_line_on_stdout_and_a_code(
    workspace, flags, kind, code
):
    done = run_job("tile", *flags)
    assert done.returncode == code == getattr(errors, kind).exit_code
    result = json.loads(done.stdout)
    assert (result["error"], result["exit_code"]) == (kind, code)
    sentence = f"{result['subject']}: {result['problem']}. {result['remedy']}"
    assert done.stderr.splitlines() == [f"error: {sentence}"]
    assert not list(workspace.iterdir())


def test_each_error_has_an_exit_code_of_its_own():
    kinds = SatsegError.__subclasses__()
    codes = [kind.exit_code for kind in kinds]
    assert len(set(codes)) == len(codes)
    assert not {0, 1} & set(codes)


def test_a_submitted_job_refuses_relative_paths(tmp_path, monkeypatch):
    for name, value in SUBMITTED.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"'imagery/a\.tif' in a submitted job"):
        absolute("imagery/a.tif", "scenes")
    monkeypatch.delenv("SATSEG_WORKSPACE", raising=False)
    with pytest.raises(ConfigError, match="SATSEG_WORKSPACE"):
        Workspace.resolve()
    assert Workspace.resolve(str(tmp_path)).root == tmp_path


def test_a_submitted_job_with_a_relative_scene_exits_with_a_config_error(tmp_path, workspace):
    text = "dataset: a\nscenes: [a.tif]\nclasses: [{value: 1, name: a}, {value: 2, name: b}]\n"
    done = run_job("ingest", "--config", str(write_yaml(tmp_path, text)), **SUBMITTED)
    assert done.returncode == 2
    assert json.loads(done.stdout)["subject"] == "scenes"
    assert not list(workspace.iterdir())


def test_a_local_job_may_use_relative_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert absolute("a/../b.tif", "scenes") == tmp_path / "b.tif"
    monkeypatch.setenv("SATSEG_WORKSPACE", "here")
    assert Workspace.resolve().root == tmp_path / "here"


@pytest.mark.parametrize("name", ["", ".hidden", "a/b", "..", "a b", "-a", "x" * 129, "a\n"])
def test_a_name_that_could_leave_its_folder_is_refused(name):
    with pytest.raises(ConfigError, match="dataset"):
        checked_name(name, "dataset")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_job_that_is_stopped_says_so_and_leaves_nothing(tmp_path, number):
    code = (
        "import sys, time, types\n"
        "from satseg_ray.cli import main\n"
        "from satseg_ray.config import TileConfig\n"
        "from satseg_ray.products import fresh_directory\n"
        "from satseg_ray.workspace import Workspace\n"
        "def run(config):\n"
        "    with fresh_directory(Workspace.resolve().patches(config.dataset)):\n"
        "        print('ready', file=sys.stderr, flush=True)\n"
        "        time.sleep(60)\n"
        "module = sys.modules['waiting'] = types.ModuleType('waiting')\n"
        "module.run = run\n"
        "main(TileConfig, 'waiting:run', sys.argv[1])\n"
    )
    script = tmp_path / "job.py"
    script.write_text(code)
    write_yaml(tmp_path, "dataset: a\n")
    root = tmp_path / "workspace"
    job = subprocess.Popen(
        [sys.executable, "-c", code.replace("sys.argv[1])", f"{str(script)!r})")],
        cwd=ROOT,
        env=os.environ | {"SATSEG_WORKSPACE": str(root)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert job.stderr is not None
    while "ready" not in job.stderr.readline():
        assert job.poll() is None
    job.send_signal(number)
    out, _ = job.communicate(timeout=60)
    assert job.returncode == 130
    assert json.loads(out)["problem"] == f"was stopped by {number.name}"
    assert not [path for path in root.rglob("*") if "partial" in path.name or path.name == "a"]
