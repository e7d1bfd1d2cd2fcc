"""What is left of a sweep: a table and a picture with its run, the trials' ends, the best model."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from satseg_ray.errors import TrainingFailed
from satseg_ray.products import fresh_file
from satseg_ray.progress import say
from satseg_ray.tracking import Run, register_model
from satseg_ray.tracking.registry import CHALLENGER
from satseg_ray.train.resume import forget
from satseg_ray.tune.config import TuneConfig
from satseg_ray.tune.summary import Trial, best_of, ranked, write_parallel, write_table
from satseg_ray.workspace import Workspace

TABLE, PICTURE, RESULT = "trials.csv", "parallel.png", "result.json"


@dataclass(frozen=True)
class SweepRecord:
    """Where a sweep is recorded: its run in MLflow, the ``parent``, and its folder."""

    config: TuneConfig
    workspace: Workspace
    parent: Run
    folder: Path

    def sum_up(self, trials: Sequence[Trial]) -> None:
        """Record the trials with the sweep, and end the runs of those that were stopped.

        Raises:
            TrainingFailed: none came to its end.
        """
        write_table(self.folder / TABLE, trials, self.config.metric)
        write_parallel(self.folder / PICTURE, trials, self.config.space, self.config.metric)
        for name in (TABLE, PICTURE):
            self.parent.log_artifact(self.folder / name)
        best = best_of(trials)
        for trial in trials:
            self._close(trial, keep=best is None or trial is best)
        if best is None or best.run_id is None:
            raise self._none(trials)
        self.parent.log_metrics({f"best_{self.config.metric}": float(best.score or 0.0)})
        self.parent.set_tags({"best_run": best.run_id})
        told = {"name": best.name, "run_id": best.run_id, "score": best.score, **best.values}
        self._write({"trials": [_told(trial) for trial in ranked(trials)], "best": told})

    def register(self, name: str) -> None:
        """Register the best of a sweep that was summed up, unless it is the last one there."""
        found = self._read()
        if (found.get("registered") or {}).get("name") != name:
            found["registered"] = self._register(found["best"]["run_id"], name)
            self._write(found)

    def result(self) -> Mapping[str, Any]:
        """Return what came of a sweep that was summed up."""
        return {
            "sweep": self.folder.name,
            "run_id": self.parent.run_id,
            "registered": None,
            **self._read(),
            "table": str(self.folder / TABLE),
            "picture": str(self.folder / PICTURE),
        }

    def _none(self, trials: Sequence[Trial]) -> TrainingFailed:
        """Return the fact that there is no best trial, with the first problem of all."""
        problem = next((f": {trial.problem}" for trial in trials if trial.problem), "")
        return TrainingFailed(
            self.folder.name,
            f"none of {len(trials)} trials came to its end{problem.rstrip('.')}",
            f"{self.folder / TABLE} says what each met. The same command tries those again "
            "that failed; more minutes or fewer epochs are another sweep, of another name.",
        )

    def interrupt(self, notes: Sequence[Mapping[str, str]]) -> None:
        """End the runs that are under way: they go on with the sweep."""
        for note in notes:
            Run(self.parent.tracking, note["run_id"]).interrupt()

    def _read(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.folder / RESULT).read_text(encoding="utf-8"))
        return found

    def _write(self, body: Mapping[str, Any]) -> None:
        with fresh_file(self.folder / RESULT) as partial:
            partial.write_text(json.dumps(body, indent=1) + "\n", encoding="utf-8")

    def _close(self, trial: Trial, keep: bool) -> None:
        """End the run of a trial that was stopped, and drop what only its going on needs."""
        if trial.run_id is None:
            return
        run = Run(self.parent.tracking, trial.run_id)
        run.set_tags({"outcome": trial.outcome})
        if trial.outcome != "finished":
            run.finish("FAILED" if trial.outcome == "failed" else "FINISHED")
        if not keep:
            forget(self.workspace, trial.run_id)
            shutil.rmtree(self.workspace.run(trial.run_id), ignore_errors=True)

    def _register(self, run_id: str, name: str) -> dict[str, str]:
        run = Run(self.parent.tracking, run_id)
        version = register_model(run, self.workspace.run(run_id) / "model", name, CHALLENGER)
        say(f"registered {version.uri}, {CHALLENGER} of {version.name}")
        return {"name": version.name, "version": version.version, "uri": version.uri}


def _told(trial: Trial) -> dict[str, Any]:
    return {
        "name": trial.name,
        "outcome": trial.outcome,
        "score": trial.score,
        **trial.values,
    }
