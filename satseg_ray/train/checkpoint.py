"""The state between two epochs as files: arrays in ``.npz``, the rest as JSON."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from satseg_ray.errors import DAMAGED, TrainingFailed, told
from satseg_ray.products import fresh_directory
from satseg_ray.progress import say
from satseg_ray.train.schedule import SCORE

Arrays: TypeAlias = Sequence[NDArray[Any]]

STATE = "state.json"

_ARRAYS = ("weights", "optimizer", "best_weights")
_UNREADABLE = (*DAMAGED, EOFError, FileNotFoundError, zipfile.BadZipFile)
"""What reading a state raises whose files a power cut has left empty, short or missing."""


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
        for name in _ARRAYS:
            np.savez(directory / f"{name}.npz", *getattr(self, name))
        body = {"best_epoch": self.best_epoch, "history": self.history}
        (directory / STATE).write_text(json.dumps(body), encoding="utf-8")

    @classmethod
    def read(cls, directory: Path) -> TrainState:
        """Read the state that :meth:`write` wrote."""
        body = json.loads((directory / STATE).read_text(encoding="utf-8"))
        arrays = {name: _read_arrays(directory / f"{name}.npz") for name in _ARRAYS}
        return cls(**arrays, best_epoch=body["best_epoch"], history=body["history"])


@dataclass(frozen=True)
class Checkpoints:
    """The newest states of one run, each in a folder that appears whole or not at all.

    Every worker reaches ``directory``, an absolute path; one of them writes.
    """

    directory: str
    kept: int = 2

    def read(self) -> TrainState:
        """Return the newest state, or that of the start of a run.

        In place of a damaged one comes the one before it, and stderr says so.

        Raises:
            TrainingFailed: all that are there are damaged.
        """
        folders = self._all()
        for folder in reversed(folders):
            try:
                return TrainState.read(folder)
            except _UNREADABLE as error:
                say(f"warning: {folder} is damaged ({told(error)}); an older state is looked for")
        if folders:
            raise TrainingFailed(
                self.directory,
                f"holds {len(folders)} damaged states and no other",
                "Start anew with --fresh true.",
            )
        return TrainState()

    def history(self) -> list[dict[str, float]]:
        """Return the figures of the epochs up to the state that :meth:`read` returns.

        Its arrays are not read; [] where nothing can be.
        """
        for folder in reversed(self._all()):
            with suppress(*_UNREADABLE):
                return _history(folder)
        return []

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


def _history(folder: Path) -> list[dict[str, float]]:
    """Return a state's figures; raises where one of its files has lost its end."""
    for name in _ARRAYS:
        zipfile.ZipFile(folder / f"{name}.npz").close()
    text = (folder / STATE).read_text(encoding="utf-8")
    found: list[dict[str, float]] = json.loads(text)["history"]
    return found


def _read_arrays(path: Path) -> Arrays:
    with np.load(path, allow_pickle=False) as stored:
        return [stored[f"arr_{index}"] for index in range(len(stored.files))]
