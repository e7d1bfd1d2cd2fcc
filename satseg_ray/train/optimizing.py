"""The optimiser: its kind, loss scaling, clipping, and the moving average of the weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias

import tensorflow as tf

from satseg_ray.model.training_spec import TrainingSpec
from satseg_ray.train.checkpoint import Arrays
from satseg_ray.train.normalising import total

Tensor: TypeAlias = tf.Tensor


@contextmanager
def computing_in(precision: str) -> Iterator[None]:
    """Let layers that are built in the block compute in a precision; variables stay float32."""
    before = tf.keras.mixed_precision.global_policy()
    tf.keras.mixed_precision.set_global_policy(precision)
    try:
        yield
    finally:
        tf.keras.mixed_precision.set_global_policy(before)


class Optimizer:
    """The optimiser of some variables; made in the strategy's scope.

    ``gradients`` and ``apply`` are called in a replica, the same in each.
    """

    def __init__(self, training: TrainingSpec, variables: Sequence[Any]) -> None:
        self._decay = training.weight_averaging
        self._clip = training.clip_norm
        self._variables = variables
        self._step = 0
        self._inner = _inner(training)
        if self._decay:
            self._inner.ema_momentum = tf.Variable(self._decay, trainable=False)
        self._inner.build(variables)
        self._scaled = None
        if training.precision == "mixed_float16":
            self._scaled = tf.keras.mixed_precision.LossScaleOptimizer(self._inner)

    def set_rate(self, learning_rate: float) -> None:
        """Set the rate of the next step, and how much the average then takes of the new weights.

        The decay rises to its value in the first steps: an average of random weights is no use.
        """
        self._inner.learning_rate.assign(learning_rate)
        if self._decay:
            rising = (1 + self._step) / (10 + self._step)
            self._inner.ema_momentum.assign(min(self._decay, rising))
        self._step += 1

    def scaled(self, loss: Tensor) -> Tensor:
        """Return the loss to differentiate: float16 has no room for small gradients."""
        return self._scaled.get_scaled_loss(loss) if self._scaled else loss

    def apply(self, gradients: Sequence[Tensor]) -> None:
        """Make a step by the sum of all replicas' gradients of the :meth:`scaled` loss.

        It is clipped once it is summed, so the step is the same on any number of replicas. With
        loss scaling a sum that is not finite makes no step and a smaller scale.
        """
        whole = total(list(gradients))
        if self._scaled:
            whole = self._scaled.get_unscaled_gradients(whole)
        if self._clip:
            whole, _ = tf.clip_by_global_norm(whole, self._clip)
        steps = list(zip(whole, self._variables, strict=True))
        (self._scaled or self._inner).apply_gradients(steps, skip_gradients_aggregation=True)

    @property
    def state(self) -> list[Any]:
        """All variables that a checkpoint must hold, averages and loss scale among them."""
        scale = self._scaled._loss_scale if self._scaled else None
        return [
            *self._inner.variables,
            *([scale.current_loss_scale, scale.counter] if scale else []),
        ]

    def restore(self, values: Arrays) -> None:
        """Set the variables of :attr:`state`, and count steps on from there."""
        for variable, value in zip(self.state, values, strict=True):
            variable.assign(value)
        self._step = int(self._inner.iterations.numpy())

    def averaged(self, network: Any, weights: Arrays) -> Arrays:
        """Return a network's ``weights`` with the averages of those that are trained."""
        if not self._decay:
            return weights
        averages = zip(self._variables, self._inner._model_variables_moving_average, strict=True)
        found = {id(variable): average for variable, average in averages}
        return [
            found[id(variable)].numpy() if id(variable) in found else value
            for variable, value in zip(network.weights, weights, strict=True)
        ]


def _inner(training: TrainingSpec) -> Any:
    more: dict[str, Any] = {}
    if training.weight_averaging:
        more = {"use_ema": True, "ema_momentum": training.weight_averaging}
    if training.optimizer == "sgd":
        return tf.keras.optimizers.SGD(training.learning_rate, momentum=0.9, **more)
    return tf.keras.optimizers.Adam(training.learning_rate, **more)
