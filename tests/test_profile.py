"""Profiles: what merges to the same thing, what is sampled, what is left out and counted."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from satseg_ray.drift.profile import QUANTILES, RANK_ERROR, BandProfile, BandSummary, ProfileSpec
from satseg_ray.errors import UnreadableProfile

SCENE = ("scene", 0, 0)


def tile(bands: int = 2, side: int = 64, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 10_000, (bands, side, side)).astype(np.uint16)


def everywhere(pixels: np.ndarray) -> np.ndarray:
    return np.ones(pixels.shape[1:], np.bool_)


def rank_errors(summary: BandSummary, values: np.ndarray) -> list[float]:
    """How far the rank of each quantile is from the one asked for, by all of the values."""
    ordered = np.sort(values)
    ranks = [
        (np.searchsorted(ordered, q, "left"), np.searchsorted(ordered, q, "right"))
        for q in summary.quantiles
    ]
    return [
        max(low / len(ordered) - wanted, wanted - high / len(ordered), 0)
        for (low, high), wanted in zip(ranks, QUANTILES, strict=True)
    ]


@settings(max_examples=25)
@given(
    st.lists(st.integers(0, 3000), min_size=1, max_size=5),
    st.integers(0, 2**16),
    st.permutations(range(5)),
)
def test_the_profile_of_parts_merged_in_any_order_is_that_of_the_whole(sizes, seed, order):
    values = np.random.default_rng(seed).gamma(2.0, 300.0, sum(sizes))
    parts = np.split(values, np.cumsum(sizes)[:-1])
    profiles = [BandProfile.of_values({"red": parts[i]}) for i in order if i < len(parts)]
    merged = BandProfile.merged(profiles).summary()["red"]
    whole = BandProfile.of_values({"red": values}).summary()["red"]
    assert (merged.count, merged.not_finite) == (whole.count, whole.not_finite) == (len(values), 0)
    if not len(values):
        return
    assert (merged.low, merged.high) == (values.min(), values.max())
    assert merged.mean == pytest.approx(values.mean(), rel=1e-9)
    if len(values) > 1:
        assert merged.stddev == pytest.approx(values.std(ddof=1), rel=1e-9, abs=1e-9)
    for summary in (merged, whole):
        assert max(rank_errors(summary, values)) <= RANK_ERROR + 1 / len(values)


def test_merging_changes_neither_part():
    left, right = (BandProfile.of_values({"a": np.arange(n) * 1.0}) for n in (3000, 10))
    before = left.summary(), right.summary()
    left.merge(right).merge(left)
    assert (left.summary(), right.summary()) == before


def test_merging_an_empty_profile_changes_nothing():
    profile = BandProfile.of_values({"a": np.arange(100.0)})
    for merged in (profile.merge(BandProfile.empty(["a"])), BandProfile.empty().merge(profile)):
        assert merged.summary() == profile.summary()


def test_values_that_are_no_number_are_counted_and_spoil_nothing():
    values = np.array([1.0, np.nan, np.inf, -np.inf, 3.0], np.float32)
    summary = BandProfile.of_values({"a": values}).summary()["a"]
    assert (summary.count, summary.not_finite) == (2, 3)
    assert (summary.mean, summary.low, summary.high) == (2.0, 1.0, 3.0)


def test_pixels_that_are_not_valid_are_left_out():
    pixels = tile()
    valid = pixels[0] < 5000
    summary = BandProfile.of(pixels, valid, ["a", "b"], SCENE, ProfileSpec(10**6)).summary()
    assert summary["a"].count == summary["b"].count == np.count_nonzero(valid)
    assert summary["a"].high == pixels[0][valid].max()
    assert summary["b"].mean == pytest.approx(pixels[1][valid].mean())


def test_a_tile_without_valid_pixels_has_a_profile_of_nothing():
    pixels = tile()
    profile = BandProfile.of(pixels, ~everywhere(pixels), ["a", "b"], SCENE)
    assert profile.names == ("a", "b")
    assert profile.summary()["a"].count == 0


def test_the_sample_is_bounded_and_follows_from_seed_and_key_alone():
    pixels = tile(1)
    spec = ProfileSpec(samples=50, seed=3)

    def sampled(key, spec):
        return BandProfile.of(pixels, everywhere(pixels), ["a"], key, spec).summary()["a"]

    first = sampled(SCENE, spec)
    assert first.count == 50
    assert sampled(SCENE, spec) == first
    others = {sampled(("scene", 0, 64), spec), sampled(SCENE, ProfileSpec(50, 4))}
    assert len(others | {first}) == 3


@given(st.integers(0, 500), st.integers(1, 200), st.integers(0, 9))
def test_a_sample_holds_each_pixel_at_most_once(count, samples, seed):
    chosen = ProfileSpec(samples, seed).chosen(count, SCENE).tolist()
    assert len(chosen) == min(count, samples)
    assert chosen == sorted(set(chosen))
    assert all(0 <= place < count for place in chosen)


def test_the_sample_of_a_tile_looks_like_the_tile():
    pixels = tile(1, side=256)
    summary = BandProfile.of(pixels, everywhere(pixels), ["a"], SCENE).summary()["a"]
    assert summary.mean == pytest.approx(pixels.mean(), rel=0.05)
    assert max(rank_errors(summary, pixels.ravel())) < 0.04


def test_a_profile_survives_bytes_and_files(tmp_path):
    profile = BandProfile.of(tile(), everywhere(tile()), ["red", "nir"], SCENE)
    profile.write(tmp_path / "bands.profile")
    for again in (
        BandProfile.from_bytes(profile.to_bytes()),
        BandProfile.read(tmp_path / "bands.profile"),
    ):
        assert again.names == ("nir", "red")
        assert again.summary() == profile.summary()


def test_a_missing_or_damaged_profile_is_refused(tmp_path: Path):
    path = tmp_path / "bands.profile"
    with pytest.raises(UnreadableProfile, match="cannot be read"):
        BandProfile.read(path)
    whole = BandProfile.of_values({"a": np.arange(100.0)}).to_bytes()
    for damaged in (b"", b"no profile", whole[: len(whole) // 2], b"WHY1" + whole[4:60]):
        path.write_bytes(damaged)
        with pytest.raises(UnreadableProfile, match=r"bands\.profile"):
            BandProfile.read(path)


def test_importing_the_module_does_not_import_whylogs():
    code = "import satseg_ray.drift.profile, sys; assert 'whylogs' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
