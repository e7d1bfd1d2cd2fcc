"""The weight of each class in a loss over pixels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from satseg_ray.errors import ConfigError
from satseg_ray.model.training_spec import LossSpec


def class_weights(counts: Sequence[int]) -> tuple[float, ...]:
    """Return the weight of each class that balances the pixel ``counts``; 0 for an absent one.

    The weighted counts are equal, and the mean weight of a pixel is 1.

    >>> class_weights((300, 100, 0))
    (0.6666666666666666, 2.0, 0.0)
    """
    present = sum(count > 0 for count in counts)
    return tuple(sum(counts) / (present * count) if count else 0.0 for count in counts)


def chosen_weights(
    spec: LossSpec, names: Sequence[str], counts: Sequence[int]
) -> tuple[float, ...] | None:
    """Return the weights that a spec asks for, None where all are 1.

    ``names`` are those of the classes, ``counts`` their pixels in training; a class that the spec
    does not name weighs 1.

    Raises:
        ConfigError: the spec names a class that is none.

    >>> chosen_weights(LossSpec(class_weights={"water": 3}), ["land", "water"], [9, 1])
    (1.0, 3.0)
    """
    asked = spec.class_weights
    if isinstance(asked, Mapping):
        check_weighted(spec, names)
        return tuple(float(asked.get(name, 1.0)) for name in names)
    return class_weights(counts) if asked == "balanced" else None


def check_weighted(spec: LossSpec, names: Sequence[str]) -> None:
    """Refuse weights of classes that are not among ``names``.

    Raises:
        ConfigError: with the first of them.
    """
    if isinstance(spec.class_weights, Mapping):
        for name in spec.class_weights:
            if name not in names:
                raise ConfigError(
                    "loss.class_weights",
                    f"names the class {name!r}, there is none",
                    f"The classes are {', '.join(names)}.",
                )
