"""Patches on disk and their statistics: what is written comes back, for any reader."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from satseg_ray.classes import IGNORE, ClassDef, ClassTable
from satseg_ray.errors import DatasetNotFound, EmptySplit
from satseg_ray.geo.grid import Window
from satseg_ray.geo.raster import Tile
from satseg_ray.patches.schema import Patch, cut_patch, patch_schema, with_tensors
from satseg_ray.patches.split import PatchKey
from satseg_ray.patches.stats import SplitStats
from satseg_ray.patches.store import PatchManifest, PatchStore, SplitReader, _PartFile, write_part
from tests.factories import random_pixels

SIDE, BANDS, CLASSES = 16, 3, 4
ALL = np.ones((SIDE, SIDE), np.bool_)
DTYPES = ["uint8", "int16", "uint16", "float32"]


def make_patch(number: int, dtype: str = "uint16", split: str = "train") -> Patch:
    rng = np.random.default_rng(number)
    valid = rng.random((SIDE, SIDE)) < 0.8
    mask = rng.choice([0, 1, 2, 3, IGNORE], (SIDE, SIDE)).astype(np.uint8)
    mask[~valid] = IGNORE
    image = np.ascontiguousarray(
        np.moveaxis(random_pixels((SIDE, SIDE), BANDS, dtype, number), 0, -1)
    )
    window = Window(number * 7, number * 3, SIDE, SIDE)
    return Patch(PatchKey(split, f"scene{number % 2}", window), image, mask, valid)


def write_parts(folder: Path, patches: list[Patch], dtype: str, sizes: list[int]) -> list[Path]:
    folder.mkdir(exist_ok=True)
    schema, start, paths = patch_schema(SIDE, BANDS, dtype), 0, []
    for number, size in enumerate(sizes):
        path = folder / "train" / f"part{number}.parquet"
        write_part(path, patches[start : start + size], schema)
        paths.append(path)
        start += size
    return paths


@pytest.mark.parametrize("dtype", DTYPES)
def test_patches_come_back_as_they_were_written(tmp_path, dtype):
    patches = [make_patch(i, dtype) for i in range(5)]
    reader = SplitReader(write_parts(tmp_path, patches, dtype, [2, 3]))
    batch = reader.read(range(5))
    np.testing.assert_array_equal(batch.image, np.stack([p.image for p in patches]))
    np.testing.assert_array_equal(batch.mask, np.stack([p.mask for p in patches]))
    np.testing.assert_array_equal(batch.valid, np.stack([p.valid for p in patches]))
    dtypes = [array.dtype.name for array in (batch.image, batch.mask, batch.valid)]
    assert dtypes == [dtype, "uint8", "bool"]
    keys = [reader.key(position) for position in range(len(reader))]
    assert keys == [(p.key.scene, p.key.window.row, p.key.window.col) for p in patches]


@pytest.fixture(scope="module")
def stored(tmp_path_factory) -> tuple[list[Patch], SplitReader]:
    patches = [make_patch(i) for i in range(9)]
    files = write_parts(tmp_path_factory.mktemp("parts"), patches, "uint16", [4, 1, 4])
    return patches, SplitReader(files)


@given(ids=st.lists(st.integers(0, 8), min_size=1, max_size=12))
@settings(max_examples=40)
def test_patches_are_read_in_any_order_and_more_than_once(stored, ids):
    patches, reader = stored
    batch = reader.read(ids)
    np.testing.assert_array_equal(batch.image, np.stack([patches[i].image for i in ids]))
    np.testing.assert_array_equal(batch.mask, np.stack([patches[i].mask for i in ids]))


@pytest.mark.parametrize("position", [9, 100])
def test_a_position_beyond_the_split_is_an_error(stored, position):
    with pytest.raises(IndexError):
        stored[1].read([position])


@pytest.mark.parametrize("dtype", DTYPES)
def test_plain_pyarrow_reads_the_arrays_by_what_the_file_says(tmp_path, dtype):
    patches = [replace(make_patch(0, dtype), valid=ALL), *(make_patch(i, dtype) for i in (1, 2))]
    (path,) = write_parts(tmp_path, patches, dtype, [3])
    schema = pq.read_schema(path)
    assert schema == patch_schema(SIDE, BANDS, dtype)
    about = {name: json.loads(schema.metadata[name.encode()]) for name in ("image", "mask")}
    for row, patch in zip(pq.read_table(path).to_pylist(), patches, strict=True):
        arrays = {
            name: np.frombuffer(row[name], told["dtype"]).reshape(told["shape"])
            for name, told in about.items()
        }
        np.testing.assert_array_equal(np.moveaxis(arrays["image"], 0, -1), patch.image)
        np.testing.assert_array_equal(arrays["mask"], patch.mask)
        assert row["labelled_share"] == pytest.approx(patch.labelled_share)
        assert (row["valid"] is None) == bool(patch.valid.all())


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_table_of_patches_becomes_one_of_tensors(tmp_path, dtype):
    patches = [replace(make_patch(0, dtype), valid=ALL), make_patch(1, dtype)]
    (path,) = write_parts(tmp_path, patches, dtype, [2])
    bare = pq.read_table(path).replace_schema_metadata()
    table = with_tensors(bare, patch_schema(SIDE, BANDS, dtype))
    assert table.equals(with_tensors(pq.read_table(path)))
    for name, wanted in (
        ("image", [np.moveaxis(p.image, -1, 0) for p in patches]),
        ("mask", [p.mask for p in patches]),
        ("valid", [p.valid for p in patches]),
    ):
        assert isinstance(table.column(name).type, pa.FixedShapeTensorType)
        found = table.column(name).combine_chunks().to_numpy_ndarray()
        np.testing.assert_array_equal(found, np.stack(wanted))


def test_only_what_is_valid_everywhere_is_null(tmp_path):
    whole = [replace(make_patch(i), valid=ALL) for i in range(2)]
    (path,) = write_parts(tmp_path, whole, "uint16", [2])
    assert pq.read_table(path).column("valid").null_count == 2
    assert {f.name for f in pq.read_schema(path) if f.nullable} == {"valid"}
    assert SplitReader([path]).read([0, 1]).valid.all()


def test_a_patch_is_read_from_its_place_in_the_file(tmp_path, monkeypatch):
    side, bands = 256, 3
    rng = np.random.default_rng(0)
    blank = np.zeros((side, side), np.uint8)
    patches = [
        Patch(
            PatchKey("train", "a", Window(i * side, 0, side, side)),
            rng.integers(0, 256, (side, side, bands), dtype=np.uint8),
            blank + i,
            blank == 0,
        )
        for i in range(30)
    ]
    path = tmp_path / "train" / "part.parquet"
    write_part(path, patches, patch_schema(side, bands, "uint8"))
    assert pq.read_metadata(path).num_row_groups == 2
    monkeypatch.delattr(_PartFile, "_slowly")
    batch = SplitReader([path]).read(range(30))
    np.testing.assert_array_equal(batch.image, np.stack([p.image for p in patches]))
    np.testing.assert_array_equal(batch.mask, np.stack([p.mask for p in patches]))


@pytest.mark.parametrize("count", [1, 2, 5])
@pytest.mark.parametrize(
    "layout",
    [
        {"compression": "zstd"},
        {"compression": "snappy", "use_dictionary": False, "row_group_size": 2},
        {"compression": "none", "use_dictionary": True},
        {"compression": "none", "use_dictionary": False, "data_page_version": "2.0"},
        {
            "compression": "none",
            "use_dictionary": False,
            "write_batch_size": 1,
            "data_page_size": 1,
        },
    ],
)
def test_files_that_another_program_wrote_anew_read_the_same(tmp_path, layout, count):
    patches = [make_patch(i) for i in range(count)]
    (path,) = write_parts(tmp_path, patches, "uint16", [count])
    pq.write_table(pq.read_table(path), path, **({"compression": "none"} | layout))
    ids = list(range(count))[::-1]
    batch = SplitReader([path]).read(ids)
    for name in ("image", "mask", "valid"):
        wanted = np.stack([getattr(patches[i], name) for i in ids])
        np.testing.assert_array_equal(getattr(batch, name), wanted)


def test_patches_in_another_layout_are_named_with_the_remedy(tmp_path):
    pq.write_table(pa.table({"image": [1]}), tmp_path / "old.parquet")
    with pytest.raises(DatasetNotFound, match=r"jobs/tile\.py again"):
        SplitReader([tmp_path / "old.parquet"])


def test_the_same_patches_give_the_same_bytes(tmp_path):
    patches = [make_patch(i) for i in range(3)]
    first = write_parts(tmp_path / "a", patches, "uint16", [3])[0]
    again = write_parts(tmp_path / "b", patches, "uint16", [3])[0]
    assert first.read_bytes() == again.read_bytes()


def test_a_part_that_fails_leaves_nothing(tmp_path):
    path = tmp_path / "train" / "part.parquet"
    with pytest.raises((pa.ArrowInvalid, ValueError)):
        write_part(path, [make_patch(0, "float32")], patch_schema(SIDE + 1, BANDS, "uint8"))
    assert not list(path.parent.iterdir())


@given(data=st.data())
@settings(max_examples=30)
def test_a_patch_is_its_window_of_the_tile_and_unlabelled_where_invalid(data):
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    window = Window(data.draw(st.integers(-9, 9)), data.draw(st.integers(0, 9)), 30, 25)
    tile = Tile(window, random_pixels((30, 25), 2, "int16"), rng.random((30, 25)) < 0.7)
    labels = rng.integers(0, CLASSES, (30, 25)).astype(np.uint8)
    top, left = data.draw(st.integers(0, 14)), data.draw(st.integers(0, 9))
    key = PatchKey("train", "a", Window(window.row + top, window.col + left, SIDE, SIDE))
    patch = cut_patch(tile, labels, key)
    here = (slice(top, top + SIDE), slice(left, left + SIDE))
    np.testing.assert_array_equal(patch.image, np.moveaxis(tile.pixels, 0, -1)[here])
    np.testing.assert_array_equal(patch.valid, tile.valid[here])
    np.testing.assert_array_equal(patch.mask, np.where(tile.valid, labels, IGNORE)[here])
    assert patch.image.flags.c_contiguous
    assert patch.labelled_share == pytest.approx(tile.valid[here].mean())


def total(patches: list[Patch]) -> SplitStats:
    zero = SplitStats.zero(CLASSES, BANDS)
    return SplitStats.total((SplitStats.of(p, CLASSES) for p in patches), zero)


@given(st.permutations(range(5)), st.integers(0, 5), st.sampled_from(["uint8", "int16", "uint16"]))
@settings(max_examples=30)
def test_statistics_of_integers_add_up_the_same_in_any_order(order, cut, dtype):
    patches = [make_patch(i, dtype) for i in range(5)]
    shuffled = [patches[i] for i in order]
    together = total(shuffled[:cut]).add(total(shuffled[cut:]))
    assert together == total(patches)
    assert together.add(SplitStats.zero(CLASSES, BANDS)) == together


@pytest.mark.parametrize(("dtype", "value"), [("uint16", 65535), ("int16", -32768), ("uint8", 255)])
def test_the_sums_of_the_highest_values_are_exact(dtype, value):
    side = 512
    image = np.full((side, side, BANDS), value, dtype)
    blank = np.zeros((side, side), np.uint8)
    patch = Patch(PatchKey("train", "a", Window(0, 0, side, side)), image, blank, blank == 0)
    one = SplitStats.of(patch, CLASSES)
    many = SplitStats.total([one] * 1000, SplitStats.zero(CLASSES, BANDS))
    assert many.sums == (1000 * side * side * value,) * BANDS
    assert many.squares == (1000 * side * side * value * value,) * BANDS
    assert many.mean_and_std() == ((float(value),) * BANDS, (1.0,) * BANDS)


@pytest.mark.parametrize("scale", [1e-7, 1.0, 1e5])
def test_the_deviation_of_float_bands_is_right_at_any_scale(scale):
    rng = np.random.default_rng(0)
    image = (rng.normal(0.3, 1, (32, 32, BANDS)) * scale).astype(np.float32)
    blank = np.zeros((32, 32), np.uint8)
    stats = SplitStats.of(
        Patch(PatchKey("train", "a", Window(0, 0, 32, 32)), image, blank, blank == 0), 2
    )
    np.testing.assert_allclose(stats.mean_and_std()[1], image.std(axis=(0, 1)), rtol=1e-4)


def test_a_constant_band_that_no_float_holds_exactly_has_deviation_1():
    image = np.full((32, 32, BANDS), 1e6 + 0.1, np.float32)
    blank = np.zeros((32, 32), np.uint8)
    stats = SplitStats.of(
        Patch(PatchKey("train", "a", Window(0, 0, 32, 32)), image, blank, blank == 0), 2
    )
    assert stats.mean_and_std()[1] == (1.0,) * BANDS


def test_statistics_count_classes_unlabelled_pixels_and_valid_moments():
    patches = [make_patch(i) for i in range(4)]
    stats = total(patches)
    masks = np.stack([p.mask for p in patches])
    counts = [int((masks == index).sum()) for index in (*range(CLASSES), IGNORE)]
    assert (stats.patches, stats.pixels) == (4, tuple(counts))
    values = np.concatenate([p.image[p.valid] for p in patches]).astype(np.float64)
    mean, std = stats.mean_and_std()
    np.testing.assert_allclose(mean, values.mean(axis=0))
    np.testing.assert_allclose(std, values.std(axis=0))


def make_manifest() -> PatchManifest:
    return PatchManifest(
        dataset="coast",
        version="coast@1",
        classes=ClassTable((ClassDef(7, "Land"), ClassDef(0, "Wässer"))),
        bands=("red", "nir"),
        band_indexes=(1, 4),
        dtype="uint16",
        patch_size=SIDE,
        stride=8,
        mean=(0.1, 1 / 3),
        std=(1.0, 2e-7),
        counts={"train": {"patches": 1}},
        dropped={},
        lineage={"code_revision": "abc"},
    )


def test_a_manifest_comes_back_as_it_was_written(tmp_path):
    make_manifest().write(tmp_path)
    assert PatchManifest.read(tmp_path) == make_manifest()


def test_patches_that_are_not_there_are_named_with_the_job_that_makes_them(tmp_path):
    with pytest.raises(DatasetNotFound, match=r"^coast: .*jobs/tile\.py"):
        PatchStore.open(tmp_path / "coast")


def test_a_split_that_is_needed_and_empty_is_an_error(tmp_path):
    make_manifest().write(tmp_path)
    store = PatchStore.open(tmp_path)
    assert len(store.split("val")) == 0
    with pytest.raises(EmptySplit, match="coast/val"):
        store.required("val")
