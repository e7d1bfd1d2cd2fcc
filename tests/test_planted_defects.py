"""The defects that the real sets are known for: the report of each names them."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable

import numpy as np
import pytest
import rasterio

from satseg_ray.errors import UnknownClassValue
from tests.real_sets import SETS, Ingested, ingested, real_set

pytestmark = [pytest.mark.realdata, pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]

Take = Callable[[str], Ingested]


@pytest.fixture
def take(realdata, tmp_path_factory) -> Take:
    """Gives a real set by its name, as ingest took it."""
    return lambda name: real_set(name, realdata, tmp_path_factory)


def test_kampala_s_24_jpegs_named_png_are_named(take, realdata):
    files = (realdata / "kampala_buildings/input").glob("*.png")
    jpegs = [path for path in files if path.read_bytes()[:3] == b"\xff\xd8\xff"]
    (finding,) = take("kampala").found("misnamed")
    assert len(jpegs) == 24
    assert finding["subject"] == "24 scenes"
    assert "JPEG under a name that ends in .png" in finding["problem"]


def test_dubai_s_palettes_in_disorder_are_named_by_area(take):
    (finding,) = take("dubai").found("palette-order")
    assert finding["subject"] == "18 label files"
    assert "9 in tile_2/masks" in finding["problem"]
    assert "9 in tile_4/masks" in finding["problem"]
    assert finding["action"] == "Read by colour."


def test_dubai_s_undeclared_black_ends_ingest_and_is_named(take):
    made = take("dubai-undeclared")
    assert isinstance(made.error, UnknownClassValue)
    assert "#000000" in str(made.error)
    (finding,) = made.found("unknown-colour")
    assert finding["level"] == "error"
    assert "#000000 (" in finding["problem"]


def test_dubai_s_class_file_contradicts_its_masks(take, realdata):
    (finding,) = take("dubai").found("class-file")
    assert finding["subject"] == str(realdata / "dubai_landcover/classes.json")
    for color in ("#50E3C2", "#F5A623", "#DE597F", "#D0021B", "#417505"):
        assert f"is {color} (no pixel) there" in finding["problem"]


def test_the_water_mask_without_an_image_is_named(take):
    findings = take("water").found("orphan-labels") or [
        f for f in take("water").report["findings"] if "100_184.png" in f["problem"]
    ]
    assert len(findings) == 1
    assert findings[0]["level"] == "warning"


def test_no_pixel_of_the_water_chips_holds_the_sentinel(realdata):
    word = struct.pack("<h", -9999)
    for path in sorted((realdata / "water_12band/images").glob("*.tif")):
        with rasterio.open(path) as chip:
            assert not (chip.read() == -9999).any()
            assert chip.nodata is None
            assert chip.compression is None
        assert word not in path.read_bytes()[::1] or not _aligned(path.read_bytes(), word)


def _aligned(content: bytes, word: bytes) -> bool:
    """Tell whether a 16 bit word stands in a file at a whole number of words."""
    return bool((np.frombuffer(content[: len(content) // 2 * 2], "<i2") == -9999).any())


@pytest.mark.parametrize("share", [0.02, 1.0])
def test_a_sentinel_written_into_band_9_of_real_chips_without_a_tag_is_named(
    realdata, tmp_path, share
):
    rng = np.random.default_rng(9)
    planted = ("3", "17", "28")
    for source in sorted((realdata / "water_12band/images").glob("*.tif")):
        target = tmp_path / "chips" / source.name
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(source.read_bytes())
        if source.stem in planted:
            with rasterio.open(target, "r+") as chip:
                band = chip.read(9)
                band[rng.random(band.shape) < share] = -9999
                chip.write(band, 9)
    config = SETS["water"] | {"scenes": [str(tmp_path / "chips" / "*.tif")]}
    made = ingested(config, tmp_path / "workspace", realdata)
    (finding,) = made.found("suspicious-nodata")
    assert finding["subject"] == "3 scenes"
    assert "-9999 in band_9" in finding["problem"]
    assert "Declare nodata: -9999" in finding["action"]


def test_belgium_s_null_geometry_and_fields_beyond_the_raster_are_named(take):
    made = take("belgium")
    (null,) = made.found("null-geometry")
    assert "1 shape (" in null["problem"]
    assert "without a geometry" in null["problem"]
    (beyond,) = made.found("beyond-raster")
    assert "wholly" in beyond["problem"]


def test_the_reports_are_json_that_names_each_finding_s_action(take):
    for name in ("kampala", "dubai", "water", "belgium"):
        assert json.dumps(take(name).report, allow_nan=False)
        assert all(finding["action"] for finding in take(name).report["findings"])
