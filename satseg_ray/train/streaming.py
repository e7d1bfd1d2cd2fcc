"""Planned batches through Ray Data: read and augmented on CPUs of the whole cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import ray
import ray.data
from ray.data import DataContext, ExecutionOptions, TaskPoolStrategy

from satseg_ray.train.plan import Batch
from satseg_ray.train.samples import Samples


@dataclass(frozen=True)
class RayAhead:
    """Makes the planned batches of one worker by up to ``readers`` tasks at a time.

    A plan's rows are the items of a data set, one block each, mapped in their order; Ray Data
    holds as many results as its object store has room for. Law: the same bytes in the same order
    as :func:`~satseg_ray.train.batches.ahead` gives.
    """

    readers: int

    def __call__(
        self, make: Callable[[Batch], Samples], items: Iterable[Batch]
    ) -> Iterator[Samples]:
        """Yield ``make(item)`` of each item in order."""
        plan = [{"ids": list(batch.ids), "positions": list(batch.positions)} for batch in items]
        context = DataContext.get_current().copy()
        context.enable_progress_bars = False
        context.execution_options = ExecutionOptions(preserve_order=True)
        with DataContext.current(context):
            made = ray.data.from_items(plan, override_num_blocks=len(plan)).map(
                _Made(make), num_cpus=1, compute=TaskPoolStrategy(size=self.readers)
            )
            for row in made.iter_rows():
                yield Samples(row["image"], row["mask"])


@dataclass(frozen=True)
class _Made:
    make: Callable[[Batch], Samples]

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        batch = Batch(tuple(map(int, row["ids"])), tuple(map(int, row["positions"])))
        return self.make(batch)._asdict()
