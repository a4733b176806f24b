"""Reads recordings of PPG, alone or with ECG, from files of any device: finds files, channels, times and gaps."""

from xmae_fast._optional import lazy_names

_HOME = {
    "Channel": "recording",
    "Pieces": "pieces",
    "Reading": "reading",
    "Recording": "recording",
    "RecordingError": "recording",
    "Stretches": "stretches",
    "find_sources": "sources",
    "read_recording": "sources",
}
__getattr__, __dir__, __all__ = lazy_names(__name__, _HOME)
