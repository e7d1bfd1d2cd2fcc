"""The training loop: it learns, resumes, stops on NaN; by itself and in Ray Train workers."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest

from satseg_ray.classes import ClassDef, ClassTable
from satseg_ray.errors import DatasetNotFound, TrainingFailed
from satseg_ray.geo.grid import Window
from satseg_ray.model.pretrained import FirstWeights
from satseg_ray.model.spec import ModelSpec
from satseg_ray.model.store import read_spec
from satseg_ray.model.training_spec import TrainingSpec
from satseg_ray.patches.schema import Patch
from satseg_ray.patches.split import PatchKey
from satseg_ray.patches.store import PatchManifest, write_part
from satseg_ray.train.batches import Ahead, ahead
from satseg_ray.train.checkpoint import Checkpoints, TrainState
from satseg_ray.train.plan import Worker
from satseg_ray.train.task import TrainTask

pytestmark = pytest.mark.tensorflow

SIDE = 64
CLASSES = ClassTable((ClassDef(0, "land"), ClassDef(1, "water")))
BANDS: dict = {
    "bands": ("red", "nir"),
    "band_indexes": (1, 2),
    "dtype": "uint16",
    "mean": (100.0, 100.0),
    "std": (30.0, 30.0),
}


def _patch(split: str, number: int) -> Patch:
    """Return a patch whose classes differ in brightness, two rows of it invalid."""
    rng = np.random.default_rng(number)
    mask = np.kron(rng.integers(0, 2, (4, 4)), np.ones((16, 16))).astype(np.uint8)
    image = rng.normal(100, 5, (SIDE, SIDE, 2)) + 60 * (mask[..., None] - 0.5)
    valid = np.ones(mask.shape, np.bool_)
    valid[:2] = False
    window = Window(0, number * SIDE, SIDE, SIDE)
    labelled = np.where(valid, mask, np.uint8(255))
    return Patch(PatchKey(split, "toy", window), image.astype(np.uint16), labelled, valid)


def write_patches(directory: Path, lineage: dict[str, str] | None = None, **patches: int) -> Path:
    """Write a patch store with so many patches in each split."""
    pixels = {"land": 1000, "water": 1000, "unlabelled": 100}
    manifest = PatchManifest(
        dataset="toy",
        version="toy@1",
        classes=CLASSES,
        patch_size=SIDE,
        stride=SIDE,
        counts={split: {"patches": n, "pixels": pixels} for split, n in patches.items()},
        dropped={},
        lineage=lineage or {},
        **BANDS,
    )
    directory.mkdir(parents=True)
    manifest.write(directory)
    for split, count in patches.items():
        rows = [_patch(split, number) for number in range(count)]
        write_part(directory / split / "part-0.parquet", rows, manifest.schema)
    return directory


def make_task(directory: Path, model: Path, **training) -> TrainTask:
    spec = ModelSpec(
        architecture="linknet",
        backbone="mobilenetv2",
        classes=CLASSES,
        patch_size=SIDE,
        stride=SIDE,
        **BANDS,
    )
    defaults = {"epochs": 3, "batch_size": 4, "learning_rate": 2e-3}
    return TrainTask(str(directory), str(model), spec, TrainingSpec(**defaults | training))


class Interruption(Exception):
    pass


@dataclass
class SoloSession:
    """One worker, checkpoints in a directory; ``stop_after`` an epoch it is interrupted."""

    directory: Path
    stop_after: int | None = None
    worker: Worker = field(default_factory=Worker)
    ahead: Ahead = ahead

    @property
    def checkpoints(self) -> Checkpoints:
        return Checkpoints(str(self.directory))

    def report(self, epoch: int, metrics: Mapping[str, float]) -> None:
        if epoch == self.stop_after:
            raise Interruption


@pytest.fixture(scope="module")
def patches(tmp_path_factory) -> Path:
    return write_patches(tmp_path_factory.mktemp("toy") / "patches", train=10, val=3)


@pytest.fixture(scope="module")
def trained(patches, tmp_path_factory) -> tuple[Path, TrainState]:
    """An undisturbed run: the model's directory and the last state."""
    from satseg_ray.train.loop import fit

    directory = tmp_path_factory.mktemp("run")
    task = make_task(patches, directory / "model")
    return directory / "model", fit(task, SoloSession(directory / "checkpoints"))


def test_loss_falls_on_a_learnable_set(trained):
    _, state = trained
    losses = [figures["loss"] for figures in state.history]
    assert losses[-1] < 0.5 * losses[0]
    assert len(losses) == 3


def test_figures_cover_the_validation_split_and_each_class(trained):
    _, state = trained
    assert {"val_loss", "val_mean_iou", "val_iou_land", "val_iou_water"} <= set(state.best)
    assert state.best["val_mean_iou"] == max(f["val_mean_iou"] for f in state.history)


def test_model_written_is_that_of_the_best_epoch(trained):
    from satseg_ray.model.store import load_network

    model, state = trained
    for stored, best in zip(load_network(model).get_weights(), state.best_weights, strict=True):
        np.testing.assert_array_equal(stored, best)


def test_interrupted_run_goes_on_where_it_was(patches, trained, tmp_path):
    from satseg_ray.train.loop import fit

    task = make_task(patches, tmp_path / "model")
    session = SoloSession(tmp_path / "checkpoints", stop_after=1)
    with pytest.raises(Interruption):
        fit(task, session)
    assert not (tmp_path / "model").exists()
    state = fit(task, replace(session, stop_after=None))
    resumed = [figures["loss"] for figures in state.history]
    undisturbed = [figures["loss"] for figures in trained[1].history]
    assert resumed == pytest.approx(undisturbed, rel=1e-3)


def test_few_labels_train_with_all_losses_and_augmentations(patches, tmp_path):
    from satseg_ray.train.loop import fit

    task = make_task(
        patches,
        tmp_path / "model",
        train_share=0.5,
        rare_sampling=0.5,
        epoch_steps=5,
        loss={"focal": 1, "tversky": 1, "lovasz": 1, "class_weights": "balanced"},
        augment={"zoom": 0.3, "haze": 0.3, "noise": 0.2, "band_dropout": 0.2},
    )
    losses = [f["loss"] for f in fit(task, SoloSession(tmp_path / "checkpoints")).history]
    assert losses[-1] < 0.8 * losses[0]


def test_training_goes_on_from_another_model_on_crops_of_the_stored_patches(
    patches, trained, tmp_path
):
    from satseg_ray.train.loop import fit

    def first_loss(name: str, first: FirstWeights) -> float:
        task = make_task(patches, tmp_path / name, epochs=1, learning_rate=1e-6)
        spec = replace(task.spec, patch_size=32, stride=32)
        session = SoloSession(tmp_path / f"{name}-checkpoints")
        return fit(replace(task, spec=spec, first=first), session).history[0]["loss"]

    known = first_loss("model", FirstWeights(model=str(trained[0])))
    assert known < 0.7 * first_loss("anew", FirstWeights())
    assert read_spec(tmp_path / "model").patch_size == 32


def test_loss_that_is_no_number_stops_with_step_and_keeps_the_checkpoint(patches, tmp_path):
    from satseg_ray.train.loop import fit

    task = make_task(patches, tmp_path / "model", loss={"cross_entropy": math.inf})
    with pytest.raises(TrainingFailed, match=r"epoch 1, step 1 is inf, on the patches toy \(0, "):
        fit(task, SoloSession(tmp_path / "checkpoints"))
    assert not (tmp_path / "checkpoints").exists()


def test_state_comes_back_from_its_files(tmp_path):
    state = TrainState()
    state.advance([np.arange(3.0)], [], {"val_mean_iou": 0.5})
    state.advance([np.arange(3.0) + 1], [], {"val_mean_iou": 0.4})
    state.write(tmp_path)
    back = TrainState.read(tmp_path)
    assert (back.epoch, back.best_epoch, dict(back.best)) == (2, 1, {"val_mean_iou": 0.5})
    np.testing.assert_array_equal(back.weights[0], [1.0, 2.0, 3.0])
    np.testing.assert_array_equal(back.best_weights[0], [0.0, 1.0, 2.0])


def test_without_a_score_the_newest_weights_are_the_best():
    state = TrainState()
    for number in range(3):
        state.advance([np.array([number])], [], {"loss": 1.0})
    assert state.best_epoch == 3


# The first steps from random weights are chaotic: the same batch in another order, on one worker,
# changes the loss by a per cent within five epochs. From trained weights curves can be compared.
SMOOTH: dict = {
    "epochs": 5, "optimizer": "sgd", "clip_norm": 0.5, "loss": {"cross_entropy": 1, "dice": 1}
}  # fmt: skip


def curve(history: Sequence[Mapping[str, float]]) -> np.ndarray:
    """Return loss and validation loss (epochs, 2)."""
    return np.array([[figures["loss"], figures["val_loss"]] for figures in history])


def ray_curve(task: TrainTask, folder: Path, workers: int) -> np.ndarray:
    """Return the curve of a task on so many Ray workers of one thread each."""
    from satseg_ray.train.trainer import RunPlace, TrainResources, train

    task = replace(task, model=str(folder / f"model-{workers}"))
    place = RunPlace(f"toy-{workers}", str(folder / f"runs-{workers}"))
    result = train(task, TrainResources(workers=workers, cpus=1), place)
    assert Path(result.model, "spec.json").is_file()
    return curve(result.history)


@pytest.fixture(scope="module")
def settled(patches, tmp_path_factory) -> Path:
    """A model whose moving statistics have come to those of its batches."""
    from satseg_ray.train.loop import fit

    folder = tmp_path_factory.mktemp("settled")
    task = make_task(patches, folder / "model", epochs=15, schedule="constant")
    fit(task, SoloSession(folder / "checkpoints"))
    return folder / "model"


@pytest.mark.ray
def test_a_ray_worker_trains_as_this_process_does(ray_cluster, patches, trained, tmp_path):
    from satseg_ray.train.loop import fit

    task = make_task(patches, tmp_path / "model", **SMOOTH | {"epochs": 2}, batch_norm="frozen")
    task = replace(task, first=FirstWeights(model=str(trained[0])))
    own = curve(fit(task, SoloSession(tmp_path / "checkpoints")).history)
    assert own[-1, 0] < own[0, 0]
    np.testing.assert_allclose(ray_curve(task, tmp_path, 1), own, rtol=1e-4)


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize(
    ("batch_norm", "rate", "clip_norm"),
    [("frozen", 2e-3, 0.5), ("frozen", 2e-3, None), ("synchronised", 5e-4, 0.5)],
)
def test_two_workers_have_the_loss_curve_of_one(
    ray_cluster, patches, settled, tmp_path, batch_norm, rate, clip_norm
):
    """Five epochs of SGD by the same global batches, cross-entropy and Dice over the workers."""
    options = SMOOTH | {"clip_norm": clip_norm}
    task = make_task(
        patches, tmp_path / "model", **options, learning_rate=rate, batch_norm=batch_norm
    )
    task = replace(task, first=FirstWeights(model=str(settled)))
    one, two = (ray_curve(task, tmp_path, workers) for workers in (1, 2))
    print(batch_norm, clip_norm, one.tolist(), "apart", np.abs(two / one - 1).max(axis=0))
    # By the moments of each batch the loss has no more to fall from these weights; for a curve that
    # falls by them see test_train_options.py
    if batch_norm == "frozen":
        assert one[-1, 0] < 0.9 * one[0, 0], "equal curves that do not move say little"
    np.testing.assert_allclose(two, one, rtol=1e-3)


@pytest.mark.ray
@pytest.mark.slow
def test_fact_met_by_a_worker_reaches_the_driver(ray_cluster, patches, tmp_path):
    from satseg_ray.train.trainer import RunPlace, TrainResources, train

    task = make_task(patches, tmp_path / "model", loss={"cross_entropy": math.inf})
    with pytest.raises(TrainingFailed, match="the loss of epoch 1"):
        train(task, TrainResources(), RunPlace("nan", str(tmp_path / "runs")))


@dataclass(frozen=True)
class HalfReached(TrainTask):
    """A task whose patches only the first worker reaches; notes when the second asks."""

    asked: str = ""

    def __getattribute__(self, name: str):
        import ray.train

        if name == "patches" and ray.train.get_context().get_world_rank():
            with open(self.asked, "a") as note:
                note.write("asked\n")
            return "/nowhere"
        return super().__getattribute__(name)


@pytest.mark.ray
@pytest.mark.slow
def test_fact_that_one_worker_of_two_meets_ends_both_at_once(ray_cluster, patches, tmp_path):
    """The other one waits in a collective meanwhile; neither is started again."""
    from satseg_ray.train.trainer import RunPlace, TrainResources, train

    whole = make_task(patches, tmp_path / "model")
    asked = tmp_path / "asked"
    task = HalfReached(whole.patches, whole.model, whole.spec, whole.training, asked=str(asked))
    start = time.monotonic()
    with pytest.raises(DatasetNotFound, match="/nowhere"):
        train(task, TrainResources(workers=2), RunPlace("half", str(tmp_path / "runs")))
    print("ended after", time.monotonic() - start, "s")
    assert asked.read_text() == "asked\n"
