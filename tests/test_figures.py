"""Figures: the same input gives the same bytes, and any input a person may have is drawn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio
import rasterio.windows
from PIL import Image

from satseg_ray.classes import IGNORE, ClassDef, ClassTable
from satseg_ray.model.diagnostics import Diagnostics
from satseg_ray.model.figures import (
    Sample,
    write_confusion,
    write_iou,
    write_learning_curves,
    write_precision_recall,
    write_reliability,
    write_samples,
)
from satseg_ray.model.figures.canvas import told_apart
from satseg_ray.model.figures.learning import series
from tests.conftest import ROOT

TABLE = ClassTable((ClassDef(0, "land", "#c8b98a"), ClassDef(1, "water", "#2b6cb0")))


def table_of(count: int) -> ClassTable:
    return ClassTable(tuple(ClassDef(i, f"class {i} with a long name") for i in range(count)))


def diagnostics_of(classes: int, seed: int = 0) -> Diagnostics:
    """Diagnostics without a label of the last class, and with unlabelled pixels."""
    rng = np.random.default_rng(seed)
    mask = rng.integers(0, max(1, classes - 1), (3, 40, 40)).astype(np.uint8)
    mask[0, :20] = IGNORE
    weights = np.exp(
        rng.normal(size=(*mask.shape, classes)) + 3 * (mask[..., None] == np.arange(classes))
    )
    scores = (weights / weights.sum(-1, keepdims=True)).astype(np.float32)
    return Diagnostics.of(scores, mask, range(3))


def sample_of(dtype: str, bands: int, shape: tuple[int, int], seed: int = 0) -> Sample:
    rng = np.random.default_rng(seed)
    image = (rng.random((bands, *shape)) * 200).astype(dtype)
    valid = rng.random(shape) > 0.1
    truth, predicted = rng.integers(0, 2, (2, *shape)).astype(np.uint8)
    return Sample(f"seed {seed}", image, valid, truth, predicted)


def write_all(folder: Path, found: Diagnostics, table: ClassTable) -> None:
    history = [
        {"loss": 2.0 / epoch, "val_loss": 3.0 / epoch, "val_mean_iou": 0.1 * epoch}
        | {"val_iou_land": 0.1, "learning_rate": 1e-3, "patches_per_second": 4.0}
        for epoch in range(1, 5)
    ]
    write_learning_curves(folder / "learning.png", history, 4, table)
    write_confusion(folder / "confusion.png", found.confusion, table.names)
    write_iou(folder / "iou.png", found.confusion, table)
    write_precision_recall(folder / "pr.png", found, table)
    write_reliability(folder / "reliability.png", found.reliability, 1.5, found.reliability)
    write_samples(folder / "samples.png", [sample_of("uint8", 3, (32, 32))], table, "Some")


def test_same_input_gives_the_same_bytes_and_nothing_but_them(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write_all(tmp_path / name, diagnostics_of(2), TABLE)
    files = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert len(files) == 6
    for name in files:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("classes", [5, 30])
def test_any_number_of_classes_is_drawn_without_a_warning(tmp_path, classes):
    write_all(tmp_path, diagnostics_of(classes), table_of(classes))
    for path in tmp_path.iterdir():
        with Image.open(path) as picture:
            assert min(picture.size) > 200
            assert max(picture.size) < 3000


@pytest.mark.filterwarnings("error")
def test_a_split_without_a_label_and_a_single_epoch_are_drawn(tmp_path):
    found = Diagnostics.zero(2)
    write_all(tmp_path, found, TABLE)
    write_learning_curves(tmp_path / "one.png", [{"loss": 1.0}], 1, TABLE)
    write_samples(tmp_path / "none.png", [], TABLE)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("dtype", "bands", "shape"),
    [
        ("uint8", 3, (64, 64)),
        ("int16", 3, (48, 30)),
        ("uint16", 1, (512, 512)),
        ("float32", 3, (900, 700)),
    ],
)
def test_samples_of_any_depth_band_count_and_size_are_drawn(tmp_path, dtype, bands, shape):
    samples = [sample_of(dtype, bands, shape, seed) for seed in range(3)]
    write_samples(tmp_path / "samples.png", samples, TABLE)
    with Image.open(tmp_path / "samples.png") as picture:
        assert picture.width < 1700


@pytest.mark.filterwarnings("error")
def test_samples_without_a_valid_pixel_or_with_infinite_values_are_drawn(tmp_path):
    plain = sample_of("float32", 1, (32, 32))
    nothing = Sample("none", plain.image, np.zeros((32, 32), bool), plain.truth, plain.predicted)
    wild = plain.image.copy()
    wild[0, 0] = np.inf
    wild[0, 1] = np.nan
    odd = Sample("wild", wild, plain.valid, plain.truth, plain.predicted)
    write_samples(tmp_path / "samples.png", [nothing, odd], TABLE)


def test_each_wrong_pixel_of_a_sample_is_red_and_no_other(tmp_path):
    sample = sample_of("uint8", 3, (32, 32))
    truth = np.where(np.arange(32) < 4, IGNORE, sample.truth).astype(np.uint8)
    write_samples(
        tmp_path / "s.png",
        [Sample("", sample.image, sample.valid, truth, sample.predicted)],
        TABLE,
    )
    with Image.open(tmp_path / "s.png") as picture:
        red = (np.asarray(picture.convert("RGB")) == (220, 30, 40)).all(-1)
    wrong = (truth != sample.predicted) & (truth != IGNORE) & sample.valid
    legend = 12 * 18
    assert red.sum() == wrong.sum() * 6 * 6 + legend


def test_classes_of_one_colour_are_told_apart_and_other_colours_stay():
    assert told_apart(TABLE) == TABLE
    assert len({item.color for item in told_apart(table_of(16))}) == 16


def test_a_figure_that_an_epoch_does_not_have_is_a_gap():
    found = series([{"loss": 1.0}, {}, {"loss": 0.5}], "loss")
    assert found[[0, 2]].tolist() == [1.0, 0.5]
    assert np.isnan(found[1])


def test_figures_are_drawn_without_the_state_that_all_of_a_process_share():
    for path in (ROOT / "satseg_ray" / "model" / "figures").glob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert "pyplot" not in text
        assert "rcParams" not in text


REAL = (
    "water_12band/images/0.tif",
    "belgium_fields/input_raster/BEFL-TEST-s2_2023-05-01_2023-07-01_B08-B04-B03_min_byte.tif",
    "landsat7_landcover/LE70220491999322EDC01_stack.gtif",
    "naip_timeseries/m_4709963_se_14_1_20090818.tif",
    "dubai_landcover/tile_1/images/image_part_001.jpg",
)


@pytest.mark.realdata
@pytest.mark.parametrize("name", REAL, ids=lambda name: name.partition("/")[0])
def test_real_imagery_of_any_depth_is_shown_with_contrast(realdata, tmp_path, name):
    with rasterio.open(realdata / name) as scene:
        row, col = scene.height // 2 - 64, scene.width // 2 - 64
        window = rasterio.windows.Window(max(col, 0), max(row, 0), 128, 128)
        image = scene.read((1, 2, 3), window=window)
    blank = np.zeros(image.shape[1:], np.uint8)
    sample = Sample(name, image, np.ones(blank.shape, bool), blank, blank)
    write_samples(tmp_path / "s.png", [sample], TABLE)
    with Image.open(tmp_path / "s.png") as picture:
        panel = np.asarray(picture.convert("RGB"))[72:328, 8:264]
    assert (panel.std(axis=(0, 1)) > 20).all()
    assert (np.percentile(panel, 99, axis=(0, 1)) > 200).all()
