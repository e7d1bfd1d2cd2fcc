"""What patches are by content, whichever file holds them."""

from __future__ import annotations

import hashlib
from collections import Counter
from typing import IO, Any

import pyarrow.parquet as pq

_ROWS = 16


def patch_digests(file: IO[bytes] | Any) -> Counter[bytes]:
    """Return a digest of each row of a Parquet file: its place, its pixels and its labels.

    A few rows are held at a time.
    """
    found: Counter[bytes] = Counter()
    for batch in pq.ParquetFile(file).iter_batches(batch_size=_ROWS):
        columns = [(name, batch.column(name)) for name in sorted(batch.schema.names)]
        for row in range(batch.num_rows):
            digest = hashlib.blake2b(digest_size=16)
            for name, column in columns:
                value = column[row].as_py()
                body = value if isinstance(value, bytes) else repr(value).encode()
                digest.update(f"{name}:{len(body)}:".encode())
                digest.update(body)
            found[digest.digest()] += 1
    return found
