"""A network of three convolutions, as the real ones from raw values to logits, to train in a test.

As a program it trains on one worker of several, without Ray: ``small_network.py RANK WORKERS PORT
PATCHES CHECKPOINTS BATCH_NORM``; the losses are the last line of worker 0.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from satseg_ray.model.spec import ModelSpec


def build_small(spec: ModelSpec, seed: int) -> Any:
    """Return a network with two layers of batch normalisation."""
    from satseg_ray.model.environment import require_legacy_keras

    require_legacy_keras()
    import tensorflow as tf

    tf.keras.utils.set_random_seed(seed)
    layers = tf.keras.layers
    pixels = tf.keras.Input((None, None, len(spec.bands)))
    hidden = (pixels - spec.mean) / spec.std
    for width in (8, 8):
        hidden = layers.Conv2D(width, 3, padding="same", use_bias=False)(hidden)
        hidden = layers.ReLU()(layers.BatchNormalization(momentum=0.9)(hidden))
    return tf.keras.Model(pixels, layers.Conv2D(len(spec.classes), 1)(hidden))


def main() -> None:
    """Train as one worker."""
    rank, workers, port = (int(argument) for argument in sys.argv[1:4])
    patches, checkpoints, batch_norm = sys.argv[4:]
    if workers > 1:
        places = [f"127.0.0.1:{port + number}" for number in range(workers)]
        task = {"type": "worker", "index": rank}
        os.environ["TF_CONFIG"] = json.dumps({"cluster": {"worker": places}, "task": task})
    from satseg_ray.model.environment import use_threads

    use_threads(1)
    import satseg_ray.train.loop as loop
    import satseg_ray.train.steps as steps
    from satseg_ray.train.plan import Worker
    from tests.test_train_loop import SoloSession, make_task

    vars(steps)["build_network"] = build_small
    vars(loop)["_export"] = lambda *_: None
    options = {"epochs": 5, "optimizer": "sgd", "learning_rate": 0.05, "batch_norm": batch_norm}
    options |= {"clip_norm": 1.0}
    session = SoloSession(Path(checkpoints), worker=Worker(rank, workers))
    state = loop.fit(make_task(Path(patches), Path("none"), **options), session)
    if rank == 0:
        print(json.dumps([[h["loss"], h["val_loss"]] for h in state.history]), flush=True)


if __name__ == "__main__":
    main()
