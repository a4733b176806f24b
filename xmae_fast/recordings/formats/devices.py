"""Knows the exports of some devices: which column is the PPG, which one tells the time, what is no recording."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import NamedTuple

from xmae_fast.recordings.formats.table_file import open_bytes

_PARTS = "acc|bvp|eda|hr|ibi|temp|tags|gyro|gyr|magn|mag|ppi|rr"
_FILES = re.compile(rf"(^|\W|_)({_PARTS})(\W|_|$)")  # of a session, by what they hold
_E4_SLOWEST = 16  # Hz; the E4 samples skin conductance and temperature at 4 Hz, the pulse wave at 64 Hz
CAMERA = "a phone's camera"
_COLOURS = (("r", "g", "b"), ("red", "green", "blue"))
_VALUES = re.compile(
    r"(value|signal|sample|amplitude|data|raw|adc|intensity|y|volts?|voltage|ch(annel)?[ _]?\d?)s?", re.IGNORECASE
)


class E4(NamedTuple):
    """What the first two lines of a file of an Empatica E4 say.

    Args:
        start: seconds since 1970, UTC.
        fs: the rate in Hz.
        columns: how many there are: 3 of the acceleration, 1 of others.
    """

    start: float
    fs: float
    columns: int

    @property
    def is_pulse_wave(self) -> bool:
        """Whether this is BVP.csv."""
        return self.columns == 1 and self.fs >= _E4_SLOWEST

    @property
    def moment(self) -> str:
        """The start by ISO 8601."""
        return datetime.fromtimestamp(self.start, UTC).isoformat()


class Known(NamedTuple):
    """What is known of the columns of a device's table.

    Args:
        maker: the name of what made it.
        ppg: the numbers of columns that can be the PPG.
        ecg: the numbers of columns that can be the ECG.
        times: the number of the column of times, if it is not found by its name.
        start: the number of a column that tells the moment of the first sample, if another one tells the times.
    """

    maker: str
    ppg: list[int]
    ecg: list[int]
    times: int | None = None
    start: int | None = None


def e4_of(lines: Sequence[str]) -> E4 | None:
    """What the first lines of a file say if it is one of an Empatica E4: the start and the rate, for each column."""
    cells = [re.split(r"\s*[,;]\s*", line.strip()) for line in lines[:2]]
    try:
        starts, rates = ([float(cell) for cell in row] for row in cells)
    except ValueError:
        return None
    if len(starts) != len(rates) or len(set(starts)) > 1 or len(set(rates)) > 1:
        return None
    return E4(starts[0], rates[0], len(starts)) if _is_moment(starts[0]) and 1 <= rates[0] <= 512 else None


def is_aside(path: str) -> bool:
    """Whether a file of a folder is part of a session of an Empatica E4 or of Polar's sensors and has no PPG or ECG."""
    name = os.path.basename(path).lower()
    if not _FILES.search(name) or not name.endswith((".csv", ".csv.gz", ".txt")):
        return False
    try:
        with open_bytes(path) as file:
            lines = file.read(200).decode("ascii").splitlines()
    except (OSError, EOFError, ValueError):
        return False
    if (e4 := e4_of(lines)) is not None:
        return not e4.is_pulse_wave
    if lines and lines[0].startswith("Phone timestamp;"):
        return re.search(r"channel \d|ecg", lines[0]) is None
    if name.startswith("tags"):  # moments at which a button was pressed, or none
        return all(_is_moment(line) for line in lines[:3])
    return bool(lines) and re.fullmatch(r"\d{10}(\.\d*)?, ?IBI", lines[0].strip()) is not None


def known_columns(names: Sequence[str]) -> Known | None:
    """What is known of a table with columns of these names; None if it is of no known device."""
    plain = [re.sub(r"\s*[\[(].*$", "", name).strip().lower() for name in names]
    if plain[:2] == ["phone timestamp", "sensor timestamp"]:  # Polar Sensor Logger; the sensor counts ns from 2000 on
        channels = [i for i, name in enumerate(plain) if re.fullmatch(r"channel \d+", name)]
        return Known(
            "Polar Sensor Logger", channels, [i for i, name in enumerate(plain) if name == "ecg"], times=1, start=0
        )
    stamps = [i for i, name in enumerate(plain) if re.fullmatch(r"(.*_)?timestamp(sync)?_unix_cal", name)]
    if stamps:  # Shimmer's Consensys; LL-RA is lead II
        ppg = [i for i, name in enumerate(plain) if re.fullmatch(r"(.*_)?ppg_a\d+_cal", name)]
        leads = ("ll_ra", "la_ra", "ll_la", "vx_rl")
        ecg = [i for lead in leads for i, name in enumerate(plain) if re.fullmatch(rf"(.*_)?ecg_{lead}_.*cal", name)]
        return Known("Shimmer's Consensys", ppg, ecg[:1], times=stamps[0])
    for colours in _COLOURS:  # the means of a camera's pictures; a column "r" alone can be anything
        if all(plain.count(colour) == 1 for colour in colours):
            return Known(CAMERA, [plain.index(colour) for colour in colours], [])
    return None


def light_of(known: Known | None) -> list[int]:
    """The numbers of columns that tell how much light comes back: those of a camera."""
    return known.ppg if known is not None and known.maker == CAMERA else []


def may_be_values(name: str) -> bool:
    """Whether a name of a column says nothing of what it holds."""
    return _VALUES.fullmatch(re.sub(r"\s*[\[(].*$", "", name).strip()) is not None


def _is_moment(value: float | str) -> bool:
    """Whether a value is a moment in seconds since 1970, from 2001 to 2099."""
    try:
        return 1e9 <= float(value) <= 4.1e9
    except ValueError:
        return False
