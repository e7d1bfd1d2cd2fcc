"""The training loop of one worker, without Ray: epochs, validation, checkpoints, the model.

Importing this module imports TensorFlow; only train workers do.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from satseg_ray.errors import Diverged, TrainingFailed, UnwritableProduct
from satseg_ray.model.class_weights import chosen_weights
from satseg_ray.model.metrics import Confusion
from satseg_ray.model.network import build_network
from satseg_ray.model.pretrained import set_first_weights
from satseg_ray.model.store import save_model
from satseg_ray.patches.store import PatchStore
from satseg_ray.train.augment import Augmenter
from satseg_ray.train.batches import BatchSource
from satseg_ray.train.calibrate import calibrated
from satseg_ray.train.checkpoint import Arrays, TrainState
from satseg_ray.train.diagnose import diagnose
from satseg_ray.train.plan import EpochPlan, Worker, validation_batches
from satseg_ray.train.samples import BandStatistics
from satseg_ray.train.sampling import ChosenPatches
from satseg_ray.train.schedule import SCORE, RatePlan, is_stopped, plateau_factor
from satseg_ray.train.steps import Learner
from satseg_ray.train.task import Session, TrainTask, UnwritableElsewhere

_LAG = 16
"""Steps after which a loss is looked at: a processor that works ahead is not waited for."""
_NAMED = 32
"""Patches of a batch that an error names."""


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
            RatePlan.of(spec, spec.epochs * plan.steps),
            BatchSource(patches, bands, task.spec.patch_size),
            BatchSource(store.split("val"), bands, task.spec.patch_size),
            Augmenter(spec.augment, bands, spec.seed),
            _class_weights(task, store, patches),
        )


def fit(task: TrainTask, session: Session) -> TrainState:
    """Train on this worker together with the others; rank 0 writes the models at the end.

    Starts from the session's newest state. Returns the final one.

    Raises:
        EmptySplit: the data set has no training patch.
        ConfigError: fewer patches in a batch than workers.
        Diverged: the loss is no number; the best model so far has been written.
        TrainingFailed: workers have read different states.
        UnwritableProduct: a checkpoint cannot be written; those before it are there.
    """
    store = PatchStore.open(Path(task.patches))
    course = _Course.of(task, store, session.worker)
    learner = Learner(task.spec, task.training, session.worker.size, course.class_weights)
    state = session.checkpoints.read()
    _check_same_epoch(state.epoch, learner, session)
    if state.epoch:
        learner.restore(state.weights, state.optimizer)
    else:
        set_first_weights(learner.network, task.spec, task.first)
    while not is_stopped(task.training, state.history):
        try:
            _epoch(course, learner, state, session)
        except Diverged as failure:
            raise _with_model(failure, task, state, session) from failure
    last = learner.averaged(learner.agree())
    if session.worker.rank == 0:
        _export(task, state.best_weights, task.model)
        if state.best_epoch != state.epoch:
            _export(task, last, task.last_model)
        diagnose(task, state)
    return state


def _check_same_epoch(epoch: int, learner: Learner, session: Session) -> None:
    """Refuse to go on from different states: a shared folder may lag on one machine.

    Raises:
        TrainingFailed: with the epoch of each worker, the same on all of them.
    """
    own = np.zeros(session.worker.size, np.int64)
    own[session.worker.rank] = epoch
    epochs = learner.total(own).tolist()
    if len(set(epochs)) > 1:
        found = ", ".join(f"worker {rank} after {epoch}" for rank, epoch in enumerate(epochs))
        raise TrainingFailed(
            session.checkpoints.directory,
            f"does not hold the same epochs for all workers: {found}",
            "Let every node reach it, and start the same command again in a moment.",
        )


def _epoch(course: _Course, learner: Learner, state: TrainState, session: Session) -> None:
    """Train, validate, save and report one epoch."""
    start = time.monotonic()
    figures = _train_epoch(course, learner, state, session)
    weights = learner.agree()
    _check_finite(course, weights, state.epoch)
    shown = learner.averaged(weights)
    with learner.showing(shown, weights):
        figures |= _validate(course, learner)
    figures["epoch_seconds"] = time.monotonic() - start
    state.advance(weights, learner.optimizer_state(), figures, shown)
    _save(state, learner, session)
    session.report(state.epoch, {**figures, "best_epoch": state.best_epoch})


def _with_model(
    failure: Diverged, task: TrainTask, state: TrainState, session: Session
) -> Diverged:
    """Write the best model so far, and return the failure with the place of it."""
    if not state.epoch:
        return failure
    if session.worker.rank == 0:
        _export(task, state.best_weights, task.model)
    kept = f"The model of epoch {state.best_epoch}, the best one before, is in {task.model}."
    return Diverged(failure.subject, failure.problem, f"{failure.remedy} {kept}")


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


def _train_epoch(
    course: _Course, learner: Learner, state: TrainState, session: Session
) -> dict[str, float]:
    """Train for one epoch and return its figures.

    Raises:
        Diverged: a loss is no number.
    """
    start, epoch = time.monotonic(), state.epoch
    batches = course.plan.batches(epoch, course.worker)
    samples = course.training.training(batches, course.augmenter, epoch, session.ahead)
    first, factor = epoch * course.plan.steps, plateau_factor(course.task.training, state.history)
    losses: list[Any] = []
    for step, sample in enumerate(samples):
        losses.append(learner.train_step(sample, factor * course.rates.rate(first + step)))
        if step >= _LAG:
            losses[step - _LAG] = _finite(course, epoch, step - _LAG, losses[step - _LAG])
    for step in range(max(0, len(losses) - _LAG), len(losses)):
        losses[step] = _finite(course, epoch, step, losses[step])
    seconds = time.monotonic() - start
    return {
        "loss": float(np.mean(losses)),
        "learning_rate": factor * course.rates.rate(first + course.plan.steps - 1),
        "patches_per_second": course.plan.steps * course.plan.batch_size / seconds,
    }


def _finite(course: _Course, epoch: int, step: int, loss: Any) -> float:
    """Return a step's loss as a number, the same on all workers.

    Raises:
        Diverged: it is none, with the patches of its batch over all workers.
    """
    value = float(loss)
    if math.isfinite(value):
        return value
    raise Diverged(
        "training",
        f"the loss of epoch {epoch + 1}, step {step + 1} is {value}, {_batch(course, epoch, step)}",
        "Lower learning_rate, or look for infinite values in the data.",
    )


def _batch(course: _Course, epoch: int, step: int) -> str:
    """Return which patches a step trains on, over all workers, for a person."""
    ids = course.plan.order(epoch)[step]
    keys = [course.training.reader.key(int(patch)) for patch in ids[:_NAMED]]
    names = ", ".join(f"{scene} ({row}, {column})" for scene, row, column in keys)
    more = f" and {len(ids) - _NAMED} more" if len(ids) > _NAMED else ""
    return f"on the patches {names}{more} (scene, row, column)"


def _check_finite(course: _Course, weights: Arrays, epoch: int) -> None:
    """Look at what the last step has made of the weights: no loss tells of it any more."""
    if not all(np.isfinite(array).all() for array in weights):
        step = course.plan.steps
        raise Diverged(
            "training",
            f"the weights after epoch {epoch + 1}, step {step} are not finite, "
            + _batch(course, epoch, step - 1),
            "Lower learning_rate, or set clip_norm.",
        )


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


def _save(state: TrainState, learner: Learner, session: Session) -> None:
    """Let rank 0 write a checkpoint; where it cannot, all workers end alike.

    Raises:
        UnwritableProduct: there is no space for it.
    """
    failure: UnwritableProduct | None = None
    if session.worker.rank == 0:
        try:
            session.checkpoints.write(state)
        except UnwritableProduct as error:
            failure = error
    if learner.total(np.array(failure is not None, np.int64)):
        raise failure or UnwritableElsewhere(
            session.checkpoints.directory, "cannot be written by worker 0", "Look at the disk."
        )


def _export(task: TrainTask, weights: Arrays, directory: str) -> None:
    """Write weights as a model, from a float32 network without a strategy."""
    network = build_network(task.spec, task.training.seed)
    network.set_weights(weights)
    spec = calibrated(task.spec, network, PatchStore.open(task.patches).split("val"))
    save_model(network, spec, Path(directory))
