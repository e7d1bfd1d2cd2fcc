"""How many workers fit on a cluster, in integers: no worker and no reader waits for ever."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from satseg_ray import runtime
from satseg_ray.config import TrainConfig
from satseg_ray.errors import ConfigError
from satseg_ray.runtime import places_on, widest_share
from satseg_ray.train import job

clusters = st.lists(st.integers(0, 9), min_size=1, max_size=4)


@given(clusters, st.integers(1, 4), st.integers(0, 3))
def test_the_widest_share_leaves_a_cpu_for_each_reader(cpus, workers, readers):
    nodes = [{"CPU": float(count)} for count in cpus]
    share = widest_share(nodes, workers, 0, readers)
    if places_on(nodes, share, 0, readers) < workers:  # not even with one CPU each
        assert sum(cpus) < workers * (1 + readers)
        return
    free, left = list(cpus), workers
    for node in range(len(free)):
        while left and free[node] >= share:
            free[node], left = free[node] - share, left - 1
    assert not left
    assert sum(free) >= workers * readers


def test_a_training_keeps_cpus_for_its_readers_or_is_refused(monkeypatch):
    monkeypatch.setattr(runtime, "_nodes", lambda: [{"CPU": 4.0}])
    config = TrainConfig(dataset="toy", workers=2, readers=1)
    assert job._resources(config).cpus == 1
    assert job._resources(config.model_copy(update={"workers": 1})).cpus == 3
    for wish in ({"threads": 2}, {"readers": 2}, {"workers": 1, "threads": 4}):
        with pytest.raises(ConfigError, match=r"readers, the nodes have 4 CPUs"):
            job._resources(config.model_copy(update=wish))
