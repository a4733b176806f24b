"""Reads Parquet: a row for each sample, or a row for each recording with lists of samples."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

import numpy as np

from xmae_fast._optional import need
from xmae_fast.recordings.formats.devices import known_columns, light_of
from xmae_fast.recordings.formats.table_samples import load_samples, signals_of, times_among
from xmae_fast.recordings.reading import Reading
from xmae_fast.recordings.recording import Channel, Content, Loaded

_ROWS = 1 << 17  # of a block
_INDEX = "__index_level_"  # what pandas calls an index without a name
_RATES = ("fs", "sampling_freq", "sampling_rate", "sfreq")
_SUBJECTS = ("subject", "subject_id", "patient", "patient_id")


def open_parquet(path: str, reading: Reading) -> Content:
    """Find out about the columns of a Parquet file; pandas' index is one of them."""
    need("pandas", "CSV and Parquet needs", "prepare")
    arrow, parquet = need("pyarrow", "Parquet needs", "prepare"), need("pyarrow.parquet", "Parquet needs", "prepare")
    with parquet.ParquetFile(path) as file:
        schema = file.schema_arrow
    types, kinds = list(schema.types), arrow.types
    index = _index_of(schema)
    names = ["row index" if name.startswith(_INDEX) else name.strip() for name in schema.names]
    lists = [i for i, kind in enumerate(types) if _is_list(kinds, kind)]
    dated = [i for i, kind in enumerate(types) if kinds.is_temporal(kind)]
    dated.sort(key=lambda i: i not in index)
    rising = next((i for i in index if kinds.is_floating(types[i])), None)
    whole = next((i for i in index[-1:] if kinds.is_integer(types[i]) and reading.fs is not None), None)
    rising = whole if rising is None else rising
    data = [i for i, kind in enumerate(types) if _is_numeric(kinds, kind) and i not in index]
    known = known_columns(names)
    times, told = times_among(names, reading, known, dated[:1], rising)
    even = whole is not None and times == [whole] and reading.time is None
    alike, also = signals_of(names, reading, known, [i for i in data if i not in times], True)

    def load(numbers: Sequence[int]) -> Loaded:
        if held := [i for i in numbers if i in lists]:
            if len(held) < len(numbers):
                raise ValueError(f"expected lists of samples in all channels, column {names[held[0]]!r} alone has them")
            return _load_lists(path, names, numbers)
        columns = ParquetColumns(path, names, numbers, times)
        return load_samples(names, reading, [names[i] for i in numbers], columns, times, even=even)

    return Content(names, load, alike=alike, notes=[] if lists else [*told, *also], light=light_of(known))


class ParquetColumns:
    """Columns of a Parquet file.

    Args:
        path: the file.
        names: of its columns, for messages.
        signals: the numbers of the columns of numbers.
        times: the numbers of the columns of times.

    Attributes:
        notes: what a user should know of what was read; complete after the last block.
    """

    def __init__(self, path: str, names: Sequence[str], signals: Sequence[int], times: Sequence[int]) -> None:
        self.path, self.names, self.signals, self.times = path, names, list(signals), list(times)
        self.notes: list[str] = []

    def __iter__(self) -> Iterator[tuple[list[np.ndarray], list]]:
        """Read all blocks.

        Returns:
            For each block: the signals, [rows] float64 each with NaN for missing values, and the columns of times.

        Raises:
            ValueError: a signal has no numbers, or there are no rows.
        """
        rows, missing = 0, np.zeros(len(self.signals), np.int64)
        for columns in _blocks(self.path, [*self.signals, *self.times]):
            signals = [_numbers(columns[i], self.names[i]) for i in self.signals]
            for k, x in enumerate(signals):
                if not (finite := np.isfinite(x)).all():
                    x[~finite] = np.nan
                    missing[k] += (~finite).sum()
            rows += len(columns[self.signals[0]])
            yield signals, [_times(columns[i]) for i in self.times]
        if not rows:
            raise ValueError("expected rows of samples, found none")
        for number, count in zip(self.signals, missing.tolist(), strict=True):
            if count:
                self.notes.append(f"{count} of {rows} values of {self.names[number]!r} are missing")


def _blocks(path: str, numbers: Sequence[int]) -> Iterator[dict]:
    """Columns of these numbers, as arrays of Arrow by number, in blocks of rows."""
    arrow, parquet = need("pyarrow", "Parquet needs", "prepare"), need("pyarrow.parquet", "Parquet needs", "prepare")
    with parquet.ParquetFile(path, pre_buffer=False, buffer_size=1 << 20) as file:
        names = file.schema_arrow.names
        wanted = list(dict.fromkeys(names[i] for i in numbers))
        for batch in file.iter_batches(_ROWS, columns=wanted):
            found = {}
            for i in set(numbers):  # several columns may have one name
                same = [k for k, name in enumerate(batch.schema.names) if name == names[i]]
                found[i] = batch.column(same[names[:i].count(names[i])])
            yield found
    arrow.default_memory_pool().release_unused()


def _load_lists(path: str, names: Sequence[str], numbers: Sequence[int]) -> Loaded:
    """Recordings of a table with a row for each: lists of samples, which become pieces, beside a rate and a subject."""
    lower = [name.lower() for name in names]
    rate = next((lower.index(name) for name in _RATES if name in lower), None)
    subject = next((lower.index(name) for name in _SUBJECTS if name in lower), None)
    parts: dict[int, list[np.ndarray]] = {i: [] for i in numbers}
    rates: set[float] = set()
    subjects: list[str] = []
    lengths: set[int] = set()
    for columns in _blocks(path, [*numbers, *(i for i in (rate, subject) if i is not None)]):
        for i in numbers:
            column = columns[i]
            if column.null_count:
                raise ValueError(f"expected a list of samples in each row of column {names[i]!r}, found none in some")
            sizes = column.value_lengths().to_pylist() if hasattr(column, "value_lengths") else [column.type.list_size]
            lengths.update(sizes)
            if len(lengths) > 1:
                some = f"{min(lengths)} and {max(lengths)} samples"
                raise ValueError(f"expected lists of one length, a row for each recording, found {some}")
            if len(column):
                parts[i].append(_numbers(column.flatten(), names[i]).reshape(len(column), -1))
        if rate is not None:
            rates.update(_numbers(columns[rate], names[rate]).tolist())
        if subject is not None:
            subjects += [str(one) for one in columns[subject].to_pylist()]
    if not parts[numbers[0]]:
        raise ValueError("expected rows of samples, found none")
    if len(rates) > 1:
        raise ValueError(f"expected one rate for all rows of column {names[rate or 0]!r}, found {sorted(rates)[:3]}")
    fs = rates.pop() if rates else np.nan
    channels = [Channel(names[i], np.concatenate(parts[i]), fs) for i in numbers]
    pieces = len(channels[0].values)
    return Loaded(
        channels,
        subjects=subjects,
        ids=[("1", str(i + 1), str(i + 1)) for i in range(pieces)] if pieces > 1 else [],
        starts=np.full(pieces, np.nan) if pieces > 1 else None,
        notes=[f"each of {pieces} rows is taken for a recording of its own"],
    )


def _index_of(schema) -> list[int]:
    """The numbers of the columns that are pandas' index."""
    metadata = (schema.metadata or {}).get(b"pandas", b"{}")
    columns = json.loads(metadata).get("index_columns", [])
    return [schema.names.index(name) for name in columns if isinstance(name, str) and name in schema.names]


def _is_list(kinds, kind) -> bool:
    return kinds.is_list(kind) or kinds.is_large_list(kind) or kinds.is_fixed_size_list(kind)


def _is_numeric(kinds, kind) -> bool:
    kind = kind.value_type if kinds.is_dictionary(kind) else kind
    return kinds.is_integer(kind) or kinds.is_floating(kind) or kinds.is_decimal(kind) or _is_list(kinds, kind)


def _numbers(column, name: str) -> np.ndarray:
    """A column of Arrow as numbers, [rows] float64, with NaN for missing values and for words."""
    arrow = need("pyarrow", "Parquet needs", "prepare")
    column = column.dictionary_decode() if arrow.types.is_dictionary(column.type) else column
    if arrow.types.is_string(column.type) or arrow.types.is_large_string(column.type):
        pandas = need("pandas", "CSV and Parquet needs", "prepare")
        found = pandas.to_numeric(column.to_pandas(), errors="coerce").to_numpy(np.float64)
        if 2 * np.isnan(found).sum() > len(found):
            raise ValueError(f"column {name!r}: expected numbers, found words such as {column[0].as_py()!r}")
        return np.array(found)
    if not (_is_numeric(arrow.types, column.type) or arrow.types.is_boolean(column.type)):
        raise ValueError(f"column {name!r}: expected numbers, found {column.type}")
    if arrow.types.is_decimal(column.type) or arrow.types.is_boolean(column.type):
        column = column.cast(arrow.float64() if arrow.types.is_decimal(column.type) else arrow.uint8())
    return np.array(column.to_numpy(zero_copy_only=False), np.float64)


def _times(column):
    """A column of Arrow as pandas' numbers, moments, durations or texts, [rows]."""
    arrow = need("pyarrow", "Parquet needs", "prepare")
    column = column.dictionary_decode() if arrow.types.is_dictionary(column.type) else column
    if arrow.types.is_time(column.type) or arrow.types.is_date(column.type):
        column = column.cast(arrow.string())
    return column.to_pandas()
