"""Embeddings as tables of pandas, a row for each window; pandas is imported when the first one is made."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pandas


def feature_names(output: str, count: int) -> list[str]:
    """Names of `count` features: "xmae_pooled_0" and so on, for scikit-learn too."""
    return [f"xmae_{output}_{i}" for i in range(count)]


def frame(
    embeddings: np.ndarray, output: str, columns: Mapping[str, np.ndarray], index: Mapping[str, np.ndarray]
) -> pandas.DataFrame:
    """A table of `columns`, followed by the numbers of each embedding.

    Args:
        embeddings: [n, ...]; what is beyond the first axis becomes flat, tokens one after another.
        output: which the numbers are named after.
        columns: [n] by name.
        index: [n] by the name of each level.

    Raises:
        ImportError: pandas is missing.
    """
    pandas = _pandas()
    rows = embeddings.reshape(len(embeddings), int(np.prod(embeddings.shape[1:])))
    levels = [pandas.Index(values, name=name) for name, values in index.items()]
    labels = levels[0] if len(levels) == 1 else pandas.MultiIndex.from_arrays(levels)
    about = pandas.DataFrame(dict(columns), index=labels)
    numbers = pandas.DataFrame(rows, index=labels, columns=feature_names(output, rows.shape[1]), copy=True)
    return pandas.concat([about, numbers], axis=1)


def _pandas() -> Any:
    try:
        import pandas
    except ImportError:
        raise ImportError("to_frame needs pandas: pip install pandas") from None
    return pandas
