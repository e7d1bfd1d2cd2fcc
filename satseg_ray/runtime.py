"""Connecting to Ray: the cluster a job runs on, or one started in this process."""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import ray

from satseg_ray.errors import ConfigError
from satseg_ray.process import joins_cluster, passed_on

_LOOPBACK = "127.0.0.1"
_PORT = "RAY_GCS_SERVER_PORT"
"""Where Ray reads the port of a cluster that it starts."""


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
    handler = signal.getsignal(signal.SIGTERM)
    common: dict[str, Any] = {
        "namespace": f"satseg-{job}",
        "logging_level": logging.ERROR,
        "log_to_driver": False,
    }
    if joins_cluster():
        ray.init(os.environ["RAY_ADDRESS"], runtime_env={"env_vars": passed_on()}, **common)
    else:
        _start_here(dashboard, common)
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler)  # Ray puts its own there, which says nothing
    try:
        yield
    finally:
        ray.shutdown()


def _start_here(dashboard: bool, common: Mapping[str, Any]) -> None:
    """Start a cluster on loopback whose workers know its address.

    Ray Train's watch over placement groups, in a worker, asks for it; of two clusters on one
    machine it would find neither, and the CPUs of trainings that were killed stay taken.
    """
    with socket.socket() as free:
        free.bind((_LOOPBACK, 0))
        port = str(free.getsockname()[1])
    known = {"RAY_ADDRESS": f"{_LOOPBACK}:{port}"}
    os.environ[_PORT] = port
    try:
        ray.init(
            "local",
            runtime_env={"env_vars": passed_on() | known},
            include_dashboard=dashboard,
            _node_ip_address=_LOOPBACK,
            **common,
        )
    finally:
        del os.environ[_PORT]


def places(cpus: int, gpus: int = 0, readers: int = 0) -> int:
    """Return :func:`places_on` the connected cluster.

    Raises:
        ConfigError: not one, with what is asked for and what there is.
    """
    nodes = _nodes()
    found = places_on(nodes, cpus, gpus, readers)
    if not found:
        raise _too_much(1, cpus, gpus, readers, nodes)
    return found


def check_fits(workers: int, cpus: int, gpus: int, readers: int = 0) -> None:
    """Refuse workers that the connected cluster could never place: they would wait for ever.

    Raises:
        ConfigError: with what is asked for and what there is.
    """
    nodes = _nodes()
    if places_on(nodes, cpus, gpus, readers) < workers:
        raise _too_much(workers, cpus, gpus, readers, nodes)


def places_on(nodes: Sequence[Mapping[str, float]], cpus: int, gpus: int, readers: int = 0) -> int:
    """Return how many workers of so many CPUs and GPUs fit on nodes with these resources.

    Each leaves ``readers`` more CPUs free, on whatever nodes: for the tasks that read for it.

    >>> places_on([{"CPU": 3}, {"CPU": 3}], cpus=2, gpus=0)
    2
    >>> places_on([{"CPU": 3}, {"CPU": 3}], cpus=2, gpus=0, readers=2)
    1
    >>> places_on([{"CPU": 16, "GPU": 1}], cpus=1, gpus=1)
    1
    """
    whole = [int(node.get("CPU", 0)) for node in nodes]
    by_cpu = [found // cpus for found in whole]
    by_gpu = [int(node.get("GPU", 0) // gpus) for node in nodes] if gpus else by_cpu
    return min(sum(map(min, by_cpu, by_gpu)), sum(whole) // (cpus + readers))


def widest_share(
    nodes: Sequence[Mapping[str, float]], workers: int, gpus: int, readers: int = 0
) -> int:
    """Return the most CPUs that each of so many equal workers can have; 1 where they do not fit.

    >>> widest_share([{"CPU": 8}, {"CPU": 1}], workers=3, gpus=0)
    2
    >>> widest_share([{"CPU": 8}], workers=2, gpus=0, readers=1)
    3
    """
    most = int(max((node.get("CPU", 0) for node in nodes), default=1))
    shares = range(most, 0, -1)
    return next((cpus for cpus in shares if places_on(nodes, cpus, gpus, readers) >= workers), 1)


def cpus_for_each(workers: int, gpus: int, readers: int = 0) -> int:
    """Return :func:`widest_share` on the connected cluster."""
    return widest_share(_nodes(), workers, gpus, readers)


def cluster_cpus() -> int:
    """Return the whole CPUs of the cluster, at least one."""
    return max(1, int(ray.cluster_resources().get("CPU", 1)))


def _nodes() -> list[Mapping[str, float]]:
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def _too_much(
    workers: int, cpus: int, gpus: int, readers: int, nodes: Sequence[Mapping[str, float]]
) -> ConfigError:
    found = ", ".join(f"{n.get('CPU', 0):g} CPUs {n.get('GPU', 0):g} GPUs" for n in nodes)
    more = f", and a CPU for each of their {readers} readers" if readers else ""
    return ConfigError(
        "workers, actors, threads, readers, gpu",
        f"ask for {workers} of {cpus} CPUs and {gpus} GPUs each{more}, the nodes have {found}",
        "Ask for less, or add nodes.",
    )
