"""The epochs of a run as a person follows them: read from its checkpoints by the driver."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from satseg_ray.progress import clock, say
from satseg_ray.train.checkpoint import Checkpoints
from satseg_ray.train.schedule import SCORE

_SECONDS = 2.0


@contextmanager
def followed(checkpoints: Checkpoints, epochs: int) -> Iterator[None]:
    """Print a line for each epoch that the workers finish while the block runs."""
    said = len(checkpoints.history())
    if said:
        say(f"going on after epoch {said} of {epochs}")
    done = threading.Event()
    thread = threading.Thread(target=_follow, args=(checkpoints, epochs, said, done), daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _follow(checkpoints: Checkpoints, epochs: int, said: int, done: threading.Event) -> None:
    while True:
        last = done.wait(_SECONDS)
        try:
            history = checkpoints.history()
        except OSError:  # removed meanwhile, for a newer one
            history = []
        for epoch in range(said + 1, len(history) + 1):
            say(progress_line(epoch, epochs, history[epoch - 1]))
        said = max(said, len(history))
        if last:
            return


def progress_line(epoch: int, epochs: int, figures: Mapping[str, float]) -> str:
    """Return the line about a finished epoch.

    >>> progress_line(3, 5, {"loss": 0.5, "patches_per_second": 8.0, "epoch_seconds": 30.0})
    'epoch 3/5  loss 0.5000  8.0 patches/s  1:00 left'
    """
    score = [f"val mIoU {figures[SCORE]:.3f}"] if SCORE in figures else []
    parts = [
        f"epoch {epoch}/{epochs}",
        f"loss {figures['loss']:.4f}",
        *score,
        f"{figures['patches_per_second']:.1f} patches/s",
        f"{clock((epochs - epoch) * figures['epoch_seconds'])} left",
    ]
    return "  ".join(parts)
