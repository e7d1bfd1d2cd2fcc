"""Patches on disk: Parquet parts written by workers, and random access for training."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from satseg_ray.classes import ClassTable
from satseg_ray.errors import DAMAGED, ConfigError, DatasetNotFound, EmptySplit, keys_of, told
from satseg_ray.geo.raster import Mask, Pixels
from satseg_ray.patches.blocks import Blocks
from satseg_ray.patches.schema import (
    TENSORS,
    Indexes,
    Patch,
    PatchStack,
    patch_schema,
    tensor_column,
    tensor_of,
    to_table,
)
from satseg_ray.patches.split import SPLITS
from satseg_ray.products import fresh_file

FILE_NAME = "patches.json"
_GROUP_BYTES = 4 << 20
"""Imagery in a row group; a column of it is one page, in which each patch has its place."""
_POOL = pa.system_memory_pool()


@dataclass(frozen=True)
class PatchManifest:
    """What a patch data set is; ``mean`` and ``std`` are of the training split, in raw units.

    ``counts`` holds for each split the number of patches and the pixels of each class;
    ``dropped`` how many patches were left out for which reason. ``places`` are those of
    :func:`satseg_ray.patches.blocks.places_of`; older manifests have none.
    """

    dataset: str
    version: str
    classes: ClassTable
    bands: tuple[str, ...]
    band_indexes: tuple[int, ...]
    dtype: str
    patch_size: int
    stride: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    counts: Mapping[str, Any]
    dropped: Mapping[str, int]
    lineage: Mapping[str, str]
    nodata: float | None = None
    places: Mapping[str, Any] = field(default_factory=dict)

    @property
    def schema(self) -> pa.Schema:
        """The Arrow schema of the patch files."""
        return patch_schema(self.patch_size, len(self.bands), self.dtype)

    def blocks(self, side: int | None = None) -> Blocks:
        """Return the blocks that a bootstrap draws; ``side`` in pixels makes them larger."""
        return Blocks.of(self.patch_size, self.places, self.lineage, side)

    def write(self, directory: Path) -> None:
        """Write the manifest as JSON into ``directory``."""
        body = asdict(self) | {"classes": self.classes.to_list()}
        text = json.dumps(body, indent=2, sort_keys=True)
        (directory / FILE_NAME).write_text(text + "\n", encoding="utf-8")

    @classmethod
    def read(cls, directory: Path) -> PatchManifest:
        """Read the manifest in ``directory``.

        Raises:
            DatasetNotFound: there is none, or its file is damaged.
        """
        path = directory / FILE_NAME
        if not path.is_file():
            raise DatasetNotFound(
                directory.name, f"the workspace has no patches of that data set ({path})",
                "Run jobs/tile.py first.",
            )  # fmt: skip
        try:
            return cls._of(keys_of(json.loads(path.read_text(encoding="utf-8"))))
        except (ConfigError, *DAMAGED) as error:
            raise DatasetNotFound(
                path, f"describes no patches ({told(error)})", "Run jobs/tile.py again."
            ) from error

    @classmethod
    def _of(cls, body: dict[str, Any]) -> PatchManifest:
        body["classes"] = ClassTable.from_list(body["classes"])
        for key in ("bands", "band_indexes", "mean", "std"):
            body[key] = tuple(body[key])
        return cls(**body)


class PartWriter:
    """Writes the patches of one split and unit to a file, stack by stack; see :func:`new_part`."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self._schema = schema
        self._rows = rows_of_group(schema)
        self._file = pq.ParquetWriter(
            path,
            schema,
            compression="none",
            use_dictionary=False,
            write_statistics=False,
            write_batch_size=self._rows,
            memory_pool=_POOL,
        )

    def write(self, patches: PatchStack) -> None:
        """Append patches."""
        self._file.write_table(to_table(patches, self._schema), row_group_size=self._rows)

    def close(self) -> None:
        """Write the footer."""
        self._file.close()


@contextmanager
def new_part(path: Path, schema: pa.Schema) -> Iterator[PartWriter]:
    """Give the writer of a part, which is there when the block ends and not before."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with fresh_file(path) as partial, closing(PartWriter(partial, schema)) as writer:
        yield writer


def write_part(path: Path, patches: Sequence[Patch], schema: pa.Schema) -> None:
    """Write single patches to one Parquet file, which appears whole or not at all."""
    with new_part(path, schema) as part:
        part.write(PatchStack.of(patches))


def rows_of_group(schema: pa.Schema) -> int:
    """Return how many patches a row group holds at most."""
    return max(1, _GROUP_BYTES // int(schema.field("image").type.byte_width))


@dataclass(frozen=True)
class PatchBatch:
    """``n`` patches: ``image`` (n, side, side, bands) raw, ``mask`` uint8 and ``valid`` bool."""

    image: Pixels
    mask: Indexes
    valid: Mask


class SplitReader:
    """Random access to the patches of one split, by position in a stated order; thread-safe.

    The order is that of the files' names and of the rows in them. Memory is that of one batch and
    the files' footers. A patch is read from its place in the file; where another program has
    written the file anew in a layout of its own, with its row group.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        self._files = [_PartFile(path) for path in files]
        self._ends = list(accumulate(file.rows for file in self._files))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def read(self, ids: Sequence[int]) -> PatchBatch:
        """Return the patches at positions ``ids``, in the order asked for."""
        found = [file.arrays(row) for file, row in map(self._place, ids)]
        images, masks, valids = zip(*found, strict=True)
        return PatchBatch(
            image=np.stack([np.moveaxis(image, 0, -1) for image in images]),
            mask=np.stack(masks),
            valid=np.stack(valids).astype(np.bool_),
        )

    def mask(self, position: int) -> Indexes:
        """Return the mask of the patch at ``position``, without reading its image."""
        file, row = self._place(position)
        (mask,) = file.arrays(row, ("mask",))
        return mask

    def key(self, position: int) -> tuple[str, int, int]:
        """Return ``(scene, row, col)`` of the patch at ``position``."""
        file, row = self._place(position)
        (found,) = file.table(row, ("scene", "row", "col")).to_pylist()
        return found["scene"], found["row"], found["col"]

    def _place(self, position: int) -> tuple[_PartFile, int]:
        index = int(np.searchsorted(self._ends, int(position), side="right"))
        return self._files[index], int(position) - (self._ends[index - 1] if index else 0)


class _PartFile:
    """One file of patches, by its footer."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._footer = pq.read_metadata(path)
        self._schema = self._footer.schema.to_arrow_schema()
        if b"image" not in (self._schema.metadata or {}):
            raise DatasetNotFound(
                path, "holds no patches as this version writes them", "Run jobs/tile.py again."
            )
        groups = range(self._footer.num_row_groups)
        counts = (self._footer.row_group(group).num_rows for group in groups)
        self._starts = list(accumulate(counts, initial=0))
        self.rows = self._starts.pop()

    def arrays(self, row: int, names: Sequence[str] = TENSORS) -> list[npt.NDArray[Any]]:
        """Return arrays of a patch as they are stored, of all columns that hold some."""
        with self._path.open("rb", buffering=0) as file:
            found = [self._stored(row, name).read(file) for name in names]
        return [
            self._slowly(row, name) if array is None else array
            for name, array in zip(names, found, strict=True)
        ]

    def table(self, row: int, columns: Sequence[str]) -> pa.Table:
        """Return some columns of one patch, whatever the file's layout."""
        group, place = self._group(row)
        with pq.ParquetFile(self._path, metadata=self._footer) as file:
            table = file.read_row_group(group, columns=list(columns), use_threads=False)
        return table.slice(place, 1)

    def _slowly(self, row: int, name: str) -> npt.NDArray[Any]:
        one: npt.NDArray[Any] = tensor_column(self.table(row, [name]), name)[0]
        return one

    def _group(self, row: int) -> tuple[int, int]:
        group = int(np.searchsorted(self._starts, row, side="right")) - 1
        return group, row - self._starts[group]

    def _stored(self, row: int, name: str) -> _Stored:
        group, place = self._group(row)
        number = self._schema.get_field_index(name)
        chunk = self._footer.row_group(group).column(number)
        return _Stored(chunk, place, *tensor_of(self._schema, name))


@dataclass(frozen=True)
class _Stored:
    """The array of one row in a column chunk of a file."""

    chunk: Any
    row: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def read(self, file: Any) -> npt.NDArray[Any] | None:
        """Return the array, or None where it has no place of its own in the open file.

        It has one in a column of one plain page, without compression and nulls; a column of nulls
        stands for ones.
        """
        values = np.ones(self.shape, self.dtype)
        page = self.chunk.num_values * values.nbytes
        header = self.chunk.total_compressed_size - page
        if self.chunk.total_compressed_size < values.nbytes:
            return values
        if self.chunk.compression != "UNCOMPRESSED" or self.chunk.has_dictionary_page:
            return None
        start = _plain_page(page)
        file.seek(self.chunk.data_page_offset)
        if header < len(start) or file.read(len(start)) != start:
            return None
        file.seek(self.chunk.data_page_offset + header + self.row * values.nbytes)
        if file.readinto(values) != values.nbytes:
            raise OSError(f"{file.name} ends within a patch")
        return values


def _plain_page(size: int) -> bytes:
    """Return how the header of a data page of ``size`` bytes begins, in Thrift's compact way."""
    varint, rest = b"", size << 1
    while rest > 127:
        varint, rest = varint + bytes([rest & 127 | 128]), rest >> 7
    return b"\x15\x00\x15" + varint + bytes([rest])


class PatchStore:
    """The patches of one data set: a manifest, and a reader for each split."""

    def __init__(self, directory: Path, manifest: PatchManifest) -> None:
        self.directory = directory
        self.manifest = manifest

    @classmethod
    def open(cls, directory: str | Path) -> PatchStore:
        """Open the patches in ``directory``.

        Raises:
            DatasetNotFound: there are none.
        """
        return cls(Path(directory), PatchManifest.read(Path(directory)))

    @cached_property
    def _readers(self) -> dict[str, SplitReader]:
        return {
            split: SplitReader(sorted((self.directory / split).glob("*.parquet")))
            for split in SPLITS
        }

    def split(self, name: str) -> SplitReader:
        """Return the reader of a split, which may be empty."""
        return self._readers[name]

    def required(self, name: str) -> SplitReader:
        """Return the reader of a split that must hold a patch.

        Raises:
            EmptySplit: it holds none.
        """
        reader = self.split(name)
        if not len(reader):
            raise EmptySplit(
                f"{self.manifest.dataset}/{name}", "holds no patch",
                "Tile again with smaller patches, other shares or more scenes.",
            )  # fmt: skip
        return reader
