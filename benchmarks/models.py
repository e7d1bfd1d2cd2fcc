"""Build every pair of architecture and backbone once, and write what each takes: docs/models.md.

It takes most of an hour on two cores: ``--rows`` keeps what is done and goes on from there.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from satseg_ray.classes import ClassDef, ClassTable
from satseg_ray.model.backbones import ARCHITECTURES, BACKBONES, smallest_size
from satseg_ray.model.network import Network, build_network
from satseg_ray.model.spec import ModelSpec
from satseg_ray.process import peak_mib, prepare_process

BANDS = 4
CLASSES = ClassTable((ClassDef(0, "land"), ClassDef(1, "water")))
TRIED = (16, 24, 32, 48, 64, 96)
"""Patch sizes that are tried: what an architecture takes, and what it does not."""

HEAD = """# Architectures and backbones

Every pair that segmentation_models 1.0.1 offers, each built once with {bands} bands and random
weights, and applied to patches of {tried} pixels: the sizes that gave
logits of the size of the patch are those listed. A PSPNet is built for one size, here the smallest.
Written by `python -m benchmarks.models`, not by hand.

A U-Net, Linknet or FPN takes any multiple of 32, one network for all sizes; a PSPNet takes the
multiple of 48 that it is built for. Patches that a data set stores in another size are cropped to
the largest one that the architecture takes (`satseg_ray.model.backbones.accepted_size`): a PSPNet
on stored patches of 256 pixels is a network for 240. Training crops at a random place, another one
in each epoch, validation keeps the centre, and evaluation cuts and blends a stored patch as
prediction does a scene. A data set whose patches are smaller than 32, or 48, is refused.

## First weights

| key of `jobs/train.yaml` | weights |
|---|---|
| neither | random, by the seed |
| `encoder_weights: imagenet` | the encoder's, by download; offline: refused in seconds |
| `encoder_weights: <file>` | the encoder's, HDF5 as Keras writes a three-band one |
| `encoder_weights: <directory>` | of the encoder in any model of that backbone |
| `init_from: models:/<name>@<alias>` | all, of a registered model of the same kind |
| `init_from: models:/<name>/<version>` | the same, by number |
| `init_from: <directory>` | the same, of a run's folder or its `model/` |

Where the classes or their order are others, the head is random. Bands of the same
names keep their kernels. Other bands take the old ones in turn; a kernel that two take is divided,
one that nobody takes is added to another, so that a grey image gives the same features. With one
or two bands that is near and not equal in resnets and resnexts (and in seresnet18 and 34), which
normalise their three bands before the first convolution. An encoder's own range of input is kept in
the spec (`input_scale`, `input_offset`). Bands are fed in the data set's order: ImageNet's encoders
saw red, green, blue; vgg16 and vgg19 blue, green, red. The lineage of the new model names the start
and its digest.

## All pairs

{built} of {pairs} pairs were built. {failures}

| backbone | architecture | parameters | sizes taken |
|---|---|---|---|
"""


def spec_of(architecture: str, backbone: str, side: int) -> ModelSpec:
    """Return a spec of four bands and two classes."""
    return ModelSpec(
        architecture=architecture,
        backbone=backbone,
        bands=("blue", "green", "red", "nir"),
        band_indexes=(1, 2, 3, 4),
        dtype="uint16",
        classes=CLASSES,
        patch_size=side,
        stride=side,
        mean=(0.0,) * BANDS,
        std=(1.0,) * BANDS,
    )


def measure(architecture: str, backbone: str) -> dict[str, Any]:
    """Return what one pair is and takes, or the reason why it cannot be built."""
    row: dict[str, Any] = {"architecture": architecture, "backbone": backbone}
    start = time.monotonic()
    try:
        smallest = smallest_size(architecture, backbone)
        network = build_network(spec_of(architecture, backbone, smallest), seed=0)
        row["seconds"] = round(time.monotonic() - start, 1)
        row["parameters"] = int(network.count_params())
        row["sizes"] = [side for side in _sizes(architecture, smallest) if takes(network, side)]
    except Exception as error:  # whatever a library raises is the row's answer
        row["failure"] = f"{type(error).__name__}: {str(error).splitlines()[0][:160]}"
    return row | {"peak_mib": peak_mib()}


def _sizes(architecture: str, smallest: int) -> Sequence[int]:
    """Return the sizes to try; a network that is built for one size is tried with that one."""
    return TRIED if ARCHITECTURES[architecture].any_size else (smallest,)


def takes(network: Network, side: int) -> bool:
    """Tell whether a network gives logits of the size of a patch of ``side`` pixels."""
    import tensorflow as tf

    try:
        logits = network(np.zeros((1, side, side, BANDS), np.float32), training=False)
    except (ValueError, tf.errors.OpError):
        return False
    return tuple(logits.shape) == (1, side, side, len(CLASSES))


def measured(pairs: Iterable[tuple[str, str]], path: Path) -> list[dict[str, Any]]:
    """Return the row of each pair; those that ``path`` holds already are not built again."""
    import tensorflow as tf

    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    done = {(row["architecture"], row["backbone"]) for row in rows}
    for pair in pairs:
        if pair not in done:
            rows.append(measure(*pair))
            with path.open("a") as file:
                file.write(json.dumps(rows[-1]) + "\n")
            print(json.dumps(rows[-1]), flush=True)
            tf.keras.backend.clear_session()
    return rows


def page(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return docs/models.md from the rows of all pairs."""
    failed = [row for row in rows if "failure" in row]
    done = {(row["architecture"], row["backbone"]) for row in rows}
    missing = [pair for pair in product(ARCHITECTURES, BACKBONES) if pair not in done]
    why = f"{len(failed)} failed at the size that was tried; the table says why."
    said = why if failed else "None failed."
    if missing:
        names = sorted({backbone for _, backbone in missing}, key=BACKBONES.index)
        said += f" {len(missing)} have not been tried yet, those of {', '.join(names)}."
    head = HEAD.format(
        bands=BANDS,
        tried=", ".join(map(str, TRIED)),
        built=len(rows) - len(failed),
        pairs=len(rows) + len(missing),
        failures=said,
    )
    order = {name: number for number, name in enumerate((*BACKBONES, *ARCHITECTURES))}
    ranked = sorted(rows, key=lambda row: (order[row["backbone"]], order[row["architecture"]]))
    return head + "".join(_line(row) for row in ranked)


def _line(row: Mapping[str, Any]) -> str:
    if "failure" in row:
        cells = ["", f"cannot be built: {row['failure']}"]
    else:
        sizes = ", ".join(map(str, row["sizes"]))
        cells = [f"{row['parameters']:,}", sizes]
    return f"| {' | '.join([row['backbone'], row['architecture'], *cells])} |\n"


def main() -> None:
    """Measure the pairs that are not measured yet and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=Path, default=Path("workspace/models.jsonl"))
    parser.add_argument("--backbones", nargs="*", default=BACKBONES)
    parser.add_argument("--page", type=Path, default=Path("docs/models.md"))
    arguments = parser.parse_args()
    prepare_process()
    arguments.rows.parent.mkdir(parents=True, exist_ok=True)
    pairs = [(kind, backbone) for backbone, kind in product(arguments.backbones, ARCHITECTURES)]
    arguments.page.write_text(page(measured(pairs, arguments.rows)), encoding="utf-8")


if __name__ == "__main__":
    main()
