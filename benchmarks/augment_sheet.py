"""A sheet of one real patch under each kind of augmentation, and what each costs.

``python -m benchmarks.augment_sheet sheet.png`` draws a patch of the Dubai photographs and one of
the twelve-band chips from the folder that SATSEG_REALDATA names, image over mask, invalid pixels
in magenta; and prints the milliseconds of one 256 x 256 patch of four bands as a JSON line.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from matplotlib.figure import Figure
from numpy.typing import NDArray

from satseg_ray.model.training_spec import AugmentSpec
from satseg_ray.train.augment import Augmenter
from satseg_ray.train.samples import BandStatistics, Samples

OFF: dict[str, Any] = {"symmetries": False, "gain": 0.0, "bias": 0.0}
KINDS: dict[str, dict[str, Any]] = {
    "as it is": {},
    "symmetries": {"symmetries": True},
    "zoom 1": {"zoom": 1.0},
    "gain 0.3": {"gain": 0.3},
    "bias 0.5": {"bias": 0.5},
    "haze 0.7": {"haze": 0.7},
    "noise 0.5": {"noise": 0.5},
    "band_dropout 0.4": {"band_dropout": 0.4},
    "usual": {
        "symmetries": True,
        "zoom": 0.5,
        "gain": 0.1,
        "bias": 0.1,
        "haze": 0.3,
        "noise": 0.1,
        "band_dropout": 0.1,
    },
}
DRAWS = 3
MAGENTA = (255, 0, 255)


def dubai(folder: Path) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Return a patch of 256 of an aerial photograph and its classes, by colour."""
    part = "image_part_002"
    area = folder / "dubai_landcover" / "tile_1"
    window = ((100, 356), (100, 356))
    with rasterio.open(area / "images" / f"{part}.jpg") as photo:
        image = np.moveaxis(photo.read(window=window), 0, -1)
    with rasterio.open(area / "masks" / f"{part}.png") as mask:
        colours = mask.read((1, 2, 3), window=window).reshape(3, -1)
    _, classes = np.unique(colours, axis=1, return_inverse=True)
    return image.astype(np.float32), classes.reshape(256, 256).astype(np.uint8)


def water(folder: Path) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Return a chip of 128 with twelve bands, red, green and blue first, and its water mask."""
    area = folder / "water_12band"
    with rasterio.open(area / "images" / "10.tif") as chip:
        image = np.moveaxis(chip.read((4, 3, 2, 1, *range(5, 13))), 0, -1)
    with rasterio.open(area / "labels" / "10.png") as mask:
        return image.astype(np.float32), mask.read(1).astype(np.uint8)


def picture(image: NDArray[np.float32], valid: NDArray[np.bool_], limits: Any) -> Any:
    """Return the first three bands as uint8, invalid pixels in magenta."""
    low, high = limits
    drawn = np.clip(255 * (image[..., :3] - low) / (high - low), 0, 255).astype(np.uint8)
    drawn[~valid] = MAGENTA
    return drawn


def draw(patches: dict[str, tuple[NDArray[np.float32], NDArray[np.uint8]]], path: Path) -> None:
    """Write the sheet: for each patch and draw a row of images over a row of masks."""
    rows = 2 * DRAWS * len(patches)
    figure = Figure((1.8 * len(KINDS), 1.8 * rows))
    axes = figure.subplots(rows, len(KINDS), squeeze=False)
    for number, (image, mask) in enumerate(patches.values()):
        valid = np.add.outer(np.arange(len(mask)), np.arange(len(mask))) > len(mask) // 4
        for column, (name, spec) in enumerate(KINDS.items()):
            for turn in range(DRAWS):
                changed, moved = one(image, mask, valid, spec, turn)
                row = 2 * (DRAWS * number + turn)
                limits = np.percentile(image[valid][:, :3], (2, 98), axis=0)
                known = moved != 255
                axes[row, column].imshow(picture(changed, known, limits))
                axes[row + 1, column].imshow(
                    np.ma.array(moved, mask=~known), "tab10", vmin=0, vmax=9, interpolation="none"
                )
                axes[row, column].set_title(name, fontsize=7)
    for axis in axes.flat:
        axis.set_axis_off()
    figure.tight_layout(pad=0.2)
    figure.savefig(path, dpi=70)


def one(
    image: NDArray[np.float32],
    mask: NDArray[np.uint8],
    valid: NDArray[np.bool_],
    spec: dict[str, Any],
    turn: int,
) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Return one draw of a patch under a spec."""
    mean, std = (tuple(map(float, f(image[valid], 0))) for f in (np.mean, np.std))
    augmenter = Augmenter(AugmentSpec(**OFF | spec), BandStatistics(mean, std, mean), seed=5)
    filled = np.where(valid[..., np.newaxis], image, np.array(mean, np.float32))
    samples = Samples(filled[np.newaxis], np.where(valid, mask, np.uint8(255))[np.newaxis])
    changed = augmenter.apply(samples, valid[np.newaxis], 0, (turn,))
    return changed.image[0], changed.mask[0]


def costs() -> dict[str, float]:
    """Return the CPU milliseconds of one patch under each kind, the best of some rounds."""
    rng, count = np.random.default_rng(0), 16
    mask = rng.integers(0, 3, (count, 256, 256)).astype(np.uint8)
    image = np.moveaxis(rng.normal(100, 20, (count, 4, 256, 256)), 1, -1)  # as the store gives it
    samples = Samples(image.astype(np.float32), mask)
    bands = BandStatistics((100.0,) * 4, (20.0,) * 4, (100.0,) * 4)
    found = {}
    for name, spec in KINDS.items():
        augmenter = Augmenter(AugmentSpec(**OFF | spec), bands)
        rounds = []
        for epoch in range(7):
            start = time.process_time()
            augmenter.apply(samples, mask < 3, epoch, range(count))
            rounds.append(time.process_time() - start)
        found[name] = round(1e3 * min(rounds) / count, 2)
    return found


def main() -> None:
    """Draw the sheet at the path of the first argument, and say what it costs."""
    folder = Path(os.environ["SATSEG_REALDATA"])
    draw({"dubai": dubai(folder), "water": water(folder)}, Path(sys.argv[1]))
    print(json.dumps({"benchmark": "augment_sheet", "milliseconds": costs()}))


if __name__ == "__main__":
    main()
