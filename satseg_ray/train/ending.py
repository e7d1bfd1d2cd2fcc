"""How a training on several workers ends where one of them meets a fact."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import ray.train

from satseg_ray.errors import SatsegError, TrainingFailed


class FactsEnd(ray.train.UserCallback):  # type: ignore[misc]  # Ray has no types for it
    """Stops all workers at the fact of one: the others wait for it, and would for ever.

    What is no fact is left to Ray Train, which starts the workers again.
    """

    def after_exception(self, run_context: Any, worker_exceptions: Mapping[int, Exception]) -> None:
        """Look at what workers have raised, in the process that watches them.

        Raises:
            ray.train.ControllerError: a fact is among it; Ray Train gives up at such an error.
        """
        if fact := _fact(worker_exceptions.values()):
            raise ray.train.ControllerError(fact)


def cause(error: ray.train.TrainingFailedError, name: str) -> SatsegError:
    """Return the fact that a worker met, or one that says where to read on."""
    failures = list(getattr(error, "worker_failures", {}).values())
    failures.append(getattr(error, "controller_failure", error))
    if fact := _fact(failures):
        return fact
    reason = str(failures[0]).strip().splitlines()[-1]
    return TrainingFailed(
        name, f"a worker failed: {reason}", "Read the workers' logs in the Ray dashboard."
    )


def _fact(failures: Iterable[Exception]) -> SatsegError | None:
    return next((failure for failure in failures if isinstance(failure, SatsegError)), None)
