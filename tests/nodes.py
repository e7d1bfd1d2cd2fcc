"""Run tile and predict on a Ray cluster of some nodes in this process; print digests as JSON."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from pathlib import Path

import numpy as np
import ray
from ray.cluster_utils import Cluster

from satseg_ray.classes import ClassDef
from satseg_ray.config import IngestConfig, TileConfig
from satseg_ray.data.ingest import ingest
from satseg_ray.data.tile import tile
from satseg_ray.drift.profile import PROFILE
from satseg_ray.lineage import file_digest
from satseg_ray.patches.split import SplitSpec
from satseg_ray.workspace import Workspace
from tests.factories import write_raster
from tests.test_predict_ray import HEIGHT, WIDTH, predicted


def main(nodes: int, scene: Path, model: Path, folder: Path) -> None:
    """Tile and predict on ``nodes`` nodes of one CPU each and digest what comes out."""
    os.environ["SATSEG_WORKSPACE"] = str(folder / "workspace")
    cluster = Cluster()
    for _ in range(nodes):
        cluster.add_node(num_cpus=1)
    ray.init(address=cluster.address)
    hosts = len([node for node in ray.nodes() if node["Alive"]])
    labels = np.kron(np.eye(26, dtype=np.uint8), np.ones((16, 16), np.uint8))[:HEIGHT, :WIDTH]
    classes = [ClassDef(0, "off"), ClassDef(1, "on")]
    label_file = write_raster(folder / "labels.tif", labels[None], crs="EPSG:32631")
    ingest(
        IngestConfig(dataset="toy", scenes=[str(scene)], labels=[str(label_file)], classes=classes)
    )
    split = SplitSpec(val=0.1, test=0.1)
    tile(TileConfig(dataset="toy", patch_size=32, stride=32, split=split, unit=256))
    patches = Workspace.resolve().patches("toy")
    # a profile is a random sketch
    files = sorted(p for p in patches.rglob("*") if p.is_file() and p.name != PROFILE)
    pixels, cores, _ = predicted(scene, model, folder, 64, 2)
    digests = {str(p.relative_to(patches)): file_digest(p) for p in files}
    ray.shutdown()
    cluster.shutdown()
    result = {
        "nodes": hosts,
        "patches": digests,
        "map": hashlib.sha256(pixels.tobytes()).hexdigest(),
        "key": cores.numerics_keys,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main(int(sys.argv[1]), *map(Path, sys.argv[2:5]))
