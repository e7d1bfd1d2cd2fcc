"""``overview.html``: one page without scripts or outside addresses, of a report's JSON values."""

from __future__ import annotations

import colorsys
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

from satseg_ray.checks.facts import OVERLAY, PICTURE
from satseg_ray.checks.words import counted, number, percent

MOST_SCENES = 200
"""Scenes that the page pictures; the others are in ``report.json`` alone."""

Json = Mapping[str, Any]

_STYLE = """
:root { color-scheme: light; --ink: #23303a; --soft: #66737d; --line: #e3e7ea; --paper: #ffffff;
  --error: #b3261e; --warning: #a86400; --note: #40637f; }
* { box-sizing: border-box; }
body { margin: 0; background: #f5f6f7; color: var(--ink);
  font: 15px/1.5 system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
main { max-width: 1180px; margin: 0 auto; padding: 32px 24px 64px; }
h1 { font-size: 26px; margin: 0 0 4px; font-weight: 600; }
h2 { font-size: 17px; margin: 36px 0 12px; font-weight: 600; }
.lead { color: var(--soft); margin: 0; }
.card { background: var(--paper); border: 1px solid var(--line); border-radius: 8px; }
.finding { padding: 10px 16px; border-left: 4px solid var(--c); overflow-wrap: anywhere;
  border-bottom: 1px solid var(--line); }
.finding:first-child { border-top-left-radius: 8px; border-top-right-radius: 8px; }
.finding:last-child { border-bottom: 0; }
.level { color: var(--c); font-weight: 600; }
.code { color: var(--soft); font: 12px ui-monospace, "DejaVu Sans Mono", monospace; float: right;
  margin-left: 12px; }
.action { color: var(--soft); }
.error { --c: var(--error); } .warning { --c: var(--warning); } .note { --c: var(--note); }
.classes { padding: 12px 16px; display: grid; grid-template-columns: max-content 1fr max-content;
  gap: 6px 14px; align-items: center; }
.track { background: #eef1f3; border-radius: 4px; height: 12px; overflow: hidden; }
.track i { display: block; height: 100%; }
.num { text-align: right; font-variant-numeric: tabular-nums; }
.swatch { display: inline-block; width: 12px; height: 12px; border-radius: 3px; margin-right: 6px;
  border: 1px solid rgba(0,0,0,.2); vertical-align: -1px; }
.scene { display: grid; grid-template-columns: 148px 148px minmax(0, 1fr) 320px; gap: 18px;
  padding: 16px; margin-bottom: 10px; align-items: start; }
.scene img, .blank { width: 148px; height: 148px; object-fit: contain; background: #eef1f3;
  border-radius: 4px; display: block; }
.blank { display: grid; place-items: center; color: var(--soft); font-size: 12px; }
.scene h3 { margin: 0 0 4px; font-size: 15px; font-weight: 600; overflow-wrap: anywhere; }
.facts { color: var(--soft); font-size: 13px; overflow-wrap: anywhere; }
.stack { display: flex; height: 12px; border-radius: 4px; overflow: hidden; margin: 10px 0 6px;
  background: repeating-linear-gradient(45deg, #e3e7ea 0 4px, #f2f4f5 4px 8px); }
.stack i { display: block; height: 100%; }
.shares > span { font-size: 12px; color: var(--soft); margin-right: 12px; white-space: nowrap; }
svg { display: block; width: 100%; height: auto; }
.legend { font-size: 11px; color: var(--soft); line-height: 1.4; }
.legend b { font-weight: 400; margin-right: 9px; white-space: nowrap; }
.legend u { display: inline-block; width: 10px; height: 3px; margin-right: 4px;
  vertical-align: 3px; }
@media (max-width: 900px) { .scene { grid-template-columns: 148px 148px; } }
"""


def page(report: Json, pictures: Mapping[str, str]) -> str:
    """Return the page of a report; ``pictures`` gives the address of each file that there is.

    Every text of the data is escaped: a file may be named as it likes.
    """
    return "\n".join(_page(report, pictures)) + "\n"


def _page(report: Json, pictures: Mapping[str, str]) -> Iterator[str]:
    title = escape(report["dataset"])
    yield '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">'
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">'
    yield f"<title>{title}: data checks</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<main>"
    yield f'<h1>{title}</h1>\n<p class="lead">{_lead(report)}</p>'
    yield from _findings(report["findings"])
    yield from _classes(report)
    yield from _scenes(report, pictures)
    yield "</main>\n</body>\n</html>"


def _lead(report: Json) -> str:
    totals, outcomes = report["totals"], report["outcomes"]
    parts = [
        counted(outcomes["taken"], "scene"),
        f"{totals['megapixels']:.4g} megapixels",
        f"{percent(totals['valid_share'])} valid",
        f"{percent(totals['labelled_share'])} labelled",
    ]
    refused = [f"{count} {escape(error)}" for error, count in outcomes["refused"].items()]
    return " · ".join(parts) + (f" · refused: {', '.join(refused)}" if refused else "")


def _findings(findings: Sequence[Json]) -> Iterator[str]:
    yield "<h2>Findings</h2>"
    if not findings:
        yield '<div class="card"><div class="finding note">Nothing was found.</div></div>'
        return
    yield '<div class="card">'
    for item in findings:
        text = {key: escape(str(value)) for key, value in item.items()}
        yield (
            f'<div class="finding {text["level"]}"><span class="code">{text["code"]}</span>'
            f'<span class="level">{text["level"].capitalize()}</span> '
            f'{text["subject"]}: {text["problem"]}. <span class="action">{text["action"]}</span>'
            "</div>"
        )
    yield "</div>"


def _classes(report: Json) -> Iterator[str]:
    shares = report["totals"]["classes"]
    if not any(item["pixels"] for item in shares.values()):
        return
    yield '<h2>Classes</h2>\n<div class="card classes">'
    for item in report["classes"]:
        share = shares[item["name"]]["share"]
        color, width = escape(item["color"]), 100 * share
        yield (
            f"<span>{_swatch(color)}{escape(item['name'])}</span>"
            f'<span class="track"><i style="width:{width:.2f}%;background:{color}"></i></span>'
            f'<span class="num">{percent(share)}</span>'
        )
    yield "</div>"


def _swatch(color: str) -> str:
    return f'<span class="swatch" style="background:{color}"></span>'


def _scenes(report: Json, pictures: Mapping[str, str]) -> Iterator[str]:
    scenes = report["scenes"]
    yield "<h2>Scenes</h2>"
    if len(scenes) > MOST_SCENES:
        first = f"The first {MOST_SCENES} of {len(scenes)}; all are in report.json."
        yield f'<p class="lead">{first}</p>'
    yield (
        '<p class="lead">Pictures show every n-th pixel, stretched from 2% to 98%, under the '
        "labels in grey. Histograms count valid pixels, each band up to its own peak.</p><br>"
    )
    for scene in scenes[:MOST_SCENES]:
        yield '<div class="card scene">'
        yield _picture(f"{scene['name']}{PICTURE}", "scene", pictures)
        yield _picture(f"{scene['name']}{OVERLAY}", "labels", pictures)
        yield f"<div><h3>{escape(scene['name'])}</h3>"
        yield f'<div class="facts">{_facts(scene)}</div>'
        yield from _shares(scene, report["classes"])
        yield "</div><div>"
        yield from _histograms(scene["bands"])
        yield "</div></div>"


def _picture(name: str, what: str, pictures: Mapping[str, str]) -> str:
    if name not in pictures:
        return f'<div class="blank">no {what}</div>'
    source, text = escape(pictures[name]), escape(f"{what}: {name}")
    return f'<img src="{source}" alt="{text}" loading="lazy">'


def _facts(scene: Json) -> str:
    ground = f", {scene['gsd']:.3g} m" if scene["gsd"] else ""
    lines = [
        f"{scene['height']} x {scene['width']} pixels{ground}",
        f"{counted(len(scene['bands']), 'band')}, {scene['dtype']}, {scene['driver']}",
        scene["crs_title"] or "no CRS",
        f"{percent(scene['valid'] / (scene['height'] * scene['width']))} valid{_nodata(scene)}",
    ]
    return "<br>".join(escape(line) for line in lines)


def _nodata(scene: Json) -> str:
    used = scene["nodata"] if scene["declared_nodata"] is None else scene["declared_nodata"]
    if used is None:
        return ""
    return f", nodata {number(used) if isinstance(used, int | float) else used}"


def _shares(scene: Json, classes: Sequence[Json]) -> Iterator[str]:
    labels = scene["labels"]
    if not labels:
        return
    if labels["problem"]:
        yield f'<div class="facts">Labels refused: {escape(labels["problem"]["text"])}</div>'
        return
    total = sum(labels["counts"])
    parts = [
        (escape(item["color"]), escape(item["name"]), count / total)
        for item, count in zip(classes, labels["counts"], strict=False)
        if count
    ]
    bars = (f'<i style="width:{100 * s:.2f}%;background:{color}"></i>' for color, _, s in parts)
    yield f'<div class="stack">{"".join(bars)}</div><div class="shares">'
    for color, name, share in parts:
        yield f"<span>{_swatch(color)}{name} {percent(share)}</span>"
    if labels["counts"][-1]:
        yield f"<span>unlabelled {percent(labels['counts'][-1] / total)}</span>"
    yield "</div>"


_WIDTH, _HEIGHT = 320, 104


def _histograms(bands: Sequence[Json]) -> Iterator[str]:
    """Yield one drawing of all bands of a scene over the values they span together."""
    drawn = [band for band in bands if band["span"]]
    if not drawn:
        return
    start = min(band["span"][0] for band in drawn)
    stop = max(band["span"][1] for band in drawn)
    yield (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT + 16}" role="img" aria-label="band histograms">'
        f'<line x1="0" y1="{_HEIGHT}" x2="{_WIDTH}" y2="{_HEIGHT}" stroke="#cfd6db"/>'
    )
    colors = band_colors([band["name"] for band in bands])
    for band in drawn:
        yield _curve(band, start, stop, colors[band["name"]])
    yield (
        f'<text x="0" y="{_HEIGHT + 13}" font-size="10" fill="#66737d">{number(start)}</text>'
        f'<text x="{_WIDTH}" y="{_HEIGHT + 13}" font-size="10" fill="#66737d" text-anchor="end">'
        f"{number(stop)}</text></svg>"
    )
    yield '<div class="legend">'
    for band in drawn:
        yield f'<b><u style="background:{colors[band["name"]]}"></u>{escape(band["name"])}</b>'
    yield "</div>"


def _curve(band: Json, start: float, stop: float, color: str) -> str:
    """Return a band's histogram as a curve up to its peak; higher first and last bins are cut."""
    first, last = band["span"]
    beyond = band["low"]["value"] < first or band["high"]["value"] >= last
    counts = _smooth(band["histogram"], beyond)
    top = max(counts[1:-1]) or max(counts) or 1
    width = (last - first) / len(counts)
    points = " ".join(
        f"{_WIDTH * (first + (i + 0.5) * width - start) / (stop - start):.1f},"
        f"{_HEIGHT - 0.94 * _HEIGHT * min(count / top, 1):.1f}"
        for i, count in enumerate(counts)
    )
    return (
        f'<polyline points="{points}" fill="none" stroke="{color}" stroke-width="1.4" '
        'stroke-linejoin="round" opacity="0.9"/>'
    )


def _smooth(counts: Sequence[int], beyond: bool) -> list[float]:
    """Return counts, each averaged with its neighbours but for the first and the last.

    These are zero if they hold what lies ``beyond`` their bins, too.

    >>> _smooth([9, 1, 4, 1, 9], beyond=True)
    [0, 1.75, 2.5, 1.75, 0]
    """
    ends = [0, 0] if beyond else [counts[0], counts[-1]]
    inner = [counts[1], *counts[1:-1], counts[-2]]
    smooth = [(a + 2 * b + c) / 4 for a, b, c in zip(inner, inner[1:], inner[2:], strict=False)]
    return [ends[0], *smooth, ends[1]]


_USUAL = {"red": "#c8453b", "green": "#3f8f4e", "blue": "#3a6fb5", "nir": "#8a5a9e"}


def band_colors(names: Sequence[str]) -> dict[str, str]:
    """Return a colour for each band: its own for red, green and blue, else one of a rainbow."""
    if len(names) in (3, 4) and not {name.casefold() for name in names} & set(_USUAL):
        return dict(zip(names, _USUAL.values(), strict=False))
    return {
        name: _USUAL.get(name.casefold(), _hue(index / max(len(names), 1)))
        for index, name in enumerate(names)
    }


def _hue(part: float) -> str:
    rgb = colorsys.hls_to_rgb(0.62 - 0.62 * part, 0.45, 0.5)
    return "#" + "".join(f"{round(255 * v):02x}" for v in rgb)
