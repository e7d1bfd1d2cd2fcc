"""Tune: a sweep of trainings -> one MLflow run with a child for each trial, and the best model."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import isfinite
from pathlib import Path
from typing import Any

import optuna
from ray import tune as ray_tune
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search.optuna import OptunaSearch

from satseg_ray.config import TrainConfig
from satseg_ray.errors import ConfigError, SatsegError
from satseg_ray.lineage import code_revision, value_digest
from satseg_ray.patches.store import PatchManifest, PatchStore
from satseg_ray.products import locked
from satseg_ray.progress import say
from satseg_ray.runtime import cpus_for_each, places, ray_session
from satseg_ray.tracking import Run, Tracking
from satseg_ray.tracking.datastore import DataStore
from satseg_ray.tracking.registry import check_name
from satseg_ray.train.checkpoint import Checkpoints
from satseg_ray.train.job import Supervision, train_supervised
from satseg_ray.tune.base import base_config, check_against, check_starts, with_absolute_paths
from satseg_ray.tune.budget import Budget, SweepState
from satseg_ray.tune.config import TuneConfig
from satseg_ray.tune.record import SweepRecord
from satseg_ray.tune.space import Range, Space, check_space, with_values
from satseg_ray.tune.summary import Outcome, Trial, with_best_exported
from satseg_ray.tune.trial import (
    EXPORTED,
    SCORE,
    KeptScore,
    TrialTask,
    final_figures,
    notes,
    read_note,
    trial_class,
)
from satseg_ray.tune.watch import SweepWatch
from satseg_ray.workspace import Workspace, name_from

_STATE, _NOTES, _RAY = "sweep.json", "trials", "ray"
_HEAD = {"node:__internal_head__": 0.001}
"""A trial itself only waits for its workers: it takes no CPU, and sits on the head node."""


def tune(config: TuneConfig) -> Mapping[str, Any]:
    """Run a sweep, or go on with it where it was interrupted.

    Raises:
        ConfigError: a key, a value, or another sweep of that name.
        TrainingFailed: no trial came to its end.
    """
    workspace, config = Workspace.resolve(), with_absolute_paths(config)
    base = base_config(config)
    check_space(base, config.space)
    if config.challenger:
        check_name("challenger", config.challenger)
    with DataStore.of(workspace).reading_patches(config.dataset) as patches:
        store = PatchStore.open(patches)
        check_against(store, config, base)
        check_starts(store, config, base, workspace)
        tracking = Tracking.open(workspace.root)
        sweep = _Sweep(config, base, workspace, tracking, sweep_digest(config, store.manifest))
        sweep.folder.mkdir(parents=True, exist_ok=True)
        with locked(sweep.folder, exclusive=True), ray_session("tune", dashboard=True):
            return sweep.run()


def sweep_digest(config: TuneConfig, manifest: PatchManifest) -> str:
    """Return a digest of all that decides what a trial is: settings, data and code."""
    settings = config.model_dump(mode="json", exclude={"name", "challenger", "concurrent"})
    return value_digest([settings, dict(manifest.lineage), code_revision()])


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
    digest: str

    @property
    def name(self) -> str:
        """The sweep's name: the config's, or one of the data set and what is varied."""
        return self.config.name or name_from(f"{self.config.dataset}-{self.digest[:8]}")

    @property
    def folder(self) -> Path:
        """Where the sweep's state lies."""
        return self.workspace.sweep(self.name)

    def run(self) -> Mapping[str, Any]:
        """Run or go on, then sum up; a sweep that is finished only tells what came of it."""
        state = self._state()
        parent = Run(self.tracking, state.parent)
        record = SweepRecord(self.config, self.workspace, parent, self.folder)
        if state.done:
            say(f"the sweep {self.name} is finished")
        else:
            self.tracking.reopened(state.parent)
            budget = Budget(self.folder / _STATE, self.config.minutes * 60)
            with parent.recording():
                try:
                    results = self._tuner(state, budget).fit()
                except KeyboardInterrupt:
                    record.interrupt(notes(self.folder / _NOTES))
                    raise
                finally:
                    budget.save()
                trials = [self._trial(result) for result in results if result.path]
                record.sum_up(with_best_exported(trials, partial(self._exported, state.parent)))
            replace(self._state(), done=True).write(self.folder / _STATE)
        if self.config.challenger:
            record.register(self.config.challenger)
        return record.result()

    def _state(self) -> SweepState:
        """Return the state of this sweep, begun now where there is none."""
        found = SweepState.read(self.folder / _STATE)
        if found and found.digest != self.digest:
            raise ConfigError(
                "name",
                f"{self.name!r} is another sweep, of other settings, data or code",
                "Take another name.",
            )
        if found:
            return found
        run = self.tracking.create_run(self.config.experiment, self.name, {"sweep": self.name})
        run.log_params(self.config.model_dump(mode="json"))
        state = SweepState(self.digest, run.run_id)
        state.write(self.folder / _STATE)
        return state

    def _tuner(self, state: SweepState, budget: Budget) -> ray_tune.Tuner:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        task = TrialTask(
            self.base,
            self.workspace,
            self.config.metric,
            state.parent,
            str(self.folder / _NOTES),
        )
        trainable = ray_tune.with_resources(
            trial_class(task), ray_tune.PlacementGroupFactory([_HEAD])
        )
        place = self.folder / _RAY / self.name
        if ray_tune.Tuner.can_restore(str(place)):
            say(f"goes on with the sweep {self.name}")
            return ray_tune.Tuner.restore(
                str(place),
                trainable,
                resume_unfinished=True,
                restart_errored=True,
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
        return ray_tune.TuneConfig(
            metric=SCORE,
            mode="max",
            num_samples=self.config.trials,
            max_concurrent_trials=min(self.config.concurrent or 1 << 16, self._fitting()),
            search_alg=OptunaSearch(seed=self.config.seed),
            scheduler=ASHAScheduler(
                time_attr="epoch",  # Tune itself counts anew where a trial goes on
                # At max_t a trial is killed, before it has written its model
                max_t=self.base.epochs + 1,
                grace_period=min(self.config.grace, self.base.epochs),
                reduction_factor=self.config.reduction,
            ),
            trial_name_creator=self._trial_name,
            trial_dirname_creator=lambda trial: str(trial.trial_id),
        )

    def _trial_name(self, trial: Any) -> str:
        return trial_name(self.name, str(trial.trial_id), trial.config, self.config.space)

    def _fitting(self) -> int:
        """Return how many trials the cluster holds at once."""
        gpus, readers = int(self.base.gpu), self.base.readers
        cpus = self.base.threads or cpus_for_each(self.base.workers, gpus, readers)
        return max(1, places(cpus, gpus, readers) // self.base.workers)

    def _exported(self, parent: str, trial: Trial) -> Trial | None:
        """Return a trial that was stopped with the model of its best epoch so far, if it had any.

        Its training goes on by no step: what is left is what comes after the last epoch of any.
        """
        if not (epochs := len(self._history(trial.run_id))):
            return None
        say(f"{trial.name} was stopped after {epochs} epochs, as the best of all: it gets a model")
        try:
            result = train_supervised(
                with_values(self.base, trial.values),
                self.workspace,
                Supervision(trial.name, parent, ends_after=epochs),
            )
        except SatsegError as error:
            say(f"warning: it has none: {error}")
            return None
        figures = final_figures(result, self.config.metric)
        return replace(trial, score=figures[SCORE], epochs=figures["epoch"], exported=True)

    def _history(self, run_id: str | None) -> Sequence[Mapping[str, float]]:
        """Return the figures of the epochs that a trial has behind it."""
        if run_id is None:
            return ()
        return Checkpoints(str(self.workspace.run(run_id) / "checkpoints")).history()

    def _score_so_far(self, run_id: str | None) -> tuple[float | None, int]:
        """Return the score and the epochs of a trial by its checkpoints."""
        kept, history = KeptScore(self.config.metric), self._history(run_id)
        scores = [kept.after(figures) for figures in history]
        return (scores[-1] if scores else None), len(history)

    def _trial(self, result: Any) -> Trial:
        """Return what became of a trial; one that the budget ended may have no figures."""
        metrics, trial_id = result.metrics or {}, Path(result.path).name
        note = read_note(self.folder / _NOTES / f"{trial_id}.json")
        outcome: Outcome = "finished" if metrics.get(EXPORTED) else "stopped"
        if result.error:
            outcome = "failed"
        values = result.config or _params(Path(result.path))
        score, epochs = metrics.get(SCORE), int(metrics.get("epoch", 0))
        if score is None:  # Tune forgets it where a trial was to go on when the time was over
            score, epochs = self._score_so_far(note.get("run_id"))
        return Trial(
            name=trial_name(self.name, trial_id, values, self.config.space),
            values={key: values.get(key) for key in self.config.space},
            score=score if score is not None and isfinite(score) else None,
            outcome=outcome,
            epochs=epochs,
            seconds=float(metrics.get("time_total_s", 0.0)),
            run_id=note.get("run_id"),
            exported=outcome == "finished",
            problem=note.get("problem") or _last_line(result.error),
        )


def _params(folder: Path) -> dict[str, Any]:
    """Return a trial's values as Tune noted them when it began; nothing where it did not."""
    path = folder / "params.json"
    found: dict[str, Any] = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    return found


def _last_line(error: Exception | None) -> str | None:
    """Return what an error says after the traces that Ray puts before it."""
    return str(error).strip().rpartition("\n")[2] if error else None
