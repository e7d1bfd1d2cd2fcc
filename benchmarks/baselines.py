"""What needs no network: a linear model of single pixels, and the commonest class, as baselines.

``python -m benchmarks.baselines DATASET`` takes a tiled data set of the workspace, fits a
multinomial logistic regression to band values of its training patches, and measures both on the
test blocks, as ``jobs/evaluate.py`` measures networks. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression  # type: ignore[import-untyped]

from satseg_ray.classes import IGNORE
from satseg_ray.model.bootstrap import Estimates, Resampling, differences, estimates
from satseg_ray.model.calibration import evenly
from satseg_ray.patches.store import PatchBatch, PatchManifest, PatchStore, SplitReader
from satseg_ray.predict.evaluate import BLOCKS
from satseg_ray.predict.scoring import Tally
from satseg_ray.workspace import Workspace

PIXELS = 300_000
"""Most training pixels: a linear model of a few bands has no use for more."""

Floats: TypeAlias = NDArray[np.float32]
Classifier: TypeAlias = Callable[[Floats], NDArray[np.uint8]]
"""From band values (pixels, bands), standardised, to class indexes (pixels,)."""


def main(dataset: str, split: str, evaluation: str | None, how: Resampling) -> None:
    """Fit, measure, print."""
    start, workspace = time.monotonic(), Workspace.resolve()
    store = PatchStore.open(workspace.patches(dataset))
    text = (workspace.evaluation(evaluation) / BLOCKS).read_text("utf-8") if evaluation else "{}"
    result = measured(store, split, json.loads(text), how)
    print(json.dumps(result | {"seconds": round(time.monotonic() - start, 1)}))


def measured(
    store: PatchStore, split: str, networks: Mapping[str, Mapping[str, Any]], how: Resampling
) -> dict[str, Any]:
    """Return the figures of both baselines on the blocks of a split, as JSON values.

    ``networks`` are confusion matrices by model and block, as an evaluation writes them.
    """
    manifest = store.manifest
    names = manifest.classes.names
    values, truth = sample(store.required("train"), manifest, PIXELS)
    models = {"linear": linear(values, truth), "majority": majority(manifest)}
    tallies = {name: blocks_of(store, split, model) for name, model in models.items()}
    counts = {name: stacked(own) for name, own in tallies.items()}
    found = {name: estimates(own, names, how) for name, own in counts.items()}
    others = {"majority": counts["majority"]}
    for name, blocks in networks.items():
        if blocks.keys() != tallies["linear"].keys():
            raise SystemExit(f"error: {name} was evaluated on other blocks than those of {split}")
        others[name] = stacked(blocks)
    above = {name: differences(own, counts["linear"], names, how) for name, own in others.items()}
    return {
        "benchmark": "baselines",
        "dataset": manifest.version,
        "patches": manifest.lineage.get("patches_version", ""),
        "split": split,
        "blocks": len(counts["linear"]),
        "training_pixels": len(truth),
        **{name: _json(own) for name, own in found.items()},
        "above_linear": {name: _json(own) for name, own in above.items()},
    }


def sample(
    reader: SplitReader, manifest: PatchManifest, most: int
) -> tuple[Floats, NDArray[np.uint8]]:
    """Return standardised values (pixels, bands) and classes of at most ``most`` labelled pixels.

    Evenly spaced over the patches, and in each of them; one patch is in memory at a time.
    """
    places = evenly(len(reader), most)
    values, truth = [], []
    for place in places.tolist():
        batch = reader.read([place])
        known = np.flatnonzero((batch.mask != IGNORE) & batch.valid)
        some = known[evenly(len(known), max(1, most // len(places)))]
        values.append(standardised(batch, manifest)[some])
        truth.append(batch.mask.reshape(-1)[some])
    return np.concatenate(values), np.concatenate(truth)


def standardised(batch: PatchBatch, manifest: PatchManifest) -> Floats:
    """Return band values (pixels, bands) in deviations from the mean; 0 where there is none."""
    bands = len(manifest.bands)
    mean, std = np.array(manifest.mean, np.float32), np.array(manifest.std, np.float32)
    values = (batch.image.reshape(-1, bands).astype(np.float32) - mean) / std
    values[~batch.valid.reshape(-1)] = 0
    values[~np.isfinite(values)] = 0
    return values


def linear(values: Floats, truth: NDArray[np.uint8]) -> Classifier:
    """Return the multinomial logistic regression of classes on band values."""
    present = np.unique(truth)
    if len(present) == 1:
        return constant(int(present[0]))
    model = LogisticRegression(max_iter=1000).fit(values.astype(np.float64), truth)
    weights, bias = model.coef_.T.astype(np.float32), model.intercept_.astype(np.float32)
    if len(present) == 2:  # one column, of the second class
        weights, bias = np.hstack([-weights, weights]) / 2, np.hstack([-bias, bias]) / 2

    def classes(pixels: Floats) -> NDArray[np.uint8]:
        best: NDArray[np.uint8] = present[(pixels @ weights + bias).argmax(axis=1)]
        return best

    return classes


def majority(manifest: PatchManifest) -> Classifier:
    """Return what calls every pixel the commonest class of the training patches."""
    pixels = manifest.counts["train"]["pixels"]
    return constant(int(np.argmax([pixels[name] for name in manifest.classes.names])))


def constant(index: int) -> Classifier:
    """Return what gives every pixel one class."""
    return lambda pixels: np.full(len(pixels), index, np.uint8)


def blocks_of(store: PatchStore, split: str, model: Classifier) -> dict[str, NDArray[np.int64]]:
    """Return the confusion counts (classes, classes) of each block of a split."""
    manifest, reader = store.manifest, store.required(split)
    blocks, tally = manifest.blocks(), Tally(len(manifest.classes))
    for place in range(len(reader)):
        batch = reader.read([place])
        predicted = model(standardised(batch, manifest)).reshape(batch.mask.shape)
        tally.count(blocks.name(*reader.key(place)), batch.mask[0], predicted[0])
    return tally.blocks


def stacked(blocks: Mapping[str, Any]) -> NDArray[np.int64]:
    """Return counts (blocks, classes, classes) in the order of the blocks' names."""
    return np.array([blocks[name] for name in sorted(blocks)], np.int64)


def _json(found: Estimates) -> Mapping[str, Any]:
    return {name: estimate.to_dict() for name, estimate in found.items()}


def _flags() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dataset")
    parser.add_argument("--split", default="test", choices=("train", "val", "test"))
    parser.add_argument("--evaluation", help="a folder of evaluations/ to compare with")
    parser.add_argument("--resamples", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


if __name__ == "__main__":
    flags = _flags()
    main(flags.dataset, flags.split, flags.evaluation, Resampling(flags.resamples, flags.seed))
