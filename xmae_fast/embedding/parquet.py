"""Parts of embeddings as Parquet files."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from xmae_fast._files import atomic_path
from xmae_fast._optional import need

TEXT = ("key", "subject")


def import_parquet():
    """pyarrow, or an ImportError that says what to install."""
    need("pyarrow.parquet", "Parquet needs", "parquet")
    return need("pyarrow", "Parquet needs", "parquet")


def write_parquet(path: Path, embeddings: np.ndarray, columns: dict[str, np.ndarray]) -> None:
    """Write embeddings [n, ...] and columns [n] by name, whole or not at all."""
    arrow = import_parquet()
    width = int(np.prod(embeddings.shape[1:]))
    flat = arrow.array(np.ascontiguousarray(embeddings).reshape(-1))
    text = {name: np.char.decode(columns[name], "utf-8") for name in TEXT}
    arrays = {name: arrow.array(values) for name, values in (columns | text).items()}
    arrays["embedding"] = arrow.FixedSizeListArray.from_arrays(flat, width)
    with atomic_path(path) as temporary:
        arrow.parquet.write_table(arrow.table(arrays), temporary)


def read_parquet(path: Path, shape: tuple[int, ...]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Read embeddings, [n, *shape], and the columns beside them; ValueError for a damaged file."""
    arrow = import_parquet()
    try:
        table = arrow.parquet.read_table(path).combine_chunks()
    except arrow.ArrowException as error:
        raise ValueError(error) from error
    flat = table.column("embedding").chunk(0).flatten().to_numpy(zero_copy_only=False)
    columns = {name: table.column(name).to_numpy() for name in table.column_names if name != "embedding"}
    text = {name: np.char.encode(columns[name].astype(str), "utf-8") for name in TEXT}
    return flat.reshape(-1, *shape), columns | text
