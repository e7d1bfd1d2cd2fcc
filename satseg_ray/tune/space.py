"""What a sweep varies: dotted keys of a training's config, each a choice or a range."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    model_validator,
)

from satseg_ray.config import TrainConfig
from satseg_ray.errors import ConfigError

FIXED = (
    "dataset",
    "epochs",
    "register",
    "alias",
    "experiment",
    "workers",
    "threads",
    "gpu",
    "max_failures",
    "fresh",
    "readers",
)
"""Keys of a training that a sweep sets itself, or that change no model."""

Value = str | int | float | bool | None


class Range(BaseModel):
    """Numbers from ``low`` to ``high``, both included; whole where both bounds are."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    low: float | int = Field(description="The smallest number.")
    high: float | int = Field(description="The greatest number.")
    log: bool = Field(False, description="Whether each power of ten gets as many trials.")

    @model_validator(mode="after")
    def _check_order(self) -> Self:
        if not self.low < self.high:
            raise ValueError(f"low {self.low} is not below high {self.high}")
        if self.log and self.low <= 0:
            raise ValueError(f"low {self.low} has no logarithm")
        return self

    @property
    def whole(self) -> bool:
        """Whether the numbers are whole ones."""
        return isinstance(self.low, int) and isinstance(self.high, int)


def _kind(given: object) -> str:
    return "range" if isinstance(given, Mapping | Range) else "values"


Given = Annotated[
    Annotated[list[Value], Tag("values")] | Annotated[Range, Tag("range")], Discriminator(_kind)
]
"""What is given of a key; an error speaks of the one kind that was meant."""

Space = Mapping[str, list[Value] | Range]
"""Dotted key -> values to choose from, or a range."""


def with_values(config: TrainConfig, values: Mapping[str, Any]) -> TrainConfig:
    """Return a training's config with the values of dotted keys in place of its own.

    Raises:
        ConfigError: a key is none, or its value is not allowed.

    >>> with_values(TrainConfig(dataset="a"), {"loss.dice": 0.5}).loss.dice
    0.5
    """
    body = config.model_dump(by_alias=True)
    for key, value in values.items():
        *sections, last = key.split(".")
        section = body
        for name in sections:
            if not isinstance(section.get(name), dict):
                raise _no_key(key)
            section = section[name]
        if last not in section:
            raise _no_key(key)
        section[last] = value
    try:
        return TrainConfig.model_validate(body)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise ConfigError(
            place or "train", f"is {first['input']!r}: {first['msg']}", "Use an allowed value."
        ) from error


def check_space(config: TrainConfig, space: Space) -> None:
    """Check every bound and choice of a space, each alone, as a training's config.

    Raises:
        ConfigError: with the key in the sweep's own config.
    """
    if not space:
        raise ConfigError("space", "is empty", "Name a key of a training and its values.")
    for key, given in space.items():
        if key in FIXED:
            raise ConfigError(f"space.{key}", "is no setting of a model", "Set it in train.")
        if key == "patch_size" and isinstance(given, Range):
            raise ConfigError(
                "space.patch_size", "is a range: not every size fits a network", "List some sizes."
            )
        values = [given.low, given.high] if isinstance(given, Range) else given
        if not values:
            raise ConfigError(f"space.{key}", "holds no value", "Give some values.")
        for value in values:
            try:
                with_values(config, {key: value})
            except ConfigError as error:
                raise ConfigError(f"space.{key}", error.problem, error.remedy) from error


def _no_key(key: str) -> ConfigError:
    return ConfigError(key, "is no key of a training", "The keys are those of jobs/train.yaml.")
