"""Reads EDF, EDF+ and BDF."""

from __future__ import annotations

from xmae_fast._optional import need
from xmae_fast.preparation.recording import Channel, Reading, Recording, find_channel


def read_edf(path: str, reading: Reading) -> Recording:
    """Read one file; signals are in physical units, and each has its own rate."""
    pyedflib = need("pyedflib", "EDF needs", "prepare")
    with pyedflib.EdfReader(path) as file:
        names = file.getSignalLabels()
        chosen = [find_channel(names, kind, wanted) for kind, wanted in (("PPG", reading.ppg), ("ECG", reading.ecg))]
        first, second = [
            Channel(names[i].strip(), file.readSignal(i)[None], float(file.getSampleFrequency(i))) for i in chosen
        ]
        return Recording(first, second, start=file.getStartdatetime().isoformat())
