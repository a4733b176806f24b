"""Reads tables with a row for each sample: text such as CSV and TSV (also .gz), and Parquet."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from xmae_fast.recordings.formats.devices import e4_of, known_columns, light_of
from xmae_fast.recordings.formats.table_cells import NUMBER, TIME
from xmae_fast.recordings.formats.table_file import encoding_of, head_of, lines_of
from xmae_fast.recordings.formats.table_layout import TextLayout, layout_of
from xmae_fast.recordings.formats.table_parquet import open_parquet
from xmae_fast.recordings.formats.table_samples import load_samples, signals_of, times_among
from xmae_fast.recordings.formats.table_text import TextColumns
from xmae_fast.recordings.reading import Reading
from xmae_fast.recordings.recording import Channel, Content, Loaded

_TIME_UNIT = re.compile(r"[mnuµμ]?s|(milli|micro|nano)?sec(ond)?s?|min(ute)?s?|h|hours?", re.IGNORECASE)
_FEWEST = 10  # rows of numbers that make a text a table


def open_table(path: str, reading: Reading) -> Content:
    """Find out about the columns of a table.

    A column of times (numbers or dates) tells the rate, the start and the gaps.

    Raises:
        ValueError: the file holds no table of numbers.
    """
    if path.lower().endswith(".parquet"):
        return open_parquet(path, reading)
    lines, encoding, notes = _lines(path, reading.encoding)
    if e4_of(lines) is not None:
        return _open_e4(path, lines)
    layout = layout_of(lines, encoding, reading.decimal, reading.skip_rows, _plain(path))
    names, units = layout.names, layout.units
    known = known_columns(names)
    shown = [
        f"{name} [{unit}]" if _TIME_UNIT.fullmatch(unit) else name for name, unit in zip(names, units, strict=True)
    ]
    dated = [i for i, kind in enumerate(layout.kinds) if kind == TIME]
    rising, numbers_rows = _rising(layout)
    if numbers_rows and reading.fs is None:
        rising = None
    times, told = times_among(shown, reading, known, dated, rising)
    even = numbers_rows and times == [rising] and reading.time is None
    clock = known.start if known is not None and times == [known.times] else None
    data = [i for i, kind in enumerate(layout.kinds) if kind == NUMBER and i not in times]
    alike, also = signals_of(names, reading, known, data, layout.named)

    def load(numbers: Sequence[int]) -> Loaded:
        columns = TextColumns(path, layout, numbers, times if clock is None else [*times, clock])
        return load_samples(shown, reading, [names[i] for i in numbers], columns, times, clock, even)

    return Content(names, load, alike=alike, notes=[*notes, *layout.notes, *told, *also], light=light_of(known))


def is_table(path: str, fewest: int = _FEWEST) -> bool:
    """Whether a text is a table with at least `fewest` rows of numbers, and no prose."""
    try:
        lines, encoding, _ = _lines(path, None)
        layout = layout_of(lines, encoding, None, None)
    except (ValueError, EOFError, OSError):
        return False
    return len(layout.rows) >= fewest


def _lines(path: str, encoding: str | None) -> tuple[list[str], str, list[str]]:
    """The first lines of a text, its encoding, and a note on an encoding that is not plain."""
    head, whole = head_of(path)
    if not head:
        raise ValueError("expected a table, found an empty file")
    found = encoding or encoding_of(head)
    plain = encoding is not None or found in ("utf-8", "utf-8-sig")
    note = f"the encoding is taken for {found}; --encoding says another one"
    return lines_of(head, found, whole), found, [] if plain else [note]


def _plain(path: str) -> str:
    """The separator that the suffix of a text table tells."""
    return "\t" if path.lower().endswith((".tsv", ".tsv.gz")) else ","


def _rising(layout: TextLayout) -> tuple[int | None, bool]:
    """The number of a first column without a name that rises, None if it does not, and whether it numbers the rows of
    named columns, as pandas' index does: its holes are gaps."""
    if len(layout.names) < 2 or layout.kinds[0] != NUMBER or (layout.named and layout.names[0]):
        return None, False
    cells = [row[0].replace(layout.decimal, ".") for row in layout.rows if row and row[0]]
    try:
        steps = np.diff([float(cell) for cell in cells])
    except ValueError:
        return None, False
    if not len(steps) or (steps < 0).any() or not (steps > 0).any():
        return None, False
    return 0, layout.named and bool((steps == 1).all())


def _open_e4(path: str, lines: Sequence[str]) -> Content:
    """Find out about a file of an Empatica E4: the start and the rate stand above the samples."""
    e4 = e4_of(lines)
    assert e4 is not None
    if not e4.is_pulse_wave:
        raise ValueError(
            f"expected the pulse wave of an Empatica E4, found {e4.columns} columns at {e4.fs:g} Hz: BVP.csv has it"
        )
    layout = TextLayout("utf-8", ",", ".", '"', 2, ["BVP"], [""], [NUMBER], True, [], [])

    def load(numbers: Sequence[int]) -> Loaded:
        columns = TextColumns(path, layout, numbers, [])
        values = np.concatenate([signals[0] for signals, _ in columns])
        return Loaded([Channel("BVP", values[None], e4.fs)], start=e4.moment, notes=columns.notes)

    return Content(["BVP"], load, form="Empatica E4", usual={"PPG": [0]})
