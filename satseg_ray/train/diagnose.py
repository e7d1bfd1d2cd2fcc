"""What a person sees of a training: the best model over the validation split, drawn and logged.

Rank 0 writes a folder beside the model, on its own machine's processors; the driver logs it.
"""

from __future__ import annotations

import json
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from satseg_ray.geo.quicklook import visible_bands
from satseg_ray.model.calibration import Reliability
from satseg_ray.model.diagnostics import (
    Diagnostics,
    PatchScore,
    flat_metrics,
)
from satseg_ray.model.figures import (
    Sample,
    write_confusion,
    write_iou,
    write_learning_curves,
    write_precision_recall,
    write_reliability,
    write_samples,
)
from satseg_ray.model.protocol import Model
from satseg_ray.patches.crop import centred
from satseg_ray.patches.store import PatchStore, SplitReader
from satseg_ray.products import fresh_directory
from satseg_ray.progress import say
from satseg_ray.tracking import Run
from satseg_ray.train.batches import BatchSource, ahead, to_samples
from satseg_ray.train.checkpoint import TrainState
from satseg_ray.train.plan import Worker, validation_batches
from satseg_ray.train.samples import BandStatistics, Samples
from satseg_ray.train.task import TrainTask

FOLDER, REPORT, FAILED = "diagnostics", "diagnostics.json", "failed.txt"
SHOWN = 4
"""Patches that are shown at each end."""

_BATCH = 4


@dataclass(frozen=True)
class Diagnosis:
    """A model over a split; ``raw`` is how sure it was before its temperature, if it has one."""

    diagnostics: Diagnostics
    raw: Reliability | None


def folder_of(model: Path) -> Path:
    """Return the folder of a trained model's diagnostics: beside the model directory."""
    return model.with_name(FOLDER)


def diagnose(task: TrainTask, state: TrainState) -> None:
    """Write the figures and ``diagnostics.json`` of a training whose model has been written.

    Nothing is raised: the model is there, and a figure must not cost it. What went wrong is said,
    and is in ``failed.txt`` in place of the figures.
    """
    folder = folder_of(Path(task.model))
    try:
        with fresh_directory(folder) as scratch:
            _write(scratch, task, state)
    except Exception as error:
        say(f"warning: the training has no figures: {error}")
        with suppress(Exception), fresh_directory(folder) as scratch:
            (scratch / FAILED).write_text(traceback.format_exc(), encoding="utf-8")


def log_diagnostics(run: Run, folder: Path) -> None:
    """Log what :func:`diagnose` wrote: artifacts, metrics, and a table as the run's description.

    A metric is ``best/<name>`` at the step of the best epoch. Without figures the run's tag
    ``diagnostics`` is ``failed``. An MLflow that does not take them is said, and raises nothing.
    """
    try:
        _log(run, folder)
    except Exception as error:
        say(f"warning: MLflow does not take the figures, they are in {folder}: {error}")


def _log(run: Run, folder: Path) -> None:
    if folder.is_dir():
        run.log_artifact(folder, FOLDER)
    if not (folder / REPORT).is_file():
        run.set_tags({"diagnostics": "failed"})
        say(f"warning: run {run.run_id} has no figures; {folder / FAILED} may say why")
        return
    report = json.loads((folder / REPORT).read_text(encoding="utf-8"))
    metrics = {f"best/{name}": value for name, value in report["metrics"].items()}
    if metrics:
        run.log_metrics(metrics, report["best_epoch"])
    run.set_tags({"diagnostics": FOLDER, "mlflow.note.content": description(report)})


def look(model: Model, reader: SplitReader) -> Diagnosis:
    """Return the diagnostics of a model over all patches of a split, batch by batch."""
    spec = model.spec
    temperature = spec.temperature
    total = Diagnostics.zero(len(spec.classes), SHOWN)
    raw = Reliability.zero()
    for keys, samples in _batches(model, reader):
        scores = model.predict_proba(samples.image)
        total += Diagnostics.of(scores, samples.mask, keys, SHOWN)
        if temperature != 1:
            sure = tempered(scores, temperature).max(axis=-1)
            raw += Reliability.of(samples.mask, scores.argmax(axis=-1), sure)
    return Diagnosis(total, raw if temperature != 1 else None)


def tempered(scores: Any, temperature: float) -> Any:
    """Return the probabilities (pixels, classes) that a temperature made into these.

    >>> tempered(np.array([[0.2, 0.8]]), 2.0).round(3).tolist()
    [[0.059, 0.941]]
    """
    powers = (scores / scores.max(axis=-1, keepdims=True)) ** temperature
    return powers / powers.sum(axis=-1, keepdims=True)


def _write(folder: Path, task: TrainTask, state: TrainState) -> None:
    classes = task.spec.classes
    report: dict[str, Any] = {"best_epoch": state.best_epoch, "epochs": state.epoch, "metrics": {}}
    write_learning_curves(folder / "learning_curves.png", state.history, state.best_epoch, classes)
    reader = PatchStore.open(task.patches).split("val")
    report["patches"] = len(reader)
    if len(reader):
        model = _loaded(Path(task.model))
        found = look(model, reader)
        _draw(folder, found, model, reader)
        report |= found.diagnostics.to_dict(classes.names)
        report["metrics"] = flat_metrics(found.diagnostics, classes.names)
        report["temperature"] = model.spec.temperature
        for end in ("best", "worst"):
            report[end] = [_told(reader, score) for score in _shown(found.diagnostics, end)]
    (folder / REPORT).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def _loaded(directory: Path) -> Model:
    """Return the model as everyone will use it: from its graph, temperature included."""
    import tensorflow as tf

    from satseg_ray.model.environment import processors
    from satseg_ray.model.segmenter import Segmenter

    threads = tf.config.threading.get_intra_op_parallelism_threads() or processors()
    return Segmenter.load(directory, _BATCH, threads)


def _batches(model: Model, reader: SplitReader) -> Iterator[tuple[Sequence[int], Samples]]:
    """Yield the positions of patches and what the model is fed, read ahead."""
    source = BatchSource(reader, BandStatistics.of(model.spec), model.spec.patch_size)

    def made(keys: Sequence[int]) -> tuple[Sequence[int], Samples]:
        return keys, source.middle(keys)

    plan = validation_batches(len(reader), model.batch_size, Worker())
    return ahead(made, [batch.ids for batch in plan])


def _draw(folder: Path, found: Diagnosis, model: Model, reader: SplitReader) -> None:
    diagnostics, classes = found.diagnostics, model.spec.classes
    write_confusion(folder / "confusion.png", diagnostics.confusion, classes.names)
    write_iou(folder / "iou.png", diagnostics.confusion, classes)
    write_precision_recall(folder / "precision_recall.png", diagnostics, classes)
    sure = diagnostics.reliability
    write_reliability(folder / "reliability.png", sure, model.spec.temperature, found.raw)
    for end, by in (("best", "mean IoU"), ("worst", "loss")):
        shown = _shown(diagnostics, end)
        samples = [_sample(model, reader, score) for score in shown]
        title = f"The {end} {len(shown)} of {len(reader)} validation patches, by {by}"
        write_samples(folder / f"{end}_patches.png", samples, classes, title)


def _shown(diagnostics: Diagnostics, end: str) -> Sequence[PatchScore]:
    scores: Sequence[PatchScore] = getattr(diagnostics.patches, end)
    return scores


def _sample(model: Model, reader: SplitReader, score: PatchScore) -> Sample:
    spec, side = model.spec, model.spec.patch_size
    batch = centred(reader.read([score.key]), side)
    fed = to_samples(batch, BandStatistics.of(spec))
    predicted = model.predict_proba(fed.image)[0].argmax(axis=-1).astype(np.uint8)
    image = np.moveaxis(batch.image[0], -1, 0)[list(visible_bands(spec.bands))]
    scene, row, col = reader.key(score.key)
    title = f"{scene} row {row} col {col}    mean IoU {score.mean_iou:.3f}    loss {score.loss:.3f}"
    return Sample(title, image, batch.valid[0], fed.mask[0], predicted)


def _told(reader: SplitReader, score: PatchScore) -> dict[str, Any]:
    scene, row, col = reader.key(score.key)
    return {"scene": scene, "row": row, "col": col, **asdict(score)}


def description(report: Mapping[str, Any]) -> str:
    """Return the run's description in Markdown: how good its best epoch is, class by class."""
    head = f"Epoch {report['best_epoch']} of {report['epochs']} is the best."
    if not report["patches"]:
        return f"{head} There is no validation split: nobody knows how good it is.\n"
    columns = ("iou", "precision", "recall", "f1", "average_precision", "ece_by_class")
    titles = ("class", "IoU", "precision", "recall", "F1", "average precision", "ECE")
    rows = [titles, ["---"] * len(titles)]
    rows += [
        [name.replace("|", "\\|"), *(_said(report[column][name]) for column in columns)]
        for name in report["classes"]
    ]
    table = "\n".join("| " + " | ".join(row) + " |" for row in rows)
    return (
        f"{head} On its {report['patches']} validation patches: mean IoU "
        f"**{_said(report['mean_iou'])}**, accuracy {_said(report['accuracy'])}, "
        f"ECE {_said(report['ece'])}.\n\n{table}\n\nFigures are in `{FOLDER}` of the artifacts.\n"
    )


def _said(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
