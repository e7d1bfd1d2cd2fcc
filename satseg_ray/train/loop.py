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
from satseg_ray.model.class_weights import chosen_weights
from satseg_ray.model.metrics import Confusion
from satseg_ray.model.network import build_network
from satseg_ray.model.pretrained import set_first_weights
from satseg_ray.model.store import save_model
from satseg_ray.patches.store import PatchStore
from satseg_ray.train.augment import Augmenter
from satseg_ray.train.batches import BatchSource
from satseg_ray.train.calibrate import calibrated
from satseg_ray.train.checkpoint import TrainState
from satseg_ray.train.diagnose import diagnose
from satseg_ray.train.plan import EpochPlan, RatePlan, Worker, validation_batches
from satseg_ray.train.samples import BandStatistics
from satseg_ray.train.sampling import ChosenPatches
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
    class_weights: tuple[float, ...] | None

    @classmethod
    def of(cls, task: TrainTask, store: PatchStore, worker: Worker) -> _Course:
        spec = task.training
        patches = ChosenPatches.of(store.split("train"), spec, len(task.spec.classes))
        bands, chances = BandStatistics.of(task.spec), patches.chances(spec)
        plan = EpochPlan(len(patches), spec.batch_size, spec.seed, chances, spec.epoch_steps)
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
            BatchSource(patches, bands, task.spec.patch_size),
            BatchSource(store.split("val"), bands, task.spec.patch_size),
            Augmenter(spec.augment, bands, spec.seed),
            _class_weights(task, store, patches),
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
    learner = Learner(task.spec, task.training, session.worker.size, course.class_weights)
    state = _resume(learner, session, task)
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
        diagnose(task, state)
    return state


def _class_weights(
    task: TrainTask, store: PatchStore, patches: ChosenPatches
) -> tuple[float, ...] | None:
    """Return the weights of the classes by the labels that are used, and by no others."""
    loss, names, counts = task.training.loss, task.spec.classes.names, [0]
    if loss.class_weights == "balanced" and task.training.train_share < 1:
        counts = patches.counts.sum(axis=0).tolist()
    elif loss.class_weights == "balanced":
        counts = [store.manifest.counts["train"]["pixels"][name] for name in names]
    return chosen_weights(loss, names, counts)


def _resume(learner: Learner, session: Session, task: TrainTask) -> TrainState:
    """Return the state of the newest checkpoint; without one, the weights are the first ones."""
    with tempfile.TemporaryDirectory(prefix="satseg-resume-") as scratch:
        checkpoint = session.resume(Path(scratch))
        if checkpoint is None:
            set_first_weights(learner.network, task.spec, task.first)
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
    sums = np.zeros(learner.loss_size, np.float64)
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
