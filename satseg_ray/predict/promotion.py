"""Promote: a challenger and the champion on the same test blocks; the better one is champion."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from satseg_ray.config import EvaluateConfig, PromoteConfig
from satseg_ray.errors import ConfigError, SatsegError
from satseg_ray.model.store import read_spec
from satseg_ray.predict.evaluate import compare
from satseg_ray.progress import say
from satseg_ray.tracking import ModelVersion, Tracking, fetch, resolve
from satseg_ray.tracking.promotion import (
    Evidence,
    Promotion,
    champion_of,
    promoting,
    take_back,
)
from satseg_ray.tracking.promotion import promote as promote_version
from satseg_ray.workspace import Workspace, name_from


def promote(config: PromoteConfig) -> Mapping[str, Any]:
    """Move the champion of a registered model to a challenger that is better, or take it back."""
    if config.back and config.force:
        raise ConfigError("back", "and force are both true", "Use one of them.")
    workspace = Workspace.resolve()
    tracking = Tracking.open(workspace.root)
    with promoting(tracking, config.model, workspace.promotions()):
        if config.back:
            moved, evidence = take_back(tracking, config.model), None
        else:
            challenger = resolve(tracking, config.model, config.challenger)
            champion = champion_of(tracking, config.model)
            evidence = _evidence_if_any(config, workspace, tracking, challenger, champion)
            moved = promote_version(tracking, challenger, champion, evidence, config.force)
    _tell(moved, evidence)
    return moved.to_dict() | {
        "evidence": evidence.tags() if evidence else None,
        "evaluation": evidence.run_id if evidence else None,
    }


def _evidence_if_any(
    config: PromoteConfig,
    workspace: Workspace,
    tracking: Tracking,
    challenger: ModelVersion,
    champion: ModelVersion | None,
) -> Evidence | None:
    """Return what an evaluation says; by force what hinders it is a warning."""
    try:
        return _evidence(config, workspace, tracking, challenger, champion)
    except SatsegError as error:
        if not config.force or champion == challenger:
            raise
        say(f"warning: promoted without figures: {error}")
        return None


def _evidence(
    config: PromoteConfig,
    workspace: Workspace,
    tracking: Tracking,
    challenger: ModelVersion,
    champion: ModelVersion | None,
) -> Evidence | None:
    """Return what an evaluation of both says; none where there is no champion.

    Raises:
        ConfigError: the challenger is the champion, or nobody knows on what data to compare.
    """
    if champion is None:
        return None
    if champion == challenger:
        raise ConfigError(
            "challenger", f"is version {challenger.version}, the champion", "Name another version."
        )
    dataset = config.dataset or _own_dataset(tracking, challenger, workspace)
    versions = [f"{v.name}/{v.version}" for v in (champion, challenger)]
    report = compare(
        EvaluateConfig(
            models=versions,
            dataset=dataset,
            split=config.split,
            output=name_from(f"promote-{challenger.name}-{challenger.version}"),
            experiment=config.experiment,
            batch_size=config.batch_size,
            threads=config.threads,
            block=config.block,
            resamples=config.resamples,
            level=config.level,
            seed=config.seed,
        )
    )
    return evidence_of(report, config.metric)


def _own_dataset(tracking: Tracking, version: ModelVersion, workspace: Workspace) -> str:
    spec = read_spec(fetch(tracking, version, workspace.models()))
    name = spec.lineage.get("dataset_version", "").partition("@")[0]
    if not name:
        raise ConfigError(
            "dataset", f"is not given, and {version.uri} does not say its own", "Name one."
        )
    return name


def evidence_of(report: Mapping[str, Any], metric: str) -> Evidence:
    """Return what an evaluation's report of champion and challenger, in this order, says.

    That the champion may have seen the patches speaks for a challenger that is better all the
    same; that the challenger has makes the comparison unfair.
    """
    champion, challenger = report["models"]
    (pair,) = report["comparisons"]
    found = pair["differences"][metric]
    return Evidence(
        metric=metric,
        challenger=challenger[metric],
        champion=champion[metric],
        low=found["low"],
        high=found["high"],
        level=report["resampling"]["level"],
        blocks=report["blocks"],
        data=report["data"],
        dataset_version=report["data"].rpartition("/")[0],
        run_id=report["run_id"],
        unfair=_unfair(report["data"], challenger["held_out"]),
    )


def _unfair(data: str, held_out: bool | None) -> str:
    """Return what gives the challenger more than it deserves, or nothing."""
    if held_out is False:
        return "it was trained on some of these patches"
    if data.endswith("/val"):
        return "its epoch, its temperature and a sweep's best are chosen on these patches"
    return ""


def _tell(moved: Promotion, evidence: Evidence | None) -> None:
    before = f" in place of {moved.before.version}" if moved.before else ""
    words = f": {evidence.words}" if evidence else ""
    say(f"{moved.champion.name}: champion is {moved.champion.version}{before}, "
        f"{moved.reason}{words}")  # fmt: skip
