"""``TrainingSpec``: how a network is trained; the section ``training`` of a job's config."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


Weight = Annotated[float, Field(ge=0)]


class LossSpec(_Section):
    """The loss: a weighted sum of terms, normalised by what is labelled in the global batch."""

    cross_entropy: Weight = Field(default=1.0, description="Weight of the cross-entropy.")
    focal: Weight = Field(default=0.0, description="Weight of the focal loss.")
    focal_gamma: Weight = Field(
        default=2.0, description="How far the focal loss turns from pixels that are right; 0: not."
    )
    dice: Weight = Field(
        default=1.0, description="Weight of the soft Dice loss over classes present."
    )
    tversky: Weight = Field(
        default=0.0, description="Weight of the Tversky loss over classes present."
    )
    tversky_alpha: float = Field(
        default=0.3, gt=0, le=10, description="What a false positive costs in the Tversky loss."
    )
    tversky_beta: float = Field(
        default=0.7, gt=0, le=10, description="What a false negative costs in the Tversky loss."
    )
    tversky_gamma: float = Field(
        default=1.0, gt=0, le=10, description="Exponent of the Tversky loss; 0.75: focal Tversky."
    )
    lovasz: Weight = Field(
        default=0.0, description="Weight of the Lovasz-softmax loss, patch by patch."
    )
    class_weights: Literal["none", "balanced"] | dict[str, Weight] = Field(
        default="none",
        description="In cross-entropy and focal loss: 'balanced' weighs a pixel by the rarity of "
        "its class; or weights by class name, the others 1.",
    )

    @model_validator(mode="after")
    def _has_a_term(self) -> Self:
        if not any((self.cross_entropy, self.focal, self.dice, self.tversky, self.lovasz)):
            raise ValueError("no term of the loss has a weight above 0")
        return self


class AugmentSpec(_Section):
    """Random changes of a training patch; the first two move image, mask and validity alike."""

    symmetries: bool = Field(default=True, description="One of the eight symmetries of the square.")
    zoom: float = Field(
        default=0.0,
        ge=0,
        le=3,
        description="The patch is magnified by 1 / (1 + zoom) .. 1 + zoom at a random place.",
    )
    gain: float = Field(
        default=0.1,
        ge=0,
        lt=1,
        description="Contrast of all bands is scaled by 1 - gain .. 1 + gain.",
    )
    bias: float = Field(
        default=0.1, ge=0, description="Each band is shifted by up to this share of its deviation."
    )
    haze: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="Bands are veiled, each by up to this share, by a value 3 deviations bright.",
    )
    noise: float = Field(
        default=0.0, ge=0, description="Deviation of the noise, up to this share of the band's."
    )
    band_dropout: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="Chance of each band to become its mean; one band always stays.",
    )


class PlateauSpec(_Section):
    """The schedule ``plateau``: the rate falls when a figure of the validation stands still."""

    watch: Literal["score", "val_loss"] = Field(
        default="score", description="The validation's mean IoU, or its loss."
    )
    patience: int = Field(
        default=5, ge=1, description="Epochs without improvement before the rate falls."
    )
    factor: float = Field(default=0.3, gt=0, lt=1, description="The rate is multiplied by it.")
    min_delta: float = Field(default=0.0, ge=0, description="Less than this is no improvement.")


class StoppingSpec(_Section):
    """When training ends before its last epoch."""

    patience: int | None = Field(
        default=None,
        ge=1,
        description="Epochs without a better validation mean IoU; null: all epochs are trained.",
    )
    min_delta: float = Field(default=0.0, ge=0, description="Less than this is no improvement.")


class TrainingSpec(_Section):
    """How a network is trained: steps, optimiser, loss, augmentation and the seed of it all."""

    epochs: int = Field(default=20, ge=1, description="Passes over the training split.")
    batch_size: int = Field(
        default=8, ge=1, description="Patches in a step, over all workers together."
    )
    learning_rate: float = Field(
        default=1e-3, gt=0, description="Highest learning rate of the schedule."
    )
    rate_batch_size: int | None = Field(
        default=None,
        ge=1,
        description="The batch_size that learning_rate is meant for: another one scales it "
        "linearly; null: learning_rate is used as it is.",
    )
    schedule: Literal["constant", "cosine", "plateau"] = Field(
        default="cosine",
        description="After the warm-up: 'constant', 'cosine' down to zero, or 'plateau'.",
    )
    plateau: PlateauSpec = Field(
        default_factory=PlateauSpec, description="When the schedule 'plateau' lowers the rate."
    )
    stopping: StoppingSpec = Field(default_factory=StoppingSpec, description="Early stopping.")
    warmup: float = Field(
        default=0.05,
        ge=0,
        lt=1,
        description="Share of all steps in which the rate rises from zero.",
    )
    optimizer: Literal["adam", "sgd"] = Field(default="adam", description="'sgd' has momentum 0.9.")
    clip_norm: float | None = Field(
        default=None,
        gt=0,
        description="Longest gradient of a step, all variables and workers together; null: any.",
    )
    precision: Literal["float32", "mixed_bfloat16", "mixed_float16"] = Field(
        default="float32",
        description="What layers compute in; weights, softmax and loss are float32 always.",
    )
    weight_averaging: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="Decay of the moving average of the weights, for example 0.99, that is then "
        "evaluated and exported; null: none.",
    )
    batch_norm: Literal["local", "synchronised", "frozen"] = Field(
        default="local",
        description="Batch normalisation by each worker's share of a batch, by the whole batch, "
        "or by the statistics that the weights came with.",
    )
    loss: LossSpec = Field(default_factory=LossSpec, description="The loss.")
    augment: AugmentSpec = Field(default_factory=AugmentSpec, description="The augmentation.")
    train_share: float = Field(
        default=1.0,
        gt=0,
        le=1,
        description="Share of the training patches in use; a smaller one is part of a larger.",
    )
    rare_sampling: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="Share of an epoch's patches drawn by class, each class as often.",
    )
    epoch_steps: int | None = Field(
        default=None, ge=1, description="Steps in an epoch; null: those of one pass."
    )
    batch_norm_momentum: float = Field(
        default=0.9,
        gt=0,
        lt=1,
        description="Momentum of the moving averages; the backbones' own 0.99 suits 10^6 images.",
    )
    seed: int = Field(
        default=0, ge=0, description="Seed of the weights, the order and the augmentation."
    )
