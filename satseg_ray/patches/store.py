"""Patches on disk: Parquet parts written by workers, and random access for training."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from satseg_ray.classes import ClassTable
from satseg_ray.errors import DatasetNotFound, EmptySplit
from satseg_ray.geo.raster import Mask, Pixels
from satseg_ray.patches.schema import (
    Indexes,
    Patch,
    PatchStack,
    patch_schema,
    tensor_column,
    to_table,
)
from satseg_ray.patches.split import SPLITS
from satseg_ray.products import fresh_file

FILE_NAME = "patches.json"
_GROUP_BYTES = 1 << 20
"""Training reads patches in random order: a row group of small patches holds a few, else one."""
_COMPRESSED = ("mask", "valid")
"""Imagery gains a fifth by compression, and costs three times as long."""
_LEVEL = 1
_POOL = pa.system_memory_pool()


@dataclass(frozen=True)
class PatchManifest:
    """What a patch data set is; ``mean`` and ``std`` are of the training split, in raw units.

    ``counts`` holds for each split the number of patches and the pixels of each class;
    ``dropped`` how many patches were left out for which reason.
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

    @property
    def schema(self) -> pa.Schema:
        """The Arrow schema of the patch files."""
        return patch_schema(self.patch_size, len(self.bands), self.dtype)

    def write(self, directory: Path) -> None:
        """Write the manifest as JSON into ``directory``."""
        body = asdict(self) | {"classes": self.classes.to_list()}
        text = json.dumps(body, indent=2, sort_keys=True)
        (directory / FILE_NAME).write_text(text + "\n", encoding="utf-8")

    @classmethod
    def read(cls, directory: Path) -> PatchManifest:
        """Read the manifest in ``directory``.

        Raises:
            DatasetNotFound: there is none.
        """
        path = directory / FILE_NAME
        if not path.is_file():
            raise DatasetNotFound(
                directory.name, f"the workspace has no patches of that data set ({path})",
                "Run jobs/tile.py first.",
            )  # fmt: skip
        body = json.loads(path.read_text(encoding="utf-8"))
        body["classes"] = ClassTable.from_list(body["classes"])
        for key in ("bands", "band_indexes", "mean", "std"):
            body[key] = tuple(body[key])
        return cls(**body)


class PartWriter:
    """Writes the patches of one split and unit to a file, stack by stack; see :func:`new_part`."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self._schema = schema
        self._rows = rows_of_group(schema)
        names = schema.names
        self._file = pq.ParquetWriter(
            path,
            schema,
            compression={name: "zstd" if name in _COMPRESSED else "none" for name in names},
            compression_level={name: _LEVEL for name in _COMPRESSED},
            use_dictionary=False,
            write_statistics=False,
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
    """Return how many patches are read at once to get one: a row group is about a megabyte."""
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
    the files' footers.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        self._files = list(files)
        self._footers = [pq.read_metadata(path) for path in self._files]
        self._ends = list(accumulate(footer.num_rows for footer in self._footers))
        self._starts = [_starts(footer) for footer in self._footers]

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def read(self, ids: Sequence[int]) -> PatchBatch:
        """Return the patches at positions ``ids``, in the order asked for."""
        tables = [self._row(int(i), ("image", "mask", "valid")) for i in ids]
        table = pa.concat_tables(tables)
        return PatchBatch(
            image=np.ascontiguousarray(np.moveaxis(tensor_column(table, "image"), 1, -1)),
            mask=tensor_column(table, "mask"),
            valid=tensor_column(table, "valid").astype(np.bool_),
        )

    def key(self, position: int) -> tuple[str, int, int]:
        """Return ``(scene, row, col)`` of the patch at ``position``."""
        (row,) = self._row(position, ("scene", "row", "col")).to_pylist()
        return row["scene"], row["row"], row["col"]

    def _row(self, position: int, columns: Sequence[str]) -> pa.Table:
        index = int(np.searchsorted(self._ends, position, side="right"))
        row = position - (self._ends[index - 1] if index else 0)
        footer = self._footers[index]
        starts = self._starts[index]
        group = int(np.searchsorted(starts, row, side="right")) - 1
        with pq.ParquetFile(self._files[index], metadata=footer) as file:
            table = file.read_row_group(group, columns=list(columns), use_threads=False)
        return table.slice(row - starts[group], 1)


def _starts(footer: pq.FileMetaData) -> list[int]:
    """Return the first row of each row group."""
    counts = (footer.row_group(i).num_rows for i in range(footer.num_row_groups - 1))
    return list(accumulate(counts, initial=0))


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
