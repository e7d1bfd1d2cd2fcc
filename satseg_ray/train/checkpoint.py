"""The state between two epochs as files: arrays in ``.npz``, the rest as JSON."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from satseg_ray.products import fresh_directory
from satseg_ray.train.schedule import SCORE

Arrays: TypeAlias = Sequence[NDArray[Any]]

STATE = "state.json"


def is_best(figures: Mapping[str, float], best: Mapping[str, float] | None) -> bool:
    """Tell whether an epoch of these figures takes the place of the best one before it."""
    return best is None or figures.get(SCORE, np.inf) >= best.get(SCORE, -np.inf)


@dataclass
class TrainState:
    """Weights and optimiser after ``len(history)`` epochs, and the best weights so far.

    ``history`` holds the figures of each epoch; the mean IoU on validation is to be highest. Where
    it is missing from the figures the newest weights count as the best.
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
        self,
        weights: Arrays,
        optimizer: Arrays,
        figures: Mapping[str, float],
        shown: Arrays | None = None,
    ) -> None:
        """Add a finished epoch; ``shown`` are the weights that the figures are of, if others."""
        self.weights, self.optimizer = weights, optimizer
        self.history.append(dict(figures))
        if is_best(figures, self.history[self.best_epoch - 1] if self.best_epoch else None):
            self.best_epoch = self.epoch
            self.best_weights = weights if shown is None else shown

    def write(self, directory: Path) -> None:
        """Write the state into an existing directory."""
        for name in ("weights", "optimizer", "best_weights"):
            np.savez(directory / f"{name}.npz", *getattr(self, name))
        body = {"best_epoch": self.best_epoch, "history": self.history}
        (directory / STATE).write_text(json.dumps(body), encoding="utf-8")

    @classmethod
    def read(cls, directory: Path) -> TrainState:
        """Read the state that :meth:`write` wrote."""
        body = json.loads((directory / STATE).read_text(encoding="utf-8"))
        return cls(
            weights=_read_arrays(directory / "weights.npz"),
            optimizer=_read_arrays(directory / "optimizer.npz"),
            best_weights=_read_arrays(directory / "best_weights.npz"),
            best_epoch=body["best_epoch"],
            history=body["history"],
        )


@dataclass(frozen=True)
class Checkpoints:
    """The newest states of one run, each in a folder that appears whole or not at all.

    Every worker reaches ``directory``, an absolute path; one of them writes.
    """

    directory: str
    kept: int = 2

    def newest(self) -> Path | None:
        """Return the folder of the newest state, if there is one."""
        return self._all()[-1] if self._all() else None

    def read(self) -> TrainState:
        """Return the newest state, or that of the start of a run."""
        newest = self.newest()
        return TrainState.read(newest) if newest else TrainState()

    def history(self) -> list[dict[str, float]]:
        """Return the figures of the epochs up to the newest state, without its arrays."""
        newest = self.newest()
        if newest is None:
            return []
        text = (newest / STATE).read_text(encoding="utf-8")
        found: list[dict[str, float]] = json.loads(text)["history"]
        return found

    def write(self, state: TrainState) -> None:
        """Write a state, and remove all but the ``kept`` newest.

        Raises:
            UnwritableProduct: there is no space for it; the older ones are still there.
        """
        with fresh_directory(Path(self.directory) / f"epoch-{state.epoch:06d}") as scratch:
            state.write(scratch)
        for old in self._all()[: -self.kept]:
            shutil.rmtree(old, ignore_errors=True)

    def _all(self) -> list[Path]:
        return sorted(Path(self.directory).glob("epoch-[0-9]*"))


def _read_arrays(path: Path) -> Arrays:
    with np.load(path, allow_pickle=False) as stored:
        return [stored[f"arr_{index}"] for index in range(len(stored.files))]
