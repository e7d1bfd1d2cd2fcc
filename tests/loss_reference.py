"""The losses once more, in float64 with numpy and loops, from the papers' definitions."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from satseg_ray.model.training_spec import LossSpec

Array = np.ndarray


def softmax(logits: Array) -> Array:
    raised = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return raised / raised.sum(axis=-1, keepdims=True)


def focal(logits: Array, mask: Array, gamma: float, weights: Array) -> float:
    """Return the mean over labelled pixels, pixel by pixel; gamma 0 is the cross-entropy."""
    known = mask != 255
    losses = [
        weights[label] * (1 - p[label]) ** gamma * -np.log(p[label])
        for p, label in zip(softmax(logits)[known], mask[known], strict=True)
    ]
    return float(np.mean(losses)) if losses else 0.0


def tversky(logits: Array, mask: Array, alpha: float, beta: float, gamma: float) -> float:
    known = mask != 255
    p, labels = softmax(logits)[known], mask[known]
    losses = []
    for kind in np.unique(labels):
        own = labels == kind
        hits, false, missed = p[own, kind].sum(), p[~own, kind].sum(), (1 - p[own, kind]).sum()
        losses.append((1 - hits / (hits + alpha * false + beta * missed)) ** gamma)
    return float(np.mean(losses)) if losses else 0.0


def extended(ratio: Callable[[set[int]], float], errors: Array) -> float:
    """Return the Lovász extension of a function of sets at a vector, by its definition."""
    total, chosen, before = 0.0, set[int](), ratio(set())
    for place in np.argsort(-errors, kind="stable"):
        chosen.add(int(place))
        after = ratio(chosen)
        total += errors[place] * (after - before)
        before = after
    return total


def _patch_losses(logits: Array, mask: Array) -> Iterator[float]:
    for scores, labels in zip(logits, mask, strict=True):
        known = labels != 255
        p, truth = softmax(scores)[known], labels[known]
        losses = []
        for kind in np.unique(truth):
            own = set(np.flatnonzero(truth == kind).tolist())
            errors = np.abs((truth == kind) - p[:, kind])

            def ratio(wrong: set[int], own: set[int] = own) -> float:
                return 1 - len(own - wrong) / len(own | wrong)

            losses.append(extended(ratio, errors))
        if losses:
            yield float(np.mean(losses))


def lovasz(logits: Array, mask: Array) -> float:
    losses = list(_patch_losses(logits, mask))
    return float(np.mean(losses)) if losses else 0.0


def reference(logits: Array, mask: Array, spec: LossSpec, weights: Array) -> float:
    """Return the loss of a whole batch."""
    return (
        spec.cross_entropy * focal(logits, mask, 0, weights)
        + spec.focal * focal(logits, mask, spec.focal_gamma, weights)
        + spec.dice * tversky(logits, mask, 0.5, 0.5, 1)
        + spec.tversky
        * tversky(logits, mask, spec.tversky_alpha, spec.tversky_beta, spec.tversky_gamma)
        + spec.lovasz * lovasz(logits, mask)
    )
