"""JSON files of shapes: what may be parsed, what kind it is, and GeoJSON."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import shapely
from shapely.geometry import shape

from satseg_ray.errors import UnreadableLabels
from satseg_ray.geo.labels.features import Features, Notes
from satseg_ray.geo.labels.rule import LabelRule
from satseg_ray.geo.labels.vectors import (
    check_attribute,
    check_bytes,
    check_labelled,
    table_features,
)

Document = Mapping[str, Any]
JsonKind = Literal["geojson", "coco", "labelme", "via", "via3"]

MAX_JSON_BYTES = 256 << 20
"""Bytes of a JSON file that is parsed."""
MAX_DEPTH = 64
"""Lists and objects inside each other in a JSON file."""
MAX_VALUES = 40_000_000
"""Numbers, texts and keys in a JSON file: two for each corner of a shape."""

GEOMETRIES = (
    "Point", "MultiPoint", "LineString", "MultiLineString", "Polygon", "MultiPolygon",
    "GeometryCollection",
)  # fmt: skip


def load_json(path: str) -> Document:
    """Return the object in a JSON file, which was looked over before it is parsed.

    Raises:
        UnreadableLabels: it is too large, too deep, no JSON, or no object.
    """
    check_bytes(path, MAX_JSON_BYTES)
    check_nesting(path)
    try:
        with open(path, encoding="utf-8-sig") as file:
            found = json.load(file, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise UnreadableLabels(
            path, f"is no JSON ({error})", "Give the file as the labelling tool wrote it."
        ) from error
    if not isinstance(found, dict):
        raise UnreadableLabels(
            path, f"holds a {type(found).__name__}, not an object",
            "Give COCO with its images and categories, LabelMe, VIA or GeoJSON.",
        )  # fmt: skip
    return found


def _no_number(text: str) -> float:
    raise ValueError(f"{text} is no number")


_ESCAPED = re.compile(rb"\\[\s\S]")


_STEPS = np.zeros(256, np.int8)
_STEPS[list(b"[{")], _STEPS[list(b"]}")] = 1, -1
_PARTS = np.zeros(256, np.bool_)
_PARTS[list(b",:")] = True


def check_nesting(path: str, chunk_bytes: int = 1 << 20) -> None:
    """Refuse a JSON file that nests too deep, or holds too many values, without parsing it."""
    depth, values = 0, 0
    for chunk in _outside_texts(path, chunk_bytes):
        depths = depth + np.cumsum(_STEPS[chunk], dtype=np.int32)
        values += int(_PARTS[chunk].sum())
        if len(chunk) and depths.max() > MAX_DEPTH:
            raise UnreadableLabels(
                path, f"nests more than {MAX_DEPTH} lists and objects", "Give an honest file."
            )
        if values > MAX_VALUES:
            raise UnreadableLabels(
                path, f"holds more than {MAX_VALUES} values",
                "Divide it, or make GeoJSON a GeoPackage.",
            )  # fmt: skip
        depth = int(depths[-1]) if len(chunk) else depth


def _outside_texts(path: str, chunk_bytes: int) -> Iterator[Any]:
    """Yield the bytes of a JSON file that are in no text."""
    inside, rest = 0, b""
    with open(path, "rb") as file:
        while raw := file.read(chunk_bytes):
            raw = rest + raw
            tail = len(raw) - len(raw.rstrip(b"\\"))
            rest = b"\\" if tail % 2 else b""
            clean = _ESCAPED.sub(b"__", raw[: len(raw) - len(rest)])
            chunk = np.frombuffer(clean, np.uint8)
            quotes = chunk == ord('"')
            within = (inside + np.cumsum(quotes)) % 2
            yield chunk[(within == 0) & ~quotes]
            inside = (inside + int(quotes.sum())) % 2


def json_kind(document: Document) -> JsonKind | None:
    """Return which kind of labels an object is, by what it holds; None of neither."""
    kinds: dict[JsonKind, bool] = {
        "coco": _lists(document, "images", "annotations"),
        "labelme": _lists(document, "shapes"),
        "via3": {"project", "file", "metadata", "attribute"} <= document.keys(),
        "via": "_via_img_metadata" in document or _via_entries(document),
        "geojson": document.get("type") in ("FeatureCollection", "Feature", *GEOMETRIES),
    }
    return next((kind for kind, is_one in kinds.items() if is_one), None)


def _lists(document: Document, *keys: str) -> bool:
    return all(isinstance(document.get(key), list) for key in keys)


def _via_entries(document: Document) -> bool:
    return bool(document) and all(
        isinstance(entry, dict) and "filename" in entry and "regions" in entry
        for entry in document.values()
    )


# --- GeoJSON


def geojson_features(path: str, document: Document, rule: LabelRule) -> Features:
    """Return the features of GeoJSON: a collection, one feature, or a bare geometry.

    Coordinates are EPSG:4326 (RFC 7946) unless a ``crs`` member says otherwise.

    Raises:
        ConfigError: an attribute is asked for that no feature has.
        UnreadableLabels: the ``crs`` member is of no known kind.
    """
    notes = Notes(path)
    found = _members(path, document)
    fields = list(dict.fromkeys(key for one in found for key in _properties(one)))
    check_labelled(path, rule, fields)
    if found:
        check_attribute(path, "shapes.attribute", rule.attribute, fields)
        check_attribute(path, "shapes.order_by", rule.order_by, fields)
    ids = [str(one.get("id", at)) for at, one in enumerate(found)]
    shapes = [_geometry(one.get("geometry")) for one in found]
    bad = [i for i, geometry in zip(ids, shapes, strict=True) if isinstance(geometry, str)]
    notes.add("bad-geometry", bad, "with a geometry that is none")
    kept = [at for at, geometry in enumerate(shapes) if not isinstance(geometry, str)]
    asked = [key for key in (rule.attribute, rule.order_by) if key is not None]
    table = {key: [_properties(found[at]).get(key) for at in kept] for key in asked}
    geometries = np.empty(len(kept), object)
    geometries[:] = [shapes[at] for at in kept]
    features = table_features(
        geometries, [ids[at] for at in kept], table, rule, _declared_crs(path, document)
    )
    return replace(features, default_crs="EPSG:4326", findings=tuple(notes.findings))


def _members(path: str, document: Document) -> list[Document]:
    if document["type"] == "FeatureCollection":
        members = document.get("features")
        if not isinstance(members, list):
            raise UnreadableLabels(
                path, "is a FeatureCollection without a list of features", "Give its features."
            )
        return [one if isinstance(one, dict) else {"geometry": "none"} for one in members]
    if document["type"] == "Feature":
        return [document]
    return [{"type": "Feature", "geometry": document}]


def _properties(feature: Document) -> Document:
    found = feature.get("properties")
    return found if isinstance(found, dict) else {}


def _geometry(body: Any) -> Any:
    """Return a shapely geometry, None of null, or the problem as text."""
    if body is None:
        return None
    try:
        return shape(body)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError,
            shapely.errors.ShapelyError) as error:  # fmt: skip
        return str(error)


def _declared_crs(path: str, document: Document) -> str | None:
    """Return the CRS that the member of GeoJSON before RFC 7946 names."""
    member = document.get("crs")
    if member is None:
        return None
    name = member.get("properties", {}).get("name") if isinstance(member, dict) else None
    if not isinstance(name, str):
        raise UnreadableLabels(
            path, "has a crs member without a name", "Name the CRS, or leave the member out."
        )
    return name


def image_name_of(text: Any) -> str:
    """Return the file name in what a labelling tool wrote as a path, on whatever system."""
    return Path(str(text).replace("\\", "/")).name
