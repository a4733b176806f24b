"""Reads EDF, EDF+ and BDF."""

from __future__ import annotations

from collections.abc import Sequence

from xmae_fast._optional import need
from xmae_fast.recordings.reading import Reading
from xmae_fast.recordings.recording import Channel, Content, Loaded


def open_edf(path: str, reading: Reading) -> Content:
    """Find out about one file; signals are in physical units, and each has its own rate."""
    pyedflib = need("pyedflib", "EDF needs", "prepare")
    with pyedflib.EdfReader(path) as file:
        names = file.getSignalLabels()

    def load(numbers: Sequence[int]) -> Loaded:
        with pyedflib.EdfReader(path) as file:
            rates = [float(file.getSampleFrequency(i)) for i in numbers]
            channels = [
                Channel(names[i].strip(), file.readSignal(i)[None], fs) for i, fs in zip(numbers, rates, strict=True)
            ]
            return Loaded(channels, start=file.getStartdatetime().isoformat())

    return Content(names, load)
