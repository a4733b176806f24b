"""Reads columns of text tables block by block, so that long tables need little memory."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence

import numpy as np

from xmae_fast._optional import need
from xmae_fast.recordings.formats.table_cells import MISSING, NUMBER, kind_of
from xmae_fast.recordings.formats.table_file import TableText
from xmae_fast.recordings.formats.table_layout import TextLayout

_WORDS = 10_000  # different words in a block that are taken for missing values


class TextColumns:
    """Columns of a text table.

    Args:
        path: the file.
        layout: how it is laid out.
        signals: the numbers of the columns of numbers.
        times: the numbers of the columns of times.

    Attributes:
        notes: what a user should know of what was read; complete after the last block.
    """

    def __init__(self, path: str, layout: TextLayout, signals: Sequence[int], times: Sequence[int]) -> None:
        self.path, self.layout, self.signals, self.times = path, layout, list(signals), list(times)
        self.notes: list[str] = []
        self._pandas = need("pandas", "CSV and Parquet needs", "prepare")
        self._rows = 0
        self._missing = dict.fromkeys(self.signals, 0)
        self._words: dict[int, dict[str, int]] = {i: {} for i in self.signals}

    def __iter__(self) -> Iterator[tuple[list[np.ndarray], list]]:
        """Read all blocks.

        Returns:
            For each block: the signals, [rows] float64 each with NaN for missing values, and the columns of times,
            [rows] numbers or texts each.

        Raises:
            ValueError: a signal consists mostly of words, or there are no rows.
        """
        layout = self.layout
        text = TableText(self.path, layout.encoding, layout.skip, layout.separator, len(layout.names))
        for block in text:
            table = self._table(block)
            signals = [table[i].to_numpy(np.float64, copy=True) for i in self.signals]
            for number, x in zip(self.signals, signals, strict=True):
                if not (finite := np.isfinite(x)).all():
                    x[~finite] = np.nan
                    self._missing[number] += int((~finite).sum())
            self._rows += len(table)
            yield signals, [self._times_of(table[i]) for i in self.times]
        if not self._rows:
            raise ValueError("expected rows of samples, found none")
        self._finish(text.cut)

    def _table(self, block: bytes):
        """A table with the columns of a block, by number."""
        dtypes = dict.fromkeys(self.signals, np.float64)
        try:
            return self._parse(block, dtypes)
        except ValueError as error:
            if isinstance(error, self._pandas.errors.ParserError):
                raise ValueError(f"expected rows of {len(self.layout.names)} cells ({error})") from error
        table = self._parse(block, dict.fromkeys(self.signals, str))
        words = {}
        for number in self.signals:
            counts = table[number].value_counts()
            found = {
                str(cell): int(count)
                for cell, count in counts.items()
                if kind_of(str(cell), self.layout.decimal) != NUMBER
            }
            if len(found) > _WORDS:
                raise ValueError(self._wordy(number, found))
            for word, count in found.items():
                self._words[number][word] = self._words[number].get(word, 0) + count
            words[number] = list(found)
        return self._parse(block, dtypes, words)

    def _parse(self, block: bytes, dtypes: dict, words: dict | None = None):
        """A block as pandas reads it with these types and words for missing values."""
        layout = self.layout
        return self._pandas.read_csv(
            io.BytesIO(block), sep=layout.separator, header=None, names=range(len(layout.names)),
            usecols=sorted({*self.signals, *self.times}), dtype=dtypes, decimal=layout.decimal, quotechar=layout.quote,
            skipinitialspace=True, index_col=False, na_values=words, low_memory=False,
            encoding_errors="replace",
        )  # fmt: skip

    def _times_of(self, column) -> np.ndarray:
        """A column of times: numbers, with NaN for words among them, or texts."""
        if column.dtype != object:
            return column.to_numpy()
        numbers = self._pandas.to_numeric(column, errors="coerce")
        return (numbers if 2 * int(numbers.notna().sum()) > len(column) else column).to_numpy()

    def _wordy(self, number: int, words: dict[str, int]) -> str:
        some = ", ".join(map(repr, list(words)[:3]))
        hint = "" if self.layout.decimal == "," else "; --decimal , takes commas as decimal marks"
        return f"column {self.layout.names[number]!r}: expected numbers, found words such as {some}{hint}"

    def _finish(self, cut: bool) -> None:
        """Tell of missing values; ValueError for a column of words."""
        if cut:
            self.notes.append("the last line was cut off and is left out")
        for number in self.signals:
            words, missing = self._words[number], self._missing[number]
            if 2 * sum(n for word, n in words.items() if kind_of(word, ".") != MISSING) > self._rows:
                raise ValueError(self._wordy(number, words))
            if missing:
                some = f": {', '.join(map(repr, list(words)[:3]))}" if words else ""
                name = self.layout.names[number]
                self.notes.append(f"{missing} of {self._rows} values of {name!r} are missing{some}")
