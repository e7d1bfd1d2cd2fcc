"""The config of a sweep."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from satseg_ray.tune.space import Given


class TuneConfig(BaseModel):
    """A data set and a search space -> a sweep of trainings, of which the best is named."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dataset: str = Field(description="Name of the data set.")
    name: str | None = Field(None, description="Name of the sweep; null: of data set and space.")
    train: dict[str, Any] = Field({}, description="Settings of all trials, as in jobs/train.yaml.")
    space: dict[str, Given] = Field(
        description="Dotted key of a training -> its values, or {low, high, log}."
    )
    metric: str = Field("val_mean_iou", description="The figure of an epoch to be highest.")
    trials: int = Field(20, ge=1, description="Most trials.")
    minutes: float = Field(60, gt=0, description="Most minutes, over all starts of the sweep.")
    concurrent: int | None = Field(
        None, ge=1, description="Trials at once; null: what the cluster holds."
    )
    grace: int = Field(2, ge=1, description="Epochs before ASHA may stop a trial.")
    reduction: int = Field(3, ge=2, description="ASHA goes on with one of so many trials.")
    seed: int = Field(0, ge=0, description="Seed of the search.")
    challenger: str | None = Field(
        None, description="Registers the best by this name, as challenger."
    )
    experiment: str = Field("satseg", description="The MLflow experiment.")
