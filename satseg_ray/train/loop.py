"""The training loop of one worker, without Ray: epochs, validation, checkpoints, the model.

Importing this module imports TensorFlow; only train workers do.
"""

from __future__ import annotations

import math
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from satseg_ray.errors import TrainingFailed
from satseg_ray.model.losses import class_weights
from satseg_ray.model.metrics import Confusion
from satseg_ray.model.network import build_network
from satseg_ray.model.store import save_model
from satseg_ray.patches.store import PatchStore
from satseg_ray.train.batches import Augmenter, BandStatistics, BatchSource
from satseg_ray.train.calibrate import calibrated
from satseg_ray.train.checkpoint import TrainState
from satseg_ray.train.plan import EpochPlan, RatePlan, Worker, validation_batches
from satseg_ray.train.steps import Learner
from satseg_ray.train.task import Session, TrainTask

SCORE = "val_mean_iou"


@dataclass(frozen=True)
class _Course:
    """All that stays the same from epoch to epoch."""

    task: TrainTask
    worker: Worker
    plan: EpochPlan
    rates: RatePlan
    training: BatchSource
    validation: BatchSource
    augmenter: Augmenter

    @classmethod
    def of(cls, task: TrainTask, store: PatchStore, worker: Worker) -> _Course:
        spec, reader = task.training, store.split("train")
        bands = BandStatistics.of(task.spec)
        plan = EpochPlan(len(reader), spec.batch_size, spec.seed)
        return cls(
            task,
            worker,
            plan,
            RatePlan(
                spec.learning_rate,
                spec.epochs * plan.steps,
                spec.warmup,
                spec.schedule == "cosine",
            ),
            BatchSource(reader, bands),
            BatchSource(store.split("val"), bands),
            Augmenter(spec.augment, bands, spec.seed),
        )


def fit(task: TrainTask, session: Session) -> TrainState:
    """Train on this worker together with the others; rank 0 writes the best model at the end.

    Starts from the session's checkpoint if it has one. Returns the final state.

    Raises:
        EmptySplit: the data set has no training patch.
        ConfigError: fewer patches in a batch than workers.
        TrainingFailed: the loss is no number.
    """
    store = PatchStore.open(Path(task.patches))
    course = _Course.of(task, store, session.worker)
    balance = _class_weights(task, store)
    learner = Learner(task.spec, task.training, session.worker.size, balance)
    state = _resume(learner, session)
    for epoch in range(state.epoch, task.training.epochs):
        start = time.monotonic()
        figures = _train_epoch(course, learner, epoch)
        weights = learner.agree()
        figures |= _validate(course, learner)
        figures["epoch_seconds"] = time.monotonic() - start
        state.advance(weights, learner.optimizer_state(), figures, SCORE)
        _report(state, session)
    if session.worker.rank == 0:
        _export(task, state)
    return state


def _class_weights(task: TrainTask, store: PatchStore) -> tuple[float, ...] | None:
    if task.training.loss.class_weights == "none":
        return None
    pixels = store.manifest.counts["train"]["pixels"]
    return class_weights(tuple(pixels[name] for name in task.spec.classes.names))


def _resume(learner: Learner, session: Session) -> TrainState:
    with tempfile.TemporaryDirectory(prefix="satseg-resume-") as scratch:
        checkpoint = session.resume(Path(scratch))
        if checkpoint is None:
            return TrainState()
        state = TrainState.read(checkpoint)
    learner.restore(state.weights, state.optimizer)
    return state


def _train_epoch(course: _Course, learner: Learner, epoch: int) -> dict[str, float]:
    """Train for one epoch and return its figures.

    Raises:
        TrainingFailed: a loss is no number.
    """
    start = time.monotonic()
    batches = course.plan.batches(epoch, course.worker)
    samples = course.training.training(batches, course.augmenter, epoch)
    first = epoch * course.plan.steps
    losses = [
        learner.train_step(sample, course.rates.rate(first + step))
        for step, sample in enumerate(samples)
    ]
    values = np.array([float(loss) for loss in losses])  # one wait an epoch, not one a step
    seconds = time.monotonic() - start
    if not np.isfinite(values).all():
        step = int(np.argmin(np.isfinite(values)))
        raise TrainingFailed(
            "training",
            f"the loss of epoch {epoch + 1}, step {step + 1} is {values[step]}",
            "Lower learning_rate, or look for infinite values in the data.",
        )
    return {
        "loss": float(values.mean()),
        "learning_rate": course.rates.rate(first + course.plan.steps - 1),
        "patches_per_second": course.plan.steps * course.plan.batch_size / seconds,
    }


def _validate(course: _Course, learner: Learner) -> dict[str, float]:
    """Return loss, mean IoU and IoU per class over the whole validation split; {} without one.

    The workers must agree on the weights: see :meth:`Learner.agree`.
    """
    patches, batch_size = len(course.validation.reader), course.task.training.batch_size
    if not patches:
        return {}
    own = max(1, batch_size // course.worker.size)
    names = course.task.spec.classes.names
    confusion = Confusion.zero(len(names))
    sums = np.zeros(2 + 3 * len(names), np.float64)
    plan = validation_batches(patches, own, course.worker)
    for samples in course.validation.evaluation(plan, own):
        predicted, batch_sums = learner.evaluate(samples)
        confusion += Confusion.from_indexes(samples.mask, predicted, len(names))
        sums += batch_sums
    confusion = Confusion(learner.total(confusion.counts))
    figures = {
        "val_loss": learner.loss(learner.total(sums).astype(np.float32)),
        SCORE: confusion.mean_iou,
        **{f"val_iou_{name}": float(iou) for name, iou in zip(names, confusion.iou, strict=True)},
    }
    return {name: value for name, value in figures.items() if math.isfinite(value)}


def _report(state: TrainState, session: Session) -> None:
    """Report the newest epoch; rank 0 adds the checkpoint."""
    figures = {**state.history[-1], "best_epoch": state.best_epoch}
    with tempfile.TemporaryDirectory(prefix="satseg-checkpoint-") as scratch:
        first = session.worker.rank == 0
        if first:
            state.write(Path(scratch))
        session.report(state.epoch, figures, Path(scratch) if first else None)


def _export(task: TrainTask, state: TrainState) -> None:
    """Write the best weights as a model, from a network without a strategy."""
    network = build_network(task.spec, task.training.seed)
    network.set_weights(state.best_weights)
    spec = calibrated(task.spec, network, PatchStore.open(task.patches).split("val"))
    save_model(network, spec, Path(task.model))
