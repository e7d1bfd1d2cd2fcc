"""Options of training, each by what it must do to weights, losses and files."""

from __future__ import annotations

import json
import math
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from satseg_ray.errors import Diverged, TrainingFailed, UnwritableProduct
from satseg_ray.model.spec import ModelSpec
from satseg_ray.model.training_spec import TrainingSpec
from satseg_ray.train.batches import to_samples
from satseg_ray.train.checkpoint import Checkpoints, TrainState
from satseg_ray.train.plan import Worker
from satseg_ray.train.samples import BandStatistics, Samples
from tests.factories import files_of_at_most
from tests.small_network import build_small
from tests.test_train_loop import Interruption, SoloSession, _patch, make_task, write_patches

pytestmark = pytest.mark.tensorflow

ROOT = Path(__file__).resolve().parent.parent
LOCAL = {"batch_norm": "local", "optimizer": "sgd", "learning_rate": 0.05}


@pytest.fixture(scope="module")
def patches(tmp_path_factory) -> Path:
    return write_patches(tmp_path_factory.mktemp("toy") / "patches", train=8, val=2)


@pytest.fixture(scope="module")
def spec(patches) -> ModelSpec:
    return make_task(patches, patches / "model").spec


@pytest.fixture(scope="module")
def batch(spec) -> Samples:
    @dataclass
    class Stack:
        image: np.ndarray
        mask: np.ndarray
        valid: np.ndarray

    rows = [_patch("train", number) for number in range(4)]
    arrays = (np.stack([getattr(row, name) for row in rows]) for name in ("image", "mask", "valid"))
    return to_samples(Stack(*arrays), BandStatistics.of(spec))


def _learner(spec, **options):
    from satseg_ray.train.steps import Learner

    return Learner(spec, TrainingSpec(**LOCAL | options))


def _trained(learner, batch, steps: int = 3) -> list[float]:
    return [float(learner.train_step(batch, 0.05)) for _ in range(steps)]


@pytest.fixture(scope="module", autouse=True)
def small_network() -> Iterator[None]:
    """Stand in for the real networks, whose first steps from random weights are chaotic."""
    import satseg_ray.train.loop as loop
    import satseg_ray.train.steps as steps

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(steps, "build_network", build_small)
        patch.setattr(loop, "build_network", build_small)
        yield


@pytest.fixture(scope="module")
def plain(spec, batch) -> list[float]:
    """The losses of four steps without any option."""
    return _trained(_learner(spec), batch, 4)


def test_moments_of_the_whole_batch_are_those_of_one_worker(spec, batch, plain):
    whole = _trained(_learner(spec, batch_norm="synchronised"), batch)
    assert whole == pytest.approx(plain[:3], rel=1e-3)


def test_frozen_statistics_scales_and_offsets_never_change(spec, batch):
    import tensorflow as tf

    learner = _learner(spec, batch_norm="frozen")
    layers = [
        layer
        for layer in learner.network.submodules
        if isinstance(layer, tf.keras.layers.BatchNormalization)
    ]
    before = [array for layer in layers for array in layer.get_weights()]
    losses = _trained(learner, batch)
    after = [array for layer in layers for array in layer.get_weights()]
    assert all((a == b).all() for a, b in zip(before, after, strict=True))
    assert losses[-1] < losses[0]


def test_a_clipped_step_is_no_longer_than_the_rate_allows(spec, batch):
    learner = _learner(spec, clip_norm=0.01)
    before = [v.numpy() for v in learner.network.trainable_variables]
    learner.train_step(batch, 1.0)
    after = [v.numpy() for v in learner.network.trainable_variables]
    length = math.sqrt(sum(float(((b - a) ** 2).sum()) for a, b in zip(before, after, strict=True)))
    assert length == pytest.approx(0.01, rel=0.01)


@pytest.mark.parametrize("precision", ["mixed_bfloat16", "mixed_float16"])
def test_lower_precision_trains_like_float32_with_float32_weights(spec, batch, plain, precision):
    learner = _learner(spec, precision=precision)
    losses = _trained(learner, batch, 4)
    assert losses == pytest.approx(plain, rel=0.1)
    assert {array.dtype for array in learner.agree()} == {np.dtype(np.float32)}
    other = _learner(spec, precision=precision)
    other.restore(learner.agree(), learner.optimizer_state())
    assert _trained(other, batch, 1) == pytest.approx(_trained(learner, batch, 1), rel=1e-2)


def test_averaged_weights_are_the_moving_average_of_those_after_each_step(spec, batch):
    learner = _learner(spec, weight_averaging=0.5)
    expected = learner.network.trainable_variables[0].numpy()
    for step in range(6):
        learner.train_step(batch, 0.05)
        decay = min(0.5, (1 + step) / (10 + step))
        newest = learner.network.trainable_variables[0].numpy()
        expected = decay * expected + (1 - decay) * newest
    weights = learner.agree()
    shown = learner.averaged(weights)
    place = next(
        i
        for i, variable in enumerate(learner.network.weights)
        if variable is learner.network.trainable_variables[0]
    )
    np.testing.assert_allclose(shown[place], expected, rtol=1e-4, atol=1e-7)
    with learner.showing(shown, weights):
        np.testing.assert_array_equal(learner.network.get_weights()[place], shown[place])
    np.testing.assert_array_equal(learner.network.get_weights()[place], weights[place])


OPTIONS = {
    "schedule": "plateau",
    "plateau": {"patience": 1, "watch": "val_loss", "min_delta": 10.0},
    "weight_averaging": 0.9,
    "clip_norm": 1.0,
    "epochs": 3,
}


def test_a_run_with_all_options_goes_on_as_it_would_have_gone(patches, tmp_path):
    from satseg_ray.train.loop import fit

    whole = fit(make_task(patches, tmp_path / "m", **OPTIONS), SoloSession(tmp_path / "whole"))
    task = make_task(patches, tmp_path / "model", **OPTIONS)
    with pytest.raises(Interruption):
        fit(task, SoloSession(tmp_path / "cut", stop_after=2))
    resumed = fit(task, SoloSession(tmp_path / "cut"))
    for name in ("loss", "val_loss", "learning_rate"):
        values = [[figures[name] for figures in s.history] for s in (resumed, whole)]
        assert values[0] == pytest.approx(values[1], rel=1e-3), name
    assert whole.history[2]["learning_rate"] == pytest.approx(
        0.3 * whole.history[1]["learning_rate"]
    )
    assert Path(f"{tmp_path / 'm'}-last").exists() == (whole.best_epoch != whole.epoch)


def test_training_stops_early_and_writes_best_and_last(patches, tmp_path):
    from satseg_ray.train.loop import fit

    options = {"epochs": 9, "stopping": {"patience": 1, "min_delta": 1.0}}
    state = fit(make_task(patches, tmp_path / "model", **options), SoloSession(tmp_path / "c"))
    assert state.epoch == 2
    assert (tmp_path / "model" / "spec.json").is_file()
    assert (tmp_path / "model-last").exists() == (state.best_epoch != 2)


def test_a_loss_that_is_no_number_leaves_the_best_model_so_far(patches, tmp_path):
    from satseg_ray.train.loop import fit

    # A rate that a second epoch cannot survive
    options = {"optimizer": "sgd", "schedule": "constant", "warmup": 0.0, "epochs": 2}
    good = make_task(patches, tmp_path / "model", **options | {"learning_rate": 0.01})
    with pytest.raises(Interruption):
        fit(good, SoloSession(tmp_path / "c", stop_after=1))
    bad = make_task(patches, tmp_path / "model", **options | {"learning_rate": 1e30})
    with pytest.raises(Diverged, match=r"epoch 2.*The model of epoch 1, the best one before"):
        fit(bad, SoloSession(tmp_path / "c"))
    assert (tmp_path / "model" / "spec.json").is_file()
    assert Checkpoints(str(tmp_path / "c")).read().epoch == 1


def test_a_checkpoint_without_room_leaves_the_one_before(tmp_path):
    checkpoints = Checkpoints(str(tmp_path))
    state = TrainState()
    for epoch in range(1, 4):
        state.advance([np.full(50_000, float(epoch))], [], {"loss": 1.0})
        if epoch < 3:
            checkpoints.write(state)
            continue
        with files_of_at_most(100_000), pytest.raises(UnwritableProduct, match="epoch-000003"):
            checkpoints.write(state)
    assert checkpoints.read().epoch == 2
    assert [path.name for path in tmp_path.iterdir() if "partial" in path.name] == []


def test_a_full_disk_ends_training_with_a_sentence_and_it_goes_on_later(
    patches, tmp_path, monkeypatch
):
    from satseg_ray.train.loop import fit

    write = TrainState.write

    def write_much(state: TrainState, directory: Path) -> None:
        write(state, directory)
        (directory / "much").write_bytes(bytes(4 << 20))

    monkeypatch.setattr(TrainState, "write", write_much)
    task, session = make_task(patches, tmp_path / "model", epochs=2), SoloSession(tmp_path / "c")
    with files_of_at_most(1 << 20), pytest.raises(UnwritableProduct, match="cannot be written"):
        fit(task, session)
    assert session.checkpoints.history() == []
    assert fit(task, session).epoch == 2


def started(
    patches: Path, checkpoints: Sequence[Path], batch_norm: str
) -> list[subprocess.Popen[str]]:
    """Start a worker for each folder of checkpoints."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    script = str(ROOT / "tests" / "small_network.py")
    workers = len(checkpoints)
    return [
        subprocess.Popen(
            [sys.executable, script, *map(str, (rank, workers, port, patches, folder)), batch_norm],
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank, folder in enumerate(checkpoints)
    ]


def curves(patches: Path, folder: Path, workers: int, batch_norm: str) -> np.ndarray:
    """Return loss and validation loss of five epochs by so many processes."""
    shared = folder / f"c{workers}{batch_norm}"
    processes = started(patches, [shared] * workers, batch_norm)
    out = [process.communicate(timeout=500) for process in processes]
    assert [process.returncode for process in processes] == [0] * workers, out
    return np.array(json.loads(out[0][0].strip().splitlines()[-1]))


@pytest.mark.slow
def test_two_processes_have_the_curve_of_one_by_the_moments_of_the_whole_batch(patches, tmp_path):
    """SGD, clipped after the reduction; without Ray. By their own moments the curve is another."""
    one = curves(patches, tmp_path, 1, "synchronised")
    two = curves(patches, tmp_path, 2, "synchronised")
    apart = np.abs(two / one - 1).max()
    print("largest relative difference", apart, "of", one.tolist())
    assert apart < 1e-3
    assert one[-1, 0] < 0.9 * one[0, 0]
    assert np.abs(curves(patches, tmp_path, 2, "local") / one - 1).max() > 1e-3


@pytest.mark.slow
def test_workers_that_read_different_states_refuse_to_go_on_together(patches, tmp_path):
    """As where a shared folder lags on one machine; two processes, without Ray."""
    from satseg_ray.train.loop import fit

    task = make_task(patches, tmp_path / "model", optimizer="sgd")
    with pytest.raises(Interruption):
        fit(task, SoloSession(tmp_path / "ahead", stop_after=2))
    shutil.copytree(tmp_path / "ahead", tmp_path / "behind")
    shutil.rmtree(tmp_path / "behind" / "epoch-000002")
    processes = started(patches, [tmp_path / "ahead", tmp_path / "behind"], "synchronised")
    for process in processes:
        _, log = process.communicate(timeout=200)
        assert process.returncode == 1
        assert "TrainingFailed" in log
        assert "for all workers: worker 0 after 2, worker 1 after 1" in log


def test_epochs_are_compared_over_the_workers_before_the_first_step(tmp_path):
    from satseg_ray.train.loop import _check_same_epoch

    @dataclass
    class Others:
        """Stands for a learner; the other workers are after these epochs."""

        epochs: Sequence[int]

        def total(self, own: np.ndarray) -> np.ndarray:
            return own + np.array([0, *self.epochs])

    session = SoloSession(tmp_path, worker=Worker(0, 3))
    others: Any = Others([5, 5])
    _check_same_epoch(5, others, session)
    with pytest.raises(TrainingFailed, match="worker 0 after 5, worker 1 after 4, worker 2 after"):
        _check_same_epoch(5, replace(others, epochs=[4, 6]), session)  # the mean is the same
