"""Training's own speed: patches per second over ``model.fit`` on the same arrays in memory.

The loop reads patches by id from Parquet, converts, augments (the eight symmetries, gain and
bias), computes the global loss and counts; ``fit`` gets float32 arrays in memory, with Keras'
cross-entropy. Both train the same network with the same optimiser. They take turns epoch by
epoch, so that what else the machine does meets both; then the same epochs run in a Ray Train
worker, between turns of ``fit`` before and after. The first epoch of each, with the tracing, does
not count, nor do validation and checkpoints between epochs.

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
from collections.abc import Mapping
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
from satseg_ray.train.samples import BandStatistics
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


class LoopRunner:
    """Epochs of this package's own loop."""

    def __init__(self, spec: ModelSpec, training: TrainingSpec, reader: SplitReader) -> None:
        from satseg_ray.train.steps import Learner

        bands = BandStatistics.of(spec)
        self._source = BatchSource(reader, bands)
        self._augmenter = Augmenter(training.augment, bands)
        self._plan = EpochPlan(len(reader), training.batch_size)
        self._learner = Learner(spec, training)

    def epoch(self, number: int) -> None:
        """Train for one epoch."""
        batches = self._plan.batches(number, Worker())
        for samples in self._source.training(batches, self._augmenter, number):
            loss = self._learner.train_step(samples, 1e-3)
        float(loss)


class FitRunner:
    """Epochs of ``model.fit`` on a float32 copy of the same arrays."""

    def __init__(self, spec: ModelSpec, training: TrainingSpec, reader: SplitReader) -> None:
        import tensorflow as tf

        from satseg_ray.model.network import build_network

        patches = reader.read(range(len(reader)))
        self._arrays = patches.image.astype(np.float32), patches.mask.astype(np.int32)
        self._batch_size = training.batch_size
        self._network = build_network(spec, 0)
        loss = tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        self._network.compile(tf.keras.optimizers.Adam(1e-3), loss)

    def epoch(self, number: int) -> None:
        """Train for one epoch."""
        image, mask = self._arrays
        self._network.fit(image, mask, self._batch_size, epochs=1, verbose=0)


def timed(runner: LoopRunner | FitRunner, number: int) -> float:
    """Return the seconds of one epoch."""
    start = time.perf_counter()
    runner.epoch(number)
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
    """Run all three and print one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--architecture", default="unet")
    parser.add_argument("--backbone", default="efficientnetb0")
    parser.add_argument("--patch", type=int, default=256)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=12, help="steps of an epoch")
    parser.add_argument("--turns", type=int, default=4, help="epochs of each that count")
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
        runners = (LoopRunner(spec, training, reader), FitRunner(spec, training, reader))
        turns = range(arguments.turns + 1)
        seconds = [[timed(runner, turn) for runner in runners] for turn in turns]
        before = [timed(runners[1], turn) for turn in range(2)]
        worker = on_ray(Path(scratch), spec, training, arguments.threads)
        around = statistics.mean(before + [timed(runners[1], turn) for turn in range(2)])
    loop, fit = (statistics.mean(turn[i] for turn in seconds[1:]) for i in (0, 1))
    figures = {
        "benchmark": "train",
        **vars(arguments),
        "loop_patches_per_second": round(len(reader) / loop, 3),
        "fit_patches_per_second": round(len(reader) / fit, 3),
        "loop_over_fit": round(fit / loop, 3),
        "ray_worker_over_fit": round(worker * around / len(reader), 3),
        "turns_loop_over_fit": [round(turn[1] / turn[0], 3) for turn in seconds[1:]],
    }
    print(json.dumps(figures), flush=True)


if __name__ == "__main__":
    main()
