"""The epochs of a run as a person follows them: read from MLflow, printed by the driver."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from satseg_ray.progress import clock, say
from satseg_ray.tracking import Run

_SECONDS = 2.0


@contextmanager
def followed(run: Run, epochs: int) -> Iterator[None]:
    """Print a line for each epoch that the workers record while the block runs."""
    done = threading.Event()
    thread = threading.Thread(target=_follow, args=(run, epochs, done), daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _follow(run: Run, epochs: int, done: threading.Event) -> None:
    said = 0
    while True:
        last = done.wait(_SECONDS)
        epoch, figures = run.latest("loss")
        if epoch > said:
            said = epoch
            say(progress_line(epoch, epochs, figures))
        if last:
            return


def progress_line(epoch: int, epochs: int, figures: Mapping[str, float]) -> str:
    """Return the line about a finished epoch.

    >>> progress_line(3, 5, {"loss": 0.5, "patches_per_second": 8.0, "epoch_seconds": 30.0})
    'epoch 3/5  loss 0.5000  8.0 patches/s  1:00 left'
    """
    score = [f"val mIoU {figures['val_mean_iou']:.3f}"] if "val_mean_iou" in figures else []
    parts = [
        f"epoch {epoch}/{epochs}",
        f"loss {figures['loss']:.4f}",
        *score,
        f"{figures['patches_per_second']:.1f} patches/s",
        f"{clock((epochs - epoch) * figures['epoch_seconds'])} left",
    ]
    return "  ".join(parts)
