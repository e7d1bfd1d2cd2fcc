"""What a person sees of a sweep while it runs: a line for each epoch and each end of a trial."""

from __future__ import annotations

from time import monotonic
from typing import Any

from ray.tune import Callback

from satseg_ray.progress import clock, say
from satseg_ray.tune.trial import EXPORTED, SCORE


class SweepWatch(Callback):  # type: ignore[misc]  # Ray has no types for it
    """Prints the progress of a sweep of so many trials."""

    def __init__(self, trials: int, metric: str) -> None:
        self._trials, self._metric = trials, metric
        self._ended, self._best = 0, ("", float("-inf"))
        self._since = monotonic()

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Go on in another process: its clock is another one."""
        self.__dict__.update(state, _since=monotonic(), _ended=0)

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """Say how an epoch went; the last one is told twice."""
        if result.get(EXPORTED):
            return
        score = result.get(SCORE, float("-inf"))
        if score > self._best[1]:
            self._best = str(trial), score
        say(
            f"{trial}  epoch {result.get('epoch')}  {self._metric} {score:.4f}  "
            f"best {self._best[1]:.4f} ({self._best[0]})"
        )

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Say how many trials have ended."""
        self._ended = sum(one.is_finished() for one in trials) + (not trial.is_finished())
        took = (monotonic() - self._since) / max(1, self._ended)
        left = clock((self._trials - self._ended) * took)
        say(f"{trial} has ended: {self._ended} of {self._trials} trials, at most {left} left")

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Say that a trial has failed; the others go on."""
        say(f"{trial} has failed; the sweep goes on")
