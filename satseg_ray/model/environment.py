"""How a process comes to TensorFlow: with the Keras that the networks are written for."""

from __future__ import annotations

import os
from typing import Any

from satseg_ray.errors import ConfigError
from satseg_ray.process import LEGACY_KERAS


def require_legacy_keras() -> None:
    """Make ``tf.keras`` of this process Keras 2; call it before the first use of TensorFlow.

    Raises:
        ConfigError: TensorFlow was imported, by other code, to run Keras 3.
    """
    if not _tensorflow()._tf_uses_legacy_keras:
        raise ConfigError(
            "TF_USE_LEGACY_KERAS",
            "TensorFlow was imported without it and runs Keras 3",
            "Set TF_USE_LEGACY_KERAS=1 in the environment of the process.",
        )


def use_threads(threads: int) -> None:
    """Fix the intra-op threads of TensorFlow in this process, with one operation at a time.

    Raises:
        ConfigError: not a positive number, or TensorFlow already computes with another one.
    """
    if threads < 1:
        raise ConfigError("threads", f"{threads} is no number of threads", "Use at least 1.")
    tf = _tensorflow()
    try:
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(1)
    except RuntimeError as error:  # it computes already; by its own choice with all processors
        running = tf.config.threading.get_intra_op_parallelism_threads() or processors()
        if running != threads:
            raise ConfigError(
                "threads",
                f"{threads} is asked for, but TensorFlow already runs with {running}",
                "Use one number of threads in a process, set before its first model.",
            ) from error


def processors() -> int:
    """Return the number of processors that this process may use."""
    return len(os.sched_getaffinity(0))


def _tensorflow() -> Any:
    """Import TensorFlow with the legacy flag set: it reads the flag once, while imported."""
    os.environ.update(LEGACY_KERAS)
    import tensorflow

    return tensorflow
