"""The report: what it counts, that it is the same each time, and that nothing in it is alive."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from satseg_ray.checks.collection import Collection
from satseg_ray.checks.facts import SceneFacts
from satseg_ray.checks.measure import Subject, measure
from satseg_ray.checks.page import MOST_SCENES, band_colors
from satseg_ray.checks.report import PICTURES, Report
from satseg_ray.checks.rules import apply_rules
from satseg_ray.classes import ClassDef, ClassTable
from satseg_ray.findings import Finding
from satseg_ray.geo.labels import LabelReader, LabelRule
from satseg_ray.geo.raster import SceneReader
from tests.factories import names, write_raster

TABLE = ClassTable((ClassDef(7, "land", "#C8B27D"), ClassDef(2, "water", "#1F6FD0")))
RULE = LabelRule(TABLE, (0,))
EVIL = '<script>alert("1")</script>'


def facts_of(folder: Path, name: str, seed: int = 0) -> SceneFacts:
    """The facts of a labelled scene in ``folder``, whose pictures lie in ``thumbnails/`` there."""
    path = write_raster(folder / f"{name}.tif", seed=seed, dtype="int16", bands=2)
    values = np.random.default_rng(seed).choice([7, 2, 0], (64, 80)).astype(np.uint8)
    label = str(write_raster(folder / f"{name}-l.tif", values))
    subject = Subject(name, f"images/{name}.tif", label, lambda: LabelReader(label, RULE))
    (folder / PICTURES).mkdir(exist_ok=True)
    with SceneReader(path) as scene:
        taken = measure(subject, scene, RULE)
    taken.write_pictures(folder / PICTURES)
    return taken.facts


@pytest.fixture
def report(tmp_path) -> Report:
    scenes = (facts_of(tmp_path, "a", 1), facts_of(tmp_path, "b", 2))
    data = Collection(scenes, RULE)
    return Report.of("coast", data, apply_rules(data), {"UnreadableRaster": 2})


class Tags(HTMLParser):
    """Collects the tags of a page, and checks that they close in order."""

    VOID = frozenset(("meta", "img", "br", "line", "polyline"))

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def tags_of(path: Path) -> Tags:
    tags = Tags()
    tags.feed(path.read_text(encoding="utf-8"))
    assert not tags.open
    return tags


def test_the_report_counts_what_was_taken_and_refused(report, tmp_path):
    report.write(tmp_path)
    body = json.loads((tmp_path / "report.json").read_text())
    assert body["outcomes"] == {"taken": 2, "refused": {"UnreadableRaster": 2}}
    assert body["totals"]["megapixels"] == pytest.approx(2 * 64 * 80 / 1e6)
    classes = body["totals"]["classes"]
    assert sum(item["share"] for item in classes.values()) == pytest.approx(1)
    land = sum(scene.labels.counts[0] for scene in report.scenes)
    assert classes["land"]["pixels"] == land
    assert SceneFacts.from_dict(body["scenes"][0]) == report.scenes[0]
    assert [Finding.from_dict(f) for f in body["findings"]] == list(report.findings)


def test_the_same_data_give_the_same_bytes(report, tmp_path):
    report.write(tmp_path)
    first = {name: (tmp_path / name).read_bytes() for name in ("report.json", "overview.html")}
    again = SceneFacts.from_json(report.scenes[0].to_json()), report.scenes[1]
    replace(report, scenes=again).write(tmp_path)
    assert first == {name: (tmp_path / name).read_bytes() for name in first}


def test_the_page_shows_the_pictures_that_there_are_and_reaches_for_nothing_else(report, tmp_path):
    report.write(tmp_path)
    tags = tags_of(tmp_path / "overview.html")
    sources = [str(attrs["src"]) for tag, attrs in tags.seen if tag == "img"]
    assert sorted(sources) == [f"{PICTURES}/{name}" for name in names(tmp_path / PICTURES)]
    assert len(sources) == 4
    assert not {tag for tag, _ in tags.seen} & {"script", "link", "iframe", "object", "base"}
    assert not re.search(r"https?:|url\(|@import", (tmp_path / "overview.html").read_text())
    assert sum(tag == "polyline" for tag, _ in tags.seen) == 4


def test_text_of_the_data_is_never_markup(report, tmp_path):
    scene = report.scenes[0]
    bands = tuple(replace(band, name=EVIL) for band in scene.bands)
    bad = replace(scene, name=EVIL, crs_title=EVIL, driver=EVIL, bands=bands)
    table = ClassTable((ClassDef(7, EVIL), ClassDef(2, "water")))
    finding = Finding("error", EVIL, EVIL, EVIL, EVIL)
    Report(EVIL, table, (bad,), (finding,), {EVIL: 1}).write(tmp_path)
    tags = tags_of(tmp_path / "overview.html")
    assert "script" not in {tag for tag, _ in tags.seen}
    assert "<script" not in (tmp_path / "overview.html").read_text()


def test_a_page_of_very_many_scenes_shows_the_first_and_says_so(report, tmp_path):
    many = tuple(replace(report.scenes[0], name=f"s{i:04}") for i in range(MOST_SCENES + 5))
    replace(report, scenes=many).write(tmp_path)
    text = (tmp_path / "overview.html").read_text()
    assert text.count("<h3>") == MOST_SCENES
    assert f"The first {MOST_SCENES} of {MOST_SCENES + 5}" in text
    assert len(json.loads((tmp_path / "report.json").read_text())["scenes"]) == MOST_SCENES + 5


def test_a_report_of_nothing_can_be_written(tmp_path):
    report = Report("none", TABLE, (), (), {"UnreadableRaster": 3})
    report.write(tmp_path)
    tags_of(tmp_path / "overview.html")
    assert list(report.lines()) == ["none: 0 scenes, 0 megapixels, 0% labelled; 3 scenes refused"]


def test_the_lines_for_a_person_are_findings_and_then_classes(report):
    lines = list(report.lines())
    assert lines[: len(report.findings)] == [str(finding) for finding in report.findings]
    assert lines[-2].startswith("  land ")
    assert "%" in lines[-1]


def test_very_many_findings_are_cut_for_a_person(report):
    findings = tuple(Finding("note", "x", str(i), "p", "a") for i in range(500))
    lines = list(replace(report, findings=findings).lines())
    assert len(lines) < 50
    assert "and 460 more findings in report.json" in lines


def test_bands_have_colours_of_their_own():
    assert band_colors(["Red", "nir", "x"])["Red"] == "#c8453b"
    assert len(set(band_colors([f"band_{i}" for i in range(13)]).values())) == 13
