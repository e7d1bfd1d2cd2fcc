"""What a sweep varies, and how its trials are told."""

from __future__ import annotations

import csv
from dataclasses import replace

import pytest
from pydantic import ValidationError

from satseg_ray.config import TrainConfig
from satseg_ray.errors import ConfigError
from satseg_ray.tune.config import TuneConfig
from satseg_ray.tune.space import Range, Space, Value, check_space, with_values
from satseg_ray.tune.summary import (
    Outcome,
    Trial,
    best_of,
    ranked,
    with_best_exported,
    write_parallel,
    write_table,
)

BASE = TrainConfig(dataset="water")


def test_values_of_dotted_keys_take_the_place_of_a_config_s_own():
    config = with_values(BASE, {"loss.dice": 0.25, "backbone": "resnet18", "batch_size": 4})
    assert (config.loss.dice, config.backbone, config.batch_size) == (0.25, "resnet18", 4)
    assert config.loss.cross_entropy == BASE.loss.cross_entropy


@pytest.mark.parametrize("key", ["learning", "loss.rice", "loss.dice.x", "epochs.x"])
def test_a_key_that_is_none_is_refused_by_its_name(key):
    with pytest.raises(ConfigError, match=f"space.{key}: is no key"):
        check_space(BASE, {key: [1]})


@pytest.mark.parametrize(
    ("space", "problem"),
    [
        ({}, "is empty"),
        ({"dataset": ["a"]}, "space.dataset: is no setting of a model"),
        ({"seed": []}, "space.seed: holds no value"),
        ({"batch_size": [4, 0]}, "space.batch_size: is 0"),
        ({"learning_rate": Range(low=-1.0, high=1.0)}, "space.learning_rate: is -1.0"),
        ({"architecture": ["unet", "vnet"]}, "space.architecture: is 'vnet'"),
    ],
)
def test_what_no_training_takes_is_refused_before_any_trial(space, problem):
    with pytest.raises(ConfigError, match=problem):
        check_space(BASE, space)


@pytest.mark.parametrize("bounds", [{"low": 2, "high": 1}, {"low": 0, "high": 1, "log": True}])
def test_ranges_that_hold_nothing_are_refused(bounds):
    with pytest.raises(ValidationError):
        Range(**bounds)


def test_a_range_of_whole_numbers_is_one():
    space = TuneConfig(dataset="a", space={"batch_size": {"low": 2, "high": 8}}).space
    assert space["batch_size"] == Range(low=2, high=8)
    assert Range(low=2, high=8).whole
    assert not Range(low=0.0, high=1).whole


def trial(number: int, values: tuple[str, float], score: float | None, outcome: Outcome) -> Trial:
    named: dict[str, Value] = {"backbone": values[0], "learning_rate": values[1]}
    ended = outcome == "finished"
    return Trial(
        f"w-{number}", named, score, outcome, number + 1, 1.5, f"run{number}", exported=ended
    )


def trials() -> list[Trial]:
    return [
        trial(0, ("vgg16", 1e-3), 0.4, "finished"),
        trial(1, ("vgg16", 1e-2), 0.9, "stopped"),
        trial(2, ("resnet18", 1e-4), None, "failed"),
        trial(3, ("resnet18", 1e-3), 0.6, "finished"),
    ]


def test_only_a_trial_with_a_model_is_the_best():
    best = best_of(trials())
    assert best is not None
    assert best.name == "w-3"
    assert best_of([]) is None
    assert [trial.name for trial in ranked(trials())] == ["w-1", "w-3", "w-0", "w-2"]


def test_a_stopped_trial_that_leads_gets_a_model_and_no_other_does():
    asked: list[str] = []

    def export(trial: Trial) -> Trial | None:
        asked.append(trial.name)
        return replace(trial, score=0.95, exported=True)

    def best(trials: list[Trial]) -> Trial | None:
        return best_of(with_best_exported(trials, export))

    found = best(trials())
    assert found is not None
    assert (found.name, found.score, found.outcome) == ("w-1", 0.95, "stopped")
    behind = [replace(t, score=0.6) if t.name == "w-1" else t for t in trials()]
    found = best(behind)  # as good as one that has a model
    assert found is not None
    assert found.name == "w-3"
    assert asked == ["w-1"]
    cannot = best_of(with_best_exported(trials(), lambda trial: None))
    assert cannot is not None
    assert cannot.name == "w-3"
    assert best([trial(0, ("vgg16", 1e-3), 0.9, "failed")]) is None


def test_trials_become_a_table_and_a_picture(tmp_path):
    write_table(tmp_path / "trials.csv", trials(), "val_mean_iou")
    rows = list(csv.DictReader((tmp_path / "trials.csv").open()))
    assert [row["trial"] for row in rows] == ["w-1", "w-3", "w-0", "w-2"]
    assert rows[0]["learning_rate"] == "0.01"
    space: Space = {"backbone": ["vgg16", "resnet18"], "learning_rate": Range(low=1e-4, high=1e-2)}
    for name, found in (("some", trials()), ("one", trials()[:1]), ("none", trials()[2:3])):
        write_parallel(tmp_path / f"{name}.png", found, space, "val_mean_iou")
        assert (tmp_path / f"{name}.png").read_bytes()[:4] == b"\x89PNG"


def test_an_error_in_a_range_speaks_of_the_range():
    with pytest.raises(ValidationError) as caught:
        TuneConfig.model_validate({"dataset": "a", "space": {"loss.dice": {"low": 2, "high": 1}}})
    (error,) = caught.value.errors()
    assert "low 2 is not below high 1" in error["msg"]
