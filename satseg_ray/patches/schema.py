"""What a training record is: the Arrow schema of a patch, and one patch in numpy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from satseg_ray.classes import IGNORE
from satseg_ray.geo.raster import Mask, Pixels, Tile
from satseg_ray.patches.split import PatchKey

Indexes = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Patch:
    """One training record.

    ``image`` (side, side, bands) raw values; ``mask`` (side, side) uint8 class indexes, 255 where
    unlabelled or invalid; ``valid`` (side, side) bool.
    """

    key: PatchKey
    image: Pixels
    mask: Indexes
    valid: Mask

    @property
    def labelled_share(self) -> float:
        """The share of pixels that have a class."""
        return float((self.mask != IGNORE).mean())


def cut_patch(tile: Tile, labels: Indexes, key: PatchKey) -> Patch:
    """Return the patch of ``key`` from a tile that holds it and its labels (rows, columns)."""
    rows, cols = key.window.relative_to(tile.window).slices()
    valid = tile.valid[rows, cols]
    image = np.ascontiguousarray(np.moveaxis(tile.pixels[:, rows, cols], 0, -1))
    mask = np.where(valid, labels[rows, cols], np.uint8(IGNORE))
    return Patch(key, image, mask, valid)


def patch_schema(side: int, bands: int, dtype: str) -> pa.Schema:
    """Return the schema of a patch file; tensors are ``arrow.fixed_shape_tensor``."""
    flat = pa.fixed_shape_tensor(pa.uint8(), (side, side))
    image = pa.fixed_shape_tensor(pa.from_numpy_dtype(np.dtype(dtype)), (side, side, bands))
    return pa.schema(
        [
            pa.field("split", pa.string(), nullable=False),
            pa.field("scene", pa.string(), nullable=False),
            pa.field("row", pa.int64(), nullable=False),
            pa.field("col", pa.int64(), nullable=False),
            pa.field("image", image, nullable=False),
            pa.field("mask", flat, nullable=False),
            pa.field("valid", flat, nullable=False),
            pa.field("labelled_share", pa.float32(), nullable=False),
        ]
    )


def to_table(patches: Sequence[Patch], schema: pa.Schema) -> pa.Table:
    """Return patches as a table of :func:`patch_schema`."""
    columns: dict[str, Any] = {
        "split": [p.key.split for p in patches],
        "scene": [p.key.scene for p in patches],
        "row": [p.key.window.row for p in patches],
        "col": [p.key.window.col for p in patches],
        "image": np.stack([p.image for p in patches]),
        "mask": np.stack([p.mask for p in patches]),
        "valid": np.stack([p.valid for p in patches]).astype(np.uint8),
        "labelled_share": np.array([p.labelled_share for p in patches], np.float32),
    }
    arrays = [_array(field, columns[field.name]) for field in schema]
    return pa.Table.from_arrays(arrays, schema=schema)


def _array(field: pa.Field, values: Any) -> pa.Array:
    if not isinstance(field.type, pa.FixedShapeTensorType):
        return pa.array(values, field.type)
    storage = pa.FixedSizeListArray.from_arrays(
        pa.array(values.reshape(-1)), int(np.prod(field.type.shape))
    )
    return pa.ExtensionArray.from_storage(field.type, storage)


def tensor_column(table: pa.Table, name: str) -> npt.NDArray[Any]:
    """Return a tensor column of a table as one array (rows, ...) without copying where it can."""
    column = table.column(name).combine_chunks()
    if isinstance(column, pa.ChunkedArray):
        column = column.chunk(0)
    array: npt.NDArray[Any] = column.to_numpy_ndarray()
    return array
