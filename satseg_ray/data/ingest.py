"""Ingest: scenes and labels of any kind, each checked, into the workspace as a version."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from satseg_ray.checks.classfiles import find_class_files
from satseg_ray.checks.collection import Collection
from satseg_ray.checks.facts import OVERLAY, PICTURE, SceneFacts
from satseg_ray.checks.report import OVERVIEW, PICTURES, Report
from satseg_ray.checks.rules import apply_rules, strict
from satseg_ray.checks.words import counted
from satseg_ray.classes import ClassTable
from satseg_ray.config import IngestConfig
from satseg_ray.data.inputs import Inputs, find_inputs
from satseg_ray.data.kind import Bands, Taken, bands_of
from satseg_ray.data.rows import Pool, Reporter, error_of, first_of, gathered, run_tasks
from satseg_ray.data.taking import IMAGES, LABELS, PROFILES, SceneTaker
from satseg_ray.drift.profile import PROFILE, merge_profiles
from satseg_ray.errors import ChecksFailed, SatsegError, UnwritableProduct
from satseg_ray.findings import Finding
from satseg_ray.geo.labels import LabelRule
from satseg_ray.patches.dataset import DatasetManifest
from satseg_ray.products import fresh_directory
from satseg_ray.progress import Progress, say
from satseg_ray.runtime import cluster_cpus, ray_session
from satseg_ray.tracking.datastore import DataStore
from satseg_ray.workspace import Workspace


def ingest(config: IngestConfig) -> Mapping[str, Any]:
    """Make ``data/raw/<dataset>`` of scenes and labels, as a new version; all of it or nothing.

    Scenes are copied byte for byte, with the masks and world files beside them, or stay where
    they are. Labels become rasters of class indexes on the scene's grid, 255 where unlabelled, so
    that whatever reads them later knows one kind alone. What the checks find is printed and
    written as a report: beside the data, or to ``reports/<dataset>`` where it is refused.
    """
    workspace = Workspace.resolve()
    target = workspace.raw(config.dataset)
    rule = config.rule(ClassTable(tuple(config.classes)))
    inputs = find_inputs(config)
    store = DataStore.open(workspace)
    with store.replacing_raw(config.dataset) as draft, ray_session("ingest"):
        outcomes = _take(_taker(config, rule, draft.folder), inputs, config.band_names)
        report = _judged(config, rule, outcomes, inputs.findings)
        for line in report.lines():
            say(line)
        if error := _error(config, outcomes, report):
            _keep_report(workspace.report(config.dataset), report, draft.folder)
            raise error
        _say_alpha(config, outcomes)
        manifest = _manifest(config, rule.table, outcomes)
        _finish(draft.folder, manifest, report)
        draft.version, draft.figures = manifest.version, {"scenes": len(manifest.scenes)}
    shutil.rmtree(workspace.report(config.dataset), ignore_errors=True)  # of an earlier refusal
    say(f"data set {manifest.version} in {target}, pictures of it in {target / OVERVIEW}")
    spent = {
        "slowest_scene_seconds": round(outcomes.slowest, 2),
        "peak_worker_mib": outcomes.peak_mib,
    }
    return _result(target, manifest, report) | spent | draft.result()


def _taker(config: IngestConfig, rule: LabelRule, folder: Path) -> SceneTaker:
    for part in (IMAGES, LABELS, PICTURES, PROFILES):
        (folder / part).mkdir()
    notes = Reporter(str(folder / "notes"))
    bands = tuple(config.bands)
    return SceneTaker(str(folder), rule, bands, config.nodata, config.by_reference, notes)


@dataclass(frozen=True)
class _Outcomes:
    """What became of the scenes: those taken, the errors of the others by name, and the facts.

    ``ending`` names those of the others that are not to blame: their errors end the job.
    """

    taken: tuple[Taken, ...]
    refused: Mapping[str, SatsegError]
    facts: tuple[SceneFacts, ...]
    bands: Bands | None
    ending: frozenset[str]
    slowest: float
    peak_mib: int

    def without(self, odd: Mapping[str, SatsegError]) -> _Outcomes:
        """Return the outcomes with more scenes refused."""
        taken = tuple(scene for scene in self.taken if scene.record.name not in odd)
        return replace(self, taken=taken, refused={**self.refused, **odd})


def _take(taker: SceneTaker, inputs: Inputs, names: Sequence[str]) -> _Outcomes:
    """Take all scenes on the connected cluster; those of another kind than most are refused."""
    progress = Progress("ingest", len(inputs.scenes), "scenes")
    outcomes = gathered(
        run_tasks([scene.row() for scene in inputs.scenes], taker.take_scene, Pool(cluster_cpus())),
        lambda outcome: progress.advance(1, outcome["key"]),
    )
    shutil.rmtree(Path(taker.folder) / "notes", ignore_errors=True)
    seen = [outcome for outcome in outcomes if outcome["status"] == "ok"]
    refused = dict(inputs.refused)
    refused |= {o["key"]: error_of(o) for o in outcomes if o["status"] != "ok"}
    refused |= {o["key"]: error_of(o["refused"]) for o in seen if o["refused"]}
    taken = tuple(Taken.of(outcome) for outcome in seen if not outcome["refused"])
    ending = {o["key"] for o in outcomes if o["status"] != "ok" and not o["of_input"]}
    ending |= {name for name, error in refused.items() if isinstance(error, UnwritableProduct)}
    bands, odd = bands_of(taken, taker.bands, names) if taken else (None, {})
    return _Outcomes(
        taken,
        refused,
        tuple(SceneFacts.from_dict(outcome["facts"]) for outcome in seen),
        bands,
        frozenset(ending),
        max(stop - start for start, stop in (outcome["span"] for outcome in outcomes)),
        max(outcome["peak_mib"] for outcome in outcomes),
    ).without(odd)


def _judged(
    config: IngestConfig, rule: LabelRule, outcomes: _Outcomes, paired: Sequence[Finding]
) -> Report:
    """Return the report of all scenes; those left out on purpose are judged no more."""
    facts = outcomes.facts
    if config.on_bad == "skip":
        kept = {scene.record.name for scene in outcomes.taken}
        facts = tuple(scene for scene in facts if scene.name in kept)
    labels = [scene.labels.path for scene in facts if scene.labels]
    data = Collection(facts, rule, find_class_files(labels), on_one_grid=config.crs is not None)
    findings = apply_rules(data, [*paired, *_refusals(outcomes)])
    refused = Counter(type(error).__name__ for error in outcomes.refused.values())
    return Report.of(config.dataset, data, strict(findings) if config.strict else findings, refused)


def _refusals(outcomes: _Outcomes) -> Iterator[Finding]:
    """Yield what refused scenes met, each kind of error once."""
    kinds: dict[str, list[SatsegError]] = {}
    for error in outcomes.refused.values():
        kinds.setdefault(type(error).__name__, []).append(error)
    for kind, same in sorted(kinds.items()):
        rest = f"; and {len(same) - 1} more" if len(same) > 1 else ""
        said = f"{kind}: {same[0].subject}: {same[0].problem}{rest}"
        yield Finding("note", "refused", counted(len(same), "scene"), said, "Not taken.")


def _error(config: IngestConfig, outcomes: _Outcomes, report: Report) -> SatsegError | None:
    """Return why the data set is refused: the first scene's error, else that of the checks.

    A full disk and a fault of the code are no fault of a scene: none is left out for them.
    """
    refused = [outcomes.refused[name] for name in sorted(outcomes.ending or outcomes.refused)]
    if refused and (config.on_bad == "fail" or outcomes.ending or not outcomes.taken):
        return first_of(refused, len(outcomes.taken) + len(outcomes.refused), "scenes")
    for finding in report.findings:
        if finding.level == "error":
            return ChecksFailed(finding.subject, finding.problem, finding.action)
    return None


def _keep_report(target: Path, report: Report, draft: Path) -> None:
    """Write the report of a data set that is refused, with the pictures made so far."""
    with fresh_directory(target) as folder:
        (draft / PICTURES).rename(folder / PICTURES)
        report.write(folder)
    say(f"the report of what was found is {target / OVERVIEW}")


def _finish(folder: Path, manifest: DatasetManifest, report: Report) -> None:
    """Write what is known of all scenes together, and remove what refused ones left."""
    names = {scene.name for scene in manifest.scenes}
    for profile in (folder / PROFILES).iterdir():
        if profile.stem not in names:
            profile.unlink()
    numbered = {
        f"band_{i}": name for i, name in zip(manifest.band_indexes, manifest.bands, strict=True)
    }
    merge_profiles(folder / PROFILES, folder / PROFILE, numbered)
    pictures = {f"{name}{kind}" for name in names for kind in (PICTURE, OVERLAY)}
    for picture in (folder / PICTURES).iterdir():
        if picture.name not in pictures:
            picture.unlink()
    kept = {path for scene in manifest.scenes for path in (*scene.checksums, scene.labels)}
    for part in (IMAGES, LABELS):
        for path in (folder / part).rglob("*"):
            if path.is_file() and str(path.relative_to(folder)) not in kept:
                path.unlink()
        if not any(path.is_file() for path in (folder / part).rglob("*")):
            shutil.rmtree(folder / part)
    manifest.write(folder)
    report.write(folder)


def _manifest(config: IngestConfig, table: ClassTable, outcomes: _Outcomes) -> DatasetManifest:
    bands = outcomes.bands
    assert bands is not None  # a scene was taken
    return DatasetManifest(
        name=config.dataset,
        classes=table,
        bands=bands.names,
        band_indexes=bands.indexes,
        dtype=bands.dtype,
        nodata=config.nodata,
        scenes=tuple(scene.record for scene in outcomes.taken),
    )


def _say_alpha(config: IngestConfig, outcomes: _Outcomes) -> None:
    first = outcomes.taken[0]
    if not config.bands and first.info.alpha:
        say(
            f"{first.given}: band {first.info.alpha} is marked as alpha: it hides pixels and is "
            "not read. If it is imagery, such as near infrared, name it in bands."
        )


def _result(target: Path, manifest: DatasetManifest, report: Report) -> dict[str, Any]:
    levels = Counter(finding.level for finding in report.findings)
    return {
        "dataset": manifest.name,
        "version": manifest.version,
        "directory": str(target),
        "scenes": len(manifest.scenes),
        "labelled": sum(scene.labels is not None for scene in manifest.scenes),
        "outcomes": report.outcomes(),
        "findings": dict(sorted(levels.items())),
        "report": str(target / OVERVIEW),
        "bands": list(manifest.bands),
        "megapixels": round(sum(s.height * s.width for s in manifest.scenes) / 1e6, 3),
    }
