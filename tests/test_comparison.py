"""Several models on the same blocks: what the scorers count, and what the report says of it."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from satseg_ray.classes import ClassDef, ClassTable
from satseg_ray.data.rows import Reporter
from satseg_ray.errors import BandMismatch, SatsegError
from satseg_ray.geo.grid import Window
from satseg_ray.model.bootstrap import Resampling
from satseg_ray.model.calibration import Reliability
from satseg_ray.model.figures import write_forest, write_reliabilities
from satseg_ray.model.metrics import Confusion
from satseg_ray.model.numerics import NumericsKey
from satseg_ray.model.segment import _covering, score_patches
from satseg_ray.model.spec import ModelSpec
from satseg_ray.patches.schema import Patch
from satseg_ray.patches.split import PatchKey
from satseg_ray.patches.store import PatchManifest, PatchStore, write_part
from satseg_ray.predict.comparison import Comparison, Contender, Measured
from satseg_ray.predict.scoring import SplitScorer, SplitTask, Tally
from satseg_ray.tracking import ModelVersion

SIDE = 16
TABLE = ClassTable((ClassDef(0, "land"), ClassDef(1, "water")))
SPEC = ModelSpec(
    architecture="unet",
    backbone="any",
    bands=("red",),
    band_indexes=(1,),
    dtype="uint8",
    classes=TABLE,
    patch_size=SIDE,
    stride=SIDE,
    mean=(100.0,),
    std=(50.0,),
)


class Threshold:
    """A model that calls bright pixels water, the surer the brighter."""

    batch_size = 4

    def __init__(self, at: float, patch: int = SIDE) -> None:
        self.spec = replace(SPEC, patch_size=patch)
        self._at = at

    def predict_proba(self, batch: np.ndarray) -> np.ndarray:
        assert batch.shape[1:] == (self.spec.patch_size, self.spec.patch_size, 1)
        water = 1 / (1 + np.exp(-(batch[..., 0].astype(np.float32) - self._at) / 20))
        return np.stack([1 - water, water], axis=-1)

    def numerics_key(self) -> NumericsKey:
        raise NotImplementedError


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> PatchStore:
    """Patches of two scenes, in blocks of two by two, some unlabelled."""
    rng = np.random.default_rng(0)
    folder: Path = tmp_path_factory.mktemp("p") / "toy"
    patches = []
    for scene in "ab":
        for row in range(0, 4 * SIDE, SIDE):
            for col in range(0, 4 * SIDE, SIDE):
                mask = rng.integers(0, 2, (SIDE, SIDE)).astype(np.uint8)
                image = (60 + 80 * mask + rng.normal(0, 30, mask.shape)).clip(0, 255)
                mask[rng.random(mask.shape) < 0.1] = 255
                key = PatchKey("test", scene, Window(row, col, SIDE, SIDE))
                valid = np.ones(mask.shape, np.bool_)
                patches.append(Patch(key, image[..., None].astype(np.uint8), mask, valid))
    manifest = PatchManifest(
        dataset="toy", version="toy@1", classes=TABLE, bands=("red",), band_indexes=(1,),
        dtype="uint8", patch_size=SIDE, stride=SIDE, mean=(100.0,), std=(50.0,), counts={},
        dropped={}, lineage={},
    )  # fmt: skip
    folder.mkdir()
    manifest.write(folder)
    write_part(folder / "test" / "part-0.parquet", patches[:20], manifest.schema)
    write_part(folder / "test" / "part-1.parquet", patches[20:], manifest.schema)
    return PatchStore.open(folder)


def scored(store: PatchStore, model: Any, folder: Path, runs: int = 3) -> list[dict[str, Any]]:
    """Score the test patches in so many pieces, as the job's workers do."""
    task = SplitTask(str(store.directory), "test", str(folder / "s"), store.manifest.blocks(32))
    (folder / "s").mkdir(exist_ok=True)
    scorer = SplitScorer(task, lambda: model, Reporter(str(folder / "notes")))
    ends = np.linspace(0, 32, runs + 1).astype(int).tolist()
    rows = [{"key": str(i), "start": a, "stop": b} for i, (a, b) in enumerate(pairwise(ends))]
    found = [json.loads(scorer(row)["outcome"]) for row in rows]
    assert [f["status"] for f in found] == ["ok"] * runs, found
    return found


def contender(version: str) -> Contender:
    return Contender(ModelVersion("toy", version, "run", version), Path("model"), SPEC)


@pytest.fixture(scope="module")
def measured(store, tmp_path_factory) -> list[Measured]:
    """A good model, a poor one, and the good one again."""
    folder = tmp_path_factory.mktemp("scored")
    return [
        Measured.of(contender(str(i)), scored(store, Threshold(at), folder), held_out=True)
        for i, at in enumerate((100, 150, 100), 1)
    ]


def test_blocks_add_up_to_what_the_pixels_say(store, measured):
    batch = store.split("test").read(range(32))
    predicted = (batch.image[..., 0] > 100).astype(np.uint8)
    assert measured[0].confusion == Confusion.from_indexes(batch.mask, predicted, 2)
    assert set(measured[0].blocks) == {f"{s} {r} {c}" for s in "ab" for r in "01" for c in "01"}
    keys = [store.split("test").key(i) for i in range(32)]
    own = [i for i, (s, r, c) in enumerate(keys) if (s, r // 32, c // 32) == ("b", 1, 0)]
    one = Confusion.from_indexes(batch.mask[own], predicted[own], 2)
    np.testing.assert_array_equal(measured[0].blocks["b 1 0"], one.counts)
    sure = np.stack([Threshold(100).predict_proba(image[None])[0] for image in batch.image])
    table = Reliability.of(batch.mask, predicted, sure.max(axis=-1))
    assert measured[0].reliability is not None
    np.testing.assert_array_equal(measured[0].reliability.table, table.table)


def test_the_number_of_pieces_changes_nothing(store, measured, tmp_path):
    for runs in (1, 7):
        again = Measured.of(contender("1"), scored(store, Threshold(100), tmp_path, runs))
        assert again.confusion == measured[0].confusion
        assert again.blocks.keys() == measured[0].blocks.keys()


def test_the_report_says_which_is_better_and_by_how_much(measured):
    report = Comparison(measured, Resampling(200)).to_dict()
    json.dumps(report, allow_nan=False)
    assert report["blocks"] == 8
    assert [model["version"] for model in report["models"]] == ["1", "2", "3"]
    pairs = {(p["model"], p["against"]): p for p in report["comparisons"]}
    assert pairs["toy/2", "toy/1"]["better"] == "toy/1"
    assert pairs["toy/3", "toy/2"]["better"] == "toy/3"
    assert pairs["toy/3", "toy/1"]["better"] is None
    first, second = report["models"][:2]
    found = pairs["toy/2", "toy/1"]["differences"]["mean_iou"]
    assert found["value"] == pytest.approx(second["mean_iou"] - first["mean_iou"])
    assert found["low"] < found["value"] < found["high"] < 0
    low, high = first["intervals"]["iou"]["water"]
    assert low < first["iou"]["water"] < high
    assert first["calibration_error"] < second["calibration_error"]


def test_few_blocks_are_remarked_and_one_has_no_interval(measured):
    assert "8 test blocks has a rough interval" in Comparison(measured).remark()
    one = replace(measured[0], blocks={"a": np.eye(2, dtype=np.int64)})
    comparison = Comparison([one])
    assert "1 test block has no interval of 95%: that takes 6" in comparison.remark()
    assert comparison.to_dict()["models"][0]["intervals"]["mean_iou"] == [None, None]


def test_models_of_other_pixels_or_classes_are_no_pair(measured):
    less = replace(measured[1], blocks={k: v // 2 for k, v in measured[1].blocks.items()})
    with pytest.raises(BandMismatch, match="toy/2: has other classes, or sees other labelled"):
        Comparison([measured[0], less])
    assert issubclass(BandMismatch, SatsegError)


def test_squares_of_a_scene_partition_its_windows():
    rng = np.random.default_rng(1)
    truth = rng.choice([0, 1, 255], (100, 130)).astype(np.uint8)
    predicted = rng.integers(0, 2, truth.shape).astype(np.uint8)
    whole, parts = Tally(2), Tally(2)
    whole.count_window(Window(0, 0, 100, 130), 48, truth, predicted)
    for window in Window(0, 0, 100, 130).blocks(37, 61):
        place = window.slices()
        parts.count_window(window, 48, truth[place], predicted[place])
    assert whole.blocks.keys() == parts.blocks.keys() == {f"{r} {c}" for r in "012" for c in "012"}
    for name, counts in whole.blocks.items():
        np.testing.assert_array_equal(counts, parts.blocks[name])
    want = Confusion.from_indexes(truth, predicted, 2)
    np.testing.assert_array_equal(sum(whole.blocks.values()), want.counts)
    assert whole.unlabelled == parts.unlabelled == want.unlabelled


@pytest.mark.parametrize(("side", "patch"), [(16, 16), (16, 12), (40, 16), (17, 16), (64, 16)])
def test_larger_patches_are_covered_by_the_models_own(side, patch):
    """A pixel's own answer does not depend on where the model's patch begins."""
    batch = np.random.default_rng(0).integers(0, 255, (3, side, side, 1)).astype(np.uint8)
    found = score_patches(Threshold(100, patch), batch)
    np.testing.assert_allclose(found, Threshold(100, side).predict_proba(batch), atol=1e-6)
    if side > patch:
        starts = _covering(side, patch)
        assert (starts[0], starts[-1]) == (0, side - patch)
        assert max(np.diff(starts)) <= 0.75 * patch + 0.5


def test_figures_are_drawn(measured, tmp_path):
    found = dict(
        zip(
            ("toy/1", "toy/2", "toy/3"),
            Comparison(measured, Resampling(100)).estimates,
            strict=True,
        )
    )
    write_forest(tmp_path / "forest.png", found, TABLE.names, 0.95)
    tables = {m.contender.label: m.reliability for m in measured if m.reliability}
    write_reliabilities(tmp_path / "reliability.png", tables)
    for name in ("forest", "reliability"):
        pixels = np.asarray(Image.open(tmp_path / f"{name}.png").convert("L"))
        assert min(pixels.shape) > 100
        assert pixels.std() > 5
