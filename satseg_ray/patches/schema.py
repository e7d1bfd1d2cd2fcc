"""What a training record is: the Arrow schema of a patch, and patches in numpy."""

from __future__ import annotations

import json
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

TENSORS = ("image", "mask", "valid")
"""The columns that hold arrays, as bytes."""


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


@dataclass(frozen=True)
class PatchStack:
    """Patches of one size as they are written: the bands of ``image`` come before its rows.

    ``image`` (n, bands, side, side) raw values; ``mask`` (n, side, side) uint8; ``valid``
    (n, side, side) bool, or None where every pixel is valid; ``labelled`` (n,) int64 pixels.
    """

    keys: tuple[PatchKey, ...]
    image: Pixels
    mask: Indexes
    valid: Mask | None
    labelled: npt.NDArray[np.int64]

    @classmethod
    def of(cls, patches: Sequence[Patch]) -> PatchStack:
        """Return single patches as a stack."""
        image = np.stack([np.moveaxis(patch.image, -1, 0) for patch in patches])
        mask, valid = (np.stack([getattr(p, name) for p in patches]) for name in ("mask", "valid"))
        keys = tuple(patch.key for patch in patches)
        return cls(keys, image, mask, None if valid.all() else valid, count_labelled(mask))

    def __len__(self) -> int:
        return len(self.keys)

    def take(self, positions: Sequence[int]) -> PatchStack:
        """Return the patches at ``positions``; all of them without copying."""
        if list(positions) == list(range(len(self))):
            return self
        chosen = list(positions)
        return PatchStack(
            tuple(self.keys[i] for i in chosen),
            self.image[chosen],
            self.mask[chosen],
            None if self.valid is None else self.valid[chosen],
            self.labelled[chosen],
        )


def count_labelled(mask: Indexes) -> npt.NDArray[np.int64]:
    """Return the pixels that have a class in each mask (n, side, side)."""
    return np.array([one.size - np.count_nonzero(one == IGNORE) for one in mask], np.int64)


def cut_patch(tile: Tile, labels: Indexes, key: PatchKey) -> Patch:
    """Return the patch of ``key`` from a tile that holds it and its labels (rows, columns)."""
    stack = cut_patches(tile, labels, [key])
    valid = np.ones(key.window.shape, np.bool_) if stack.valid is None else stack.valid[0]
    image = np.ascontiguousarray(np.moveaxis(stack.image[0], 0, -1))
    return Patch(key, image, stack.mask[0], valid)


def cut_patches(tile: Tile, labels: Indexes, keys: Sequence[PatchKey]) -> PatchStack:
    """Return the patches of ``keys`` from a tile that holds them and its labels (rows, columns)."""
    side = keys[0].window.height
    image = np.empty((len(keys), len(tile.pixels), side, side), tile.pixels.dtype)
    mask = np.empty((len(keys), side, side), np.uint8)
    valid = None if tile.whole else np.empty(mask.shape, np.bool_)
    for position, key in enumerate(keys):
        rows, cols = key.window.relative_to(tile.window).slices()
        image[position] = tile.pixels[:, rows, cols]
        mask[position] = labels[rows, cols]
        if valid is not None:
            valid[position] = tile.valid[rows, cols]
            mask[position][~valid[position]] = IGNORE
    return PatchStack(tuple(keys), image, mask, valid, count_labelled(mask))


def patch_schema(side: int, bands: int, dtype: str) -> pa.Schema:
    """Return the schema of a patch file: each array as the bytes of its values, row by row.

    The file's own metadata holds ``shape`` and ``dtype`` of each array under its column's name.
    Null stands for a ``valid`` that is true everywhere.
    """
    shapes = {"image": (bands, side, side), "mask": (side, side), "valid": (side, side)}
    dtypes = {"image": np.dtype(dtype), "mask": np.dtype(np.uint8), "valid": np.dtype(np.uint8)}
    bytes_of = {
        name: pa.binary(int(np.prod(shapes[name])) * dtypes[name].itemsize) for name in TENSORS
    }
    return pa.schema(
        [
            pa.field("split", pa.string(), nullable=False),
            pa.field("scene", pa.string(), nullable=False),
            pa.field("row", pa.int64(), nullable=False),
            pa.field("col", pa.int64(), nullable=False),
            pa.field("image", bytes_of["image"], nullable=False),
            pa.field("mask", bytes_of["mask"], nullable=False),
            pa.field("valid", bytes_of["valid"], nullable=True),
            pa.field("labelled_share", pa.float32(), nullable=False),
        ],
        metadata={
            name: json.dumps({"shape": shapes[name], "dtype": dtypes[name].str}) for name in TENSORS
        },
    )


def to_table(stack: PatchStack, schema: pa.Schema) -> pa.Table:
    """Return patches as a table of :func:`patch_schema`, their arrays without copying."""
    share = stack.labelled / stack.mask[0].size
    columns: dict[str, Any] = {
        "split": [key.split for key in stack.keys],
        "scene": [key.scene for key in stack.keys],
        "row": [key.window.row for key in stack.keys],
        "col": [key.window.col for key in stack.keys],
        "image": stack.image,
        "mask": stack.mask,
        "valid": None if stack.valid is None else stack.valid.view(np.uint8),
        "labelled_share": share.astype(np.float32),
    }
    arrays = [_array(field, columns[field.name], len(stack)) for field in schema]
    return pa.Table.from_arrays(arrays, schema=schema)


def _array(field: pa.Field, values: Any, count: int) -> pa.Array:
    if values is None:
        return pa.nulls(count, field.type)
    if field.name not in TENSORS:
        return pa.array(values, field.type)
    if values.nbytes != count * field.type.byte_width:
        raise ValueError(f"{field.name} of {values.shape} {values.dtype} is not {field.type}")
    if field.name != "valid":
        return _packed(field, values, None)
    whole = values.reshape(count, -1).all(axis=1)
    return _packed(field, values, pa.array(~whole).buffers()[1] if whole.any() else None)


def _packed(field: pa.Field, values: npt.NDArray[Any], present: pa.Buffer | None) -> pa.Array:
    data = pa.py_buffer(np.ascontiguousarray(values))
    return pa.FixedSizeBinaryArray.from_buffers(field.type, len(values), [present, data])


def tensor_of(schema: pa.Schema, name: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Return shape and dtype of one array of a column, which the file's metadata hold."""
    about = json.loads(schema.metadata[name.encode()])
    return tuple(about["shape"]), np.dtype(about["dtype"])


def with_tensors(table: pa.Table, schema: pa.Schema | None = None) -> pa.Table:
    """Return a table of patches with its arrays as ``arrow.fixed_shape_tensor``.

    The image's shape is (bands, side, side), a null ``valid`` becomes ones. Ray Data loses what
    the files tell of shapes: give it as ``schema``, that of the patches' manifest.
    """
    if schema is not None:
        table = table.replace_schema_metadata(schema.metadata)
    for name in TENSORS:
        tensors = pa.FixedShapeTensorArray.from_numpy_ndarray(tensor_column(table, name))
        number = table.schema.get_field_index(name)
        table = table.set_column(number, pa.field(name, tensors.type, nullable=False), tensors)
    return table


def tensor_column(table: pa.Table, name: str) -> npt.NDArray[Any]:
    """Return an array column of a table as one array (rows, ...); a null is all ones."""
    shape, dtype = tensor_of(table.schema, name)
    chunks = [_unpacked(chunk, dtype, shape) for chunk in table.column(name).chunks]
    return chunks[0] if len(chunks) == 1 else np.concatenate(chunks)


def _unpacked(chunk: pa.Array, dtype: np.dtype[Any], shape: tuple[int, ...]) -> npt.NDArray[Any]:
    if chunk.null_count == len(chunk):
        return np.ones((len(chunk), *shape), dtype)
    data = chunk.buffers()[1]
    offset = chunk.offset * chunk.type.byte_width
    count = len(chunk) * int(np.prod(shape))
    values = np.frombuffer(data, dtype, count, offset).reshape(len(chunk), *shape)
    if chunk.null_count:
        values = values.copy()
        values[np.asarray(chunk.is_null())] = 1
    return values
