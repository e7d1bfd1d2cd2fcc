"""The TensorFlow half of training: one step, one evaluation batch, sums over the workers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from satseg_ray.model.losses import Loss, with_own_gradient
from satseg_ray.model.network import build_network
from satseg_ray.model.spec import ModelSpec
from satseg_ray.model.training_spec import TrainingSpec
from satseg_ray.train.checkpoint import Arrays
from satseg_ray.train.normalising import set_batch_norm, total
from satseg_ray.train.optimizing import Optimizer, computing_in
from satseg_ray.train.samples import Samples

Tensor: TypeAlias = tf.Tensor


def build_strategy(workers: int) -> tf.distribute.Strategy:
    """Return the strategy of this process: mirrored over the workers of ``TF_CONFIG``, if many."""
    if workers > 1:
        return tf.distribute.MultiWorkerMirroredStrategy()
    return tf.distribute.get_strategy()


class Learner:
    """A network in training on this worker; all workers hold the same weights.

    One replica a worker. ``train_step``, ``total`` and the two ``weights`` methods are collective:
    every worker calls them, in the same order. ``evaluate`` is not.
    """

    def __init__(
        self,
        spec: ModelSpec,
        training: TrainingSpec,
        workers: int = 1,
        class_weights: tuple[float, ...] | None = None,
    ) -> None:
        self.strategy = build_strategy(workers)
        with self.strategy.scope(), computing_in(training.precision):
            self.network = build_network(spec, training.seed)
            set_batch_norm(self.network, training.batch_norm)
            self.optimizer = Optimizer(training, self.network.trainable_variables)
        self._loss = Loss.of(training.loss, len(spec.classes), class_weights)
        self._train = tf.function(self._in_replica(self._replica_train), autograph=False)
        self._evaluate = tf.function(self._in_replica(self._replica_evaluate), autograph=False)
        self._total = tf.function(self._in_replica(total), autograph=False)

    def _in_replica(self, step: Any) -> Any:
        return lambda *tensors: self.strategy.run(step, args=tensors)

    def _replica_train(self, image: Tensor, mask: Tensor) -> Tensor:
        with tf.GradientTape() as tape:
            logits = tf.cast(self.network(image, training=True), tf.float32)
            own = self._loss.sums(logits, mask)
            sums = with_own_gradient(own, total(tf.stop_gradient(own)))
            loss = self._loss.finish(sums)
            scaled = self.optimizer.scaled(loss)
        variables = self.network.trainable_variables
        zero = tf.UnconnectedGradients.ZERO
        gradients = tape.gradient(scaled, variables, unconnected_gradients=zero)
        self.optimizer.apply(gradients)
        return loss

    def _replica_evaluate(self, image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        logits = tf.cast(self.network(image, training=False), tf.float32)
        predicted = tf.cast(tf.argmax(logits, axis=-1), tf.uint8)
        return predicted, self._loss.sums(logits, mask)

    def train_step(self, samples: Samples, learning_rate: float) -> Tensor:
        """Train on this worker's share of a batch; return the loss of the whole batch."""
        self.optimizer.set_rate(learning_rate)
        return self._train(tf.constant(samples.image), tf.constant(samples.mask))

    def evaluate(self, samples: Samples) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        """Return the predicted class indexes (N, H, W) and the batch's loss sums."""
        predicted, sums = self._evaluate(tf.constant(samples.image), tf.constant(samples.mask))
        return predicted.numpy(), sums.numpy()

    def total(self, own: NDArray[Any]) -> NDArray[Any]:
        """Return the sum of an array over all workers (integers exactly)."""
        summed: NDArray[Any] = self._total(tf.constant(own)).numpy()
        return summed

    @property
    def loss_size(self) -> int:
        """The length of a batch's loss sums."""
        return self._loss.size

    def loss(self, sums: NDArray[np.float32]) -> float:
        """Return the loss of summed loss sums."""
        return float(self._loss.finish(tf.constant(sums)))

    def agree(self) -> Arrays:
        """Average what workers hold apart (moving statistics); return the weights, now shared."""
        weights: Sequence[NDArray[Any]] = self.network.get_weights()
        self.network.set_weights(weights)
        return weights

    def averaged(self, weights: Arrays) -> Arrays:
        """Return what is evaluated and exported: the averaged weights, or ``weights`` as is."""
        return self.optimizer.averaged(self.network, weights)

    @contextmanager
    def showing(self, shown: Arrays, weights: Arrays) -> Iterator[None]:
        """Evaluate with weights ``shown`` in the block, go on with ``weights`` after it."""
        if shown is weights:
            yield
            return
        self.network.set_weights(shown)
        yield
        self.network.set_weights(weights)

    def optimizer_state(self) -> Arrays:
        """Return the optimiser's variables as arrays."""
        return [variable.numpy() for variable in self.optimizer.state]

    def restore(self, weights: Arrays, optimizer: Arrays) -> None:
        """Set the weights and the optimiser's variables."""
        self.network.set_weights(weights)
        self.optimizer.restore(optimizer)
