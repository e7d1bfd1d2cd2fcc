"""``ModelSpec``: all that is needed to use a model without the code that trained it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from satseg_ray.classes import ClassTable


@dataclass(frozen=True)
class ModelSpec:
    """The facts of one model; JSON beside its weights.

    ``bands`` names the input channels in order; ``band_indexes`` are their 1-based positions in a
    scene; ``mean`` and ``std`` are per band in raw units; an invalid pixel is fed as the
    mean of its band. ``nodata`` is the value of missing pixels, in place of a scene's own tag;
    ``None`` means the tag. ``input_scale`` and ``input_offset`` bring normalised values into the
    range that a pretrained encoder was trained in; 1 and 0 leave them as they are. Logits are
    divided by ``temperature`` before they become probabilities, so that these are calibrated.
    """

    architecture: str
    backbone: str
    bands: tuple[str, ...]
    band_indexes: tuple[int, ...]
    dtype: str
    classes: ClassTable
    patch_size: int
    stride: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    batch_norm_momentum: float = 0.9
    nodata: float | None = None
    input_scale: float = 1.0
    input_offset: float = 0.0
    lineage: dict[str, str] = field(default_factory=dict)
    temperature: float = 1.0

    def to_json(self) -> str:
        """Return the spec as a JSON text with sorted keys."""
        body = asdict(self) | {"classes": self.classes.to_list()}
        return json.dumps(body, indent=2, sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, text: str) -> ModelSpec:
        """Return the spec that :meth:`to_json` wrote."""
        body: dict[str, Any] = json.loads(text)
        body["classes"] = ClassTable.from_list(body["classes"])
        for key in ("bands", "band_indexes", "mean", "std"):
            body[key] = tuple(body[key])
        return cls(**body)

    def write(self, path: Path) -> None:
        """Write the spec as JSON to ``path``."""
        path.write_text(self.to_json(), encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> ModelSpec:
        """Read the spec from the JSON file at ``path``."""
        return cls.from_json(path.read_text(encoding="utf-8"))
