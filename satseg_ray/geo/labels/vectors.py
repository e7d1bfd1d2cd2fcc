"""Features of GeoPackage, Shapefile and GeoParquet files, whole tables in memory."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import shapely

from satseg_ray.errors import ConfigError, UnreadableLabels
from satseg_ray.geo.labels.features import Features
from satseg_ray.geo.labels.rule import LabelRule

MAX_BYTES = 1 << 30
"""Bytes of a file whose features are read."""
MAX_VERTICES = 20_000_000
"""Corners of all shapes of a file."""


def read_vectors(path: str, rule: LabelRule) -> Features:
    """Return the features of a layer of a GeoPackage or a Shapefile.

    Raises:
        ConfigError: there are several layers and ``rule.layer`` names none, or an attribute is
            not there.
        UnreadableLabels: the file is damaged, too large, or holds no layer of shapes.
    """
    import pyogrio

    check_bytes(path, MAX_BYTES)
    try:
        layer = _layer(path, rule, pyogrio.list_layers(path))
        info = pyogrio.read_info(path, layer=layer)
        columns = _asked(path, list(info["fields"]), rule)
        meta, fids, wkb, values = pyogrio.raw.read(
            path, layer=layer, columns=columns, return_fids=True, datetime_as_string=True
        )
    except (pyogrio.errors.DataSourceError, pyogrio.errors.FeatureError,
            pyogrio.errors.DataLayerError, pyogrio.errors.GeometryError) as error:  # fmt: skip
        raise unreadable(path, error) from error
    table = dict(zip(meta["fields"], values, strict=True))
    return table_features(
        shapely.from_wkb(wkb, on_invalid="fix"),
        [str(fid) for fid in fids],
        table,
        rule,
        meta["crs"],
    )


def read_geoparquet(path: str, rule: LabelRule) -> Features:
    """Return the features of a GeoParquet file; errors are those of :func:`read_vectors`."""
    import geopandas
    import pyarrow as pa
    import pyarrow.parquet as pq

    check_bytes(path, MAX_BYTES)
    try:
        schema, metadata = pq.read_schema(path), pq.read_metadata(path)
        unpacked = sum(
            metadata.row_group(i).total_byte_size for i in range(metadata.num_row_groups)
        )
        check_size(path, unpacked, MAX_BYTES)
        primary = json.loads((schema.metadata or {})[b"geo"])["primary_column"]
        asked = _asked(path, [name for name in schema.names if name != primary], rule)
        frame = geopandas.read_parquet(path, columns=[*asked, primary])
    except (pa.ArrowException, ValueError, OSError, KeyError, TypeError) as error:
        raise unreadable(path, error) from error
    table = {name: frame[name].to_numpy(object, na_value=None) for name in asked}
    crs = frame.crs.to_wkt() if frame.crs is not None else None
    ids = [str(i) for i in range(len(frame))]
    return table_features(np.asarray(frame.geometry.array, object), ids, table, rule, crs)


def table_features(
    geometries: npt.NDArray[Any],
    ids: Sequence[str],
    table: Mapping[str, Sequence[Any]],
    rule: LabelRule,
    crs: str | None,
) -> Features:
    """Return features whose labels and order stand in the columns of a table."""
    labels: Sequence[Any] = table[rule.attribute] if rule.attribute else [None] * len(ids)
    return Features(
        geometries=np.asarray(geometries, object),
        labels=[label_text(value) for value in labels],
        ids=ids,
        crs=crs,
        order=[_order_key(value) for value in table[rule.order_by]] if rule.order_by else None,
    )


def label_text(value: Any) -> str | None:
    """Return an attribute's value as a label: ``1.0`` is ``"1"``; None of nothing.

    >>> [label_text(v) for v in ("road", 1.0, 7, "", None, float("nan"))]
    ['road', '1', '7', None, None, None]
    """
    if value is None or value != value or value == "":
        return None
    if isinstance(value, float | np.floating) and float(value).is_integer():
        value = int(value)
    return str(value)


def _order_key(value: Any) -> Any:
    if value is None or value != value:
        return None
    return value.item() if isinstance(value, np.generic) else value


def check_attribute(path: str, key: str, name: str | None, fields: Sequence[str]) -> None:
    """Refuse an attribute that a file has not."""
    if name is not None and name not in fields:
        raise ConfigError(
            key, f"is {name!r}, which {path} has not", f"It has {', '.join(fields) or 'none'}."
        )


def check_labelled(path: str, rule: LabelRule, fields: Sequence[str]) -> None:
    """Refuse a rule that says of no shape which class it is."""
    if rule.attribute is None and rule.every is None:
        raise ConfigError(
            "shapes.attribute", f"is not set: nothing says which class the shapes of {path} are",
            f"Set shapes.attribute ({', '.join(fields) or 'it has none'}), or shapes.every.",
        )  # fmt: skip


def _asked(path: str, fields: list[str], rule: LabelRule) -> list[str]:
    """Return the columns that the rule needs."""
    check_labelled(path, rule, fields)
    check_attribute(path, "shapes.attribute", rule.attribute, fields)
    check_attribute(path, "shapes.order_by", rule.order_by, fields)
    return [name for name in dict.fromkeys((rule.attribute, rule.order_by)) if name]


def _layer(path: str, rule: LabelRule, layers: npt.NDArray[Any]) -> str:
    """Return the layer that is asked for, or the only one that holds shapes."""
    names = [str(name) for name, kind in layers if kind is not None]
    if rule.layer is not None and rule.layer in names:
        return rule.layer
    if rule.layer is not None or len(names) > 1:
        asked = f"is {rule.layer!r}" if rule.layer is not None else "is not set"
        raise ConfigError(
            "shapes.layer", f"{asked}, {path} has {', '.join(names) or 'none'}", "Name one of them."
        )
    if not names:
        raise UnreadableLabels(path, "holds no layer of shapes", "Give a layer with geometries.")
    return names[0]


def check_bytes(path: str, most: int) -> None:
    """Refuse a file too large to be held in memory."""
    check_size(path, os.path.getsize(path), most)


def check_size(path: str, held: int, most: int) -> None:
    """Refuse more bytes than are held in memory."""
    if held > most:
        raise UnreadableLabels(
            path, f"has {held >> 20} MiB, the limit is {most >> 20}",
            "Divide it, one file for each scene, or make it a label raster.",
        )  # fmt: skip


def check_vertices(path: str, features: Features) -> None:
    """Refuse shapes with more corners than are held in memory."""
    count = int(shapely.get_num_coordinates(features.geometries).sum())
    if count > MAX_VERTICES:
        raise UnreadableLabels(
            path, f"has {count} corners, the limit is {MAX_VERTICES}", "Divide or simplify it."
        )


def unreadable(path: str, error: Exception) -> UnreadableLabels:
    """Return the error of a file that a library cannot read."""
    text = " ".join(str(error).split())[:200].rstrip(".")
    return UnreadableLabels(path, f"cannot be read as labels ({text})", "Give a complete file.")
