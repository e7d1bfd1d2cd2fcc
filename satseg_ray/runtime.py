"""Connecting to Ray: the cluster a job runs on, or one started in this process."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray

from satseg_ray.errors import ConfigError
from satseg_ray.process import joins_cluster, passed_on


@contextmanager
def ray_session(job: str, dashboard: bool = False) -> Iterator[None]:
    """Connect to the cluster of ``RAY_ADDRESS`` or of the submitted job, else start one here.

    A cluster started here ends with the block; one that was there before is left as it is.
    ``dashboard`` starts one with it, on loopback: Ray Train watches its workers through it.
    Workers' own logs stay in Ray's log files and its dashboard: the driver speaks for them.
    """
    if ray.is_initialized():
        yield
        return
    here: dict[str, Any] = {} if joins_cluster() else {"_node_ip_address": "127.0.0.1"}
    handler = signal.getsignal(signal.SIGTERM)
    ray.init(
        address=os.environ.get("RAY_ADDRESS", "local"),
        namespace=f"satseg-{job}",
        runtime_env={"env_vars": passed_on()},
        include_dashboard=None if joins_cluster() else dashboard,
        logging_level=logging.ERROR,
        log_to_driver=False,
        **here,
    )
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler)  # Ray puts its own there, which says nothing
    try:
        yield
    finally:
        ray.shutdown()


def check_fits(workers: int, cpus: int, gpus: int) -> None:
    """Refuse workers that the connected cluster could never place: they would wait for ever.

    Raises:
        ConfigError: with what is asked for and what there is.
    """
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    places = sum(
        int(min(node.get("CPU", 0) // max(cpus, 1), node.get("GPU", 0) // gpus if gpus else 1e9))
        for node in nodes
    )
    if places < workers:
        found = ", ".join(f"{n.get('CPU', 0):g} CPUs {n.get('GPU', 0):g} GPUs" for n in nodes)
        raise ConfigError(
            "actors, threads, gpu",
            f"ask for {workers} workers of {cpus} CPUs and {gpus} GPUs, the cluster has {found}",
            "Ask for less, or add nodes.",
        )


def cluster_cpus() -> int:
    """Return the whole CPUs of the cluster, at least one."""
    return max(1, int(ray.cluster_resources().get("CPU", 1)))
