"""Who is champion: moved by evidence alone, one at a time, remembered, and taken back."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from satseg_ray.config import PromoteConfig
from satseg_ray.errors import BandMismatch, ConfigError, InUse, ModelVersionNotFound, NotBetter
from satseg_ray.predict import promotion as job
from satseg_ray.predict.promotion import evidence_of
from satseg_ray.tracking import ModelVersion, Tracking, resolve, resolve_text
from satseg_ray.tracking.promotion import (
    CHAMPIONS,
    Evidence,
    champion_of,
    promote,
    promoting,
    take_back,
)

BETTER = Evidence(
    "mean_iou", 0.7, 0.6, 0.05, 0.15, 0.95, 12, "coast@1/test", "coast@1", "run-9"
)  # fmt: skip
WORSE = replace(BETTER, challenger=0.61, low=-0.01, high=0.03)


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def tracking(home) -> Tracking:
    return Tracking.open(home)


@pytest.fixture
def versions(tracking, request) -> list[ModelVersion]:
    """Four versions of a name of its own, none of them champion."""
    client = tracking.client()
    name = request.node.name.partition("[")[0][:60]
    client.create_registered_model(name)
    for number in range(1, 5):
        client.create_model_version(name, f"file:///nowhere/{number}")
    return [resolve(tracking, name, str(number)) for number in range(1, 5)]


def tags_of(tracking: Tracking, version: ModelVersion) -> dict[str, str]:
    found = tracking.client().get_model_version(version.name, version.version).tags
    return {key.removeprefix("promotion."): str(value) for key, value in found.items()}


def crown(tracking: Tracking, *versions: ModelVersion) -> None:
    """Make the versions champion one after the other, by force."""
    for version in versions:
        promote(tracking, version, champion_of(tracking, version.name), None, force=True)


def test_the_first_champion_needs_no_evidence(tracking, versions):
    first = versions[0]
    assert champion_of(tracking, first.name) is None
    assert promote(tracking, first, None, None).reason == "first"
    assert champion_of(tracking, first.name) == first
    assert tags_of(tracking, first)["reason"] == "first"


def test_a_better_one_is_promoted_and_its_tags_say_why(tracking, versions):
    first, second = versions[:2]
    crown(tracking, first)
    moved = promote(tracking, second, first, BETTER)
    assert moved.to_dict() == {
        "model": first.name, "champion": "2", "before": "1", "reason": "better"
    }  # fmt: skip
    assert resolve(tracking, first.name) == second
    tags = tags_of(tracking, second)
    assert {
        "reason": "better", "against": "1", "metric": "mean_iou", "value": "0.7",
        "against_value": "0.6", "difference_low": "0.05", "difference_high": "0.15",
        "level": "0.95", "blocks": "12", "data": "coast@1/test", "dataset_version": "coast@1",
        "evaluation_run": "run-9",
    }.items() <= tags.items()  # fmt: skip
    assert {"date", "code_revision"} <= tags.keys()


@pytest.mark.parametrize(
    "evidence",
    [
        WORSE,
        replace(BETTER, low=0.0),
        replace(BETTER, low=None, high=None, blocks=1),
        replace(BETTER, unfair="it was trained on some of these patches"),
        None,
    ],
)
def test_one_that_is_not_better_is_refused_with_a_sentence(tracking, evidence, request):
    client = tracking.client()
    name = f"refused-{abs(hash(request.node.name))}"
    client.create_registered_model(name)
    for number in "12":
        client.create_model_version(name, f"file:///nowhere/{number}")
    first, second = (resolve(tracking, name, number) for number in "12")
    crown(tracking, first)
    with pytest.raises(NotBetter, match="is not better than version 1, the champion") as caught:
        promote(tracking, second, first, evidence)
    assert caught.value.exit_code == 27
    assert "\n" not in str(caught.value)
    assert resolve(tracking, name) == first
    assert tags_of(tracking, second) == {}


def test_by_force_it_is_promoted_and_the_tags_say_so(tracking, versions):
    first, second = versions[:2]
    crown(tracking, first)
    assert promote(tracking, second, first, WORSE, force=True).reason == "forced"
    assert resolve(tracking, first.name) == second
    tags = tags_of(tracking, second)
    assert (tags["reason"], tags["difference_low"]) == ("forced", "-0.01")


def test_a_champion_that_changed_meanwhile_is_not_overwritten(tracking, versions):
    first, second, third, _ = versions
    crown(tracking, first)
    tracking.client().set_registered_model_alias(first.name, "champion", third.version)
    with pytest.raises(InUse, match="moved while the models were compared"):
        promote(tracking, second, first, BETTER)
    assert resolve(tracking, first.name) == third


def test_promotions_are_taken_back_one_by_one(tracking, versions):
    first, second, third, _ = versions
    name = first.name
    crown(tracking, first, second, third, second)
    for now, before in ((third, second), (second, third), (first, second)):
        moved = take_back(tracking, name)
        assert (moved.champion, moved.before) == (now, before)
        assert resolve(tracking, name) == now
        assert "taken_back" in tags_of(tracking, before)
    with pytest.raises(ModelVersionNotFound, match="no champion before it is known"):
        take_back(tracking, name)
    assert resolve(tracking, name) == first
    crown(tracking, second)
    assert "taken_back" not in tags_of(tracking, second)
    assert take_back(tracking, name).champion == first


def test_a_champion_made_in_another_way_follows_the_one_that_is_known(tracking, versions):
    first, second, third, fourth = versions
    crown(tracking, first, second)
    tracking.client().set_registered_model_alias(first.name, "champion", third.version)
    assert take_back(tracking, first.name).champion == second
    tracking.client().set_registered_model_alias(first.name, "champion", third.version)
    promote(tracking, fourth, third, BETTER)
    assert take_back(tracking, first.name).champion == third


def test_a_champion_that_was_deleted_is_passed_over(tracking, versions):
    first, second, third, _ = versions
    crown(tracking, first, second, third)
    tracking.client().delete_model_version(second.name, second.version)
    assert take_back(tracking, first.name).champion == first


@pytest.mark.parametrize("step", ["set_model_version_tag", "set_registered_model_tag", "alias"])
def test_a_promotion_that_breaks_leaves_the_champion_and_the_way_back(tracking, step, monkeypatch):
    name = f"broken-{step}"
    client = tracking.client()
    client.create_registered_model(name)
    for number in "123":
        client.create_model_version(name, f"file:///nowhere/{number}")
    first, second, third = (resolve(tracking, name, number) for number in "123")
    crown(tracking, first, second)

    def broken(*arguments: Any) -> None:
        raise KeyboardInterrupt

    method = "set_registered_model_alias" if step == "alias" else step
    with monkeypatch.context() as patch:
        patch.setattr(type(client), method, broken)
        with pytest.raises(KeyboardInterrupt):
            promote(tracking, third, second, BETTER)
    assert resolve(tracking, name) == second
    assert take_back(tracking, name).champion == first
    assert promote(tracking, third, first, BETTER).before == first
    assert take_back(tracking, name).champion == first


@pytest.mark.parametrize("step", ["set_registered_model_alias", "set_registered_model_tag"])
def test_a_way_back_that_breaks_can_be_gone_again(tracking, step, monkeypatch):
    name = f"back-{step}"
    client = tracking.client()
    client.create_registered_model(name)
    for number in "123":
        client.create_model_version(name, f"file:///nowhere/{number}")
    versions = [resolve(tracking, name, number) for number in "123"]
    crown(tracking, *versions)

    def broken(*arguments: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(type(client), step, broken)
        with pytest.raises(KeyboardInterrupt):
            take_back(tracking, name)
    while resolve(tracking, name) != versions[0]:
        take_back(tracking, name)
    assert json.loads(client.get_registered_model(name).tags[CHAMPIONS]) == ["1"]


OTHER = """
import sys
from pathlib import Path
from satseg_ray.errors import InUse
from satseg_ray.tracking import Tracking
from satseg_ray.tracking.promotion import promoting
try:
    with promoting(Tracking(sys.argv[1]), "coast", Path(sys.argv[2])):
        print("got it")
except InUse:
    print("in use")
"""


def test_two_promotions_of_one_name_exclude_each_other(tracking, tmp_path):
    command = [sys.executable, "-c", OTHER, tracking.uri, str(tmp_path)]

    def other() -> str:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    with promoting(tracking, "coast", tmp_path), promoting(tracking, "city", tmp_path):
        assert other() == "in use"
    assert other() == "got it"


def report(low: float, held_out: bool | None = True) -> dict[str, Any]:
    figures = {"mean_f1": 0.5, "accuracy": 0.5}
    return {
        "models": [
            {"model": "coast", "version": "1", "held_out": None, "mean_iou": 0.6, **figures},
            {"model": "coast", "version": "2", "held_out": held_out, "mean_iou": 0.7, **figures},
        ],
        "comparisons": [{"differences": {"mean_iou": {"value": 0.1, "low": low, "high": 0.2}}}],
        "resampling": {"level": 0.9},
        "blocks": 14,
        "data": "coast@ab/test",
        "run_id": "r1",
    }


def test_evidence_is_what_the_evaluation_says():
    found = evidence_of(report(0.05), "mean_iou")
    assert found == Evidence(
        "mean_iou", 0.7, 0.6, 0.05, 0.2, 0.9, 14, "coast@ab/test", "coast@ab", "r1"
    )
    assert found.better
    assert not evidence_of(report(-0.05), "mean_iou").better
    assert not evidence_of(report(0.05, held_out=False), "mean_iou").better
    assert evidence_of(report(0.05, held_out=None), "mean_iou").better
    on_validation = report(0.05) | {"data": "coast@1/val"}
    assert not evidence_of(on_validation, "mean_iou").better


def test_the_job_compares_the_champion_with_the_challenger(tracking, home, versions, monkeypatch):
    first, second = versions[:2]
    name = first.name
    monkeypatch.setenv("SATSEG_WORKSPACE", str(home))
    asked = []
    low = 0.05

    def compared(config: Any) -> dict[str, Any]:  # with nothing that the pipeline should keep
        asked.append(config)
        return report(low)

    monkeypatch.setattr(job, "compare", compared)
    tracking.client().set_registered_model_alias(name, "challenger", "1")
    assert job.promote(PromoteConfig(model=name))["reason"] == "first"
    with pytest.raises(ConfigError, match="is version 1, the champion"):
        job.promote(PromoteConfig(model=name))
    tracking.client().set_registered_model_alias(name, "challenger", "2")
    low = -0.05
    with pytest.raises(NotBetter):
        job.promote(PromoteConfig(model=name, dataset="coast", resamples=500))
    assert asked[0].models == [f"{name}/1", f"{name}/2"]
    assert (asked[0].dataset, asked[0].split, asked[0].resamples) == ("coast", "test", 500)
    low = 0.05
    done = job.promote(PromoteConfig(model=name, dataset="coast"))
    assert (done["champion"], done["before"], done["reason"]) == ("2", "1", "better")
    assert done["evidence"]["difference_low"] == "0.05"
    json.dumps(done)
    assert resolve(tracking, name) == second
    back = job.promote(PromoteConfig(model=name, back=True))
    assert (back["champion"], back["reason"]) == ("1", "taken back")
    assert resolve(tracking, name) == first
    with pytest.raises(ConfigError, match="force"):
        job.promote(PromoteConfig(model=name, back=True, force=True))
    with pytest.raises(ModelVersionNotFound):
        job.promote(PromoteConfig(model="nobody"))


def test_force_promotes_what_cannot_be_compared(tracking, home, versions, monkeypatch, capsys):
    first, second = versions[:2]
    monkeypatch.setenv("SATSEG_WORKSPACE", str(home))
    crown(tracking, first)

    def refused(config: Any) -> dict[str, Any]:
        raise BandMismatch("coast/2", "has other classes", "Compare others.")

    monkeypatch.setattr(job, "compare", refused)
    asked = {"model": first.name, "challenger": "2", "dataset": "coast"}
    with pytest.raises(BandMismatch):
        job.promote(PromoteConfig.model_validate(asked))
    done = job.promote(PromoteConfig.model_validate(asked | {"force": True}))
    assert (done["reason"], done["evidence"]) == ("forced", None)
    assert "without figures: coast/2: has other classes" in capsys.readouterr().err
    assert resolve(tracking, first.name) == second


def test_models_are_named_as_in_mlflow(tracking, versions):
    first, second = versions[:2]
    name = first.name
    crown(tracking, second)
    for text in (name, f"{name}@champion", f"{name}/2", f"models:/{name}/2"):
        assert resolve_text(tracking, text) == second
    for text in ("", "a/b/c", f"{name}/x", "@champion", f"{name}@"):
        with pytest.raises(ConfigError, match="name@alias or name/3"):
            resolve_text(tracking, text)
