"""Environment, fixtures and options of all tests."""

from __future__ import annotations

import logging
import os
import random
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

# Before anything imports Ray, TensorFlow or MLflow; workers inherit it.
os.environ.update(
    TF_USE_LEGACY_KERAS="1",
    SM_FRAMEWORK="tf.keras",
    TF_CPP_MIN_LOG_LEVEL="3",
    MLFLOW_DISABLE_TELEMETRY="true",
    RAY_USAGE_STATS_ENABLED="0",
    RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER="0",  # Ray's ports on loopback
    RAY_AUTH_MODE="token",
    # The token of this session alone: nothing is written to the home directory.
    RAY_AUTH_TOKEN=secrets.token_hex(32),
)
# The user's own cluster, workspace and servers are none of the tests' business.
for _name in ("RAY_ADDRESS", "RAY_AUTH_TOKEN_PATH", "SATSEG_WORKSPACE", "MLFLOW_TRACKING_URI"):
    os.environ.pop(_name, None)

import pytest
from hypothesis import HealthCheck, settings

from tests.factories import write_raster

if TYPE_CHECKING:
    from satseg_ray.tracking.datastore import DataStore

ROOT = Path(__file__).resolve().parent.parent

settings.register_profile(
    "satseg",
    derandomize=True,
    deadline=None,
    max_examples=60,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("satseg")


def realdata_dir() -> Path:
    """Where real imagery is: ``SATSEG_REALDATA``, else ``shared/data`` beside the repository."""
    return Path(os.environ.get("SATSEG_REALDATA") or ROOT.parent / "shared" / "data")


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("satseg")
    group.addoption(
        "--slow-sample", type=int, metavar="N", help="of the slow tests, run N chosen at random"
    )
    group.addoption("--slow-seed", type=int, default=0, metavar="S", help="seed of that choice")


def pytest_report_header(config: pytest.Config) -> str | None:
    count, seed = config.getoption("--slow-sample"), config.getoption("--slow-seed")
    return None if count is None else f"slow tests: {count} chosen with the seed {seed}"


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not realdata_dir().is_dir():
        missing = pytest.mark.skip(
            reason=f"no real imagery at {realdata_dir()}; name its directory in SATSEG_REALDATA"
        )
        for item in items:
            if item.get_closest_marker("realdata"):
                item.add_marker(missing)
    count = config.getoption("--slow-sample")
    if count is not None:
        _keep_slow_sample(config, items, count, config.getoption("--slow-seed"))


def _keep_slow_sample(
    config: pytest.Config, items: list[pytest.Item], count: int, seed: int
) -> None:
    """Deselect all but ``count`` of the slow tests that can run; the others stay."""
    slow = [item for item in items if item.get_closest_marker("slow")]
    able = sorted(item.nodeid for item in slow if not item.get_closest_marker("skip"))
    chosen = set(random.Random(seed).sample(able, min(count, len(able))))
    dropped = [item for item in slow if item.nodeid not in chosen]
    config.hook.pytest_deselected(items=dropped)
    items[:] = [item for item in items if item not in dropped]


@pytest.fixture(scope="session")
def realdata() -> Path:
    """Directory of real imagery; ask for it in a test that is marked ``realdata``."""
    if not realdata_dir().is_dir():
        pytest.skip(f"no real imagery at {realdata_dir()}; name its directory in SATSEG_REALDATA")
    return realdata_dir()


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty workspace of this test, named by ``SATSEG_WORKSPACE``."""
    path = tmp_path / "workspace"
    path.mkdir()
    monkeypatch.setenv("SATSEG_WORKSPACE", str(path))
    return path


@pytest.fixture
def make_raster(tmp_path: Path) -> Callable[..., Path]:
    """``make_raster("a.tif", ...)`` writes a small raster; see :func:`write_raster`."""

    def make(name: str = "scene.tif", *args: object, **kwargs: object) -> Path:
        return write_raster(tmp_path / name, *args, **kwargs)  # type: ignore[arg-type]

    return make


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[str]:
    """The Ray cluster of this test session: two CPUs, loopback only; yields its address."""
    import ray

    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        namespace="satseg-tests",
        object_store_memory=512 * 1024**2,
        _node_ip_address="127.0.0.1",
        logging_level=logging.WARNING,
        log_to_driver=False,
    )
    yield ray.get_runtime_context().gcs_address
    ray.shutdown()


@pytest.fixture
def store(workspace: Path) -> DataStore:
    """The versioned data sets of a workspace, without any."""
    from tests.kills import open_store

    return open_store(workspace)
