"""The state between two epochs as files: arrays in ``.npz``, the rest as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Arrays: TypeAlias = Sequence[NDArray[Any]]


@dataclass
class TrainState:
    """Weights and optimiser after ``len(history)`` epochs, and the best weights so far.

    ``history`` holds the figures of each epoch; ``score`` names the one that is to be highest.
    With a score that is missing from the figures the newest weights count as the best.
    """

    weights: Arrays = ()
    optimizer: Arrays = ()
    best_weights: Arrays = ()
    best_epoch: int = 0
    history: list[dict[str, float]] = field(default_factory=list)

    @property
    def epoch(self) -> int:
        """Finished epochs."""
        return len(self.history)

    @property
    def best(self) -> Mapping[str, float]:
        """The figures of the epoch that gave the best weights."""
        return self.history[self.best_epoch - 1]

    def advance(
        self, weights: Arrays, optimizer: Arrays, figures: Mapping[str, float], score: str
    ) -> None:
        """Add a finished epoch."""
        self.weights, self.optimizer = weights, optimizer
        self.history.append(dict(figures))
        newest = figures.get(score, np.inf)
        if not self.best_epoch or newest >= self.best.get(score, -np.inf):
            self.best_epoch, self.best_weights = self.epoch, weights

    def write(self, directory: Path) -> None:
        """Write the state into an existing directory."""
        for name in ("weights", "optimizer", "best_weights"):
            np.savez(directory / f"{name}.npz", *getattr(self, name))
        body = {"best_epoch": self.best_epoch, "history": self.history}
        (directory / "state.json").write_text(json.dumps(body), encoding="utf-8")

    @classmethod
    def read(cls, directory: Path) -> TrainState:
        """Read the state that :meth:`write` wrote."""
        body = json.loads((directory / "state.json").read_text(encoding="utf-8"))
        return cls(
            weights=_read_arrays(directory / "weights.npz"),
            optimizer=_read_arrays(directory / "optimizer.npz"),
            best_weights=_read_arrays(directory / "best_weights.npz"),
            best_epoch=body["best_epoch"],
            history=body["history"],
        )


def _read_arrays(path: Path) -> Arrays:
    with np.load(path, allow_pickle=False) as stored:
        return [stored[f"arr_{index}"] for index in range(len(stored.files))]
