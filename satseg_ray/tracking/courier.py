"""Figures on their way to MLflow, in a thread: a server that is away holds nobody up."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from satseg_ray.progress import say
from satseg_ray.tracking.runs import Run

PATIENT = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}
"""The environment of a process with a courier, which tries again by itself."""


@dataclass(frozen=True)
class Figures:
    """The figures of one step, and when they were taken, in seconds since 1970."""

    step: int
    metrics: Mapping[str, float]
    time: float = field(default_factory=time.time)


class Courier:
    """Records figures of a run in their order, from a thread; what fails is tried again.

    At most ``room`` steps wait: beyond that the oldest are lost, and counted. Close it at the end.
    """

    def __init__(self, run: Run, room: int = 10_000, pause: float = 5.0) -> None:
        self._run, self._pause = run, pause
        self._waiting: deque[Figures] = deque(maxlen=room)
        self._changed = threading.Condition()
        self._closed = self._given_up = False
        self._lost = 0
        self._thread = threading.Thread(target=self._carry, name="courier", daemon=True)
        self._thread.start()

    def add(self, metrics: Mapping[str, float], step: int) -> None:
        """Take the figures of a step; returns at once."""
        with self._changed:
            self._lost += len(self._waiting) == self._waiting.maxlen
            self._waiting.append(Figures(step, dict(metrics)))
            self._changed.notify()

    def close(self, timeout: float = 30.0) -> int:
        """Wait at most ``timeout`` seconds until all is recorded; return how many steps are not."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join(timeout)
        self._given_up = True
        return self._lost + len(self._waiting)

    def _carry(self) -> None:
        while (first := self._next()) is not None:
            try:
                self._run.log_metrics(first.metrics, first.step, first.time)
            except Exception as error:  # a server that is away has many names
                say(f"MLflow did not take the figures of step {first.step}, and is asked again: "
                    f"{_first_line(error)}")  # fmt: skip
                with self._changed:
                    if not self._closed:
                        self._changed.wait(self._pause)
                if self._closed:
                    time.sleep(min(1.0, self._pause))
                continue
            with self._changed:
                if self._waiting and self._waiting[0] is first:
                    self._waiting.popleft()

    def _next(self) -> Figures | None:
        """Return the oldest figures, once there are any; ``None`` at the end."""
        with self._changed:
            while not self._waiting and not self._closed:
                self._changed.wait()
            return self._waiting[0] if self._waiting and not self._given_up else None


def reconcile(run: Run, history: Sequence[Mapping[str, float]], key: str) -> int:
    """Record the epochs that MLflow does not have; return how many there were.

    ``history`` holds the figures of the epochs from 1 on; ``key`` is a figure that each has.
    """
    known = run.steps(key)
    missing = [epoch for epoch in range(1, len(history) + 1) if epoch not in known]
    for epoch in missing:
        run.log_metrics(history[epoch - 1], epoch)
    return len(missing)


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)[:200]
