"""Training's own speed: patches a second of the whole pipeline over those of the steps alone.

Both sides are one :class:`Learner` and its ``train_step``, on batches of one shape. The pipeline
reads patches by id from Parquet, converts and augments them, epoch after epoch; the bare side gets
those of the first epoch as TensorFlow tensors that were made before the clock starts. They take
turns, so that what else the machine does meets both, and the medians are compared: at least 0.90 is
asked for. An epoch of each before that, with the tracing, does not count. In the end the same
epochs run in a Ray Train worker, whose speed is told beside that of bare turns before and after it.
Validation and checkpoints between epochs do not count.

``--memory EPOCHS`` instead trains so many whole epochs, with validation and checkpoints, and tells
the resident memory after each: what is held must not grow with the epochs.
"""

from __future__ import annotations

import argparse
import gc
import json
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np

from satseg_ray.classes import ClassDef, ClassTable
from satseg_ray.geo.grid import Window
from satseg_ray.model.environment import use_threads
from satseg_ray.model.spec import ModelSpec
from satseg_ray.model.training_spec import TrainingSpec
from satseg_ray.patches.schema import Patch
from satseg_ray.patches.split import PatchKey
from satseg_ray.patches.store import PatchManifest, SplitReader, write_part
from satseg_ray.process import prepare_process
from satseg_ray.train.augment import Augmenter
from satseg_ray.train.batches import BatchSource, ahead
from satseg_ray.train.checkpoint import Checkpoints
from satseg_ray.train.plan import EpochPlan, Worker
from satseg_ray.train.samples import BandStatistics, Samples
from satseg_ray.train.task import TrainTask

CLASSES = ClassTable(tuple(ClassDef(value, f"class {value}") for value in range(5)))


def write_patches(folder: Path, spec: ModelSpec, patches: int) -> SplitReader:
    """Write patches of noise and return their reader; speed does not depend on what is in them."""
    rng = np.random.default_rng(0)
    side = spec.patch_size
    manifest = PatchManifest(
        dataset="noise",
        version="noise",
        classes=spec.classes,
        bands=spec.bands,
        band_indexes=spec.band_indexes,
        dtype=spec.dtype,
        patch_size=side,
        stride=side,
        mean=spec.mean,
        std=spec.std,
        counts={},
        dropped={},
        lineage={},
    )
    manifest.write(folder)
    valid = np.ones((side, side), np.bool_)
    made = [
        Patch(
            PatchKey("train", "noise", Window(number * side, 0, side, side)),
            rng.integers(0, 256, (side, side, 3), dtype=np.uint8),
            rng.integers(0, len(CLASSES), (side, side), dtype=np.uint8),
            valid,
        )
        for number in range(patches)
    ]
    for split in ("train", "val"):
        path = folder / split / "noise.parquet"
        write_part(path, made if split == "train" else made[:2], manifest.schema)
    path = folder / "train" / "noise.parquet"
    return SplitReader([path])


class Turns:
    """Epochs of one learner, by the whole pipeline or on batches that are there already."""

    def __init__(self, spec: ModelSpec, training: TrainingSpec, reader: SplitReader) -> None:
        import tensorflow as tf

        from satseg_ray.train.steps import Learner

        bands = BandStatistics.of(spec)
        self._source = BatchSource(reader, bands, spec.patch_size)
        self._augmenter = Augmenter(training.augment, bands, training.seed)
        self._plan = EpochPlan(len(reader), training.batch_size, training.seed)
        self._learner = Learner(spec, training)
        self._ready = [
            Samples(tf.constant(samples.image), tf.constant(samples.mask))
            for samples in self._batches(0)
        ]

    def pipeline(self, epoch: int) -> float:
        """Return the seconds of an epoch that reads, augments and trains."""
        return self._timed(lambda: self._batches(epoch))

    def bare(self) -> float:
        """Return the seconds of an epoch's steps on batches in memory."""
        return self._timed(lambda: self._ready)

    def _batches(self, epoch: int) -> Iterable[Samples]:
        batches = self._plan.batches(epoch, Worker())
        return self._source.training(batches, self._augmenter, epoch)

    def _timed(self, batches: Callable[[], Iterable[Samples]]) -> float:
        start = time.perf_counter()
        losses = [self._learner.train_step(samples, 1e-3) for samples in batches()]
        float(losses[-1])  # a processor that works ahead comes to its end
        return time.perf_counter() - start


def on_ray(patches: Path, spec: ModelSpec, training: TrainingSpec, threads: int) -> float:
    """Return the patches a second of the later epochs' steps in one Ray Train worker."""
    from satseg_ray.runtime import ray_session  # Ray, once its environment is set
    from satseg_ray.train.trainer import RunPlace, TrainResources, train

    task = TrainTask(str(patches), str(patches / "model"), spec, training)
    with ray_session("bench", dashboard=True):
        place = RunPlace("bench", str(patches / "checkpoints"))
        result = train(task, TrainResources(cpus=threads), place)
    return statistics.mean(epoch["patches_per_second"] for epoch in result.history[1:])


class _Memory:
    """A session of one worker that notes the resident memory after each epoch, in MiB."""

    def __init__(self, directory: Path) -> None:
        self.worker, self.ahead = Worker(), ahead
        self.checkpoints = Checkpoints(str(directory))
        self.resident: list[float] = []

    def report(self, epoch: int, metrics: Mapping[str, float]) -> None:
        """Note the memory of this process."""
        gc.collect()
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
        self.resident.append(round(pages * resource.getpagesize() / 2**20, 1))


def memory(scratch: Path, spec: ModelSpec, training: TrainingSpec) -> dict[str, object]:
    """Return the memory after each epoch, and its growth from the third epoch on per epoch."""
    from satseg_ray.train.loop import fit

    session = _Memory(scratch / "checkpoints")
    fit(TrainTask(str(scratch), str(scratch / "model"), spec, training), session)
    settled = session.resident[2:]
    slope = np.polyfit(range(len(settled)), settled, 1)[0] if len(settled) > 1 else 0.0
    return {"resident_mib": session.resident, "growth_mib_per_epoch": round(float(slope), 2)}


def main() -> None:
    """Run both sides, then the Ray Train worker, and print one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--architecture", default="unet")
    parser.add_argument("--backbone", default="efficientnetb0")
    parser.add_argument("--patch", type=int, default=256)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=6, help="steps of an epoch")
    parser.add_argument("--turns", type=int, default=5, help="pairs of epochs that count")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--memory", type=int, default=0, help="instead: whole epochs, and memory")
    arguments = parser.parse_args()
    prepare_process()
    use_threads(arguments.threads)
    spec = ModelSpec(
        architecture=arguments.architecture,
        backbone=arguments.backbone,
        bands=("red", "green", "blue"),
        band_indexes=(1, 2, 3),
        dtype="uint8",
        classes=CLASSES,
        patch_size=arguments.patch,
        stride=arguments.patch,
        mean=(127.5,) * 3,
        std=(74.0,) * 3,
    )
    epochs = arguments.memory or arguments.turns + 1
    training = TrainingSpec(batch_size=arguments.batch, epochs=epochs)
    with tempfile.TemporaryDirectory(prefix="satseg-bench-") as scratch:
        reader = write_patches(Path(scratch), spec, arguments.batch * arguments.steps)
        if arguments.memory:
            figures = memory(Path(scratch), spec, training)
            print(json.dumps({"benchmark": "train", **vars(arguments), **figures}), flush=True)
            return
        turns = Turns(spec, training, reader)
        turns.pipeline(0)
        turns.bare()
        seconds = [(turns.pipeline(n), turns.bare()) for n in range(1, arguments.turns + 1)]
        before = turns.bare()
        worker = on_ray(Path(scratch), spec, training, arguments.threads)
        around = statistics.mean((before, turns.bare()))
    pipeline, bare = (statistics.median(side) for side in zip(*seconds, strict=True))
    figures = {
        "benchmark": "train",
        **vars(arguments),
        "pipeline_patches_per_second": round(len(reader) / pipeline, 3),
        "bare_patches_per_second": round(len(reader) / bare, 3),
        "pipeline_over_bare": round(bare / pipeline, 3),
        "asked_for": 0.90,
        "turns_pipeline_over_bare": [round(turn[1] / turn[0], 3) for turn in seconds],
        "turns_seconds": [[round(side, 3) for side in turn] for turn in seconds],
        "ray_worker_over_bare": round(worker * around / len(reader), 3),
    }
    print(json.dumps(figures), flush=True)


if __name__ == "__main__":
    main()
