"""The numerics key: under which circumstances two runs of a model give the same bits."""

from __future__ import annotations

import platform
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class NumericsKey:
    """What the bits of a prediction depend on besides the pixels; stored with each product.

    ``engine`` is name and version, ``model`` the SHA-256 of weights and spec, ``batch_shape``
    (patches, height, width, bands), ``threads`` the intra-op threads, ``device`` the type of
    processor or GPU. Equal keys, equal bits; different keys, probabilities within 1e-6.
    """

    engine: str
    model: str
    batch_shape: tuple[int, int, int, int]
    threads: int
    device: str

    def to_dict(self) -> dict[str, object]:
        """Return the key as JSON values."""
        return asdict(self) | {"batch_shape": list(self.batch_shape)}


def processor_name() -> str:
    """Return the name of this machine's processor, or its architecture where that is hidden."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())
