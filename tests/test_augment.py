"""Augmentation: what moves together, what stays, and what it is a function of."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from satseg_ray.model.training_spec import AugmentSpec
from satseg_ray.patches.store import PatchBatch
from satseg_ray.train.augment import Augmenter
from satseg_ray.train.batches import to_samples
from satseg_ray.train.geometry import magnified, symmetry
from satseg_ray.train.samples import BandStatistics, Sample, Samples

OFF = {"symmetries": False, "gain": 0.0, "bias": 0.0}
COLOURS = {"gain": 0.2, "bias": 0.3, "haze": 0.6, "noise": 0.2, "band_dropout": 0.3}
SIDE = 24
DEPTHS = {"uint8": (0, 256), "uint16": (0, 60000), "int16": (-9000, 9000), "float32": (0, 1)}


def _bands(count: int, low: float = 0, high: float = 200) -> BandStatistics:
    mean, std = (low + high) / 2, (high - low) / 4
    return BandStatistics((mean,) * count, (std,) * count, (mean,) * count)


def _patches(dtype: str, bands: int, count: int = 3) -> PatchBatch:
    rng, shape = np.random.default_rng(7), (count, SIDE, SIDE)
    image = np.moveaxis(rng.uniform(*DEPTHS[dtype], (count, bands, SIDE, SIDE)), 1, -1)
    valid = rng.random(shape) < 0.9
    mask = rng.choice(np.array([0, 1, 255], np.uint8), shape)
    return PatchBatch(image.astype(dtype), np.where(valid, mask, np.uint8(255)), valid)


def _augmented(dtype: str, bands: int, **spec) -> Samples:
    patches, about = _patches(dtype, bands), _bands(bands, *DEPTHS[dtype])
    augmenter = Augmenter(AugmentSpec(**OFF | spec), about, seed=1)
    samples = to_samples(patches, about)
    return augmenter.apply(samples, patches.valid, 0, range(len(patches.mask)))


def _sample(seed: int = 0, bands: int = 2, valid_share: float = 1.0) -> Sample:
    rng = np.random.default_rng(seed)
    return Sample(
        rng.normal(100, 30, (SIDE, SIDE, bands)).astype(np.float32),
        rng.integers(0, 4, (SIDE, SIDE)).astype(np.uint8),
        rng.random((SIDE, SIDE)) < valid_share,
    )


@pytest.mark.parametrize("bands", [1, 3, 12])
@pytest.mark.parametrize("dtype", DEPTHS)
def test_with_everything_off_samples_are_those_given(dtype, bands):
    plain = to_samples(_patches(dtype, bands), _bands(bands, *DEPTHS[dtype]))
    same = _augmented(dtype, bands)
    assert same.image.flags.c_contiguous
    assert same.image.tobytes() == plain.image.tobytes()
    assert same.mask.tobytes() == plain.mask.tobytes()


@pytest.mark.parametrize("bands", [1, 3, 12])
@pytest.mark.parametrize("dtype", DEPTHS)
def test_colours_leave_the_mask_and_invalid_pixels_alone(dtype, bands):
    patches = _patches(dtype, bands)
    plain = to_samples(patches, _bands(bands, *DEPTHS[dtype]))
    changed = _augmented(dtype, bands, **COLOURS)
    np.testing.assert_array_equal(changed.mask, plain.mask)
    np.testing.assert_array_equal(changed.image[~patches.valid], plain.image[~patches.valid])
    assert (changed.image[patches.valid] != plain.image[patches.valid]).mean() > 0.6
    assert np.isfinite(changed.image).all()
    assert changed.image.dtype == np.float32


def _deviations(kind: str) -> tuple[np.ndarray, np.ndarray]:
    """Return 8 patches before and after one kind of change, (8, pixels, 3) in deviations."""
    bands = BandStatistics((10.0, 200.0, 3000.0), (2.0, 50.0, 400.0), (10.0, 200.0, 3000.0))
    rng = np.random.default_rng(0)
    image = np.array(bands.mean) + np.array(bands.std) * rng.normal(size=(8, 32, 32, 3))
    samples = Samples(image.astype(np.float32), np.zeros((8, 32, 32), np.uint8))
    augmenter = Augmenter(AugmentSpec(**OFF | {kind: COLOURS[kind]}), bands)
    changed = augmenter.apply(samples, samples.mask == 0, 0, range(8))
    before, after = (
        ((s.image - bands.mean) / np.array(bands.std)).reshape(8, -1, 3) for s in (samples, changed)
    )
    return before, after


def test_gain_scales_all_bands_alike_about_their_means():
    before, after = _deviations("gain")
    ratio = np.median(after / before, axis=1)
    np.testing.assert_allclose(after, before * ratio[:, None], atol=1e-3)
    np.testing.assert_allclose(ratio, ratio[:, :1] * np.ones(3), rtol=1e-3)
    assert 0.1 < np.abs(ratio - 1).max() <= 0.201


def test_bias_shifts_each_band():
    before, after = _deviations("bias")
    assert 0.1 < np.abs(after - before).max() <= 0.301
    assert np.ptp(after - before, axis=1).max() < 1e-3
    assert np.median(after - before, axis=1).std(axis=1).min() > 0.01


def test_haze_draws_towards_bright_by_slowly_changing_shares():
    before, after = _deviations("haze")
    share = (after - before) / (3 - before)
    assert share.min() >= -1e-3
    assert 0.3 < share.max() <= 0.601
    assert np.ptp(np.median(share, axis=1), axis=0).min() > 0.1
    smooth = share.reshape(8, 32, 32, 3)
    assert np.abs(np.diff(smooth, axis=1)).max() < 0.6 * 3 / 31 + 1e-2
    assert np.ptp(smooth, axis=(1, 2)).max() > 0.2


def test_noise_is_nearly_normal_of_one_deviation_in_all_bands():
    before, after = _deviations("noise")
    noise = after - before
    deviations = noise.std(axis=1)
    assert 0.1 < deviations.max() <= 0.21
    np.testing.assert_allclose(deviations, deviations[:, :1] * np.ones(3), rtol=0.1)
    normed = (noise / deviations[:, None]).ravel()
    assert abs(normed.mean()) < 0.02
    assert (np.abs(normed) < 1.24).mean() == pytest.approx(0.785, abs=0.01)
    assert (normed**4).mean() == pytest.approx(3, abs=0.2)
    assert abs(np.corrcoef(normed[:-1], normed[1:])[0, 1]) < 0.02


def test_a_dropped_band_is_its_mean_and_one_stays():
    before, after = _deviations("band_dropout")
    dropped = (np.abs(after) < 1e-5).all(axis=1)
    assert dropped.any()
    assert not dropped.all(axis=1).any()
    moved = (after - before).transpose(0, 2, 1)
    assert (moved[~dropped] == 0).all()


def test_a_single_band_is_never_dropped():
    samples = _augmented("uint8", 1, band_dropout=0.99)
    assert (samples.image.std(axis=(1, 2)) > 1).all()


@pytest.mark.parametrize("scale", [2.0**-12, 2.0**5])
def test_units_do_not_matter(scale):
    """Samples in other units change alike: all is in terms of a band's mean and deviation."""
    spec = AugmentSpec(zoom=0.5, **COLOURS)
    samples = to_samples(_patches("uint16", 4), _bands(4, *DEPTHS["uint16"]))
    valid = samples.mask != 255
    changed = []
    for unit in (1.0, scale):
        low, high = DEPTHS["uint16"]
        bands = _bands(4, low * unit, high * unit)
        scaled = Samples(samples.image * np.float32(unit), samples.mask)
        changed.append(Augmenter(spec, bands).apply(scaled, valid, 2, range(3)).image / unit)
    np.testing.assert_array_equal(changed[0], changed[1])


def test_a_sample_depends_on_seed_epoch_and_position_alone():
    patches, bands = _patches("uint16", 3), _bands(3, *DEPTHS["uint16"])
    samples = to_samples(patches, bands)
    augmenter = Augmenter(AugmentSpec(zoom=0.5, **COLOURS), bands, 5)
    whole = augmenter.apply(samples, patches.valid, 3, (10, 11, 12))
    for i in range(3):
        one = Samples(samples.image[i : i + 1], samples.mask[i : i + 1])
        alone = augmenter.apply(one, patches.valid[i : i + 1], 3, (10 + i,))
        np.testing.assert_array_equal(alone.image[0], whole.image[i])
        np.testing.assert_array_equal(alone.mask[0], whole.mask[i])
    for other in (
        augmenter.apply(samples, patches.valid, 4, (10, 11, 12)),
        augmenter.apply(samples, patches.valid, 3, (11, 12, 13)),
        Augmenter(augmenter.spec, bands, 6).apply(samples, patches.valid, 3, (10, 11, 12)),
    ):
        assert all((other.image[i] != whole.image[i]).any() for i in range(3))


@pytest.mark.parametrize("more", [{"haze": 0.5}, {"noise": 0.5}, {"zoom": 0.5}])
def test_a_kind_that_is_switched_on_leaves_the_others_as_they_were(more):
    dropped = [
        (np.ptp(_augmented("uint8", 6, band_dropout=0.5, **extra).image, axis=(1, 2)) < 40)
        for extra in (OFF, more)
    ]
    np.testing.assert_array_equal(dropped[0], dropped[1])
    assert dropped[0].any()


def test_what_a_symmetry_or_a_zoom_moves_stays_together():
    """The first band is the class, so that it says where a pixel came from."""
    rng = np.random.default_rng(0)
    mask = np.kron(rng.integers(0, 3, (20, 4, 4)), np.ones((16, 16))).astype(np.uint8)
    valid = np.kron(rng.random((20, 4, 4)) < 0.8, np.ones((16, 16))).astype(bool)
    image = np.repeat(mask[..., np.newaxis], 2, axis=-1)
    bands = BandStatistics((1.0, 1.0), (1.0, 1.0), (9.0, 9.0))
    samples = to_samples(PatchBatch(image, mask, valid), bands)
    augmenter = Augmenter(AugmentSpec(**OFF | {"symmetries": True, "zoom": 1.0}), bands)
    moved = augmenter.apply(samples, valid, 0, range(20))
    known = moved.mask != 255
    assert 0.5 < known.mean() < 0.9
    assert (moved.image[~known] == 9).all()
    assert (moved.image[known] <= 2.001).all()
    near = np.abs(moved.image[..., 0][known] - moved.mask[known]) < 0.5
    assert near.mean() > 0.97
    assert sum((a != b).any() for a, b in zip(moved.mask, samples.mask, strict=True)) == 20


@settings(max_examples=60, deadline=None)
@given(st.floats(0.3, 4), st.floats(0, 1), st.floats(0, 1), st.integers(0, 9))
def test_zoom_is_that_of_a_plain_interpolation(factor, down, right, seed):
    sample = _sample(seed)
    zoomed = magnified(sample, factor, (down, right), (7.0, 7.0))
    rows, cols = (
        at * (SIDE - SIDE / factor) + (np.arange(SIDE) + 0.5) / factor for at in (down, right)
    )
    inside = ((rows >= 0) & (rows < SIDE))[:, None] & ((cols >= 0) & (cols < SIDE))
    np.testing.assert_array_equal(zoomed.valid, inside)
    for band in range(2):
        expected = sample.image[..., band]
        for axis, places in ((0, rows), (1, cols)):
            expected = np.apply_along_axis(
                lambda line, at: np.interp(at, np.arange(SIDE), line), axis, expected, places - 0.5
            )
        np.testing.assert_allclose(
            zoomed.image[..., band], np.where(inside, expected, 7), atol=1e-2
        )
    for i, j in zip(*np.nonzero(inside), strict=True):
        assert zoomed.mask[i, j] == sample.mask[int(rows[i]), int(cols[j])]
    assert (zoomed.mask[~inside] == 255).all()


@given(st.floats(0, 1), st.floats(0, 1), st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_a_zoom_by_one_is_the_sample_itself(down, right, seed):
    sample = _sample(seed, valid_share=0.8)
    sample.image[~sample.valid] = 7
    same = magnified(sample, 1.0, (down, right), (7, 7))
    assert same.image.tobytes() == sample.image.tobytes()
    assert same.mask.tobytes() == sample.mask.tobytes()
    assert (same.valid == sample.valid).all()


@given(st.floats(0.3, 4), st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_a_zoom_never_mixes_in_what_is_invalid(factor, seed):
    sample = _sample(seed, valid_share=0.6)
    sample.image[~sample.valid] = 1e6
    zoomed = magnified(sample, factor, (0.3, 0.9), (7.0, 7.0))
    assert (zoomed.image[~zoomed.valid] == 7).all()
    known = sample.image[sample.valid]
    assert zoomed.image[zoomed.valid].min() >= known.min() - 1e-2
    assert zoomed.image[zoomed.valid].max() <= known.max() + 1e-2


def test_symmetries_are_the_eight_of_the_square():
    square = np.arange(9).reshape(3, 3)
    assert len({symmetry(square, turn).tobytes() for turn in range(8)}) == 8
    assert (symmetry(square, 0) == square).all()
