"""Independent pieces of work on Ray Data: what fails becomes a row of the report."""

from __future__ import annotations

import json
import logging
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray.data
from ray.data import ActorPoolStrategy, TaskPoolStrategy

from satseg_ray import errors
from satseg_ray.errors import SatsegError, TilesFailed, UnwritableProduct
from satseg_ray.process import peak_mib
from satseg_ray.products import is_no_place, unwritable
from satseg_ray.progress import say

_MAX_ATTEMPTS = 3
_FEW = 16
"""Rows for each worker up to which starting actors is not worth while."""

Work = Mapping[str, Any]


@dataclass(frozen=True)
class Pool:
    """How many workers share the rows and what each one takes."""

    workers: int
    cpus: int = 1
    gpus: int = 0


@dataclass(frozen=True)
class Reporter:
    """Runs one piece of work and turns its outcome into a row.

    ``notes`` is a folder all workers share. Work that kills its process is tried three times and
    then reported as failed: it cannot stop the others.
    """

    notes: str

    def run(self, work: Callable[[Work], Work], row: Work) -> dict[str, str]:
        """Return ``{"outcome": JSON}`` with the result of ``work(row)`` or its error."""
        note = Path(self.notes) / f"{row['key']}.attempts"
        began = time.time()
        try:
            attempt = _count_attempt(note)
            if attempt > _MAX_ATTEMPTS:
                raise TilesFailed(
                    row["key"], f"killed its worker {attempt - 1} times", "Look at its input."
                )
            outcome: Work = {"key": row["key"], "status": "ok", **work(row)}
        except SatsegError as error:
            outcome = _failed(row, error, of_input=not isinstance(error, UnwritableProduct))
        except Exception as error:  # the one border where a bad piece becomes a row
            outcome = _failed(row, _unforeseen(row, error), of_input=False)
        note.unlink(missing_ok=True)
        spent = {"span": (began, time.time()), "peak_mib": peak_mib()}
        return {"outcome": json.dumps(spent | dict(outcome))}


def _failed(row: Work, error: SatsegError, of_input: bool) -> Work:
    """Return the outcome of a piece that failed: by its input, or by the place or the code."""
    return {"key": row["key"], "status": "failed", "of_input": of_input, **error.to_dict()}


def _unforeseen(row: Work, error: Exception) -> SatsegError:
    """Return what an error that no code of ours raised means for a piece."""
    if isinstance(error, OSError) and is_no_place(error):
        return unwritable(error.filename or row["key"], error)
    say(traceback.format_exc())
    return TilesFailed(row["key"], f"failed with {type(error).__name__}: {error}", "See the log.")


def _count_attempt(note: Path) -> int:
    note.parent.mkdir(exist_ok=True)
    with note.open("ab") as file:
        file.write(b".")
    return note.stat().st_size


class Caller:
    """A Ray Data actor that calls one function, which has no state, on row after row."""

    def __init__(self, function: Callable[[Work], dict[str, str]]) -> None:
        self._function = function
        prepare = getattr(getattr(function, "__self__", None), "prepare", None)
        if prepare:  # what takes seconds once, before the first row's time counts
            prepare()

    def __call__(self, row: Work) -> dict[str, str]:
        """Return the outcome of one row."""
        return self._function(row)


def run_tasks(
    rows: Sequence[Work], function: Callable[[Work], dict[str, str]], pool: Pool
) -> Iterator[Work]:
    """Yield the outcome of ``function`` for each row, in any order.

    A few rows go to whatever workers there are. Many go to actors: Ray gives short tasks of one
    kind to one worker after another, so that the others stay idle.
    """
    if len(rows) > _FEW * pool.workers:
        yield from run_actors(rows, _named(function), {"function": function}, pool)
        return
    mapped = _rows(rows).map(
        function,
        compute=TaskPoolStrategy(size=min(pool.workers, len(rows))),
        num_cpus=pool.cpus,
    )
    yield from _outcomes(mapped)


def _named(function: Callable[[Work], dict[str, str]]) -> type[Caller]:
    """Return the actor's class under the function's name, which the dashboard shows."""
    return type(function.__qualname__, (Caller,), {"__doc__": function.__doc__})


def run_actors(
    rows: Sequence[Work], actor: type, arguments: Mapping[str, Any], pool: Pool
) -> Iterator[Work]:
    """Yield the outcome of ``actor(**arguments)(row)`` for each row, in any order.

    Each of the pool's actors is made once and takes one row at a time.
    """
    mapped = _rows(rows).map(
        actor,
        fn_constructor_kwargs=dict(arguments),
        compute=ActorPoolStrategy(
            size=min(pool.workers, len(rows)), max_tasks_in_flight_per_actor=2
        ),
        num_cpus=pool.cpus,
        num_gpus=pool.gpus,
    )
    yield from _outcomes(mapped)


def _rows(rows: Sequence[Work]) -> ray.data.Dataset:
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = sys.stderr.isatty()
    logging.getLogger("ray.data").setLevel(
        logging.WARNING if sys.stderr.isatty() else logging.ERROR
    )
    context.print_on_execution_start = False
    return ray.data.from_items([dict(row) for row in rows], override_num_blocks=len(rows))


def _outcomes(dataset: ray.data.Dataset) -> Iterator[Work]:
    for row in dataset.iter_rows():
        outcome: Work = json.loads(row["outcome"])
        yield outcome


def gathered(
    outcomes: Iterator[Work], seen: Callable[[Work], object] = lambda outcome: None
) -> list[Work]:
    """Return all outcomes, failed ones too, by key; ``seen`` sees each one as it comes."""
    taken: list[Work] = []
    for outcome in outcomes:
        taken.append(outcome)
        seen(outcome)
    return sorted(taken, key=lambda outcome: str(outcome["key"]))


def collected(
    outcomes: Iterator[Work], what: str, seen: Callable[[Work], object] = lambda outcome: None
) -> list[Work]:
    """Return all outcomes in the order of their keys; ``seen`` sees each one as it comes.

    Raises:
        SatsegError: the first failure by key, of the class that it met, counting the others.
    """
    taken = gathered(outcomes, seen)
    failed = [outcome for outcome in taken if outcome["status"] != "ok"]
    if failed:
        raise first_of([error_of(outcome) for outcome in failed], len(taken), what)
    return taken


def error_of(body: Work) -> SatsegError:
    """Return the error that a failed outcome carries, of the class that it met."""
    kind = getattr(errors, body["error"], TilesFailed)
    error: SatsegError = kind(body["subject"], body["problem"], body["remedy"])
    return error


def first_of(failures: Sequence[SatsegError], total: int, what: str) -> SatsegError:
    """Return the first failure, with the count of all where there was more than one piece."""
    first = failures[0]
    if total == 1:
        return first
    problem = f"{first.problem} ({len(failures)} of {total} {what} failed)"
    return type(first)(first.subject, problem, first.remedy)


def busy_seconds(outcomes: Sequence[Work]) -> float:
    """Return the seconds from the start of the first piece to the end of the last one.

    By the workers' clocks: what it takes until the first one starts is left out.
    """
    spans = [outcome["span"] for outcome in outcomes]
    return float(max(end for _, end in spans) - min(start for start, _ in spans))
