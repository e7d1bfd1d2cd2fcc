"""The confusion matrix: a monoid, and the ratios read from it."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from satseg_ray.classes import IGNORE
from satseg_ray.model import Confusion

CLASSES = 4
INDEXES = st.sampled_from([*range(CLASSES), IGNORE])


def masks(size: int):
    return arrays(np.uint8, size, elements=INDEXES)


MATRICES = st.builds(
    Confusion,
    arrays(np.int64, (CLASSES, CLASSES), elements=st.integers(0, 2**40)),
    st.integers(0, 2**40),
)


@given(MATRICES, MATRICES, MATRICES)
def test_addition_is_a_commutative_monoid(a, b, c):
    assert (a + b) + c == a + (b + c)
    assert a + b == b + a
    assert a + Confusion.zero(CLASSES) == a


@given(st.data(), st.integers(0, 60), st.integers(0, 60))
def test_sum_of_the_parts_is_the_whole(data, size, cut):
    truth, predicted = data.draw(masks(size)), data.draw(masks(size))
    parts = [
        Confusion.from_indexes(truth[part], predicted[part], CLASSES)
        for part in (slice(cut), slice(cut, None))
    ]
    whole = Confusion.from_indexes(truth, predicted, CLASSES)
    assert sum(parts, Confusion.zero(CLASSES)) == whole
    assert whole.pixels + whole.unlabelled == size


@given(st.data(), st.integers(1, 60))
def test_iou_is_intersection_over_union_of_pixel_sets(data, size):
    truth, predicted = data.draw(masks(size)), data.draw(masks(size))
    confusion = Confusion.from_indexes(truth, predicted, CLASSES)
    known = (truth != IGNORE) & (predicted != IGNORE)
    for index, iou in enumerate(confusion.iou):
        labelled, found = (truth == index) & known, (predicted == index) & known
        union = (labelled | found).sum()
        expected = (labelled & found).sum() / union if union else math.nan
        assert iou == expected or (math.isnan(iou) and math.isnan(expected))


def test_rows_are_true_and_columns_predicted():
    confusion = Confusion.from_indexes(np.array([0, 0, 1]), np.array([1, 1, 1]), 2)
    assert confusion.counts.tolist() == [[0, 2], [0, 1]]
    assert confusion.precision[1] == 1 / 3
    assert confusion.recall.tolist() == [0, 1]
    assert confusion.accuracy == 1 / 3
    assert confusion.f1.tolist() == [0, 0.5]


def test_a_class_absent_from_both_does_not_lower_the_mean():
    confusion = Confusion.from_indexes(np.array([0, 1]), np.array([0, 1]), 3)
    assert math.isnan(confusion.iou[2])
    assert confusion.mean_iou == 1


def test_a_class_only_predicted_counts_as_missed():
    confusion = Confusion.from_indexes(np.array([0, 0]), np.array([0, 1]), 2)
    assert confusion.mean_iou == 0.25
    assert math.isnan(confusion.recall[1])


def test_no_pixel_gives_nan_and_json_null():
    empty = Confusion.zero(2)
    assert math.isnan(empty.mean_iou)
    body = empty.to_dict(["land", "water"])
    assert body["mean_iou"] is None
    assert body["iou"] == {"land": None, "water": None}


@pytest.mark.parametrize("wrong", [4, 254, -1])
def test_an_index_that_is_no_class_is_an_error(wrong):
    with pytest.raises(ValueError, match=r"outside 0\.\.3"):
        Confusion.from_indexes(np.array([0]), np.array([wrong]), 4)


def test_importing_the_package_does_not_import_tensorflow():
    import subprocess
    import sys

    code = (
        "import sys, satseg_ray.model, satseg_ray.tracking; sys.exit('tensorflow' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
