"""One frozen configuration a job: a YAML file, then flags; unknown keys are refused."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from reprlib import Repr
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError
from pydantic_settings import (
    BaseSettings,
    CliSettingsSource,
    PydanticBaseSettingsSource,
    SettingsError,
    YamlConfigSettingsSource,
)
from yaml import YAMLError, safe_load

from satseg_ray.classes import ClassDef, ClassTable, parse_color
from satseg_ray.errors import ConfigError, MissingFile
from satseg_ray.geo.labels import BitField, LabelRule
from satseg_ray.model.backbones import check_pair
from satseg_ray.model.training_spec import TrainingSpec
from satseg_ray.patches.sample import SampleSpec
from satseg_ray.patches.split import SplitSpec

_FROZEN = ConfigDict(frozen=True, extra="forbid")


MOST_VALUE = 65535
"""The largest value that may mean "unlabelled": that of 16 bits, as QA bands have."""


def _value_or_color(item: object) -> object:
    """Return a label value as a number, from a flag too, or a colour as it is written.

    Raises:
        ValueError: neither a value of 0 to 65535 nor ``#RRGGBB``.
    """
    if isinstance(item, str) and item.isdecimal():
        item = int(item)
    if isinstance(item, str):
        parse_color(item)
    elif not isinstance(item, int) or isinstance(item, bool) or not 0 <= item <= MOST_VALUE:
        raise ValueError(f"{item!r} is no label value of 0 to {MOST_VALUE} and no colour '#RRGGBB'")
    return item


Ignored = Annotated[int | str, BeforeValidator(_value_or_color)]
"""A label value, or a colour, that means "unlabelled"."""


class BitFieldOptions(BaseModel):
    """A class that some bits of a QA band stand for: ``(pixel >> first) & mask`` in ``values``."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    name: str = Field(alias="class", description="Name of the class.")
    first: int = Field(ge=0, le=31, description="The lowest bit, from 0.")
    width: int = Field(1, ge=1, le=8, description="Number of bits.")
    values: list[int] = Field([1], description="Values of these bits that mean the class.")


class ShapeOptions(BaseModel):
    """How shapes of vectors and annotations become classes; later shapes lie over earlier ones."""

    model_config = _FROZEN

    attribute: str | None = Field(None, description="Attribute that names the class.")
    names: dict[str, str | None] = Field(
        {}, description="Attribute value -> class, where they differ; null: unlabelled."
    )
    every: str | None = Field(None, description="Class of every shape, where no attribute says it.")
    line_width: float | None = Field(None, gt=0, description="Metres given to lines and points.")
    layer: str | None = Field(None, description="Layer of a file that has several.")
    crs: str | None = Field(None, description="CRS of shapes whose file does not say it.")
    order_by: str | None = Field(None, description="Attribute that orders shapes; null: the file.")


class LabelOptions(BaseModel):
    """How labels become classes; shared by the jobs that read labels."""

    model_config = _FROZEN

    ignore: list[Ignored] = Field([], description="Label values and '#RRGGBB' of no class.")
    labels_by: Literal["auto", "value", "color", "bits"] = Field(
        "auto",
        description="Label rasters by value, colour or bits; auto: by colour where there are some.",
    )
    bits: list[BitFieldOptions] = Field([], description="Classes of a QA band; the first wins.")
    background: str | None = Field(None, description="Class of pixels without a label.")
    shapes: ShapeOptions = Field(default_factory=ShapeOptions, description="Vectors, annotations.")

    def rule(self, table: ClassTable) -> LabelRule:
        """Return the rule that these options are for the classes of ``table``."""
        return LabelRule(
            table,
            tuple(self.ignore),
            self.labels_by,
            bits=tuple(
                BitField(field.name, field.first, field.width, tuple(field.values))
                for field in self.bits
            ),
            background=self.background,
            **self.shapes.model_dump(),
        )


class IngestConfig(LabelOptions):
    """Scenes and labels -> ``data/raw/<dataset>``."""

    model_config = _FROZEN

    dataset: str = Field(description="Name of the data set.")
    scenes: list[str] = Field(
        min_length=1, description="Paths or patterns of scenes and stack descriptions; /vsi paths."
    )
    labels: list[str] = Field([], description="Paths or patterns of the labels.")
    classes: list[ClassDef] = Field(description="The classes: value, name, color.")
    bands: list[int] = Field(
        [], description="Bands to read, from 1; empty means all but an alpha band."
    )
    band_names: list[str] = Field([], description="Their names; empty means the file's own.")
    nodata: float | None = Field(None, description="Value of missing pixels; null: the file's tag.")
    crs: str | None = Field(None, description="CRS of one grid for all scenes; null: their own.")
    resolution: float | None = Field(
        None, gt=0, description="Pixel of that grid, in units of its CRS."
    )
    resampling: Literal["nearest", "bilinear", "cubic", "average"] | None = Field(
        None, description="How pixels come onto another grid; null: the scene's own, or bilinear."
    )
    georeference: Literal["file", "xyz"] = Field(
        "file", description="xyz: by the numbers x-y-zoom at the end of a tile's name."
    )
    by_reference: bool = Field(False, description="Scenes stay where they are.")
    on_bad: Literal["fail", "skip"] = Field(
        "fail", description="Of a scene that cannot be taken: refuse all, or leave it out."
    )
    strict: bool = Field(False, description="Warnings are errors.")

    @model_validator(mode="after")
    def _whole_grid(self) -> Self:
        if (self.crs is None) != (self.resolution is None):
            given, missing = ("crs", "resolution") if self.crs else ("resolution", "crs")
            raise PydanticCustomError(
                "missing_beside", "they make one grid", {"key": missing, "given": given}
            )
        return self


class TileConfig(BaseModel):
    """``data/raw/<dataset>`` -> ``data/patches/<dataset>``."""

    model_config = _FROZEN

    dataset: str = Field(description="Name of the data set.")
    patch_size: int = Field(256, ge=16, le=4096, description="Side of a patch in pixels.")
    stride: int = Field(128, ge=1, le=1 << 20, description="Pixels between training patches.")
    split: SplitSpec = Field(default_factory=SplitSpec, description="What is held out.")
    sample: SampleSpec = Field(
        default_factory=SampleSpec, description="Which training patches are kept, and rare classes."
    )
    unit: int = Field(4096, ge=256, le=1 << 20, description="Side in pixels of what one task cuts.")


class TrainConfig(TrainingSpec):
    """``data/patches/<dataset>`` -> a run, and a registered model where a name is given."""

    dataset: str = Field(description="Name of the data set.")
    architecture: Literal["unet", "linknet", "fpn", "pspnet"] = "unet"
    backbone: str = Field("efficientnetb0", description="A backbone of segmentation-models.")
    patch_size: int | None = Field(
        None,
        ge=1,
        description="Side in pixels of what the network sees, cut out of stored patches; null: the "
        "largest it takes.",
    )
    encoder_weights: str | None = Field(
        None,
        description="First weights of the encoder: 'imagenet', a weights file, a model directory.",
    )
    init_from: str | None = Field(
        None,
        description="First weights of all: models:/name@alias, models:/name/version, a directory.",
    )
    predict_stride: int | None = Field(
        None, ge=1, description="Pixels between patches in prediction; null: 3/4 of a patch."
    )
    register_as: str | None = Field(
        None, alias="register", description="Registers the result by this name."
    )
    alias: str | None = Field(
        None,
        description="What the registered version becomes; null: champion of a name without one, "
        "else challenger.",
    )
    experiment: str = Field("satseg", description="The MLflow experiment.")
    workers: int = Field(1, ge=1, description="Ray Train workers.")
    threads: int | None = Field(
        None, ge=1, description="CPUs of each worker; null: all CPUs shared among the workers."
    )
    gpu: bool = Field(False, description="One GPU for each worker.")
    max_failures: int = Field(2, ge=0, description="Restarts from the newest checkpoint.")
    readers: int = Field(
        0,
        ge=0,
        description="CPUs anywhere in the cluster that read and augment for each worker by Ray "
        "Data; 0: a thread of the worker does.",
    )
    fresh: bool = Field(
        False, description="A new run, even if one of these settings is not finished."
    )

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    @model_validator(mode="after")
    def _network_exists(self) -> Self:
        check_pair(self.architecture, self.backbone)
        return self

    @model_validator(mode="after")
    def _one_start(self) -> Self:
        if self.encoder_weights and self.init_from:
            raise ValueError("encoder_weights and init_from are two starts: give one")
        return self

    @model_validator(mode="after")
    def _named_for_its_alias(self) -> Self:
        if self.alias and not self.register_as:
            raise PydanticCustomError(
                "missing_beside", "an alias is of a name", {"key": "register", "given": "alias"}
            )
        return self


class PredictConfig(BaseModel):
    """A scene and a registered model -> a map in ``predictions/<output>``."""

    model_config = _FROZEN

    scene: str = Field(description="Path of the scene.")
    model: str = Field(description="Name of the registered model.")
    version: str = Field("champion", description="Its version number or alias.")
    output: str | None = Field(None, description="Name of the result; null: the scene's own.")
    stride: int | None = Field(None, ge=1, description="Pixels between patches; null: the model's.")
    tile_pixels: int = Field(
        32 << 20, ge=512 * 512, description="Most pixels of a tile's core: bounds the memory."
    )
    core: int | None = Field(
        None, ge=512, multiple_of=512, description="Side of a tile's core; null: planned."
    )
    batch_size: int = Field(4, ge=1, description="Patches in a batch; in the numerics key.")
    actors: int | None = Field(None, ge=1, description="Copies of the model; null: one a CPU.")
    threads: int = Field(1, ge=1, description="CPUs of an actor; in the numerics key.")
    gpu: bool = Field(False, description="One GPU for each actor.")


class ResamplingOptions(BaseModel):
    """The bootstrap over test blocks; shared by the jobs that compare models."""

    model_config = _FROZEN

    block: int | None = Field(
        None, ge=1, description="Side of a block in pixels; null: what the split held out as one."
    )
    resamples: int = Field(2000, ge=100, le=100_000, description="Draws of the bootstrap.")
    level: float = Field(0.95, gt=0.5, lt=1, description="What an interval covers.")
    seed: int = Field(0, ge=0, description="Seed of the draws.")


class EvaluateConfig(LabelOptions, ResamplingOptions):
    """Registered models on a split, or on a scene with labels -> ``evaluations/<output>``."""

    model_config = _FROZEN

    models: list[str] = Field(
        [], description="Instead of model: several, as name, name@alias or name/3."
    )
    model: str | None = Field(
        None, validate_default=True, description="Name of the registered model."
    )
    version: str = Field("champion", description="Its version number or alias.")
    dataset: str | None = Field(None, description="The data set whose split is used.")
    split: Literal["train", "val", "test"] = "test"
    scene: str | None = Field(None, description="Instead of a data set: path of a scene.")
    labels: str | None = Field(None, description="Path of the scene's labels.")
    output: str | None = Field(None, description="Name of the result; null: model and data.")
    experiment: str = Field("satseg", description="The MLflow experiment.")
    batch_size: int = Field(4, ge=1, description="Patches in a batch.")
    threads: int = Field(1, ge=1, description="CPUs of each copy of the model.")

    @field_validator("model")
    @classmethod
    def _some_model(cls, model: str | None, info: ValidationInfo) -> str | None:
        if model is None and not info.data.get("models"):
            raise PydanticCustomError("missing", "is not given, and neither is models")
        return model


class PromoteConfig(ResamplingOptions):
    """A registered model's champion: another version that is better, or the one before."""

    model_config = _FROZEN

    model: str = Field(description="Name of the registered model.")
    challenger: str = Field("challenger", description="Version number or alias of what is tried.")
    dataset: str | None = Field(
        None, description="The data set whose split is used; null: the challenger's own."
    )
    split: Literal["val", "test"] = Field("test", description="The split that both are tried on.")
    metric: Literal["mean_iou", "mean_f1", "accuracy"] = Field(
        "mean_iou", description="What must be better."
    )
    force: bool = Field(False, description="Promote the challenger even if it is not better.")
    back: bool = Field(False, description="Make the champion before this one champion again.")
    experiment: str = Field("satseg", description="The MLflow experiment.")
    batch_size: int = Field(4, ge=1, description="Patches in a batch.")
    threads: int = Field(1, ge=1, description="CPUs of each copy of the model.")


class DataConfig(BaseModel):
    """The versions of data sets: ``versions``, ``checkout``, ``diff`` or ``reproduce``."""

    model_config = _FROZEN

    action: Literal["versions", "checkout", "diff", "reproduce"] = Field(
        "versions", description="What to do; also as the first word, without a flag."
    )
    dataset: str | None = Field(None, description="Name of the data set; versions: null for all.")
    version: str | None = Field(
        None, description="checkout: the version to restore; diff: the older one."
    )
    to: str | None = Field(None, description="diff: the newer version; null: the newest.")


Config = TypeVar("Config", bound=BaseModel)


def load_config(kind: type[Config], default_yaml: Path, arguments: list[str]) -> Config:
    """Return the config of a job: its YAML file (``--config``), overridden by dotted flags.

    Raises:
        ConfigError: an unknown key or flag, or a value that is not allowed; the first is named.
        MissingFile: the YAML file is not there.
    """
    path, flags = _split_config_flag(default_yaml, arguments)
    if not path.is_file() and not {"-h", "--help"} & set(flags):
        raise MissingFile(path, "there is no such config file", "Check --config.")
    try:
        _refuse_other_than_keys(path)
        flags = _spelt_out(kind, [_hyphened(flag) for flag in flags])
        settings = _settings(kind, path, flags)()
        return kind.model_validate(settings.model_dump(by_alias=True))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"]) or first.get("ctx", {}).get("key", "")
        subject = f"{path}, {key}" if key else path
        raise ConfigError(subject, _sentence(first), _remedy(kind, first)) from error
    except RecursionError as error:
        raise ConfigError(
            path, "nests lists or keys too deep", "Write it as the docs do."
        ) from error
    except (SettingsError, YAMLError, ValueError, OverflowError) as error:
        text = " ".join(str(error).split()).removeprefix("error parsing CLI: ")
        raise ConfigError(path, text.rstrip("."), "See --help for the flags.") from error


def _refuse_other_than_keys(path: Path) -> None:
    body = safe_load(path.read_text(encoding="utf-8")) if path.is_file() else None
    if not isinstance(body, dict | None):
        raise ConfigError(path, f"holds a {type(body).__name__}", "Write 'key: value' lines.")


def _split_config_flag(default: Path, arguments: list[str]) -> tuple[Path, list[str]]:
    flags = list(arguments)
    path = default
    for index, flag in enumerate(arguments):
        if flag == "--config" and index + 1 < len(arguments):
            path, flags = Path(arguments[index + 1]), arguments[:index] + arguments[index + 2 :]
        elif flag.startswith("--config="):
            path, flags = Path(flag.partition("=")[2]), arguments[:index] + arguments[index + 1 :]
    return path, flags


def _hyphened(flag: str) -> str:
    """Return a flag with ``-`` for ``_`` in its name: both ways of writing it are accepted."""
    name, equals, value = flag.partition("=")
    return name.replace("_", "-") + equals + value if flag.startswith("--") else flag


def _spelt_out(kind: type[BaseModel], flags: Sequence[str]) -> list[str]:
    """Return the flags with ``true`` after each that stands alone and is yes or no: ``--force``."""
    switches = {
        f"--{field.alias or name}".replace("_", "-")
        for name, field in kind.model_fields.items()
        if field.annotation is bool
    }
    found: list[str] = []
    for flag, after in zip_longest(flags, flags[1:], fillvalue="--"):
        found.append(flag)
        if flag in switches and after.startswith("-"):
            found.append("true")
    return found


def _settings(kind: type[Config], path: Path, flags: list[str]) -> type[Config]:
    """Return ``kind`` as settings that read the flags first and then the YAML file."""

    class Settings(kind, BaseSettings):  # type: ignore[valid-type,misc]
        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,
            dotenv_settings: PydanticBaseSettingsSource,
            file_secret_settings: PydanticBaseSettingsSource,
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            command_line: CliSettingsSource[Any] = CliSettingsSource(
                settings_cls,
                cli_prog_name=path.stem,
                cli_parse_args=flags,
                cli_exit_on_error=False,
                cli_kebab_case=True,
                cli_hide_none_type=True,
                cli_parse_none_str="null",
            )
            return command_line, YamlConfigSettingsSource(settings_cls, yaml_file=path)

    Settings.__doc__ = kind.__doc__
    return Settings


def _sentence(error: Any) -> str:
    if error["type"] == "extra_forbidden":
        return f"is no key of this job (value {_SHORT.repr(error['input'])})"
    if error["type"] == "missing":
        return "is not given"
    if error["type"] == "missing_beside":
        return f"is not given, and {error['ctx']['given']} is: {error['msg']}"
    reason = str(error["ctx"]["error"]) if error["type"] == "value_error" else error["msg"]
    if not error["loc"]:  # of the config as a whole
        return reason
    return f"is {_SHORT.repr(error['input'])}: {reason[0].lower()}{reason[1:]}"


_SHORT = Repr()
"""Shows what was written, in bounded length."""
_SHORT.maxlevel = 3
_SHORT.maxstring = _SHORT.maxother = 200


def _keys(kind: type[BaseModel], place: Sequence[Any]) -> list[str]:
    """Return the keys of the section that a place in a config lies in."""
    section: Any = kind
    for part in place[:-1]:
        section = section.model_fields[part].annotation if part in section.model_fields else None
        if not (isinstance(section, type) and issubclass(section, BaseModel)):
            return ["those in the job's YAML file"]
    return [field.alias or name for name, field in section.model_fields.items()]


def _remedy(kind: type[BaseModel], error: Any) -> str:
    if error["type"] == "extra_forbidden":
        return f"The keys are {', '.join(_keys(kind, error['loc']))}."
    return "Set it in the YAML file or by a flag."
