"""Tune: a sweep of trainings -> one MLflow run with a child for each trial, and the best model."""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import optuna
from ray import tune as ray_tune
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search.optuna import OptunaSearch

from satseg_ray.config import TrainConfig
from satseg_ray.errors import ConfigError, TrainingFailed
from satseg_ray.lineage import value_digest
from satseg_ray.products import locked
from satseg_ray.progress import say
from satseg_ray.runtime import cpus_for_each, places, ray_session
from satseg_ray.tracking import Run, Tracking, register_model
from satseg_ray.tracking.registry import CHALLENGER, check_name
from satseg_ray.tune.budget import Budget, SweepState
from satseg_ray.tune.checks import check_data
from satseg_ray.tune.config import TuneConfig
from satseg_ray.tune.space import Range, Space, check_space, with_values
from satseg_ray.tune.summary import Outcome, Trial, best_of, ranked, write_parallel, write_table
from satseg_ray.tune.trial import SCORE, TrialTask, read_note, run_trial
from satseg_ray.tune.watch import SweepWatch
from satseg_ray.workspace import Workspace, name_from

_STATE, _NOTES, _RAY = "sweep.json", "trials", "ray"
_HEAD = {"node:__internal_head__": 0.001}
"""A trial itself only waits for its workers: it takes no CPU, and sits on the head node."""


def tune(config: TuneConfig) -> Mapping[str, Any]:
    """Run a sweep, or go on with it where it was interrupted."""
    workspace = Workspace.resolve()
    base = base_config(config)
    check_space(base, config.space)
    check_data(base, config.space, config.metric, workspace)
    if config.challenger:
        check_name("challenger", config.challenger)
    sweep = _Sweep(config, base, workspace, Tracking.open(workspace.root))
    sweep.folder.mkdir(parents=True, exist_ok=True)
    with locked(sweep.folder, exclusive=True), ray_session("tune", dashboard=True):
        return sweep.run()


def base_config(config: TuneConfig) -> TrainConfig:
    """Return the config that all trials of a sweep share.

    Raises:
        ConfigError: a key of ``train`` is none, or its value is not allowed.
    """
    start = TrainConfig(dataset=config.dataset, experiment=config.experiment)
    flat = _flat(config.train, start.model_dump(by_alias=True))
    for key in ("dataset", "register", "alias", "experiment"):
        if key in flat:
            raise ConfigError(f"train.{key}", "is set by the sweep", "Leave it out.")
    try:
        return with_values(start, flat)
    except ConfigError as error:
        raise ConfigError(f"train.{error.subject}", error.problem, error.remedy) from error


def _flat(body: Mapping[str, Any], section: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return dotted key -> value; a mapping where ``section`` has none is a value, as weights."""
    found: dict[str, Any] = {}
    for key, value in body.items():
        name, below = f"{prefix}{key}", section.get(key)
        if isinstance(value, Mapping) and isinstance(below, Mapping):
            found |= _flat(value, below, f"{name}.")
        else:
            found[name] = value
    return found


def param_space(space: Space) -> dict[str, Any]:
    """Return a space as Ray Tune samples it."""
    return {key: _domain(given) for key, given in space.items()}


def _domain(given: Any) -> Any:
    if not isinstance(given, Range):
        return ray_tune.choice(given)
    low, high = given.low, given.high
    if given.whole:
        return (ray_tune.lograndint if given.log else ray_tune.randint)(low, high + 1)
    return (ray_tune.loguniform if given.log else ray_tune.uniform)(low, high)


def trial_name(sweep: str, trial_id: str, values: Mapping[str, Any], space: Space) -> str:
    """Return what a trial is called in the dashboard and in MLflow: its values, in short.

    >>> trial_name("w", "5_7", {"loss.dice": 0.25, "backbone": "vgg16"}, {"loss.dice": [0.25]})
    'w-5_7-0.25'
    """
    short = (f"{v:.3g}" if isinstance(v, float) else str(v) for v in map(values.get, space))
    return name_from("-".join((sweep, trial_id[-5:], *short)))


@dataclass(frozen=True)
class _Sweep:
    config: TuneConfig
    base: TrainConfig
    workspace: Workspace
    tracking: Tracking

    @property
    def name(self) -> str:
        """The sweep's name: the config's, or one of the data set and what is varied."""
        return self.config.name or name_from(f"{self.config.dataset}-{self.digest[:8]}")

    @property
    def digest(self) -> str:
        """A digest of all that decides what a trial is."""
        leave_out = {"name", "challenger", "concurrent"}
        return value_digest(self.config.model_dump(mode="json", exclude=leave_out))

    @property
    def folder(self) -> Path:
        """Where the sweep's state lies."""
        return self.workspace.sweep(self.name)

    def run(self) -> Mapping[str, Any]:
        """Run or go on, then sum up."""
        state = self._state()
        parent = Run(self.tracking, state.parent)
        budget = Budget(self.folder / _STATE, self.config.minutes * 60)
        with parent.recording():
            results = self._tuner(state, budget).fit()
            budget.save()
            trials = [self._trial(result) for result in results]
            summary = self._sum_up(parent, trials)
        replace(self._state(), done=True).write(self.folder / _STATE)
        return summary

    def _state(self) -> SweepState:
        """Return the state of this sweep, begun now where there is none."""
        found = SweepState.read(self.folder / _STATE)
        if found and found.digest != self.digest:
            raise ConfigError(
                "name", f"{self.name!r} is another sweep, of other settings", "Take another name."
            )
        if found:
            return found
        run = self.tracking.create_run(self.config.experiment, self.name, {"sweep": self.name})
        run.log_params(self.config.model_dump(mode="json"))
        state = SweepState(self.digest, run.run_id)
        state.write(self.folder / _STATE)
        return state

    def _tuner(self, state: SweepState, budget: Budget) -> ray_tune.Tuner:
        task = TrialTask(self.base, self.config.metric, state.parent, str(self.folder / _NOTES))
        trainable = ray_tune.with_resources(
            partial(run_trial, task=task), ray_tune.PlacementGroupFactory([_HEAD])
        )
        place = self.folder / _RAY / self.name
        if ray_tune.Tuner.can_restore(str(place)):
            say(f"goes on with the sweep {self.name}")
            return ray_tune.Tuner.restore(
                str(place),
                trainable,
                resume_unfinished=True,
                restart_errored=not state.done,
                param_space=self._space(),
            )
        return ray_tune.Tuner(
            trainable,
            param_space=self._space(),
            tune_config=self._tune_config(),
            run_config=ray_tune.RunConfig(
                name=self.name,
                storage_path=str(self.folder / _RAY),
                stop=budget,
                callbacks=[SweepWatch(self.config.trials, self.config.metric)],
                verbose=0,
            ),
        )

    def _space(self) -> dict[str, Any]:
        return param_space(self.config.space)

    def _tune_config(self) -> ray_tune.TuneConfig:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        return ray_tune.TuneConfig(
            metric=SCORE,
            mode="max",
            num_samples=self.config.trials,
            max_concurrent_trials=self._concurrent(),
            search_alg=OptunaSearch(seed=self.config.seed),
            scheduler=ASHAScheduler(
                time_attr="epoch",  # a trial that goes on counts its reports anew
                max_t=self.base.epochs
                + 1,  # at max_t a trial is killed, before it has written its model
                grace_period=min(self.config.grace, self.base.epochs),
                reduction_factor=self.config.reduction,
            ),
            trial_name_creator=self._trial_name,
            trial_dirname_creator=lambda trial: str(trial.trial_id),
        )

    def _trial_name(self, trial: Any) -> str:
        return trial_name(self.name, str(trial.trial_id), trial.config, self.config.space)

    def _concurrent(self) -> int:
        """Return how many trials run at once, at most what the cluster holds."""
        cpus = self.base.threads or cpus_for_each(self.base.workers, int(self.base.gpu))
        fitting = max(1, places(cpus, int(self.base.gpu)) // self.base.workers)
        return min(self.config.concurrent or fitting, fitting)

    def _trial(self, result: Any) -> Trial:
        metrics = result.metrics or {}
        note = read_note(self.folder / _NOTES / f"{metrics.get('trial_id')}.json")
        outcome: Outcome = "failed" if result.error else "stopped"
        if not result.error and "model" in note:
            outcome = "finished"
        score = note.get("score", metrics.get(SCORE))
        values = result.config or {}
        return Trial(
            name=trial_name(self.name, str(metrics.get("trial_id")), values, self.config.space),
            values={key: values[key] for key in self.config.space},
            score=score if score is not None and math.isfinite(score) else None,
            outcome=outcome,
            epochs=int(metrics.get("epoch", 0)),
            seconds=float(metrics.get("time_total_s", 0.0)),
            run_id=note.get("run_id"),
            problem=note.get("problem") or (str(result.error) if result.error else None),
        )

    def _sum_up(self, parent: Run, trials: Sequence[Trial]) -> Mapping[str, Any]:
        """Record the trials with the sweep, end their runs, and register the best."""
        table, picture = self.folder / "trials.csv", self.folder / "parallel.png"
        write_table(table, trials, self.config.metric)
        write_parallel(picture, trials, self.config.space, self.config.metric)
        for path in (table, picture):
            parent.log_artifact(path)
        best = best_of(trials)
        for trial in trials:
            self._close(trial, keep=trial is best)
        if best is None or best.run_id is None:
            raise self._no_best(trials, table)
        parent.log_metrics({f"best_{self.config.metric}": float(best.score or 0.0)})
        parent.set_tags({"best_run": best.run_id})
        return {
            "sweep": self.name,
            "run_id": parent.run_id,
            "trials": [
                {"name": t.name, "outcome": t.outcome, "score": t.score, **t.values}
                for t in ranked(trials)
            ],
            "best": {"name": best.name, "run_id": best.run_id, "score": best.score, **best.values},
            "registered": self._register(best),
            "table": str(table),
            "picture": str(picture),
        }

    def _no_best(self, trials: Sequence[Trial], table: Path) -> TrainingFailed:
        met = next((trial.problem for trial in trials if trial.problem), None)
        return TrainingFailed(
            self.name,
            f"none of {len(trials)} trials came to its end" + (f"; one met: {met}" if met else ""),
            f"See {table}, then start it again." if met else "Allow more minutes or fewer epochs.",
        )

    def _close(self, trial: Trial, keep: bool) -> None:
        """End the run of a trial that was stopped, and drop what only its going on needs."""
        if trial.run_id is None:
            return
        run = Run(self.tracking, trial.run_id)
        run.set_tags({"outcome": trial.outcome})
        if trial.outcome != "finished":
            run.finish("FINISHED" if trial.outcome == "stopped" else "FAILED")
        if not keep:
            shutil.rmtree(self.workspace.run(trial.run_id), ignore_errors=True)

    def _register(self, best: Trial) -> dict[str, str] | None:
        if not self.config.challenger:
            return None
        run = Run(self.tracking, str(best.run_id))
        directory = self.workspace.run(run.run_id) / "model"
        version = register_model(run, directory, self.config.challenger, CHALLENGER)
        say(f"registered {version.uri}, {CHALLENGER} of {version.name}")
        return {"name": version.name, "version": version.version, "uri": version.uri}
