"""The training plan: the same patches in each step, whatever the number of workers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from satseg_ray.errors import ConfigError, EmptySplit
from satseg_ray.train.plan import EpochPlan, Worker, validation_batches
from satseg_ray.train.schedule import RatePlan

counts = st.integers(1, 60)
sizes = st.integers(1, 9)
seeds = st.integers(0, 2**32)


def _joined(plan: EpochPlan, epoch: int, workers: int) -> list[list[tuple[int, int]]]:
    """Return (position, id) of each step, the workers' shares put together by rank."""
    shares = [plan.batches(epoch, Worker(rank, workers)) for rank in range(workers)]
    return [
        [pair for batch in step for pair in zip(batch.positions, batch.ids, strict=True)]
        for step in zip(*shares, strict=True)
    ]


@given(counts, sizes, seeds, st.data())
def test_steps_do_not_depend_on_the_number_of_workers(patches, batch_size, seed, data):
    workers = data.draw(st.integers(1, batch_size))
    plan = EpochPlan(patches, batch_size, seed)
    assert _joined(plan, 3, workers) == _joined(plan, 3, 1)


@given(counts, sizes, seeds, st.data())
def test_no_worker_has_an_empty_or_missing_step(patches, batch_size, seed, data):
    workers = data.draw(st.integers(1, batch_size))
    plan = EpochPlan(patches, batch_size, seed)
    for rank in range(workers):
        batches = plan.batches(0, Worker(rank, workers))
        assert len(batches) == plan.steps
        assert all(batch.ids for batch in batches)


@given(counts, sizes, seeds)
def test_epoch_holds_each_patch_and_repeats_as_few_as_fill_the_last_batch(
    patches, batch_size, seed
):
    order = EpochPlan(patches, batch_size, seed).order(1)
    assert order.shape == (-(-patches // batch_size), batch_size)
    assert set(order.ravel().tolist()) == set(range(patches))
    assert order.size - patches < batch_size


def test_order_follows_seed_and_epoch():
    plan = EpochPlan(50, 8, seed=1)
    assert (plan.order(2) == EpochPlan(50, 8, seed=1).order(2)).all()
    assert (plan.order(2) != plan.order(3)).any()
    assert (plan.order(2) != EpochPlan(50, 8, seed=2).order(2)).any()


def test_positions_are_unique_in_an_epoch():
    positions = [p for step in _joined(EpochPlan(10, 4), 0, 3) for p, _ in step]
    assert positions == list(range(12))


def test_more_workers_than_patches_in_a_batch_are_refused():
    with pytest.raises(ConfigError, match="2 patches cannot be shared by 3 workers"):
        EpochPlan(10, 2).batches(0, Worker(0, 3))


def test_no_training_patch_is_an_error():
    with pytest.raises(EmptySplit):
        EpochPlan(0, 2)


@given(st.integers(0, 60), sizes, st.integers(1, 5))
def test_validation_shares_partition_the_split(patches, batch_size, workers):
    plans = [validation_batches(patches, batch_size, Worker(r, workers)) for r in range(workers)]
    ids = [i for plan in plans for batch in plan for i in batch.ids]
    assert ids == list(range(patches))
    assert all(1 <= len(batch.ids) <= batch_size for plan in plans for batch in plan)


@given(st.integers(1, 100), st.floats(0, 0.99), st.booleans())
def test_rate_stays_above_zero_and_reaches_its_highest(steps, warmup, cosine):
    plan = RatePlan(0.5, steps, warmup, cosine)
    rates = [plan.rate(step) for step in range(steps)]
    assert all(0 < rate <= 0.5 for rate in rates)
    assert max(rates) == 0.5
