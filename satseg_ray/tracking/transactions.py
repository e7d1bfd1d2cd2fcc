"""Who may change which data set, how a change is decided, and what killed jobs left of one.

THE ORDER OF LOCKS, the same for every process:

1. ``raw/<data set>``, then ``patches/<data set>``: those that a :class:`Scope` names. They are
   tried and never waited for: whoever finds them taken ends as ``InUse``.
2. ``decide``, one for the work tree: waited for, as it is held for moments alone. The journal is
   read again under it.
3. The locks of what a killed transaction left, tried under ``decide`` and never waited for. The
   journal says which it held, and takes no others: only its own orphans can be in the way.
4. DVC's lock and git's lock files, which are others'. Whoever has to wait for them gives
   ``decide`` back meanwhile.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from satseg_ray.errors import InUse, SatsegError
from satseg_ray.products import locked
from satseg_ray.progress import say
from satseg_ray.tracking.foreign_locks import alone
from satseg_ray.tracking.journal import Journal, Scope
from satseg_ray.tracking.repository import Repository

_PATIENCE = 5.0
"""Seconds that the orphans of a killed job get to end by themselves."""
_PAUSE = 0.05


@dataclass(frozen=True)
class Transactions:
    """The locks and decisions of a work tree."""

    repository: Repository

    @property
    def root(self) -> Path:
        """The work tree."""
        return self.repository.root

    def is_left(self, dataset: str) -> bool:
        """Tell whether a decided transaction of a data set is not finished."""
        journal = Journal.read(self.repository)
        return journal is not None and journal.dataset == dataset

    def recover(self, dataset: str | None = None) -> None:
        """Finish what a killed process had decided; what it had not decided never happened.

        What stands in the way of another data set than ``dataset`` is no error here.

        Raises:
            InUse: its orphans still work on ``dataset``, or somebody holds git's or DVC's lock.
        """
        end = time.monotonic() + _PATIENCE
        while journal := Journal.read(self.repository):
            own = journal.dataset == dataset
            try:
                with self.deciding() as deciding:
                    self._finish_left(deciding)
            except SatsegError as error:
                if not own and (dataset or not isinstance(error, InUse)):
                    return
                if not isinstance(error, InUse):
                    raise
                if time.monotonic() > end:
                    if own:
                        raise
                    return
            time.sleep(_PAUSE)

    def _finish_left(self, deciding: Sequence[int]) -> None:
        """Finish what is left, under ``decide`` and the locks that its transaction held."""
        journal = Journal.read(self.repository)
        if not journal:
            return
        with self.holding(journal.dataset, journal.scope) as held:
            repository = Repository(self.root, (*deciding, *held))
            with alone(self.root, patience=0.0):
                journal.finish(repository, again=True)

    @contextmanager
    def deciding(self) -> Iterator[tuple[int, ...]]:
        """Give the lock under which git's branch and the journal change."""
        with locked(self.repository.scratch / "decide", exclusive=True, wait=True) as held:
            yield held

    @contextmanager
    def holding(self, dataset: str, scope: Scope) -> Iterator[tuple[int, ...]]:
        """Give the locks of what a transaction changes, and of the raw data that it reads.

        Raises:
            InUse: another job has one of them.
        """
        raw, patches = (self.root / kind / dataset for kind in ("raw", "patches"))
        with ExitStack() as stack:
            raw.parent.mkdir(exist_ok=True)
            held = stack.enter_context(locked(raw, exclusive=scope is not Scope.PATCHES))
            if scope is not Scope.RAW:
                patches.parent.mkdir(exist_ok=True)
                held += stack.enter_context(locked(patches, exclusive=True))
            yield held

    @contextmanager
    def changing(self, dataset: str, scope: Scope) -> Iterator[tuple[int, ...]]:
        """Give the locks of a transaction, with nothing of an older one left.

        Raises:
            InUse: another job has one of them.
        """
        while True:
            self.recover(dataset)
            with self.holding(dataset, scope) as held:
                if not self.is_left(dataset):
                    yield held
                    return

    def decide(self, journal: Journal, held: Sequence[int], targets: Sequence[Path]) -> None:
        """Write the journal, which is the decision, and finish it.

        Waits, without limit and saying so, for whoever holds git's or DVC's lock, or writes one
        of ``targets``: the work that is to be decided may have taken hours.

        Raises:
            UnwritableProduct: it could not be finished; nothing is decided.
        """
        told = ""
        while True:
            with ExitStack() as stack:
                deciding = stack.enter_context(self.deciding())
                repository = Repository(self.root, (*held, *deciding))
                try:
                    self._finish_left(deciding)
                    stack.enter_context(alone(self.root, *targets, patience=0.0))
                except InUse as error:
                    if told != str(error):
                        told = str(error)
                        say(f"{told} This job waits for it.")
                else:
                    journal.check(self.repository)  # its git, orphaned, holds no lock
                    journal.write(repository)
                    journal.finish(repository)
                    return
            time.sleep(_PAUSE)
